"""The same command goes on from every moment, also when all is written, and two of them never work in one folder."""

import random
import shutil
import time
from functools import partial
from pathlib import Path

import datasets
import pytest

from hf_bkd import DeterministicTeacher, DistillationTrainer, UserError
from hf_bkd.cli import main
from hf_bkd.cli.finished import MARKER
from hf_bkd.utils.errors import RESUMABLE
from hf_bkd.utils.files import digests
from tests.cli.fitting_helpers import FAST, cnn, images, labeled_table
from tests.reliability.real_processes import killed, used_by_another

FINISHED_BY_0_1 = Path(__file__).parents[1] / "compatibility" / "saved_by_0_1_0"

WORK = {"label": "out.shards", "fit": "out.training", "distill": "out.training"}
DATA = {"distill": "labeled"}
PUSHES = {
    "label": "hf_bkd.cli.label.push_soft_labels",
    "fit": "hf_bkd.cli.arguments.push_folder",
    "distill": "hf_bkd.cli.arguments.push_folder",
}


@pytest.fixture
def command(tmp_path):
    rows = images(30, 0)
    datasets.DatasetDict(train=rows, validation=rows.select(range(12))).save_to_disk(tmp_path / "data")
    cnn().save_pretrained(tmp_path / "network")
    labeled_table().save_to_disk(tmp_path / "labeled")
    words = {
        "label": ["label", f"--teacher={tmp_path / 'network'}"],
        "fit": ["teacher", "fit", "--method=deterministic", f"--model={tmp_path / 'network'}", "--use_cpu"],
        "distill": ["distill", "--student=mlp-4", "--num_train_epochs=1", "--use_cpu"],
    }

    def command(name: str, *more: str) -> int:
        data = tmp_path / DATA.get(name, "data")
        try:
            main([*words[name], f"--dataset={data}", f"--output_dir={tmp_path / 'out'}", *more])
        except SystemExit as stop:
            return stop.code
        return 0

    return command


def left(folder) -> list[str]:
    mine = ("data", "labeled", "network", "log")
    return sorted(path.name for path in folder.iterdir() if path.name not in mine)


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("label", "--num_samples=3", "num_samples 10, and this one has 3"),
        ("fit", "--num_samples=3", "num_samples 10, and this one has 3"),
        ("distill", "--kd_lambda=0.5", "kd_lambda 1.0, and this one has 0.5"),
    ],
)
def test_a_finished_command_is_recognized_and_what_it_left_is_tidied(
    command, tmp_path, capsys, monkeypatch, name, changed, words
):
    assert command(name) == 0 and left(tmp_path) == ["out"]
    monkeypatch.setattr("hf_bkd.cli.label._labeled", lambda *a: pytest.fail("labeled again"))
    monkeypatch.setattr("hf_bkd.cli.teacher._fitted", lambda *a: pytest.fail("fitted again"))
    monkeypatch.setattr("hf_bkd.cli.distill._distilled", lambda *a: pytest.fail("distilled again"))
    (tmp_path / WORK[name]).mkdir()  # as after a death between the last rename and the tidying
    (tmp_path / WORK[name] / "shard").touch()
    (tmp_path / ".out.unfinished.abc").mkdir()
    (tmp_path / ".out.of_mine").mkdir()
    assert command(name) == 0 and left(tmp_path) == [".out.of_mine", "out"]
    assert "is finished already, by the same command" in capsys.readouterr().out
    assert command(name, changed) == 2
    assert f"holds a result with {words}: pass a new --output_dir" in capsys.readouterr().err
    images(30, 5).save_to_disk(tmp_path / DATA.get(name, "data") / "train")
    assert command(name) == 2 and "content" in capsys.readouterr().err
    (tmp_path / "out" / MARKER).unlink()
    assert command(name) == 2
    assert "and does not say which command made it: pass a new --output_dir" in capsys.readouterr().err


@pytest.mark.parametrize("name", WORK)
def test_a_failed_push_is_repeated(command, monkeypatch, capsys, name):
    pushed = []

    def push(*args, **options):
        pushed.append(args)
        if len(pushed) == 1:
            raise UserError("could not push")

    monkeypatch.setattr(PUSHES[name], push)
    more = ["--push_to_hub=me/labels"] if name == "label" else ["--push_to_hub", "--hub_model_id=me/teacher"]
    assert command(name, *more) == 2 and "could not push" in capsys.readouterr().err
    assert command(name, *more) == 0 and len(pushed) == 2 and "pushed: " in capsys.readouterr().out


