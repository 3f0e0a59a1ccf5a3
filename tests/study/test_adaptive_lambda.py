"""A study that sweeps lambda by arm, with those that are set by example beside it."""

from dataclasses import replace

import pytest

from hf_bkd import UserError
from hf_bkd.study import DETERMINISTIC, ONE_HOT, Arm, Laplace, Study
from hf_bkd.teachers import Deterministic
from tests.study.study_helpers import plain, run, status

pytestmark = pytest.mark.usefixtures("blank_pictures")

DRAWN = Arm("drawn", Laplace(link="mc"))
FIXED = [replace(DRAWN, name=f"drawn, λ = {kd_lambda:g}", kd_lambda=kd_lambda) for kd_lambda in (0.5, 1.0, 1.5)]
ADAPTIVE = replace(DRAWN, name="drawn, adaptive λ", lambda_schedule="adaptive")
BIAS_AWARE = Arm("crossed, bias-aware λ", Deterministic(), folds=2, lambda_schedule="bias_aware")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    results = run(Study("sweep", (ONE_HOT, DETERMINISTIC, *FIXED, ADAPTIVE, BIAS_AWARE), {"": plain}), folder)
    return folder, {record["arm"]: record for record in results["arms"]}


def test_each_arm_has_its_lambda_and_its_own_student(finished):
    _, records = finished
    assert {name: (record["kd_lambda"], record["lambda_schedule"]) for name, record in records.items()} == {
        "one-hot": (0.0, None),
        "deterministic": (1.0, None),
        "drawn, λ = 0.5": (0.5, None),
        "drawn, λ = 1": (1.0, None),
        "drawn, λ = 1.5": (1.5, None),
        "drawn, adaptive λ": (1.0, "adaptive"),
        "crossed, bias-aware λ": (1.0, "bias_aware"),
    }
    assert len({record["metrics"]["nll"] for record in records.values()}) == 7
    teachers = [record["teacher_metrics"] for name, record in records.items() if name.startswith("drawn")]
    assert teachers[0] == teachers[1] == teachers[2]


def test_the_page_draws_the_sweep_of_fixed_lambdas_and_names_the_schedule(finished):
    folder, _ = finished
    page = (folder / "report.md").read_text()
    assert "sweep_kd_lambda.png" in page and "Arms: drawn, λ = 0.5; drawn, λ = 1; drawn, λ = 1.5." in page
    assert "Level lines: drawn, adaptive λ." in page
    assert "| λ by example | best fixed λ | difference (points, [95 % CI]) | within 0.5 points of it |" in page
    assert "| λ schedule |" in page and "| adaptive |" in page


@pytest.mark.parametrize("arm", [ADAPTIVE, FIXED[2]])
def test_a_posterior_of_labels_that_are_subtracted_or_weighed_by_example_is_refused(tmp_path, capsys, arm):
    assert status(tmp_path, Study("posterior", (arm,), {"": plain}, posterior={}, reference=arm.name)) == 2
    assert f"arm '{arm.name}' has a lambda above 1 or by example" in capsys.readouterr().err
    assert not (tmp_path / "settings.json").exists()


def test_an_arm_that_is_bias_aware_without_folds_is_refused():
    with pytest.raises(UserError, match="is bias-aware, which needs labels that are cross-fitted: pass folds=3"):
        replace(BIAS_AWARE, folds=0)
