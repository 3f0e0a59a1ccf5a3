"""Studies that are killed, started twice, or told to mix what does not go together."""

import json
import os
import random
import signal
import time
from dataclasses import replace
from functools import partial

import datasets
import pytest

from hf_bkd import UserError
from hf_bkd.study import Arm, Deterministic, Laplace, Study, Vectors
from hf_bkd.study.settings import content_digest
from hf_bkd.study.workers import in_workers
from tests.reliability.real_processes import forked, is_alive, killed, used_by_another, wait_for
from tests.study.study_helpers import STUDY, Splits, blobs, plain, run, status

pytestmark = pytest.mark.usefixtures("blank_pictures")

ARMS = "one-hot,laplace"
SAVING = {"arms": ARMS, "num_train_epochs": 3, "save_strategy": "epoch"}


def numbers(folder) -> list:
    return [(r["arm"], r["metrics"], r["history"]) for r in json.loads((folder / "results.json").read_text())["arms"]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    for name in ("first", "whole"):  # the first takes longer
        folder = tmp_path_factory.mktemp(name)
        started = time.monotonic()
        run(STUDY, folder, **SAVING)
    return numbers(folder), time.monotonic() - started


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_a_killed_study_ends_in_the_same_numbers(whole, tmp_path, kills):
    expected, seconds = whole
    rng, done, number = random.Random(kills), 0, 0
    while done < kills:
        folder = tmp_path / str(number)
        while done < kills and killed(
            partial(run, STUDY, folder, **SAVING), tmp_path / "log", rng.uniform(0, seconds)
        ):
            done += 1
        run(STUDY, folder, **SAVING)
        assert numbers(folder) == expected, (tmp_path / "log").read_text()
        assert not [path for path in folder.rglob("*") if ".unfinished." in path.name or path.name == ".in_use"]
        assert not (folder / "checkpoints").exists()
        number += 1


def test_a_study_in_use_names_its_user(tmp_path, capsys):
    with used_by_another(tmp_path / "run", tmp_path / "log") as process:
        assert status(tmp_path / "run", arms="one-hot") == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"error: {tmp_path / 'run'} is in use by process {process} on ") and "\n" not in said
    assert status(tmp_path / "run", arms="one-hot") == 0


