"""Differences between arms, against scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from hf_bkd.reports.results import MEASURES, Difference, difference_text, paired_difference


@pytest.mark.parametrize("level", [0.95, 0.5])
def test_paired_difference_is_scipys(level):
    rng = np.random.default_rng(0)
    a, b = ({seed: float(value) for seed, value in enumerate(rng.normal(size=6))} for _ in range(2))
    expected = stats.ttest_rel(list(a.values()), list(b.values())).confidence_interval(level)
    mean, low, high, count = paired_difference(a, b, level)
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert mean == pytest.approx(np.mean([a[s] - b[s] for s in a])) and count == 6


def test_paired_difference_uses_shared_seeds_only():
    assert paired_difference({0: 1.0, 1: 2.0, 7: 90.0}, {1: 1.0, 0: 0.5, 9: -90.0}).mean == pytest.approx(0.75)
    one = paired_difference({0: 1.0, 1: 2.0}, {1: 1.5})
    assert one.mean == 0.5 and one.count == 1 and math.isnan(one.low) and math.isnan(one.high)
    none = paired_difference({0: 1.0}, {1: 1.0})
    assert none.count == 0 and math.isnan(none.mean)
    with pytest.raises(ValueError, match="level"):
        paired_difference({}, {}, level=95)


def test_equal_differences_give_an_interval_of_width_zero():
    assert paired_difference({0: 3.0, 1: 4.0}, {0: 1.0, 1: 2.0}) == (2.0, 2.0, 2.0, 2)


def test_difference_text_says_what_is_missing():
    row = {"arm": "Laplace", "seeds": 2, "measure": MEASURES["accuracy"], "is_reference": False}
    row["difference"] = Difference(0.0107, -0.0579, 0.0792, 2)
    assert difference_text(row) == "+1.07 [-5.79, +7.92]"
    row["difference"] = Difference(0.01, math.nan, math.nan, 1)
    assert difference_text(row) == "+1.00 [–] (1 shared)"
    row["difference"] = Difference(math.nan, math.nan, math.nan, 0)
    assert difference_text(row) == "–"
    row |= {"measure": MEASURES["nll"], "difference": Difference(-0.0107, -0.0579, 0.0792, 2)}
    assert difference_text(row) == "-0.011 [-0.058, +0.079]"
    assert difference_text(row | {"is_reference": True, "difference": None}) == "reference"
