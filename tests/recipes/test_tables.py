"""The recipe of tables: the kept share by hand, further rows of the training rows' values, and a small run."""

import json

import datasets
import numpy as np
import pytest

from hf_bkd.reports.claims import main
from tests.recipes.recipe_helpers import load


@pytest.fixture(scope="module")
def recipe():
    return load("tables")


def test_the_kept_share_by_hand(recipe):
    losses = {"alone": np.array([1.0, 2.0]), "forest": np.array([0.5, 0.5]), "labels": np.array([0.6, 0.6])}
    kept, low, high = recipe.share(losses, "labels")
    assert kept == pytest.approx((0.4 + 1.4) / (0.5 + 1.5)) and low == pytest.approx(0.8)
    assert high == pytest.approx(1.4 / 1.5)


def test_further_rows_mix_the_training_rows(recipe):
    rows = datasets.Dataset.from_dict({"a": np.arange(500.0), "b": np.arange(500.0), "label": [0] * 500})
    further = recipe.mixed(rows, times=4, replaced=0.25, seed=0)
    a, b = np.array(further["a"]), np.array(further["b"])
    assert len(further) == 2000 and set(a) <= set(range(500)) and further.column_names == ["a", "b"]
    assert (a != np.repeat(np.arange(500), 4)).mean() == pytest.approx(0.25, abs=0.06) and (a != b).mean() > 0.3


@pytest.mark.slow
def test_a_tree_keeps_most_of_the_gain(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "TABLES", {"wine": recipe.TABLES["wine"]})
    monkeypatch.setattr(recipe, "RANDOM", recipe.RANDOM[:1])
    words = ["--output_dir", str(tmp_path), "--replicates", "3", "--trees", "50", "--further", "20", "--choices", "1"]
    main("tables", "", recipe.claims, recipe.Options, words)
    checks = json.loads((tmp_path / "results.json").read_text())["checks"]
    assert min(check["measured"] for check in checks if "NLL" in check["name"] or "squared" in check["name"]) > 0.8