def work(job, tick):
    """Die where the job says so: always, or the first time."""
    name, folder = job
    (folder / f"{name}.{os.getpid()}").touch()
    tick()
    if name == "sleeps":
        time.sleep(600)
    if name == "dies" or (name == "dies once" and len(list(folder.glob("dies once.*"))) == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "mistake":
        raise UserError("a mistake")
    return name


def nothing() -> None:
    """A worker needs nothing to begin here."""


def shared(folder, *names, ticks=None):
    ticks = [] if ticks is None else ticks
    jobs = [(name, folder) for name in names]
    return list(in_workers(2, jobs, work, nothing, lambda: ticks.append(1), lambda job: job[0], "fork"))


def test_a_lost_workers_job_is_run_again(tmp_path):
    ticks = []
    assert sorted(shared(tmp_path, "a", "dies once", "b", "c", ticks=ticks)) == ["a", "b", "c", "dies once"]
    assert len(ticks) == 5 and shared(tmp_path) == []


def test_a_job_that_kills_twice_is_named(tmp_path):
    with pytest.raises(UserError, match="the process of dies was killed by SIGKILL, as did one before"):
        shared(tmp_path, "a", "dies", "b")
    assert len(list(tmp_path.glob("dies.*"))) == 2


def test_a_mistake_in_a_worker_is_told_and_ends_the_others(tmp_path):
    with pytest.raises(UserError, match="^a mistake"):
        shared(tmp_path, "sleeps", "mistake")
    (sleeping,) = tmp_path.glob("sleeps.*")
    assert not is_alive(int(sleeping.suffix[1:]))


@pytest.mark.parametrize("signals", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(tmp_path, signals):
    parent = forked(lambda: shared(tmp_path, "sleeps", "sleeps"), tmp_path / "log")
    wait_for(lambda: len(list(tmp_path.glob("sleeps.*"))) == 2)
    workers = [int(path.suffix[1:]) for path in tmp_path.glob("sleeps.*")]
    assert all(map(is_alive, workers))
    os.kill(parent, signals)
    os.waitpid(parent, 0)
    wait_for(lambda: not any(map(is_alive, workers)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arms": (Arm("noise < 1"), Arm("noise > 1"))}, "the arms 'noise < 1' and 'noise > 1' would share"),
        ({"arms": (Arm("a"), Arm("a", label_smoothing=0.1))}, "two arms have the name 'a'"),
        ({"arms": (Arm("!"),)}, "the arms '!' makes no name of a file"),
        ({"arms": (Arm("a" * 300),)}, "makes no name of a file"),
        ({"conditions": {"p = 1": plain, "P: 1": plain}}, "the conditions 'p = 1' and 'P: 1' would share"),
        ({"conditions": {"": plain, "all": plain}}, "the conditions '' and 'all' would share"),
        (
            {"arms": tuple(Arm(n, Deterministic(), "mlp", {"a": v}) for n, v in (("x", 1), ("y", -1)))},
            "the networks .* would share the file name 'mlp-a-1'",
        ),
        ({"arms": (Arm("a", Deterministic(), temperatures=(1.0, 1.0000001)),)}, "the temperatures .* would share"),
        ({"arms": (Arm("a", Laplace(), strengths=(2.0, 2.0000001)),)}, "the strengths .* would share"),
    ],
)
def test_names_of_one_file_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        replace(STUDY, **changes)


def test_other_data_is_refused_and_the_same_is_not(tmp_path, capsys):
    rows = {"train": blobs(120, 1)}

    def data(options, seed):
        return Splits(rows["train"], blobs(60, 2), blobs(90, 3), Vectors())

    study = Study("data", (Arm("one-hot"),), {"": data})
    assert status(tmp_path, study) == 0
    rows["train"] = datasets.concatenate_datasets(
        [blobs(120, 1).select(range(50)), blobs(120, 1).select(range(50, 120))]
    )
    assert status(tmp_path, study) == 0
    rows["train"] = blobs(120, 4)
    assert status(tmp_path, study) == 2
    assert "holds results with the data's train split" in capsys.readouterr().err
    (tmp_path / "arms" / "all" / "seed-0" / "one-hot.json").write_text("{")
    rows["train"] = blobs(120, 1)
    assert status(tmp_path, study) == 2
    assert "one-hot.json holds no JSON" in capsys.readouterr().err


def test_a_setting_that_only_one_side_has_is_named(tmp_path, capsys):
    assert status(tmp_path, arms="one-hot") == 0
    file = tmp_path / "settings.json"
    settings = json.loads(file.read_text())
    for changed, words in (
        (settings | {"augmentation": "strong"}, "with augmentation 'strong', and this one has not set"),
        ({name: value for name, value in settings.items() if name != "views"}, "with views not set, and this one"),
    ):
        file.write_text(json.dumps(changed))
        assert status(tmp_path, arms="one-hot") == 2 and words in capsys.readouterr().err


def test_a_digest_is_of_the_content_in_order(tmp_path):
    rows = blobs(30, 1)
    rows.save_to_disk(tmp_path / "rows")
    assert content_digest(rows) == content_digest(datasets.load_from_disk(tmp_path / "rows"))
    assert content_digest(rows) == content_digest(rows.select(range(29, -1, -1)).select(range(29, -1, -1)))
    others = [
        rows.select(range(29)),
        rows.shuffle(seed=0),
        rows.rename_column("name", "id"),
        rows.remove_columns("name"),
    ]
    assert len({content_digest(each) for each in (rows, *others)}) == 5


def test_a_card_shows_names_as_text_and_no_ece_under_label_noise(tmp_path):
    condition = "label noise <script>alert(1)</script>"
    study = Study("card", (Arm("a [b](javascript:x)"),), {condition: plain})
    run(study, tmp_path)
    card = next(tmp_path.glob("students/*/*/*/README.md")).read_text()
    body = card.split("\n---\n", 1)[1]
    assert "<script>" not in body and "](javascript" not in body.replace("\\](", "")
    assert "name: ECE" not in card and "type: ece" not in card and " and ECE" not in body
