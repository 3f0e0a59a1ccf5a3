"""What a study leaves behind, and that whatever is finished stays finished."""

import json
import multiprocessing
import shutil
import subprocess
from dataclasses import replace
from functools import partial

import datasets
import numpy as np
import pytest
import torch

from hf_bkd import DistillationTrainer, Teacher
from hf_bkd.metrics import classification_metrics, nll
from hf_bkd.models.perceptron import Perceptron
from hf_bkd.soft_labels import read
from hf_bkd.study import (
    DETERMINISTIC,
    LABEL_SMOOTHING,
    ONE_HOT,
    SCALED,
    TUNED,
    Arm,
    Deterministic,
    ExactBayes,
    Splits,
    Study,
    cell,
    main,
)
from hf_bkd.study.students import StudentTraining
from hf_bkd.targets import temper
from tests.study.study_helpers import DEFAULTS, STUDY, plain, run, status, words

pytestmark = pytest.mark.usefixtures("blank_pictures")

METRICS = {"accuracy", "nll", "ece", "brier", "convergence_noise", "best_accuracy", "agreement"}
FIXED = {
    "teacher", "student", "seed", "kd_lambda", "teacher_temperature", "student_temperature", "num_samples", "views",
    "metrics", "teacher_metrics", "seconds",
}  # fmt: skip


def check_record(record: dict) -> None:
    """The fields that design.md fixes, and ranges that a mistake would leave."""
    metrics = record["metrics"]
    assert record.keys() >= FIXED and metrics.keys() == METRICS
    assert 0 <= metrics["accuracy"] <= metrics["best_accuracy"] <= 1 and 0 < metrics["nll"] < 20
    assert 0 <= metrics["ece"] <= 1 and 0 <= metrics["brier"] <= 2
    assert record["history"]["accuracy"][-1] == pytest.approx(metrics["accuracy"])
    assert (record["teacher"] == "none") == (record["teacher_metrics"] is None) == (metrics["agreement"] is None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, run(STUDY, folder)


def test_every_arm_has_a_record(finished):
    _, results = finished
    assert results["recipe"] == "small" and results["environment"]["processes"] == "1"
    assert [record["arm"] for record in results["arms"]] == [arm.name for arm in STUDY.arms]
    for record in results["arms"]:
        check_record(record)
    methods = {record["arm"]: record["teacher"] for record in results["arms"]}
    assert methods["one-hot"] == methods["label smoothing"] == "none" and methods["Laplace"] == "laplace"


def test_a_report_and_students_with_cards(finished):
    folder, _ = finished
    assert "Laplace" in (folder / "report.md").read_text()
    assert {path.name for path in folder.glob("*.png")} >= {"comparison.png", "reliability.png"}
    for arm in ("one-hot", "variational-head"):
        student = folder / "students" / "all" / "seed-0" / arm
        assert Perceptron.from_pretrained(student) and "model-index" in (student / "README.md").read_text()
        assert not list(student.rglob("*.bin")) and not list(student.rglob("*.pt"))
    assert not (folder / "checkpoints").exists()


def best_on_a_grid(probs_at, labels: torch.Tensor) -> float:
    """The least negative log-likelihood of all rows with the prior's of T, whose logarithm is standard normal."""
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 2000))
    energies = [len(labels) * nll(probs_at(each), labels) + np.log(each) ** 2 / 2 for each in grid]
    return grid[np.argmin(energies)]


def test_students_are_measured_after_temperature_scaling_by_the_validation_split(finished):
    folder, results = finished
    student = folder / "students" / "all" / "seed-0" / "one-hot"
    network, splits = Perceptron.from_pretrained(student).eval(), plain(None, 0)

    def answers(rows):
        return network(torch.tensor(rows["features"][:])).detach().double(), torch.tensor(rows["label"][:])

    scaled = results["arms"][0]["scaled_metrics"]
    logits, labels = answers(splits.validation)
    expected = best_on_a_grid(lambda temperature: (logits / temperature).softmax(dim=-1), labels)
    assert scaled["temperature"] == pytest.approx(expected, rel=0.01)
    logits, labels = answers(splits.test)
    measured = classification_metrics((logits / scaled["temperature"]).softmax(dim=-1), labels)
    for name, value in measured.items():
        assert scaled[name] == pytest.approx(value, abs=1e-6), name
    page, card = (folder / "report.md").read_text(), (student / "README.md").read_text()
    assert "| scaled NLL | scaled ECE | T |" in page
    shown = (
        f"T = {scaled['temperature']:.2f}, by the validation split: NLL {scaled['nll']:.3f}, ECE {scaled['ece']:.3f}"
    )
    assert shown in card


