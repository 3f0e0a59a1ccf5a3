"""Disks that are full, broken, read-only or gone: each write of each command and call fails once.

It ends in a sentence, what the user has beside it stays, and the same command goes on to the same result.
"""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from hf_bkd.cli import main
from hf_bkd.reports.claims import Check, Claim, Figure, Panel, Series
from hf_bkd.reports.claims import main as claims
from hf_bkd.utils.files import digests
from tests.cli.fitting_helpers import FAST, cnn, images, labeled_table
from tests.reliability.faults import count, failing
from tests.study.study_helpers import STUDY, run

pytestmark = pytest.mark.usefixtures("blank_pictures")

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
SAMPLE = 2  # writes of each command that fail in `make test`, beside the last one


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder with a dataset, a network and a study's results."""
    home, rows = tmp_path_factory.mktemp("inputs"), images(30, 0)
    datasets.DatasetDict(train=rows, validation=rows.select(range(12))).save_to_disk(home / "data")
    cnn().save_pretrained(home / "network")
    labeled_table().save_to_disk(home / "labeled")
    run(STUDY, home / "study", arms="one-hot")
    return home


def label(inputs: Path, out: Path) -> None:
    main(["label", f"--teacher={inputs / 'network'}", f"--dataset={inputs / 'data'}", f"--output_dir={out}"])


def fit(inputs: Path, out: Path) -> None:
    options = {**FAST, "num_train_epochs": 2, "dataset": inputs / "data", "output_dir": out, "num_samples": 2}
    argv = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    main(["teacher", "fit", "--method=laplace", "--model=cnn6_small", *argv])


def distill(inputs: Path, out: Path) -> None:
    options = {**FAST, "num_train_epochs": 2, "dataset": inputs / "labeled", "output_dir": out}
    main(["distill", "--student=mlp-4", *(f"--{name}={value}" for name, value in options.items())])


def study(inputs: Path, out: Path) -> None:
    run(STUDY, out, arms="laplace", num_train_epochs=1, save_strategy="epoch")


def report(inputs: Path, out: Path) -> None:
    main(["report", str(out)])


def theory(inputs: Path, out: Path) -> None:
    figure = Figure("figure", "A caption.", [Panel("a", "k", "nats", [Series("one", [1, 2], [1, 0.5])])])
    claim = Claim("A claim", "Words.", "derived here", [Check("one", 1.0, 1.0)], [figure])
    claims("theory", "A note.", lambda _: [claim], argv=["--output_dir", str(out)])


def labels_of(out: Path) -> object:
    return datasets.load_from_disk(out).with_format("arrow")[:].to_pydict()


def numbers_of(out: Path) -> object:
    arms = json.loads((out / "results.json").read_text())["arms"]
    names = sorted(file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file())
    return names, [(arm["arm"], arm["metrics"], arm["history"]) for arm in arms]


COMMANDS = {
    "label": (label, labels_of),
    "fit": (fit, digests),
    "distill": (distill, digests),
    "study": (study, numbers_of),
    "report": (report, digests),
    "theory": (theory, digests),
}


def begun(name: str, inputs: Path, folder: Path) -> Path:
    """Make a folder with something of the user's, and return what the command is to make there."""
    folder.mkdir()
    (folder / "mine").write_text("mine")
    if name == "report":
        (folder / "out").mkdir()
        shutil.copy(inputs / "study" / "results.json", folder / "out")
    return folder / "out"


def attack(name: str, inputs: Path, home: Path, chosen: Callable, capsys) -> int:
    """Fail the chosen writes of a command, each in a folder of its own, and return how many there were."""
    command, result = COMMANDS[name]
    whole = begun(name, inputs, home / "whole")
    points = chosen(count(whole.parent, lambda: command(inputs, whole)))
    expected = result(whole)
    for point, error in points:
        folder = home / f"{point}-{error}"
        out = begun(name, inputs, folder)
        capsys.readouterr()
        with failing(folder, point, error) as disk:
            try:
                command(inputs, out)
            except SystemExit as stop:
                said = capsys.readouterr().err.strip().splitlines()[-1]
                assert stop.code == 2 and said.startswith("error: "), disk.failed
                assert "could not be written" in said and str(folder) in said, disk.failed
                assert ".unfinished." not in said, disk.failed
        assert disk.failed
        command(inputs, out)
        assert result(out) == expected, disk.failed
        assert (folder / "mine").read_text() == "mine"
        assert sorted(path.name for path in folder.iterdir()) == ["mine", "out"], disk.failed
        left = [path for path in folder.rglob("*") if ".unfinished." in path.name or path.name == ".in_use"]
        assert not left, disk.failed
        shutil.rmtree(folder)
    return len(points)


@pytest.mark.parametrize("name", COMMANDS)
def test_some_writes_of_each_command_fail(tmp_path, inputs, capsys, name):
    def chosen(writes: int) -> list[tuple[int, int]]:
        points = {1 + writes * part // SAMPLE for part in range(SAMPLE)} | {writes}
        return [(point, ERRORS[point % len(ERRORS)]) for point in sorted(points) if point <= writes]

    assert attack(name, inputs, tmp_path, chosen, capsys) > SAMPLE


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("name", COMMANDS)
def test_each_write_of_each_command_fails(tmp_path, inputs, capsys, name, error):
    def chosen(writes: int) -> list[tuple[int, int]]:
        return [(point, error) for point in range(1, writes + 1)]

    number = attack(name, inputs, tmp_path, chosen, capsys)
    with capsys.disabled():
        print(f" {name}: {number} writes")
