"""A training that is cut off anywhere, by a kill, a damaged checkpoint or a full disk, ends as one that is not."""

import errno
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import save_file

from hf_bkd.training.checkpoints import last_checkpoint, what_lacks
from hf_bkd.utils.errors import UserError

from .faults import count, failing
from .training_runs import KillAt, Killed, asking, assert_same, checkpoints, history, tiny

PERIODS = {
    "each step, evaluated by epochs": {},
    "at an epoch's end, all by epochs": {"save_steps": 3, "logging_strategy": "epoch", "num_train_epochs": 4},
    "all by steps, no two alike": {"save_steps": 2, "eval_strategy": "steps", "eval_steps": 3, "logging_steps": 4},
    "saved by epochs, logged over them": {"save_strategy": "epoch", "logging_steps": 4},
    "saved by epochs, evaluated by steps": {"save_strategy": "epoch", "eval_strategy": "steps", "eval_steps": 2},
    "the best": {
        "save_strategy": "best", "metric_for_best_model": "loss", "greater_is_better": False,
        "eval_strategy": "steps", "eval_steps": 1, "logging_strategy": "epoch",
    },
    "ended within an epoch": {"max_steps": 5, "logging_strategy": "epoch"},
    "batches accumulated, clipped": {
        "per_device_train_batch_size": 3, "gradient_accumulation_steps": 3, "max_grad_norm": 0.1, "logging_steps": 2,
    },
    "evaluated at the start": {"eval_on_start": True, "save_steps": 2, "logging_steps": 5},
    "a plateau lowers the rate": {
        "lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "loss", "save_steps": 3,
        "lr_scheduler_kwargs": {"patience": 0}, "optim": "adamw_torch", "num_train_epochs": 4,
    },
}  # fmt: skip


@pytest.mark.parametrize("changes", PERIODS.values(), ids=PERIODS)
def test_a_resume_from_any_checkpoint_logs_and_ends_as_the_whole_training(tmp_path, changes):
    whole = tiny(tmp_path / "whole", **changes)
    whole.train()
    assert checkpoints(tmp_path / "whole")
    for checkpoint in checkpoints(tmp_path / "whole"):
        resumed = tiny(tmp_path / "resumed", **changes)
        output = resumed.train(resume_from_checkpoint=str(checkpoint))
        assert_same(resumed, whole)
        assert output.training_loss == next(e["train_loss"] for e in history(whole) if "train_loss" in e)


@pytest.mark.parametrize(("changes", "every"), [
    ({"max_steps": 4, "per_device_train_batch_size": 11}, 3),
    pytest.param({"max_steps": 4, "per_device_train_batch_size": 11}, 1, marks=pytest.mark.slow),
    pytest.param({"save_steps": 2, "logging_steps": 4, "num_train_epochs": 3}, 1, marks=pytest.mark.slow),
], ids=["some", "all", "all, of several epochs"])  # fmt: skip
def test_a_training_killed_at_any_event_goes_on_to_the_same_end(tmp_path, changes, every):
    whole, counter = tiny(tmp_path / "whole", **changes), KillAt()
    whole.add_callback(counter)
    whole.train()
    for number in range(1, counter.events + 1, every):
        folder = tmp_path / str(number)
        killed = tiny(folder, **changes)
        killed.add_callback(KillAt(number))
        with pytest.raises(Killed):
            killed.train(resume_from_checkpoint=True)
        resumed = tiny(folder, **changes)
        resumed.train(resume_from_checkpoint=True)
        assert_same(resumed, whole)
        shutil.rmtree(folder)


@pytest.mark.parametrize("changes", [
    {}, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
    {"stream": True, "max_steps": 3}, {"stream": True, "max_steps": 7, "save_steps": 2},
], ids=["rows", "accumulated", "stream", "stream that starts over"])  # fmt: skip
def test_an_online_teacher_without_ids_goes_on_with_the_draws_that_come_next(tmp_path, changes):
    whole = asking(tmp_path / "whole", **changes)
    whole.train()
    for checkpoint in checkpoints(tmp_path / "whole"):
        resumed = asking(tmp_path / "resumed", **changes)
        resumed.train(resume_from_checkpoint=str(checkpoint))
        assert_same(resumed, whole)


# Disks

DISKS = (errno.ENOSPC, errno.EIO, errno.EACCES)


