"""Trainings that share a folder: each goes on from its own checkpoints, and removes none of another's."""

import os
import shutil
from pathlib import Path

import pytest
from transformers import TrainerCallback

from hf_bkd.training.checkpoints import last_checkpoint, what_lacks
from hf_bkd.training.lineage import FILE, id_of, numbered, rotate, sign

from .training_runs import Killed, assert_same, checkpoints, tiny

OTHER = {"learning_rate": 0.5, "num_train_epochs": 4, "save_steps": 4}  # an older training, of 12 steps
OWN = {"save_steps": 2}  # of 6 steps


class KillBefore(TrainerCallback):
    """A callback that ends the training before a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            raise Killed(self.step)


def kill(folder: Path, step: int, start: str | bool | None, **changes) -> None:
    trainer = tiny(folder, **changes)
    trainer.add_callback(KillBefore(step))
    with pytest.raises(Killed):
        trainer.train(resume_from_checkpoint=start)


def names(folder: Path) -> list[str]:
    return [path.name for path in checkpoints(folder)]


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """A folder with the checkpoints 4, 8 and 12 of another training."""
    folder = tmp_path_factory.mktemp("older")
    tiny(folder, **OTHER).train()
    return folder


@pytest.fixture
def folder(older, tmp_path):
    return Path(shutil.copytree(older, tmp_path / "shared"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    trainer = tiny(tmp_path_factory.mktemp("whole"), **OWN)
    trainer.train()
    return trainer


@pytest.mark.parametrize("step", [1, 3, 5, 6])
def test_a_new_training_goes_on_from_its_own_checkpoints(folder, whole, caplog, step):
    kill(folder, step, None, **OWN)
    assert "holds checkpoints of another training (checkpoint-4, checkpoint-8, checkpoint-12)" in caplog.text
    caplog.clear()
    resumed = tiny(folder, **OWN)
    resumed.train(resume_from_checkpoint=True)
    assert_same(resumed, whole)
    assert "checkpoint-12 is passed over (it is of another training), checkpoint-8" in caplog.text
    then = {1: "training starts anew", 3: "goes on from checkpoint-2", 5: "goes on from checkpoint-4"}
    assert then.get(step, "goes on from checkpoint-4") in caplog.text
    assert names(folder) == [f"checkpoint-{number}" for number in (2, 4, 6, 8, 12)]
    assert last_checkpoint(folder) == str(folder / "checkpoint-6")


def test_a_second_new_training_counts_from_its_own_beginning(folder, whole):
    tiny(folder, **OWN).train()
    kill(folder, 4, None, **OWN | {"learning_rate": 0.3})
    assert last_checkpoint(folder) == str(folder / "checkpoint-2")
    again = tiny(folder, **OWN)
    again.train()
    assert_same(again, whole)


def test_a_folder_of_one_training_holds_nothing_else(whole, tmp_path):
    kill(tmp_path, 6, True, **OWN)
    resumed = tiny(tmp_path, **OWN)
    resumed.train(resume_from_checkpoint=True)
    newest = tiny(tmp_path, **OWN)
    newest.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    assert len({id_of(path) for path in checkpoints(tmp_path)}) == 1


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("step", [5, 7, 9, 11])
def test_what_began_at_an_older_checkpoint_goes_on_from_there(folder, tmp_path, elsewhere, step):
    """With another schedule, so that the checkpoints after it are of no use."""
    changes = OTHER | {"save_steps": 2, "max_grad_norm": 0.01}
    begun_from = folder / "checkpoint-4"
    if elsewhere:
        begun_from = Path(shutil.copytree(begun_from, tmp_path / "elsewhere" / "checkpoint-4"))
    expected = tiny(tmp_path / "expected", **changes)
    expected.train(resume_from_checkpoint=str(begun_from))
    kill(folder, step, str(begun_from), **changes)
    resumed = tiny(folder, **changes)
    resumed.train(resume_from_checkpoint=True)
    assert_same(resumed, expected)


def test_checkpoints_without_an_id_are_gone_on_from_and_passed_over_alike(folder, whole):
    """Those of version 0.1, or of another Trainer."""
    for path in checkpoints(folder):
        (path / FILE).unlink()
    assert last_checkpoint(folder) == str(folder / "checkpoint-12")
    kill(folder, 4, None, **OWN)
    assert last_checkpoint(folder) == str(folder / "checkpoint-2")
    resumed = tiny(folder, **OWN)
    resumed.train(resume_from_checkpoint=True)
    assert_same(resumed, whole)


# Rotation


def test_only_a_trainings_own_checkpoints_are_removed(folder):
    tiny(folder, save_steps=1, save_total_limit=2).train()
    assert names(folder) == [f"checkpoint-{number}" for number in (5, 6, 8, 12)]  # it wrote over 4


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("period", [1, 3, 5])
def test_with_another_period_between_starts(tmp_path, limit, period):
    """The newest checkpoint was cut off, so that newer ones than it are saved before its step comes again."""
    settings = {"eval_strategy": "no", "num_train_epochs": 4}
    whole = tiny(tmp_path / "whole", **settings)
    whole.train()
    folder = tmp_path / "run"
    kill(folder, 10, True, save_steps=4, save_total_limit=2, **settings)
    os.truncate(folder / "checkpoint-8" / "optimizer.pt", 100)
    changes = {"save_steps": period, "save_total_limit": limit, **settings}
    kill(folder, 4 + period + 2, True, **changes)
    saved = (5 + period) // period * period
    assert last_checkpoint(folder) == str(folder / f"checkpoint-{saved}")
    assert len(checkpoints(folder)) <= limit
    resumed = tiny(folder, **changes)
    resumed.train(resume_from_checkpoint=True)
    assert_same(resumed, whole)
    assert all(what_lacks(path) is None for path in checkpoints(folder)) and len(checkpoints(folder)) <= limit


def empty(folder: Path, id: str, *steps: int) -> None:
    for step in steps:
        sign(folder / f"checkpoint-{step}", id)
        (folder / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [(None, None, [1, 2, 3, 4, 9]), (0, None, [1, 2, 3, 4, 9]), (2, None, [3, 4, 9]), (1, 2, [2, 4, 9]),
     (3, 1, [1, 3, 4, 9]), (9, 1, [1, 2, 3, 4, 9]), (1, 4, [4, 9]), (1, 9, [4, 9])],
)  # fmt: skip
def test_how_many_stay(tmp_path, limit, best, left):
    empty(tmp_path, "own", 1, 2, 3, 4)
    empty(tmp_path, "other", 9)
    rotate(tmp_path / "checkpoint-4", "own", limit, best and str(tmp_path / f"checkpoint-{best}"))
    assert [step for step, _ in numbered(tmp_path)] == left


def test_what_is_of_no_use_goes_first(tmp_path):
    empty(tmp_path, "own", 1, 2, 3, 7)
    (tmp_path / "checkpoint-2" / "trainer_state.json").unlink()
    for limit, left in ((3, [1, 3, 7]), (2, [1, 3]), (1, [3])):
        rotate(tmp_path / "checkpoint-3", "own", limit, None)
        assert [step for step, _ in numbered(tmp_path)] == left
