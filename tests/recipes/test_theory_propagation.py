"""The recipe, with few networks on few examples: what is exact of least squares holds, and all is written."""

import json
from functools import partial

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_wine

from hf_bkd.reports.claims import main
from hf_bkd.theory.sweeps import distill_many
from tests.recipes.recipe_helpers import load

EXACT = ("variance over students", "test error", "average of", "weighted", "ORACLE", "the targets", "least squares")
SIZES = {"--students": 2000, "--classifiers": 4, "--networks": 4}


pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture
def recipe(monkeypatch):
    recipe = load("theory_propagation")
    from theory_claims import propagation_classification

    monkeypatch.setattr(
        propagation_classification, "SETS", {"digits": (load_digits, 100, 80), "wine": (load_wine, 50, 64)}
    )
    return recipe


def test_the_recipe_writes_its_claims_and_least_squares_obeys_its_formulas(recipe, tmp_path, capsys, monkeypatch):
    from theory_claims import propagation_classification

    monkeypatch.setattr(propagation_classification, "distill_many", partial(distill_many, steps=20))
    argv = [str(part) for option in ({"--output_dir": tmp_path} | SIZES).items() for part in option]
    main("theory_propagation", recipe.NOTE, recipe.claims, recipe.PropagationArguments, argv)
    assert "checks hold" in capsys.readouterr().out
    checks = json.loads((tmp_path / "results.json").read_text())["checks"]
    exact = [check for check in checks if check["name"].startswith(EXACT)]
    assert len(exact) == 17 and not [check["name"] for check in exact if not check["holds"]]
    assert max(check["tolerance"] for check in exact if check["compare"] == "relative") <= 0.03
    page = (tmp_path / "report.md").read_text()
    assert "ORACLE that nobody has" in page and "No number of the paper's tables could be recovered" in page
    for figure in ("averaging", "rules", "labels", "networks", "amplification"):
        assert (tmp_path / f"{figure}.png").is_file() and f"({figure}.png)" in page


@pytest.mark.slow
def test_networks_amplify_and_sampled_labels_leave_entropy(recipe):
    from theory_claims import propagation_classification as classes
    from theory_claims import propagation_regression as regression

    amplified = regression.amplification_claim(regression.Diabetes(), 200, 5, 0).checks
    assert all(check.holds for check in amplified if check.compare != "relative")
    labeled = {check.name: check for check in classes.labels_claim(8, 0).checks}
    assert labeled["entropy, argmax / soft"].holds and labeled["entropy, 1 label / teacher's"].holds
    assert labeled["variance, k = 20 / k = 80"].measured == pytest.approx(4, rel=0.2)


def test_the_table_in_place_of_covertype_has_its_shape_and_shares(recipe):
    from theory_claims import propagation_classification as classes

    inputs, labels = classes.covertype_like()
    assert inputs.shape == (5000, 54) and (inputs == classes.covertype_like()[0]).all()
    shares = np.bincount(labels) / len(labels)
    assert np.abs(shares - classes.COVERTYPE_SHARES).max() < 0.03 and sum(classes.COVERTYPE_SHARES) == 1
