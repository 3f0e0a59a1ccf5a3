"""The recipes as a user runs them: on the real files, in one process and in two, interrupted and resumed."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from tests.recipes.recipe_helpers import (
    CIFAR100,
    DIGITS,
    SMALL,
    command,
    digits,
    environment,
    load,
    needs_cifar100,
    run,
)


def check_arm(arm: dict) -> None:
    """The fields that design.md fixes, and ranges that a mistake would leave."""
    assert {"teacher", "student", "seed", "kd_lambda", "teacher_temperature", "student_temperature"} < set(arm)
    assert {"num_samples", "views", "seconds"} < set(arm)
    metrics = arm["metrics"]
    assert set(metrics) == {"accuracy", "nll", "ece", "brier", "convergence_noise", "best_accuracy", "agreement"}
    assert 0 <= metrics["accuracy"] <= metrics["best_accuracy"] <= 1 and 0 < metrics["nll"] < 20
    assert 0 <= metrics["ece"] <= 1 and 0 <= metrics["brier"] <= 2
    assert arm["history"]["accuracy"][-1] == pytest.approx(metrics["accuracy"])
    assert (arm["teacher"] == "none") == (arm["teacher_metrics"] is None) == (metrics["agreement"] is None)


def check_student(folder: Path, num_classes: int) -> None:
    from transformers import AutoModelForImageClassification

    import hf_bkd  # noqa: F401

    model = AutoModelForImageClassification.from_pretrained(folder)
    assert model(torch.zeros(1, 3, 32, 32)).logits.shape == (1, num_classes)
    assert model.config.id2label[26] == "crab"
    card = (folder / "README.md").read_text()
    assert "model-index" in card and "knowledge-distillation" in card
    assert not list(folder.rglob("*.bin")) and not list(folder.rglob("*.pt"))


@needs_cifar100
def test_cifar100_laplace_in_one_process(tmp_path):
    arms = {"--arms": "one-hot,deterministic,laplace"}
    results = run("cifar100_laplace", tmp_path, SMALL | arms)
    assert [arm["arm"] for arm in results["arms"]] == ["one-hot", "deterministic", "Laplace"]
    assert results["recipe"] == "cifar100_laplace" and results["environment"]["processes"] == "1"
    for arm in results["arms"]:
        check_arm(arm)
    check_student(tmp_path / "students" / "all" / "seed-0" / "laplace", 100)
    assert "Laplace" in (tmp_path / "report.md").read_text()
    assert {path.name for path in tmp_path.glob("*.png")} >= {"comparison.png", "accuracy.png", "reliability.png"}
    assert not (tmp_path / "checkpoints").exists()


@needs_cifar100
def test_cifar100_vi_in_two_processes(tmp_path):
    options = SMALL | {"--arms": "deterministic,variational-head", "--per_device_train_batch_size": 32}
    results = run("cifar100_vi", tmp_path, options, processes=2)
    assert results["environment"]["processes"] == "2"
    assert [arm["arm"] for arm in results["arms"]] == ["deterministic", "variational head"]
    for arm in results["arms"]:
        check_arm(arm)
    check_student(tmp_path / "students" / "all" / "seed-0" / "variational-head", 100)


@needs_cifar100
@pytest.mark.slow
def test_an_interrupted_recipe_goes_on_from_its_checkpoint_to_the_same_numbers(tmp_path):
    options = SMALL | {"--arms": "one-hot", "--num_train_epochs": 4}
    whole = run("cifar100_deterministic", tmp_path / "whole", options)
    process = subprocess.Popen(
        command("cifar100_deterministic", tmp_path / "cut", options),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    finished = tmp_path / "cut" / "checkpoints"
    deadline = time.monotonic() + 200
    while not list(finished.rglob("trainer_state.json")):
        assert process.poll() is None and time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in said
    assert "interrupted; what was finished is kept" in said
    assert list(finished.rglob("trainer_state.json")) and not (tmp_path / "cut" / "results.json").exists()
    rest = run("cifar100_deterministic", tmp_path / "cut", options)
    for name in ("metrics", "history"):
        assert rest["arms"][0][name] == whole["arms"][0][name]


class TestDigits:
    def test_runs_shared_between_processes_and_every_arm_reports(self, tmp_path):
        results = run("digits", tmp_path, DIGITS | {"--workers": 2})
        noisy = [arm for arm in results["arms"] if arm["condition"] == "30 % label noise"]
        assert len(noisy) == 2 * 10 and len(results["arms"]) == 2 * (10 + 9)
        for arm in results["arms"]:
            if arm["teacher"] != "bayes":
                check_arm(arm)
        assert {arm["folds"] for arm in results["arms"]} == {0, 3}
        again = tmp_path / "again"
        alone = run("digits", again, DIGITS | {"--workers": 1, "--seeds": 1, "--arms": "deterministic,laplace"})
        shared = [a for a in results["arms"] if a["seed"] == 1 and a["arm"] in ("deterministic", "Laplace")]
        assert [a["metrics"] for a in alone["arms"]] == [a["metrics"] for a in shared]

    def test_takes_finished_arms_from_the_folder(self, tmp_path, monkeypatch):
        options = {"seeds": 0, "arms": "one-hot,deterministic"}
        assert digits(tmp_path, **options) == 0
        before = (tmp_path / "results.json").read_text()
        monkeypatch.setattr("hf_bkd.study.setting.Setting.train_network", lambda *a, **k: pytest.fail("trained again"))
        assert digits(tmp_path, **options) == 0
        assert json.loads((tmp_path / "results.json").read_text())["arms"] == json.loads(before)["arms"]

    def test_a_finished_arm_leaves_the_checkpoints_of_an_interrupted_one(self, tmp_path):
        theirs = tmp_path / "checkpoints" / "30-label-noise" / "seed-0" / "student-laplace-T1" / "checkpoint-3"
        theirs.mkdir(parents=True)
        assert digits(tmp_path, seeds=0, arms="one-hot,deterministic", save_strategy="epoch") == 0
        root = tmp_path / "checkpoints"
        left = {path for path in root.rglob("*") if path.is_dir()}
        assert left == {theirs, *(parent for parent in theirs.parents if root in parent.parents)}

    def test_an_interrupted_run_keeps_what_is_finished(self, tmp_path, monkeypatch, capsys):
        from hf_bkd.study.students import Students

        original = Students._train

        def interrupted(self, arm, *candidate):
            if arm.name == "deterministic":
                raise KeyboardInterrupt
            return original(self, arm, *candidate)

        monkeypatch.setattr(Students, "_train", interrupted)
        assert digits(tmp_path, seeds=0, arms="one-hot,deterministic") == 130
        assert "interrupted; what was finished is kept" in capsys.readouterr().err
        assert [path.name for path in tmp_path.rglob("arms/**/*.json")] == ["one-hot.json"]
        assert not (tmp_path / "results.json").exists()


@needs_cifar100
def test_several_families_of_networks_teach_one_student(tmp_path):
    arms = "one-hot,vit,average-inverse-variance,mixture-entropy-weights"
    options = {"--dataset": CIFAR100, "--seeds": 0, "--arms": arms, "--num_train_epochs": 1, "--workers": 1}
    options |= {"--max_train_samples": 200, "--max_test_samples": 100, "--validation_size": 100, "--num_samples": 5}
    results = run("images_multi_teacher", tmp_path, options)
    assert [arm["arm"] for arm in results["arms"]] == [
        "one-hot",
        "ViT",
        "average, inverse variance",
        "mixture, entropy weights",
    ]
    for arm in results["arms"]:
        check_arm(arm)
    assert results["arms"][-1]["kd_lambda"] == pytest.approx(5 / 6) and results["reference"] == "one-hot"
    fitted = {path.name.rsplit("-laplace")[0] for path in tmp_path.glob("teachers/all/seed-0/*laplace*")}
    assert fitted == {"wrn-16-2-cifar", "test-efficientnet-output-stride-8", "test-vit-patch-size-4"}
    student = tmp_path / "students" / "all" / "seed-0" / "mixture-entropy-weights"
    assert "model-index" in (student / "README.md").read_text()


def test_the_networks_of_full_scale_can_be_built(monkeypatch):
    from hf_bkd.study import Images

    monkeypatch.setattr("sys.argv", ["images_multi_teacher", "--full"])
    recipe = load("images_multi_teacher")
    inputs = Images((0.5,) * 3, (0.25,) * 3, augment=True)
    images = torch.zeros(2, 3, 32, 32)

    class Train:
        values = {"pixel_values": images}

    for arm in recipe.TEACHERS:
        network = inputs.network(arm.architecture, ["a", "b", "c"], Train, **arm.architecture_args)
        assert network(images).logits.shape == (2, 3), arm.name
    assert recipe.DEFAULTS["max_train_samples"] is None and recipe.DEFAULTS["student_model"] == "resnet18_cifar"
