"""Two processes of one launch: what only one of them sees ends both, and the sentence is printed once."""

import errno
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import datasets
import pytest
import torch
from accelerate.state import AcceleratorState

from hf_bkd.cli import main
from hf_bkd.study.run import main as study_main
from hf_bkd.utils.files import digests
from tests.cli.fitting_helpers import FAST, cnn, images
from tests.reliability.faults import failing
from tests.reliability.real_processes import forked, used_by_another, wait_for
from tests.study.study_helpers import DEFAULTS, STUDY, words

pytestmark = pytest.mark.usefixtures("blank_pictures")


def as_rank(rank: int, folder: Path, act: Callable[[], None], faults: dict[int, int]) -> None:
    """Act as one of two gloo processes; the ``faults[rank]``-th write below ``folder`` fails, if there is one."""
    sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1)  # pytest's are not the file
    AcceleratorState._reset_state(reset_partial_state=True)
    here = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= here | {"MASTER_ADDR": "localhost"}
    store = torch.distributed.FileStore(str(folder.with_name("store")), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    try:
        with failing(folder, faults[rank], errno.ENOSPC) if rank in faults else nullcontext():
            act()
    except SystemExit as stop:
        os._exit(stop.code)


def both(folder: Path, act: Callable[[], None], faults: dict[int, int] | None = None) -> tuple[list[int], list[str]]:
    """Return the exit statuses of two processes that act, and the lines of both that begin with "error: "."""
    logs = [folder.with_name(f"log-{rank}") for rank in range(2)]
    folder.with_name("store").unlink(missing_ok=True)
    for log in logs:
        log.unlink(missing_ok=True)
    ranks = [forked(lambda r=rank: as_rank(r, folder, act, faults or {}), logs[rank]) for rank in range(2)]
    ended: dict[int, int] = {}

    def look() -> bool:
        for rank in set(ranks) - ended.keys():
            process, status = os.waitpid(rank, os.WNOHANG)
            if process:
                ended[rank] = os.waitstatus_to_exitcode(status)
        return len(ended) == 2

    try:
        wait_for(look, 300)
    finally:
        for rank in set(ranks) - ended.keys():
            os.kill(rank, 9)
            os.waitpid(rank, 0)
    said = [line for log in logs for line in log.read_text().splitlines()]
    return [ended[rank] for rank in ranks], [line for line in said if "rror: " in line or "Traceback" in line]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder with a dataset and a network."""
    home, rows = tmp_path_factory.mktemp("inputs"), images(30, 0)
    datasets.DatasetDict(train=rows, validation=rows.select(range(12))).save_to_disk(home / "data")
    cnn().save_pretrained(home / "network")
    return home


def label(inputs: Path, folder: Path) -> None:
    places = {"teacher": inputs / "network", "dataset": inputs / "data", "output_dir": folder / "out"}
    main(["label", *(f"--{name}={place}" for name, place in places.items())])


def fit(inputs: Path, folder: Path) -> None:
    options = {**FAST, "num_train_epochs": 1, "dataset": inputs / "data", "output_dir": folder / "out"}
    argv = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    main(["teacher", "fit", "--method=laplace", "--model=cnn6_small", *argv])


def study(inputs: Path, folder: Path) -> None:
    study_main(STUDY, DEFAULTS, words(folder / "out", {"arms": "laplace", "save_strategy": "epoch"}))


COMMANDS = {"label": label, "fit": fit, "study": study}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.mark.parametrize("name", ["label", "fit"])
def test_a_folder_that_is_there_already(inputs, folder, name):
    (folder / "out").mkdir()
    (folder / "out" / "mine").write_text("mine")
    statuses, said = both(folder, lambda: COMMANDS[name](inputs, folder))
    assert statuses == [2, 2] and len(said) == 1 and "is there already" in said[0], said
    assert digests(folder).keys() == {"out/mine"}


@pytest.mark.parametrize(("name", "place"), [("label", "out.shards"), ("fit", "out.training"), ("study", "out")])
def test_a_folder_in_use(inputs, folder, name, place):
    with used_by_another(folder / place, folder.with_name("log")):
        statuses, said = both(folder, lambda: COMMANDS[name](inputs, folder))
    assert statuses == [2, 2] and len(said) == 1 and "is in use by process" in said[0], said


@pytest.mark.parametrize(("name", "file"), [("fit", "out.training/settings.json"), ("study", "out/settings.json")])
def test_a_folder_of_other_settings(inputs, folder, name, file):
    (folder / file).parent.mkdir(parents=True)
    (folder / file).write_text('{"learning_rate": 7}')
    (folder / file).with_name("students").mkdir()
    statuses, said = both(folder, lambda: COMMANDS[name](inputs, folder))
    assert statuses == [2, 2] and len(said) == 1 and "this one has" in said[0], said


@pytest.mark.parametrize(("name", "rank", "point"), [("label", 0, 1), ("label", 1, 1), ("study", 1, 5)])
def test_a_disk_that_one_of_them_finds_full(inputs, folder, name, rank, point):
    run_twice(inputs, folder, name, rank, [point])


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_one_of_them_finds_full_anywhere(inputs, folder, name, rank):
    run_twice(inputs, folder, name, rank, range(2, 60, 3))


def run_twice(inputs: Path, folder: Path, name: str, rank: int, points) -> None:
    """Fail a write of one of two processes, and then let both end well."""
    for point in points:
        statuses, said = both(folder, lambda: COMMANDS[name](inputs, folder), {rank: point})
        if statuses != [0, 0]:  # it had no so many writes
            assert statuses == [2, 2] and len(said) == 1 and "could not be written" in said[0], (point, statuses, said)
        statuses, said = both(folder, lambda: COMMANDS[name](inputs, folder))
        assert statuses == [0, 0] and not said, (point, said)
        shutil.rmtree(folder / "out")