def test_teachers_are_measured_after_temperature_scaling_too(finished):
    """Their probabilities p at T are p^(1/T), renormalized; T is the validation split's own."""
    folder, results = finished
    record = next(record for record in results["arms"] if record["arm"] == "deterministic")
    teacher = Teacher.from_pretrained(folder / "teachers" / "all" / "seed-0" / "deterministic-0")
    splits = plain(None, 0)

    def answers(rows):
        return teacher.predict(torch.tensor(rows["features"][:])).mean.double(), torch.tensor(rows["label"][:])

    scaled = record["teacher_scaled_metrics"]
    probs, labels = answers(splits.validation)
    assert scaled["temperature"] == pytest.approx(best_on_a_grid(partial(temper, probs), labels), rel=0.01)
    probs, labels = answers(splits.test)
    for name, value in classification_metrics(temper(probs, scaled["temperature"]), labels).items():
        assert scaled[name] == pytest.approx(value, abs=1e-4), name
    assert results["arms"][0]["teacher_scaled_metrics"] is None  # of a student without a teacher
    assert "| teacher NLL | teacher scaled NLL | teacher scaled ECE |" in (folder / "report.md").read_text()


def test_a_condition_may_train_teachers_for_longer_than_students(tmp_path, monkeypatch):
    lengths, train = {}, cell.train_network

    def noted(network, args, data, *, folder, **options):
        lengths[folder.name] = options["num_train_epochs"]
        return train(network, args, data, folder=folder, **options)

    monkeypatch.setattr(cell, "train_network", noted)
    study = replace(STUDY, arms=(DETERMINISTIC,), conditions={"a": plain, "b": plain}, epochs={"a": 2, "b": (2, 3)})
    taught = {record["condition"]: record["history"]["epoch"] for record in run(study, tmp_path)["arms"]}
    assert taught == {"a": [1, 2], "b": [1, 2]}
    assert lengths == {"student-deterministic-T1": 2, "teacher-deterministic-0": 3}
    assert not any((tmp_path / "checkpoints").rglob("*"))


def test_the_pass_that_is_timed_is_of_the_arms_own_student(tmp_path, monkeypatch):
    networks = []
    monkeypatch.setattr(cell, "plain_pass", lambda network, inputs: networks.append(repr(network)))

    def timed(run, reference):
        run(), reference()
        return 1.0 + ("p=0.25" in networks[-2]) + 10 * ("p=0.25" in networks[-1])

    monkeypatch.setattr(cell, "relative_time", timed)
    arms = (DETERMINISTIC, replace(DETERMINISTIC, name="own", student_args={"dropout": 0.25}), ONE_HOT)
    records = run(replace(STUDY, arms=arms), tmp_path)["arms"]
    assert [record["relative_time"] for record in records] == [1, 2, 1] and len(networks) == 4


def test_a_finished_study_goes_on_from_its_records(finished, monkeypatch):
    folder, results = finished
    monkeypatch.setattr("hf_bkd.study.cell.Cell.train_network", lambda *a, **k: pytest.fail("trained again"))
    assert run(STUDY, folder)["arms"] == results["arms"]


