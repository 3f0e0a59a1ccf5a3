"""The recipes as a user runs them: on the real files, in one process and in two, interrupted, and with bad input."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
CIFAR100 = ROOT.parent / "shared" / "data" / "cifar100"
needs_cifar100 = pytest.mark.skipif(not CIFAR100.is_dir(), reason="the real CIFAR-100 files are not here")
SMALL = {
    "--dataset": CIFAR100,
    "--seeds": 0,
    "--teacher_model": "resnet8x4_cifar",
    "--student_model": "resnet20_cifar",
    "--max_train_samples": 1000,
    "--max_test_samples": 200,
    "--num_train_epochs": 1,
    "--num_samples": 3,
    "--disable_tqdm": True,
    "--use_cpu": True,
}


def command(recipe: str, output_dir: Path, options: dict, processes: int = 1) -> list[str]:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        launcher += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    flat = [str(part) for pair in options.items() for part in pair]
    return [*launcher, str(ROOT / "recipes" / f"{recipe}.py"), "--output_dir", str(output_dir), *flat]


def environment() -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run(recipe: str, output_dir: Path, options: dict, processes: int = 1) -> dict:
    done = subprocess.run(
        command(recipe, output_dir, options, processes), env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert f"report: {output_dir / 'report.md'}" in done.stdout
    return json.loads((output_dir / "results.json").read_text())


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


def load(recipe: str):
    sys.path.insert(0, str(ROOT / "recipes"))
    spec = importlib.util.spec_from_file_location(recipe, ROOT / "recipes" / f"{recipe}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DIGITS = {"--seeds": "0,1", "--num_train_epochs": 1, "--max_train_samples": 300, "--ensemble_size": 2}


def digits(output_dir: Path, **options) -> int:
    """Run the demo in this process; returns its exit status."""
    from hf_bkd.study import main

    recipe = load("digits")
    given = DIGITS | {"--workers": 1} | {f"--{name}": value for name, value in options.items()}
    try:
        main(recipe.STUDY, recipe.DEFAULTS, ["--output_dir", str(output_dir), *map(str, sum(given.items(), ()))])
    except SystemExit as stop:
        return stop.code
    return 0


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

    def test_an_interrupted_run_keeps_what_is_finished(self, tmp_path, monkeypatch, capsys):
        from hf_bkd.study.students import Students

        original = Students._train

        def interrupted(self, arm, temperature):
            if arm.name == "deterministic":
                raise KeyboardInterrupt
            return original(self, arm, temperature)

        monkeypatch.setattr(Students, "_train", interrupted)
        assert digits(tmp_path, seeds=0, arms="one-hot,deterministic") == 130
        assert "interrupted; what was finished is kept" in capsys.readouterr().err
        assert [path.name for path in tmp_path.rglob("arms/**/*.json")] == ["one-hot.json"]
        assert not (tmp_path / "results.json").exists()


class TestBadInput:
    """One clear sentence, no traceback, nothing half-written."""

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"kd_lambda": 1.5}, "kd_lambda must be between 0 and 1, and it is 1.5"),
            ({"teacher_temperature": 0}, "teacher_temperature must be above 0"),
            ({"student_temperature": -2}, "student_temperature must be above 0"),
            ({"temperature_scale": "both"}, "temperature_scale is 'both'"),
            ({"num_samples": 0}, "num_samples must be at least 1, and it is 0"),
            ({"seeds": "0,a"}, "seeds must be whole numbers"),
            ({"arms": "laplace,oracle"}, "there is no arm 'oracle'; the arms are one-hot"),
            ({"student_model": "resnet21_cifar"}, "no architecture 'resnet21_cifar'; close ones: .*resnet20_cifar"),
            ({"learning_rate": "fast"}, "learning-rate: invalid float value: 'fast'"),
            ({"lamda": 1}, "lamda"),
            ({"config": "/nowhere.yaml"}, "cannot read --config /nowhere.yaml"),
            ({"max_train_samples": 0}, "max_train_samples must be at least 1"),
            ({"teacher": "/nowhere/teacher"}, "there is no folder /nowhere/teacher"),
        ],
    )
    def test_arguments(self, tmp_path, capsys, options, words):
        import re

        assert digits(tmp_path / "run", **options) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and said[0].startswith("error: ")
        assert re.search(words, said[0]), said[0]
        assert not list(tmp_path.rglob("results.json"))

    @pytest.mark.parametrize(
        ("dataset", "words"),
        [
            ("/nowhere/cifar100", "there is no folder /nowhere/cifar100"),
            ("uoft-cs/cifar100", "the Hub .*uoft-cs/cifar100.*pass --dataset with a local folder"),
        ],
    )
    def test_datasets_that_are_not_there(self, tmp_path, capsys, dataset, words):
        import re

        from hf_bkd.study import main

        recipe, shared = load("cifar100_vi"), load("cifar100")
        assert recipe.run.__name__ == "run"
        with pytest.raises(SystemExit) as stop:
            sys.argv = ["cifar100_vi.py", "--output_dir", str(tmp_path), "--dataset", dataset, "--use_cpu", "True"]
            recipe.run("cifar100_vi")
        assert stop.value.code == 2 and main is not None and shared.DEFAULTS["dataset"] == "uoft-cs/cifar100"
        assert re.search(words, capsys.readouterr().err)

    def test_a_folder_without_the_splits(self, tmp_path, capsys):
        import datasets

        datasets.DatasetDict({"train": datasets.Dataset.from_dict({"x": [1]})}).save_to_disk(tmp_path / "data")
        recipe = load("cifar100_vi")
        sys.argv = ["cifar100_vi.py", "--output_dir", str(tmp_path / "run"), "--dataset", str(tmp_path / "data")]
        with pytest.raises(SystemExit):
            recipe.run("cifar100_vi")
        assert "has no split 'test', only train" in capsys.readouterr().err

    def test_an_output_folder_that_cannot_be_written(self, tmp_path, capsys):
        (tmp_path / "file").write_text("")
        assert digits(tmp_path / "file" / "run") == 2
        assert "cannot write into" in capsys.readouterr().err

    @pytest.mark.parametrize("kilobytes", [30, 60, 90, 120, 150, 180, 210, 240, 270])
    def test_a_full_disk(self, tmp_path, capsys, kilobytes):
        """Wherever it happens (a checkpoint, a teacher, labels, a student, a plot): told, and nothing half-written."""
        mounted = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(tmp_path)]
        if shutil.which("mount") is None or subprocess.run(mounted, capture_output=True).returncode:
            pytest.skip("only root can make a small file system")
        try:
            assert digits(tmp_path / "run", seeds=0, arms="one-hot,laplace", save_strategy="epoch") == 2
            said = capsys.readouterr().err
            assert said.startswith("error: ") and len(said.splitlines()) == 1
            assert "the same command goes on from there" in said or "cannot write into" in said
            finished = [
                path for kind in ("teachers", "students", "labels") for path in tmp_path.glob(f"run/{kind}/*/*/*")
            ]
            whole = {"teachers": "teacher.json", "students": "README.md", "labels": "test.safetensors"}
            for folder in finished:
                assert (folder / whole[folder.relative_to(tmp_path).parts[1]]).is_file(), folder
        finally:
            subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)  # files are still mapped

    def test_a_hub_that_cannot_be_reached_for_a_push(self, tmp_path, capsys):
        assert digits(tmp_path, seeds=0, arms="one-hot", push_to_hub=True, hub_model_id="me/student") == 2
        assert "could not push" in capsys.readouterr().err and (tmp_path / "report.md").is_file()

    def test_a_push_uploads_the_last_arms_student_with_its_card(self, tmp_path, monkeypatch):
        pushed = []
        monkeypatch.setattr("hf_bkd.study.run.push_folder", lambda folder, repo, **how: pushed.append((folder, repo)))
        arms = "one-hot,deterministic"
        assert digits(tmp_path, seeds=0, arms=arms, push_to_hub=True, hub_model_id="me/student") == 0
        (folder, repo), expected = pushed[0], tmp_path / "students" / "30-label-noise" / "seed-0" / "deterministic"
        assert (folder, repo) == (expected, "me/student") and (folder / "README.md").is_file()

    def test_other_settings_in_the_same_folder(self, tmp_path, capsys):
        assert digits(tmp_path, seeds=0, arms="one-hot") == 0
        assert digits(tmp_path, seeds=0, arms="one-hot", learning_rate=0.1) == 2
        assert "holds a run with learning_rate 0.005, and this one has 0.1" in capsys.readouterr().err
        assert digits(tmp_path, seeds=1, arms="label-smoothing") == 0

    def test_a_config_file_gives_way_to_the_command_line(self, tmp_path):
        from hf_bkd.study.arguments import parse

        file = tmp_path / "config.yaml"
        file.write_text("kd_lambda: 0.25\nseeds: '4,5'\nnum_samples: 3\n")
        options, args = parse({"output_dir": "x", "num_samples": 7}, ["--config", str(file), "--kd_lambda", "0.5"])
        assert (options.seed_list, options.num_samples, args.kd_lambda) == ([4, 5], 3, 0.5)
        file.write_text("kd_lamda: 0.25\n")
        assert digits(tmp_path / "run", config=file) == 2

    def test_a_saved_teacher_takes_the_place_of_a_trained_one(self, tmp_path):
        assert digits(tmp_path / "a", seeds=0, arms="deterministic") == 0
        teacher = tmp_path / "a" / "teachers" / "30-label-noise" / "seed-0" / "deterministic-0"
        assert digits(tmp_path / "b", seeds=0, arms="deterministic", teacher=teacher) == 0
        arms = [json.loads((tmp_path / run / "results.json").read_text())["arms"][0] for run in "ab"]
        assert arms[0]["metrics"] == arms[1]["metrics"]
        assert not list((tmp_path / "b").glob("teachers/30-label-noise/**/teacher.json"))
