"""The recipes of the divergence, with fewer draws: every check of theirs holds."""

import json

import pytest

from hf_bkd.reports.claims import main
from tests.recipes.recipe_helpers import load

SMALL = {
    "theory_divergence": {"draws": 5_000, "datasets": 500},
    "theory_heads": {"steps": 200, "num_samples": 20},
}


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("name", ["theory_divergence", pytest.param("theory_heads", marks=pytest.mark.slow)])
def test_all_checks_of_the_recipe_hold(name, tmp_path, capsys):
    recipe = load(name)
    options = [str(part) for option, value in SMALL[name].items() for part in (f"--{option}", value)]
    main(name, recipe.NOTE, recipe.claims, recipe.Arguments, ["--output_dir", str(tmp_path), *options])
    results = json.loads((tmp_path / "results.json").read_text())
    failing = [check for check in results["checks"] if not check["holds"]]
    assert not failing and f"All {len(results['checks'])} checks hold." in capsys.readouterr().out
    claims = [claim["title"] for claim in results["claims"]]
    assert all(any(check["claim"] == title for check in results["checks"]) for title in claims)
    for claim in results["claims"]:
        for figure in claim["figures"]:
            assert (tmp_path / f"{figure['name']}.png").is_file()
