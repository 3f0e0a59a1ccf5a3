"""A study that sweeps lambda by arm, with the adaptive one beside it."""

import json
from dataclasses import replace

import pytest

from hf_bkd.study import main
from tests.recipes.recipe_helpers import load

ARMS = ("one-hot", "deterministic", "cross-fitted-λ-0-5", "cross-fitted-λ-1", "cross-fitted-adaptive-λ")
OPTIONS = {
    "--seeds": 0, "--num_train_epochs": 2, "--max_train_samples": 300, "--ensemble_size": 2, "--workers": 1,
    "--arms": ",".join(ARMS),
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder, recipe = tmp_path_factory.mktemp("run"), load("adaptive_lambda")
    study = replace(recipe.STUDY, conditions=dict([next(iter(recipe.STUDY.conditions.items()))]), epochs={})
    options = OPTIONS | {"--output_dir": folder}
    main(study, recipe.DEFAULTS, [str(part) for pair in options.items() for part in pair])
    return folder, {record["arm"]: record for record in json.loads((folder / "results.json").read_text())["arms"]}


def test_each_arm_has_its_lambda_and_its_own_student(finished):
    _, records = finished
    told = {name: (record["kd_lambda"], record["lambda_schedule"]) for name, record in records.items()}
    assert told == {
        "one-hot": (0.0, None),
        "deterministic": (1.0, None),
        "cross-fitted, λ = 0.5": (0.5, None),
        "cross-fitted, λ = 1": (1.0, None),
        "cross-fitted, adaptive λ": (1.0, "adaptive"),
    }
    assert len({record["metrics"]["nll"] for record in records.values()}) == 5
    teachers = [record["teacher_metrics"] for name, record in records.items() if name.startswith("cross-fitted")]
    assert teachers[0] == teachers[1] == teachers[2]


def test_the_page_draws_the_sweep_of_fixed_lambdas_and_names_the_schedule(finished):
    folder, _ = finished
    page = (folder / "report.md").read_text()
    assert "sweep_kd_lambda.png" in page and "Arms: cross-fitted, λ = 0.5; cross-fitted, λ = 1." in page
    assert "| λ schedule |" in page and "| adaptive |" in page