@pytest.mark.parametrize(("error", "every"), [
    (errno.ENOSPC, 3), *(pytest.param(error, 1, marks=pytest.mark.slow) for error in DISKS)
])  # fmt: skip
def test_each_write_may_fail_once_and_the_same_call_goes_on(tmp_path, error, every):
    settings = {"max_steps": 2, "save_steps": 1, "save_total_limit": 1, "eval_strategy": "steps", "eval_steps": 1}
    whole = tiny(tmp_path / "whole", **settings)
    for number in range(1, count(tmp_path / "whole", whole.train) + 1, every):
        folder = tmp_path / str(number)
        with failing(folder, number, error) as disk:
            try:
                tiny(folder, **settings).train(resume_from_checkpoint=True)
            except UserError as failure:
                assert "could not be written" in str(failure) and str(folder) in str(failure)
                assert failure.__cause__ is not None
        assert disk.failed
        step = int(disk.failed.partition("checkpoint-")[2].partition("/")[0] or 1)
        complete = last_checkpoint(folder)
        assert int(Path(complete).name.split("-")[1] if complete else 0) >= step - 1, disk.failed
        resumed = tiny(folder, **settings)
        resumed.train(resume_from_checkpoint=True)
        assert_same(resumed, whole)
        shutil.rmtree(folder)


def train_with_small_files(folder: Path, limit: int) -> None:
    """Train where no file can grow beyond ``limit`` bytes, so that torch and safetensors fail by themselves."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with pytest.raises(UserError, match="checkpoint-2 could not be written .*: make room"):
        tiny(folder, save_steps=2).train()
    assert last_checkpoint(folder) is None


@pytest.mark.parametrize("limit", [100, 1000, 1500, 4000, 8000])
def test_a_real_limit_on_files_is_told_in_a_sentence(tmp_path, limit):
    child = multiprocessing.get_context("fork").Process(target=train_with_small_files, args=(tmp_path, limit))
    child.start()
    child.join()
    assert child.exitcode == 0


def test_an_error_that_is_not_the_disks_is_left_as_it_is(tmp_path, monkeypatch):
    trainer = tiny(tmp_path)
    monkeypatch.setattr(trainer, "_save_rng_state", lambda folder: (_ for _ in ()).throw(RuntimeError("mine")))
    with pytest.raises(RuntimeError, match="mine"):
        trainer.train()


# Kills


def run_to_the_end(end: Path, folder: Path | None = None, **changes) -> None:
    """Train in ``folder``, going on from its checkpoints; then write the weights and what was logged into ``end``."""
    torch.set_num_threads(1)
    trainer = tiny(folder or end, **({"num_train_epochs": 4} | changes))
    trainer.train(resume_from_checkpoint=True)
    save_file(trainer.accelerator.unwrap_model(trainer.model).state_dict(), end / "end.safetensors")
    (end / "end.json").write_text(json.dumps(history(trainer)))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    began = time.monotonic()
    run_to_the_end(folder)
    return folder, time.monotonic() - began


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, 100))])
def test_a_process_killed_at_random_moments_ends_as_one_that_is_not(tmp_path, uninterrupted, seed):
    moments, (whole, duration) = random.Random(seed), uninterrupted
    fork = multiprocessing.get_context("fork")
    for attempt in range(30):
        child = fork.Process(target=run_to_the_end, args=(tmp_path, None), kwargs={"save_total_limit": 2})
        child.start()
        child.join(moments.uniform(0, duration) if attempt < 4 else None)  # then it may end
        if child.exitcode is None:
            os.kill(child.pid, signal.SIGKILL)
            child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
    assert child.exitcode == 0
    assert json.loads((tmp_path / "end.json").read_text()) == json.loads((whole / "end.json").read_text())
    assert (tmp_path / "end.safetensors").read_bytes() == (whole / "end.safetensors").read_bytes()


# Processes


def in_each_process(rank: int, folder: Path) -> None:
    """Train as one of two gloo processes, going on from what is in ``folder``."""
    AcceleratorState._reset_state(reset_partial_state=True)  # of the process that this one was forked from
    sizes = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "localhost", **sizes}
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    run_to_the_end(folder / str(rank) if rank else folder, folder, save_steps=2, logging_steps=4)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 4, 6])
def test_two_processes_go_on_as_they_were(tmp_path, step):
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    for folder in (whole, rest):
        (folder / "1").mkdir(parents=True)
        if folder == rest:
            shutil.copytree(whole / f"checkpoint-{step}", rest / f"checkpoint-{step}")
        torch.multiprocessing.start_processes(in_each_process, (folder,), 2, start_method="fork")
    assert json.loads((rest / "end.json").read_text()) == json.loads((whole / "end.json").read_text())
    assert (rest / "end.safetensors").read_bytes() == (whole / "end.safetensors").read_bytes()
    (rest / f"checkpoint-{step}" / "rng_state_1.pth").unlink()
    assert what_lacks(rest / f"checkpoint-{step}") == "rng_state_1.pth is missing"
