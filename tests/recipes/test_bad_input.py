"""What a user can get wrong from the command line: one clear sentence, no traceback, nothing half-written."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import datasets
import pytest

from hf_bkd import UserError
from hf_bkd.study import Arm
from hf_bkd.study.arguments import parse
from hf_bkd.study.settings import check_same_settings
from tests.recipes.recipe_helpers import digits, load


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
        ({"bf16": True, "fp16": True}, "fp16"),
        ({"num_train_epochs": 0}, "num_train_epochs must be above 0"),
        ({"teacher_epochs": 0}, "teacher_epochs must be above 0"),
        ({"config": "/nowhere.yaml"}, "cannot read --config /nowhere.yaml"),
        ({"max_train_samples": 0}, "max_train_samples must be at least 1"),
        ({"teacher": "/nowhere/teacher"}, "there is no folder /nowhere/teacher"),
    ],
)
def test_arguments(tmp_path, capsys, options, words):
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
def test_datasets_that_are_not_there(tmp_path, capsys, monkeypatch, dataset, words):
    monkeypatch.setattr(sys, "argv", ["cifar100_vi.py", "--output_dir", str(tmp_path), "--dataset", dataset])
    with pytest.raises(SystemExit) as stop:
        load("cifar100_vi").run("cifar100_vi")
    assert stop.value.code == 2
    assert re.search(words, capsys.readouterr().err)


def test_a_folder_without_the_splits(tmp_path, capsys, monkeypatch):
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"x": [1]})}).save_to_disk(tmp_path / "data")
    options = ["--output_dir", str(tmp_path / "run"), "--dataset", str(tmp_path / "data")]
    monkeypatch.setattr(sys, "argv", ["cifar100_vi.py", *options])
    with pytest.raises(SystemExit):
        load("cifar100_vi").run("cifar100_vi")
    assert "has no split 'test', only train" in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert digits(tmp_path / "file" / "run") == 2
    assert "cannot write into" in capsys.readouterr().err


@pytest.mark.parametrize("kilobytes", [30, 60, 90, 120, 150, 180, 210, 240, 270])
def test_a_full_disk(tmp_path, capsys, kilobytes):
    """Wherever it happens (a checkpoint, a teacher, labels, a student, a plot): told, and nothing half-written."""
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("only root can make a small file system")
    try:
        assert digits(tmp_path / "run", seeds=0, arms="one-hot,laplace", save_strategy="epoch") == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and len(said.splitlines()) == 1
        assert "the same command goes on from there" in said or "cannot write into" in said
        finished = [path for kind in ("teachers", "students", "labels") for path in tmp_path.glob(f"run/{kind}/*/*/*")]
        whole = {"teachers": "teacher.json", "students": "README.md", "labels": "cost.json"}
        for folder in finished:
            assert (folder / whole[folder.relative_to(tmp_path).parts[1]]).is_file(), folder
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)  # files are still mapped


def test_a_hub_that_cannot_be_reached_for_a_push(tmp_path, capsys):
    assert digits(tmp_path, seeds=0, arms="one-hot", push_to_hub=True, hub_model_id="me/student") == 2
    assert "could not push" in capsys.readouterr().err and (tmp_path / "report.md").is_file()


def test_a_push_uploads_the_last_arms_student_with_its_card(tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr("hf_bkd.study.run.push_folder", lambda folder, repo, **how: pushed.append((folder, repo)))
    arms = "one-hot,deterministic"
    assert digits(tmp_path, seeds=0, arms=arms, push_to_hub=True, hub_model_id="me/student") == 0
    (folder, repo), expected = pushed[0], tmp_path / "students" / "30-label-noise" / "seed-0" / "deterministic"
    assert (folder, repo) == (expected, "me/student") and (folder / "README.md").is_file()


def test_other_settings_in_the_same_folder(tmp_path, capsys):
    assert digits(tmp_path, seeds=0, arms="one-hot") == 0
    assert digits(tmp_path, seeds=0, arms="one-hot", learning_rate=0.1) == 2
    assert "holds a run with learning_rate 0.005, and this one has 0.1" in capsys.readouterr().err
    assert digits(tmp_path, seeds=0, arms="one-hot", adam_beta1=0.5) == 2
    assert "adam_beta1 0.9, and this one has 0.5" in capsys.readouterr().err
    assert digits(tmp_path, seeds=1, arms="label-smoothing") == 0


def test_an_arm_that_means_something_else_now(tmp_path):
    recipe = load("digits")
    arms = {arm.name: arm for arm in recipe.STUDY.arms}
    before = replace(recipe.STUDY, arms=(arms["label smoothing"],))
    options, args = parse(recipe.DEFAULTS | {"output_dir": str(tmp_path / "run")}, [])
    (tmp_path / "run" / "arms").mkdir(parents=True)
    check_same_settings(tmp_path / "run", before, options, args)
    check_same_settings(tmp_path / "run", replace(before, arms=(arms["one-hot"],)), options, args)
    after = replace(before, arms=(replace(arms["label smoothing"], label_smoothing=0.9),))
    with pytest.raises(UserError, match="holds a run with arm label-smoothing .*0.1.*0.9"):
        check_same_settings(tmp_path / "run", after, options, args)
    with pytest.raises(UserError, match="holds a run with study's students True"):
        check_same_settings(tmp_path / "run", replace(before, students=False), options, args)


def test_a_mistake_does_not_lock_the_folder(tmp_path, capsys):
    assert digits(tmp_path, seeds=0, arms="one-hot", student_model="nothing_like_it") == 2
    assert digits(tmp_path, seeds=0, arms="one-hot") == 0


@pytest.mark.parametrize("change", [{"teacher": "oracle"}, {"teacher": "ensemble", "scaled": True}])
def test_an_arm_that_cannot_be(change):
    with pytest.raises(UserError, match="arm 'mine'"):
        Arm("mine", **change)


def test_a_config_file_gives_way_to_the_command_line(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("kd_lambda: 0.25\nseeds: '4,5'\nnum_samples: 3\n")
    options, args = parse({"output_dir": "x", "num_samples": 7}, ["--config", str(file), "--kd_lambda", "0.5"])
    assert (options.seed_list, options.num_samples, args.kd_lambda) == ([4, 5], 3, 0.5)
    file.write_text("kd_lamda: 0.25\n")
    assert digits(tmp_path / "run", config=file) == 2


def test_a_saved_teacher_takes_the_place_of_a_trained_one(tmp_path):
    assert digits(tmp_path / "a", seeds=0, arms="deterministic") == 0
    teacher = tmp_path / "a" / "teachers" / "30-label-noise" / "seed-0" / "deterministic-0"
    assert digits(tmp_path / "b", seeds=0, arms="deterministic", teacher=teacher) == 0
    arms = [json.loads((tmp_path / run / "results.json").read_text())["arms"][0] for run in "ab"]
    assert arms[0]["metrics"] == arms[1]["metrics"]
    assert not list((tmp_path / "b").glob("teachers/30-label-noise/**/teacher.json"))


def test_a_saved_teacher_that_no_arm_uses(tmp_path, capsys):
    assert digits(tmp_path / "a", seeds=0, arms="variational-head") == 0
    teacher = tmp_path / "a" / "teachers" / "30-label-noise" / "seed-0" / "variational"
    assert digits(tmp_path / "b", seeds=0, arms="laplace", teacher=teacher) == 2
    assert "is a variational teacher, and none of the arms" in capsys.readouterr().err


def test_teacher_temperature_moves_arms_that_have_no_candidates_of_their_own(tmp_path):
    arms = "one-hot,deterministic,deterministic-best-t,deterministic-scaled"
    assert digits(tmp_path, seeds=0, arms=arms, teacher_temperature=3) == 0
    records = json.loads((tmp_path / "results.json").read_text())["arms"]
    found = {r["arm"]: r["teacher_temperature"] for r in records if r["condition"] == "30 % label noise"}
    assert found["deterministic"] == 3 and found["deterministic, best T"] in (1, 2, 4)
    assert found["deterministic, scaled"] not in (1, 3)


def test_arms_share_a_teacher_without_changing_it(tmp_path):
    """The tuned arm asks for T = 4; the ensemble's member, the same network, stays at its own temperature."""
    assert digits(tmp_path / "a", seeds=0, arms="deterministic") == 0
    teacher = tmp_path / "a" / "teachers" / "30-label-noise" / "seed-0" / "deterministic-0"
    assert digits(tmp_path / "b", seeds=0, arms="ensemble", teacher=teacher) == 0
    assert digits(tmp_path / "c", seeds=0, arms="deterministic-best-t,ensemble", teacher=teacher) == 0
    runs = [json.loads((tmp_path / run / "results.json").read_text())["arms"] for run in "bc"]
    ensembles = [[r["metrics"] for r in records if r["arm"] == "ensemble"] for records in runs]
    assert ensembles[0] == ensembles[1]
