"""The recipe, with few students: floors are near what formulas predict, and all is written."""

import json
import math

import pytest
import torch

from hf_bkd.reports.claims import main
from tests.recipes.recipe_helpers import load


@pytest.fixture(scope="module")
def recipe():
    torch.set_num_threads(1)
    return load("theory_bias")


def test_biases_without_noise_cost_what_the_moved_minimum_says(recipe):
    world = recipe.Linear(replicates=2, steps=2000, seed=0)
    world.points, world.probs = world.points[:3000], world.probs[:3000]  # as many as students are measured on
    claim = recipe.bias_claim(world, 2000)
    checks = {check.name.removesuffix(": excess risk, nats"): check for check in claim.checks}
    for name in ("T = 0.8", "T = 1.25", "T = 1.5", "smoothing 0.05", "smoothing 0.1"):
        assert checks[name].measured == pytest.approx(checks[name].predicted, rel=0.15)
    assert all(check.tolerance == 0.1 for check in claim.checks)
    assert checks["T = 0.8, noisy"].predicted > checks["T = 0.8"].predicted


def test_a_kept_draw_costs_more_than_a_fresh_one(recipe, monkeypatch):
    from theory_claims import common_floors

    monkeypatch.setattr(common_floors, "KEPT", (1, 50, math.inf))
    monkeypatch.setattr(common_floors, "DRAWS", 200)
    claim = recipe.kept_claim(recipe.Linear(replicates=24, steps=1000, seed=0), 1000)
    fresh, kept, stored = (check.measured for check in claim.checks)
    assert 4 * fresh < kept < stored
    assert all(check.measured == pytest.approx(check.predicted, rel=0.3) for check in claim.checks)


def test_what_examples_have_in_common_no_number_of_them_averages_out(recipe, monkeypatch):
    from theory_claims import common_floors

    monkeypatch.setattr(common_floors, "STORED", (250, 1000))
    monkeypatch.setattr(common_floors, "DRAWS", 200)
    claim = recipe.stored_claim(recipe.Linear(replicates=16, steps=700, seed=0), 700)
    apart, one, averaged, more_apart, more_one, more_averaged = (check.measured for check in claim.checks)
    assert more_apart < 0.7 * apart and more_one > 0.7 * one
    assert averaged < one / 2 and more_averaged < more_one / 2


@pytest.mark.slow
def test_adam_goes_with_the_root_of_the_noise(recipe, monkeypatch):
    from theory_claims import adam_floors

    monkeypatch.setattr(adam_floors, "FEW", (0.9, 0.99, 0.999))
    claim = recipe.adam_claim(recipe.Linear(replicates=6, steps=1500, seed=0), 1500)
    ratios = {check.name: check for check in claim.checks if check.name.endswith("over the one-hot floor")}
    assert len(ratios) == 4
    calm = ratios["Adam, Dirichlet 5: floor over the one-hot floor"]
    assert calm.predicted == pytest.approx(6**-0.5) and calm.measured == pytest.approx(6**-0.5, rel=0.35)


def test_the_truth_is_at_rest(recipe):
    from theory_claims import width_noise

    truths = width_noise.Truths(seeds=2, seed=0)
    for width in width_noise.FLOOR_WIDTHS:
        predicted, exact, one_hot = truths.floors(width, 400)
        assert exact.abs().max() < 1e-12 and (one_hot > 1e-4).all() and (predicted > 1e-4).all()


@pytest.mark.slow
def test_narrow_students_keep_their_noise(recipe):
    from theory_claims import width_noise

    truths = width_noise.Truths(seeds=2, seed=0)
    narrow, wide = (truths.trained(width, 1500).noise for width in (1, 16))
    assert (narrow[0] / narrow[1]).mean() > 3 * (wide[0] / wide[1]).mean()
    assert (wide[1] > 1).all()


@pytest.mark.slow
def test_the_whole_recipe_is_written_and_what_is_published_holds(recipe, tmp_path):
    main("theory_bias", recipe.NOTE, recipe.claims, recipe.BiasArguments, ["--output_dir", str(tmp_path)])
    checks = json.loads((tmp_path / "results.json").read_text())["checks"]
    assert not [check["name"] for check in checks if not check["holds"]]
