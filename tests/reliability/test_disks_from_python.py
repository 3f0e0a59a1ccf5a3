"""From Python too a disk that is full, broken, read-only or gone is a sentence, and the same call ends well later."""

import errno
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hf_bkd import Teacher, UserError
from hf_bkd.cli import distill
from hf_bkd.reports.report import write_report
from hf_bkd.study.arguments import parse
from hf_bkd.study.run import run as run_study
from hf_bkd.utils.files import digests, writing
from tests.cli.fitting_helpers import labeled_table
from tests.reliability.faults import count, failing
from tests.reliability.training_runs import tiny
from tests.soft_labels import label_helpers
from tests.study.study_helpers import DEFAULTS, STUDY, run, words
from tests.teachers.saving_helpers import IMAGES, ensemble, laplace
from tests.teachers.teacher_helpers import small_cnn

pytestmark = pytest.mark.usefixtures("blank_pictures")


def saved_teacher(folder: Path) -> None:
    torch.manual_seed(0)
    laplace(small_cnn(), IMAGES).save_pretrained(folder / "teacher")


def replaced_teacher(folder: Path) -> None:
    torch.manual_seed(0)
    if not (folder / "teacher").exists():
        ensemble(small_cnn(), IMAGES).save_pretrained(folder / "teacher")
    saved_teacher(folder)


def labels(folder: Path) -> None:
    rows, inputs = label_helpers.texts(10), label_helpers.text_inputs
    label_helpers.quiet(rows, label_helpers.Teacher(), folder=folder / "shards", shard_rows=4, preprocessor=inputs)


def student(folder: Path) -> None:
    trainer = tiny(folder / "run", save_strategy="no", eval_strategy="no", max_steps=1)
    trainer.save_model(folder / "run" / "student")


def card(folder: Path) -> None:
    trainer = tiny(folder / "run", save_strategy="no")
    trainer.state.log_history = [{"step": step, "epoch": step, "eval_accuracy": 0.5} for step in (1, 2)]
    trainer.create_model_card()


def pushed_teacher(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        patch.setattr("hf_bkd.teachers.base.push_folder", lambda *_, **__: "address")
        laplace(small_cnn(), IMAGES).push_to_hub("me/teacher")


def study(folder: Path) -> None:
    options, args = parse(DEFAULTS, words(folder / "run", {"arms": "one-hot"}))
    run_study(STUDY, options, args)


def distilled(folder: Path) -> None:
    data = folder.parent / "labeled"
    labeled_table().save_to_disk(data)
    options = {"dataset": data, "output_dir": folder / "run", "num_train_epochs": 1, "disable_tqdm": 1}
    distill.main(["--student=mlp-4", *(f"--{name}={value}" for name, value in options.items())], "hf-bkd distill")


CALLS = {call.__name__: call for call in (saved_teacher, replaced_teacher, labels, student, card, pushed_teacher)}
COMMANDS = {"study": study, "distilled": distilled}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    return run(STUDY, tmp_path_factory.mktemp("study"), arms="one-hot")


def attack(call: Callable, folder: Path, error: int, every: int = 1) -> None:
    """Fail each write of a call, or the first one and each ``every``-th after it."""
    whole = folder / "whole" / "work"
    whole.mkdir(parents=True)
    if call is replaced_teacher:
        call(whole)
    for number in range(1, count(whole, lambda: call(whole)) + 1, every):
        work = folder / str(number) / "work"
        work.mkdir(parents=True)
        if call is replaced_teacher:
            torch.manual_seed(0)
            ensemble(small_cnn(), IMAGES).save_pretrained(work / "teacher")
        (work / "mine").write_text("mine")
        with failing(work, number, error) as disk:
            try:
                call(work)
            except UserError as refusal:
                check(refusal, work)
        assert disk.failed
        if call is replaced_teacher:
            check_loadable(work / "teacher")
        call(work)
        (work / "mine").unlink()
        assert digests(work).keys() == digests(whole).keys(), disk.failed
        if call not in (student, labels):  # which hold paths, or moments
            assert digests(work) == digests(whole), disk.failed
        shutil.rmtree(work)


def check(refusal: UserError, work: Path) -> None:
    said = str(refusal)
    assert "could not be written (" in said and "\n" not in said and "/." not in said, said
    assert str(work) in said or "temporary files" in said, said
    assert refusal.__cause__ is not None


def check_loadable(folder: Path) -> None:
    """Either of two teachers is there, or that it is neither is said."""
    try:
        Teacher.from_pretrained(folder)
    except UserError as refusal:
        assert "again" in str(refusal)


ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
DRAWN = pytest.param("card", marks=pytest.mark.slow)


@pytest.mark.parametrize("name", [*(name for name in CALLS if name != "card"), DRAWN])
def test_some_writes_of_a_call_fail(tmp_path, name):
    attack(CALLS[name], tmp_path, errno.ENOSPC, every=3)


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("name", CALLS)
def test_each_write_of_a_call_fails(tmp_path, name, error):
    attack(CALLS[name], tmp_path, error)


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS)
def test_each_write_of_a_report_fails(tmp_path, results, error):
    attack(lambda work: write_report(results, work / "report"), tmp_path, error)


@pytest.mark.parametrize("options", ["ro", "size=4k"])
@pytest.mark.parametrize("name", [*CALLS, *COMMANDS])
def test_a_real_disk_that_is_read_only_or_full(tmp_path, name, options):
    place = tmp_path / "disk"
    place.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("only root can make a small file system")
    try:
        if options != "ro":
            (place / "mine").write_bytes(bytes(4096))
        with pytest.raises(UserError) as refused:
            (CALLS | COMMANDS)[name](place)
        check(refused.value, place)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("name", [*CALLS, *COMMANDS])
def test_a_disk_that_is_gone(tmp_path, name):
    """A file stands where the folder was, as beneath a mount that is gone."""
    (tmp_path / "disk").write_text("mine")
    with pytest.raises(UserError) as refused:
        (CALLS | COMMANDS)[name](tmp_path / "disk")
    check(refused.value, tmp_path / "disk")
    assert (tmp_path / "disk").read_text() == "mine"


class TestWriting:
    def test_the_outermost_says_what_the_user_asked_for(self, tmp_path):
        with (
            pytest.raises(UserError, match=r"outer could not be written \(broken\): check the disk, and wait$"),
            writing(tmp_path / "outer", "wait"),
            writing(tmp_path / "outer" / "inner"),
        ):
            raise OSError(errno.EIO, "broken")

    def test_a_file_elsewhere_is_named(self, tmp_path):
        sentence = r"out could not be written \(No such file or directory: /nowhere/file\): see what is there"
        with pytest.raises(UserError, match=sentence), writing(tmp_path / "out"):
            Path("/nowhere/file").read_text()

    @pytest.mark.parametrize("error", [
        RuntimeError("No space left on device"), OSError("no errno"), ConnectionResetError(104, "reset"),
        UserError("a mistake"), ValueError("x"),
    ], ids=repr)  # fmt: skip
    def test_other_errors_are_left_as_they_are(self, tmp_path, error):
        with pytest.raises(type(error)) as raised, writing(tmp_path):
            raise error
        assert raised.value is error