def test_two_processes_share_the_seeds(finished, tmp_path, monkeypatch):
    """Forked, which takes no imports; the digits' slow test spawns them, as users do."""
    _, results = finished
    forking = multiprocessing.get_context("fork")
    monkeypatch.setattr("multiprocessing.get_context", lambda kind: forking)
    shared = run(STUDY, tmp_path, seeds="0,1", workers=2, arms="deterministic,laplace")["arms"]
    assert [(record["arm"], record["seed"]) for record in shared] == [
        ("deterministic", 0), ("deterministic", 1), ("Laplace", 0), ("Laplace", 1),
    ]  # fmt: skip
    alone = {record["arm"]: record["metrics"] for record in results["arms"]}
    assert all(record["metrics"] == alone[record["arm"]] for record in shared if record["seed"] == 0)


def test_an_interrupted_run_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    train = StudentTraining._train

    def interrupted(self, arm, *candidate):
        if arm.name == "deterministic":
            raise KeyboardInterrupt
        return train(self, arm, *candidate)

    monkeypatch.setattr(StudentTraining, "_train", interrupted)
    assert status(tmp_path, arms="one-hot,deterministic") == 130
    assert "interrupted; what was finished is kept" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("arms/**/*.json")] == ["one-hot.json"]
    assert not (tmp_path / "results.json").exists()


def test_an_interrupted_training_goes_on_from_its_checkpoint_to_the_same_numbers(tmp_path, monkeypatch):
    options = {"arms": "one-hot", "num_train_epochs": 4, "save_strategy": "epoch", "logging_strategy": "epoch"}
    whole = run(STUDY, tmp_path / "whole", **options)["arms"]
    log = DistillationTrainer.log

    def interrupt(self, logs, *args):
        if logs.get("epoch", self.state.epoch) >= 3 and "loss" in logs:
            raise KeyboardInterrupt
        log(self, logs, *args)

    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "log", interrupt)
        assert status(tmp_path / "cut", **options) == 130
    assert list((tmp_path / "cut" / "checkpoints").rglob("trainer_state.json"))
    steps, step = [], DistillationTrainer.training_step
    monkeypatch.setattr(DistillationTrainer, "training_step", lambda *a, **k: steps.append(1) or step(*a, **k))
    rest = run(STUDY, tmp_path / "cut", **options)["arms"]
    assert [(r["metrics"], r["history"]) for r in rest] == [(r["metrics"], r["history"]) for r in whole]
    assert 0 < len(steps) <= 2 * 8 and not (tmp_path / "cut" / "checkpoints").exists()


def test_a_finished_arm_leaves_the_checkpoints_of_an_interrupted_one(tmp_path):
    root = tmp_path / "checkpoints"
    theirs = root / "all" / "seed-0" / "student-laplace-T1" / "checkpoint-3"
    theirs.mkdir(parents=True)
    assert status(tmp_path, arms="one-hot,deterministic", save_strategy="epoch") == 0
    left = {path for path in root.rglob("*") if path.is_dir()}
    assert left == {theirs, *(parent for parent in theirs.parents if root in parent.parents)}


def test_an_output_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert status(tmp_path / "file" / "run") == 2
    assert "could not be written (Not a directory)" in capsys.readouterr().err


@pytest.mark.parametrize("kilobytes", [12, 24, 40, 60, 90, 130])
def test_a_full_disk(tmp_path, capsys, kilobytes):
    """Wherever it happens (a checkpoint, a teacher, labels, a student, a plot): told, and nothing half-written."""
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("only root can make a small file system")
    try:
        assert status(tmp_path / "run", arms="one-hot,laplace", save_strategy="epoch") == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and len(said.splitlines()) == 1
        assert "could not be written" in said and ("the same" in said)
        finished = [path for kind in ("teachers", "students", "labels") for path in tmp_path.glob(f"run/{kind}/*/*/*")]
        whole = {"teachers": "teacher.json", "students": "README.md", "labels": "cost.json"}
        for folder in finished:
            assert (folder / whole[folder.relative_to(tmp_path).parts[1]]).is_file(), folder
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)  # files are still mapped


