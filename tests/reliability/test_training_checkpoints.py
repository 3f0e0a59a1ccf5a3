"""Which checkpoints are complete: all that a resume reads is there, whole and of one step; others are passed over."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.trainer import TRAINER_STATE_NAME

from hf_bkd.training.checkpoints import RECORD, last_checkpoint, what_lacks
from hf_bkd.utils.errors import UserError

from ..training.training_helpers import arguments
from .training_runs import assert_same, checkpoints, tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training with the checkpoints 2, 4 and 6."""
    trainer = tiny(tmp_path_factory.mktemp("whole"), save_steps=2)
    trainer.train()
    return trainer


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of its folder."""
    return Path(shutil.copytree(trained.args.output_dir, tmp_path / "copy"))


READ = ("trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def cut_to(share: float):
    return lambda path: os.truncate(path, int(path.stat().st_size * share))


def zeros_inside(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    path.write_bytes(content)


DAMAGES = {"gone": Path.unlink, "empty": cut_to(0), "half": cut_to(0.5), "all but a byte": cut_to(0.9995)}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_checkpoint_that_lacks_something_is_passed_over_with_a_line(folder, caplog, name, damage):
    damage(folder / "checkpoint-6" / name)
    assert last_checkpoint(folder) == str(folder / "checkpoint-4")
    (line,) = caplog.messages
    assert f"checkpoint-6 is passed over ({name} " in line and line.endswith("training goes on from checkpoint-4")
    with pytest.raises(UserError, match=f"checkpoint-6 can't be resumed from .*{name}"):
        tiny(folder).train(resume_from_checkpoint=str(folder / "checkpoint-6"))


@pytest.mark.parametrize("name", [n for n in READ if n != "model.safetensors"])
def test_zeros_within_a_file_are_seen(folder, name):
    zeros_inside(folder / "checkpoint-6" / name)
    assert name in what_lacks(folder / "checkpoint-6")


def test_the_training_goes_on_from_the_one_before_to_the_same_end(folder, trained):
    (folder / "checkpoint-6" / "optimizer.pt").unlink()
    (folder / "checkpoint-4" / "rng_state.pth").unlink()
    resumed = tiny(folder, save_steps=2)
    resumed.train(resume_from_checkpoint=True)
    assert_same(resumed, trained)
    assert [what_lacks(each) for each in checkpoints(folder)] == [None] * 3


def test_with_none_complete_it_starts_anew_and_says_so(folder, trained, caplog):
    for path in checkpoints(folder):
        (path / TRAINER_STATE_NAME).write_text("{")
    resumed = tiny(folder, save_steps=2)
    resumed.train(resume_from_checkpoint=True)
    assert_same(resumed, trained)
    assert [line for line in caplog.messages if line.endswith("training starts anew")]


def test_what_is_no_checkpoint_is_ignored_and_left(folder, caplog):
    shutil.copytree(folder / "checkpoint-6", folder / "checkpoint-7.bak")
    shutil.copytree(folder / "checkpoint-6", folder / "my-checkpoint-9")
    (folder / "checkpoint-8").write_text("mine")
    (folder / "checkpoint-").mkdir()
    assert last_checkpoint(folder) == str(folder / "checkpoint-6") and not caplog.messages
    tiny(folder, save_steps=2).train(resume_from_checkpoint=True)
    assert (folder / "checkpoint-8").read_text() == "mine" and (folder / "checkpoint-7.bak" / "optimizer.pt").exists()


def test_a_state_of_another_step_is_seen(folder):
    shutil.copy(folder / "checkpoint-4" / TRAINER_STATE_NAME, folder / "checkpoint-6" / TRAINER_STATE_NAME)
    assert what_lacks(folder / "checkpoint-6") == "its trainer_state.json is of step 4"
    (folder / "checkpoint-4").rename(folder / "mine")
    assert what_lacks(folder / "mine") is None


def test_weights_alone_are_no_checkpoint_to_resume_from(tmp_path, caplog):
    tiny(tmp_path, save_only_model=True).train()
    assert last_checkpoint(tmp_path) is None
    assert "holds the weights alone, as save_only_model=True saves them" in caplog.messages[-1]
    with pytest.raises(UserError, match="save_only_model"):
        tiny(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    with pytest.raises(UserError, match="no such folder"):
        tiny(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-99"))


def test_checkpoints_of_the_version_before_are_resumed_from(folder):
    state = json.loads((folder / "checkpoint-4" / TRAINER_STATE_NAME).read_text())
    state["stateful_callbacks"].pop(RECORD)
    (folder / "checkpoint-4" / TRAINER_STATE_NAME).write_text(json.dumps(state))
    resumed = tiny(folder, save_steps=2)
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-4"))
    assert resumed.state.global_step == 6


def edit_record(checkpoint: Path, **changes) -> None:
    state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
    state["stateful_callbacks"][RECORD]["attributes"] |= changes
    (checkpoint / TRAINER_STATE_NAME).write_text(json.dumps(state))


class TestOtherLayouts:
    """Files that a Trainer writes elsewhere: for several processes, in float16, in shards, by pickle, for PEFT."""

    def test_each_process_has_a_random_state(self, folder):
        checkpoint = folder / "checkpoint-6"
        edit_record(checkpoint, processes=2)
        assert what_lacks(checkpoint) == "rng_state_0.pth is missing"
        (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
        assert what_lacks(checkpoint) == "rng_state_1.pth is missing"
        shutil.copy(checkpoint / "rng_state_0.pth", checkpoint / "rng_state_1.pth")
        assert what_lacks(checkpoint) is None

    def test_float16_has_a_scaler(self, folder):
        checkpoint = folder / "checkpoint-6"
        edit_record(checkpoint, scaler=True)
        assert what_lacks(checkpoint) == "scaler.pt is missing"
        shutil.copy(checkpoint / "scheduler.pt", checkpoint / "scaler.pt")
        assert what_lacks(checkpoint) is None

    def test_shards_are_all_there_and_whole(self, folder):
        checkpoint = folder / "checkpoint-6"
        weights = load_file(checkpoint / "model.safetensors")
        (checkpoint / "model.safetensors").unlink()
        shards = {name: f"model-{i}.safetensors" for i, name in enumerate(weights)}
        for name, shard in shards.items():
            save_file({name: weights[name]}, checkpoint / shard)
        index = checkpoint / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": shards}))
        assert what_lacks(checkpoint) is None
        cut_to(0.9)(checkpoint / "model-1.safetensors")
        assert what_lacks(checkpoint) == "model-1.safetensors is cut off or damaged"
        (checkpoint / "model-1.safetensors").unlink()
        assert what_lacks(checkpoint) == "model-1.safetensors is missing"
        cut_to(0.5)(index)
        assert what_lacks(checkpoint) == "model.safetensors.index.json is cut off or damaged"

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin", "mine/adapter_model.bin"])
    def test_weights_by_pickle_and_adapters(self, folder, name):
        checkpoint = folder / "checkpoint-6"
        (checkpoint / name).parent.mkdir(exist_ok=True)
        torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / name)
        (checkpoint / "model.safetensors").unlink()
        assert what_lacks(checkpoint) is None
        cut_to(0.9)(checkpoint / name)
        assert what_lacks(checkpoint) == f"{Path(name).name} is cut off or damaged"

    def test_what_fsdp_writes_is_left_to_it(self, folder):
        checkpoint = folder / "checkpoint-6"
        (checkpoint / "pytorch_model_fsdp_0").mkdir()
        for name in ("model.safetensors", "optimizer.pt", "scheduler.pt"):
            (checkpoint / name).unlink()
        assert what_lacks(checkpoint) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("name", ["learning_rate", "num_train_epochs", "weight_decay"])
def test_numbers_that_no_training_has_are_refused(tmp_path, name, value):
    with pytest.raises(UserError, match=f"^{name} must be at least 0 and finite, and it is {value:g}$"):
        arguments(tmp_path, **{name: value})
