"""A study of teachers themselves: what it measures, how it goes on, and the page that it leaves."""

import json
import math
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from hf_bkd import Teacher
from hf_bkd.metrics import entropy
from hf_bkd.models.calling import split
from hf_bkd.study import main
from tests.recipes.recipe_helpers import load

ARMS = "deterministic,ensemble,mc-dropout,laplace,variational-whole-network,variational-ivon"
OPTIONS = {
    "--seeds": 0,
    "--num_train_epochs": 1,
    "--max_train_samples": 400,
    "--max_test_samples": 20,
    "--ensemble_size": 2,
    "--num_samples": 3,
    "--workers": 1,
    "--arms": ARMS,
}


@pytest.fixture(scope="module")
def ood(tmp_path_factory):
    """Twenty small color images."""
    folder = tmp_path_factory.mktemp("ood")
    pixels = np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3), dtype=np.uint8)
    rows = {"img": [Image.fromarray(image) for image in pixels], "label": [0] * 20}
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["none of ours"])})
    datasets.DatasetDict({"test": datasets.Dataset.from_dict(rows, features)}).save_to_disk(folder)
    return folder


def run(folder, ood):
    recipe = load("teachers_comparison")
    study = replace(recipe.STUDY, conditions={recipe.FEW: recipe.STUDY.conditions[recipe.FEW]}, epochs={})
    options = OPTIONS | {"--output_dir": folder, "--ood_dataset": ood}
    main(study, recipe.DEFAULTS, [str(part) for pair in options.items() for part in pair])
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ood):
    folder = tmp_path_factory.mktemp("run")
    return folder, run(folder, ood)


def test_every_teacher_is_measured(finished):
    _, results = finished
    arms = ["deterministic", "ensemble", "MC dropout", "Laplace", "variational, whole network", "variational, IVON"]
    assert [record["arm"] for record in results["arms"]] == arms
    for record in results["arms"]:
        measured = [*record["metrics"].values(), *record["scaled_metrics"].values()]
        assert all(map(math.isfinite, measured)), record
        assert record["metrics"]["accuracy"] == pytest.approx(record["scaled_metrics"]["accuracy"])
        assert record["relative_time"] > 0 and record["megabytes"] > 0.1
    laplace = [record for record in results["arms"] if record["teacher"] == "laplace"]
    assert all(1e-4 <= record["prior_precision"] <= 1e6 for record in laplace)


def test_the_numbers_are_those_of_the_saved_teacher(finished, ood):
    from hf_bkd.metrics import classification_metrics
    from hf_bkd.training.batched_dataset import BatchedDataset

    folder, results = finished
    recipe = load("teachers_comparison")
    record = next(r for r in results["arms"] if r["arm"] == "deterministic" and r["seed"] == 0)

    class Options:
        ood_dataset, max_train_samples, max_test_samples = str(ood), 400, 20

    splits = recipe.STUDY.conditions[recipe.FEW](Options, 0)
    teacher = Teacher.from_pretrained(next(folder.glob("teachers/*/seed-0/deterministic-0")))
    preprocessor = splits.inputs.preprocess

    def probs(rows):
        batches = BatchedDataset.from_images(rows, preprocessor, progress=False).batches()
        return torch.cat([teacher.predict(split(batch)[0]).mean for batch in batches])

    found, labels = probs(splits.test), torch.tensor(splits.test["label"][:])
    for name, value in classification_metrics(found, labels).items():
        assert record["metrics"][name] == pytest.approx(value, rel=1e-4), name
    scores = torch.cat([entropy(found), entropy(probs(splits.ood))])
    expected = roc_auc_score([0] * len(found) + [1] * len(splits.ood), scores)
    assert record["metrics"]["ood_auroc"] == pytest.approx(expected, abs=1e-6)


def test_a_finished_study_goes_on_from_its_records(finished, ood):
    folder, results = finished
    before = {file: file.stat().st_mtime_ns for file in folder.glob("teachers/**/*.safetensors")}
    assert run(folder, ood)["arms"] == results["arms"]
    assert {file: file.stat().st_mtime_ns for file in folder.glob("teachers/**/*.safetensors")} == before


def test_the_page_shows_teachers_plain_and_scaled(finished):
    folder, _ = finished
    page = (folder / "report.md").read_text()
    for text in ("scaled NLL", "AUROC, out-of-distribution", "MB", "the network is wrn_16_1_cifar"):
        assert text in page
    assert "onvergence noise" not in page
    for picture in ("teachers.png", "reliability.png"):
        assert f"]({picture})" in page and (folder / picture).stat().st_size > 10_000
    assert not (folder / "comparison.png").exists()