@pytest.mark.parametrize(("name", "made"), [("label", "labels/float32"), ("fit", "teachers/image/laplace")])
def test_what_version_0_1_finished_is_refused_and_stays(command, tmp_path, capsys, name, made):
    shutil.copytree(FINISHED_BY_0_1 / made, tmp_path / "out")
    before = digests(tmp_path / "out")
    assert command(name) == 2
    said = capsys.readouterr().err.strip()
    assert said.endswith("out is there already, and does not say which command made it: pass a new --output_dir")
    assert digests(tmp_path / "out") == before and left(tmp_path) == ["out"]


TRAININGS = {
    "fit": ["teacher", "fit", "--method=ensemble", "--members=2", "--model=cnn6_small", "--dataset=images"],
    "distill": ["distill", "--student=mlp-4", "--dataset=labeled"],
}


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.parametrize("command", ["fit", pytest.param("distill", marks=pytest.mark.slow)])
def test_kills_of_a_training_lose_nothing(tmp_path, monkeypatch, command, kills):
    monkeypatch.chdir(tmp_path)
    images(60, 0).save_to_disk("images")
    labeled_table().save_to_disk("labeled")
    trained = [f"--{name}={value}" for name, value in (FAST | {"num_train_epochs": 6}).items()]

    def fit(folder: Path) -> None:
        main([*TRAININGS[command], *trained, f"--output_dir={folder / 'out'}"])

    for name in ("first", "whole"):  # the first takes longer
        started = time.monotonic()
        fit(tmp_path / name)
    seconds, expected = time.monotonic() - started, digests(tmp_path / "whole")
    rng, done, number = random.Random(kills), 0, 0
    while done < kills:
        folder, log = tmp_path / str(number), tmp_path / "log"
        while done < kills and killed(partial(fit, folder), log, rng.uniform(0, seconds)):
            done += 1
        fit(folder)
        assert digests(folder) == expected and left(folder) == ["out"], log.read_text()
        number += 1


@pytest.mark.parametrize("command", TRAININGS)
def test_an_interruption_is_a_sentence_and_gone_on_from(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    images(60, 0).save_to_disk("images")
    labeled_table().save_to_disk("labeled")
    argv = [*TRAININGS[command], *(f"--{name}={value}" for name, value in FAST.items())]
    main([*argv, "--output_dir=whole/out"])
    steps, step = [], DistillationTrainer.training_step

    def interrupted(*arguments, **options):
        steps.append(len(steps))
        if len(steps) == 3:
            raise KeyboardInterrupt
        return step(*arguments, **options)

    monkeypatch.setattr(DistillationTrainer, "training_step", interrupted)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*argv, "--output_dir=again/out"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 130 and said == f"interrupted; {RESUMABLE}"
    main([*argv, "--output_dir=again/out"])
    assert digests("again") == digests("whole") and left(tmp_path / "again") == ["out"]


@pytest.mark.parametrize("name", WORK)
def test_a_second_start_names_the_first(command, tmp_path, capsys, name):
    with used_by_another(tmp_path / WORK[name], tmp_path / "log") as process:
        assert command(name) == 2
    said = capsys.readouterr().err.strip()
    assert f"{WORK[name]} is in use by process {process} on " in said and "\n" not in said
    assert command(name) == 0 and left(tmp_path) == ["out"]


def test_a_local_network_never_asks_for_one_elsewhere(tmp_path):
    for number, (old, new, words) in enumerate(
        (
            ('"cnn6_small"', '"hf-hub:somebody/network"', "asks for the architecture 'hf-hub:somebody/network'"),
            ('"in_chans": 1', '"in_chans": 1, "pretrained": true', "asks for weights from elsewhere"),
        )
    ):
        folder = tmp_path / str(number)
        DeterministicTeacher(cnn()).save_pretrained(folder)
        (file,) = folder.rglob("config.json")
        changed = file.read_text().replace(old, new)
        assert changed != file.read_text()
        file.write_text(changed)
        with pytest.raises(UserError, match=words):
            DeterministicTeacher.from_pretrained(folder)
