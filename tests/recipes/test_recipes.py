"""The recipes: what they declare, and a small run of each kind on the real files; in processes, the long ones."""

import ast
import signal
import subprocess
import sys
import time

import pytest
import torch
from datasets import DatasetDict
from transformers import AutoModelForImageClassification

from hf_bkd.data.loading import load_splits
from hf_bkd.study import CONTROLS, Images, Laplace, Splits, Study, StudyArguments
from hf_bkd.study.arguments import parse
from tests.recipes.recipe_helpers import (
    CIFAR100,
    ROOT,
    SMALL,
    command,
    environment,
    load,
    needs_cifar100,
    run,
    run_as_command,
    status,
)
from tests.study.test_run import check_record

pytestmark = pytest.mark.usefixtures("blank_pictures")

RECIPES = sorted(file.stem for file in (ROOT / "recipes").glob("*.py"))
STUDIES = [name for name in RECIPES if "def study(" in (ROOT / "recipes" / f"{name}.py").read_text()]
ALL_CLASSES = SMALL | {"max_train_samples": 1000, "teacher_model": "cnn6_small", "student_model": "cnn6_small"}
OTHERS = {
    "lm_responses",
    "lm_token_labels",
    "protein_encoder",
    "tables",
    "theory_bias",
    "theory_divergence",
    "theory_heads",
    "theory_propagation",
    "theory_sgd_noise",
}


@pytest.fixture(scope="module")
def cifar100(tmp_path_factory):
    """Some of the real images in a folder, forty of each class to learn from."""
    splits, folder = load_splits(str(CIFAR100), needed=("train", "test")), tmp_path_factory.mktemp("cifar100")
    sizes = {"train": 4000, "test": 800}
    DatasetDict({name: splits[name].select(range(size)) for name, size in sizes.items()}).save_to_disk(folder)
    return folder


def test_every_recipe_is_a_study_or_known_here():
    assert set(RECIPES) == {*STUDIES, *OTHERS} and len(STUDIES) == 14


@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_imports_another_or_reads_the_command_line_when_imported(name, monkeypatch):
    tree = ast.parse((ROOT / "recipes" / f"{name}.py").read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not imported & set(RECIPES)
    monkeypatch.setattr(sys, "argv", None)
    load(name)


@pytest.mark.parametrize("name", STUDIES)
def test_a_recipe_declares_a_study_under_its_own_name(name):
    recipe = load(name)
    kind = getattr(recipe, "Arguments", StudyArguments)
    options, args = parse(getattr(recipe, "defaults", None) or recipe.DEFAULTS, [], kind)
    study = recipe.study(options)
    assert isinstance(study, Study) and study.name == name and args.output_dir == f"runs/{name}"
    names = [arm.name for arm in study.arms]
    assert len(set(names)) == len(names) and study.reference in names and options.chosen(study.arms) == study.arms


@pytest.mark.parametrize("name", ["digits", "cifar100_deterministic", "cifar100_laplace", "cifar100_vi"])
def test_the_compulsory_arms_stand_beside_every_bayesian_teacher(name):
    arms = load(name).study(load(name).Arguments() if name == "digits" else StudyArguments()).arms
    assert arms[: len(CONTROLS)] == CONTROLS


def test_the_digits_in_both_conditions(tmp_path):
    options = {"seeds": 0, "num_train_epochs": 1, "max_train_samples": 300, "workers": 1}
    records = run("digits", tmp_path, arms="deterministic,exact-bayes", **options)["arms"]
    noisy, few = "30 % label noise", "10 clean images per class"
    assert [(record["condition"], record["teacher"]) for record in records] == [
        (noisy, "deterministic"), (noisy, "bayes"), (few, "deterministic"),
    ]  # fmt: skip
    check_record(records[0])


def test_full_scale_is_an_option():
    digits, images = load("digits"), load("images_multi_teacher")
    small, full = digits.Arguments(), digits.Arguments(full=True)
    assert [digits.study(options).arms[-2].folds for options in (small, full)] == [3, 5]
    assert [len(digits.defaults(options)["seeds"].split(",")) for options in (small, full)] == [10, 20]
    options, _ = parse(images.defaults, ["--full"], images.Arguments)
    assert options.max_train_samples is None and options.student_model == "resnet18_cifar"


def test_the_networks_of_full_scale_can_be_built():
    recipe = load("images_multi_teacher")
    inputs, images = Images((0.5,) * 3, (0.25,) * 3, augment=True), torch.zeros(2, 3, 32, 32)

    class Train:
        values = {"pixel_values": images}

    for arm in recipe.teachers(recipe.Arguments(full=True), Laplace()):
        network = inputs.network(arm.architecture, ["a", "b", "c"], Train, **arm.architecture_args)
        assert network(images).logits.shape == (2, 3), arm.name


@needs_cifar100
def test_cifar100_leaves_students_that_transformers_loads(cifar100, tmp_path):
    options = ALL_CLASSES | {"dataset": cifar100, "arms": "one-hot,laplace"}
    records = run("cifar100_laplace", tmp_path, **options)["arms"]
    assert [record["arm"] for record in records] == ["one-hot", "Laplace"]
    for record in records:
        check_record(record)
    assert records[1]["views"] == 2
    student = tmp_path / "students" / "all" / "seed-0" / "laplace"
    network = AutoModelForImageClassification.from_pretrained(student)
    assert network(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 100) and network.config.id2label[26] == "crab"
    card = (student / "README.md").read_text()
    assert "model-index" in card and "knowledge-distillation" in card
    assert {path.name for path in tmp_path.glob("*.png")} >= {"comparison.png", "accuracy.png", "reliability.png"}


@needs_cifar100
@pytest.mark.slow
def test_several_families_of_networks_teach_one_student(cifar100, tmp_path):
    arms = "one-hot,vit,average-inverse-variance,mixture-entropy-weights"
    options = SMALL | {"dataset": cifar100, "max_train_samples": 100, "student_model": "cnn6_small"}
    results = run("images_multi_teacher", tmp_path, arms=arms, **options)
    names = ["one-hot", "ViT", "average, inverse variance", "mixture, entropy weights"]
    assert [record["arm"] for record in results["arms"]] == names and results["reference"] == "one-hot"
    for record in results["arms"]:
        check_record(record)
    assert results["arms"][-1]["kd_lambda"] == pytest.approx(5 / 6)
    fitted = {path.name.rsplit("-laplace")[0] for path in tmp_path.glob("teachers/all/seed-0/*laplace*")}
    assert fitted == {"wrn-16-2-cifar", "test-efficientnet-output-stride-8", "test-vit-patch-size-4"}


@needs_cifar100
@pytest.mark.parametrize("name", ["views_study", "teachers_comparison", "uncertain_student"])
def test_the_data_of_the_small_studies(cifar100, name):
    recipe = load(name)
    changes = {"dataset": cifar100, "ood_dataset": cifar100, "max_train_samples": 400, "max_test_samples": 100}
    options, _ = parse(recipe.DEFAULTS | changes | {"validation_size": 100}, [])
    for condition, data in recipe.study(options).conditions.items():
        splits = data(options, 0)
        assert isinstance(splits, Splits) and len(splits.train) > 0 and len(splits.test) >= 100, condition
        rows = [splits.train, splits.taught, *splits.oods.values()]
        images = [each[int(len(each) / 2)]["image"] for each in rows]
        assert len({(image.size, image.mode) for image in images}) == 1


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("/nowhere/cifar100", "there is no folder /nowhere/cifar100"),
        ("uoft-cs/cifar100", "or pass a local folder"),
    ],
)
def test_a_dataset_that_is_not_there(tmp_path, capsys, dataset, words):
    assert status("cifar100_vi", tmp_path, dataset=dataset) == 2
    assert words in capsys.readouterr().err