def test_a_push_uploads_the_last_arms_student_with_its_card(tmp_path, monkeypatch, capsys):
    options = {"arms": "one-hot,deterministic", "push_to_hub": True, "hub_model_id": "me/student"}
    assert status(tmp_path, **options) == 2
    assert "could not push" in capsys.readouterr().err and (tmp_path / "report.md").is_file()
    pushed = []
    monkeypatch.setattr("hf_bkd.study.run.push_folder", lambda folder, repo, **how: pushed.append((folder, repo)))
    assert status(tmp_path, **options) == 0
    (folder, repo), expected = pushed[0], tmp_path / "students" / "all" / "seed-0" / "deterministic"
    assert (folder, repo) == (expected, "me/student") and (folder / "README.md").is_file()


def test_a_temperature_is_chosen_on_the_validation_split(tmp_path):
    alone = [Arm(f"T = {t:g}", DETERMINISTIC.teacher, temperatures=(t,)) for t in TUNED.temperatures]
    tuned, *others = run(Study("temperatures", (TUNED, *alone), {"": plain}), tmp_path)["arms"]
    best = max(others, key=lambda record: record["validation_metrics"]["accuracy"])
    assert tuned["metrics"] == best["metrics"] and tuned["teacher_temperature"] == best["teacher_temperature"]


def test_a_temperature_that_is_asked_for_moves_arms_that_have_none_of_their_own(tmp_path):
    study = Study("moved", (DETERMINISTIC, SCALED), {"": plain})
    moved, scaled = run(study, tmp_path, teacher_temperature=3)["arms"]
    assert moved["teacher_temperature"] == 3 and scaled["teacher_temperature"] not in (1, 3)


def test_exact_probabilities_teach_where_they_are_known(tmp_path):
    def known(options, seed) -> Splits:
        splits = plain(options, seed)
        splits.bayes = np.eye(3)[splits.train["label"][:]] * 0.9 + 0.1 / 3
        return splits

    study = Study("known", (LABEL_SMOOTHING, Arm("exact", ExactBayes())), {"known": known, "unknown": plain})
    records = run(study, tmp_path)["arms"]
    assert [(r["arm"], r["condition"]) for r in records] == [
        ("label smoothing", "known"), ("exact", "known"), ("label smoothing", "unknown"),
    ]  # fmt: skip
    assert records[1]["metrics"]["nll"] == pytest.approx(records[0]["metrics"]["nll"], rel=1e-3)  # the same target
    assert records[1]["teacher_metrics"] is None


def test_cross_fitted_labels_are_of_teachers_that_saw_the_other_folds(tmp_path):
    arm = Arm("folded", Deterministic(), folds=2)
    (record,) = run(Study("folded", (arm,), {"": plain}), tmp_path)["arms"]
    assert record["folds"] == 2 and record["teacher_metrics"] is not None
    names = {path.name for path in (tmp_path / "teachers" / "all" / "seed-0").iterdir()}
    assert names == {"fold-1-of-2-deterministic-0", "fold-2-of-2-deterministic-0"}
    labels = datasets.load_from_disk(tmp_path / "labels" / "all" / "seed-0" / "deterministic-2-folds-T1" / "train")
    assert read(labels, None).record.folds["number"] == 2


def test_the_bar_counts_arms(tmp_path, monkeypatch):
    seen = []

    class Bar:
        def __init__(self, **options):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def add_task(self, name, total):
            seen.append((name, total))

        def advance(self, task):
            seen.append(json.loads(next(tmp_path.rglob("arms/**/*.json")).read_text())["arm"])

        def update(self, task, completed):
            seen.append(completed)

    monkeypatch.setattr("hf_bkd.study.run.progress_bar", Bar)
    main(STUDY, DEFAULTS, words(tmp_path, {"arms": "one-hot,label-smoothing"}))
    assert seen[0] == ("arms", 2) and seen[-1] == 2 and len(seen) == 4


def test_a_relative_time_is_of_the_rounds_that_nothing_disturbed(monkeypatch):
    clock = iter([0, 2, 0, 1, 0, 3, 0, 9, *[0, 5] * 10])  # beginnings and ends, in turns: 2 and 1, 3 and 9, then 5
    monkeypatch.setattr(cell.time, "perf_counter", lambda: next(clock))
    assert cell.relative_time(lambda: None, lambda: None) == 2 / 1