@needs_cifar100
@pytest.mark.slow
def test_cifar100_in_two_processes(tmp_path):
    options = ALL_CLASSES | {"arms": "deterministic,variational-head", "per_device_train_batch_size": 32}
    results = run_as_command("cifar100_vi", tmp_path, options, processes=2)
    assert results["environment"]["processes"] == "2"
    assert [record["arm"] for record in results["arms"]] == ["deterministic", "variational head"]
    for record in results["arms"]:
        check_record(record)


@pytest.mark.slow
@pytest.mark.usefixtures("blank_pictures")
def test_means_and_variances_of_a_table_and_of_images(tmp_path):
    options = {"seeds": "0", "max_train_samples": 60, "num_train_epochs": 1, "workers": 1}
    records = run("regression", tmp_path, arms="means,means-and-variances", **options)["arms"]
    assert [(each["condition"], each["arm"]) for each in records] == [
        (condition, arm) for condition in ("diabetes", "angles of digits") for arm in ("means", "means and variances")
    ]
    for record in records:
        assert ("nll" in record["metrics"]) == (record["arm"] == "means and variances")
        assert 0 < record["metrics"]["rmse"] < 400 and record["teacher_metrics"]["rmse"] > 0


@pytest.mark.slow
def test_all_arms_of_the_digits_shared_between_processes(tmp_path):
    """In processes that are spawned, as users do; `study/test_run.py` forks them."""
    options = {"seeds": "0,1", "num_train_epochs": 1, "max_train_samples": 300, "ensemble_size": 2, "workers": 2}
    records = run_as_command("digits", tmp_path, options)["arms"]
    assert len([record for record in records if record["condition"] == "30 % label noise"]) == 2 * 10
    assert len(records) == 2 * (10 + 9)


@needs_cifar100
@pytest.mark.slow
def test_an_interrupted_recipe_goes_on_from_its_checkpoint_to_the_same_numbers(tmp_path):
    options = ALL_CLASSES | {"arms": "one-hot", "num_train_epochs": 20}  # which end long after the interruption
    whole = run_as_command("cifar100_deterministic", tmp_path / "whole", options)
    process = subprocess.Popen(
        command("cifar100_deterministic", tmp_path / "cut", options),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    finished = tmp_path / "cut" / "checkpoints"
    while not list(finished.rglob("trainer_state.json")):
        assert process.poll() is None, "no checkpoint was written"
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130 and "Traceback" not in said
    assert "interrupted; what was finished is kept" in said
    assert list(finished.rglob("trainer_state.json")) and not (tmp_path / "cut" / "results.json").exists()
    rest = run_as_command("cifar100_deterministic", tmp_path / "cut", options)
    for name in ("metrics", "history"):
        assert rest["arms"][0][name] == whole["arms"][0][name]
