"""Differences between arms, against scipy and by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from hf_bkd.reports.comparisons import Difference, detectable_difference, holm_comparisons, paired_difference
from hf_bkd.reports.results import MEASURES, difference_text


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


REFERENCE = {0: 50.0, 1: 60.0, 2: 40.0}


def arm(*differences):
    return {seed: REFERENCE[seed] + difference for seed, difference in enumerate(differences)}


def quantile(level):
    """Student's t with 2 degrees of freedom, whose distribution function is 1/2 + t / (2 sqrt(2 + t^2))."""
    return level * math.sqrt(2 / (1 - level**2))


BIG, MIDDLE, SMALL, NONE = arm(10, 11, 12), arm(3, 4, 5), arm(1, 2, 3), arm(-1, 0, 1)  # t^2 = 363, 48, 12, 0; s = 1
P = {name: 1 - t / math.sqrt(2 + t**2) for name, t in (("big", 363**0.5), ("middle", 48**0.5), ("small", 12**0.5))}


def test_holms_steps_by_hand():
    assert pytest.approx({"big": 0.00274, "middle": 0.02020, "small": 0.07418}, abs=1e-5) == P
    compared = holm_comparisons({"small": SMALL, "big": BIG, "middle": MIDDLE}, REFERENCE)
    assert list(compared) == ["small", "big", "middle"]
    for name, mean, factor in (("big", 11, 3), ("middle", 4, 2), ("small", 2, 1)):
        difference, p_value, detectable = compared[name]
        level = 1 - 0.05 / factor
        half = quantile(level) / math.sqrt(3)
        assert difference == pytest.approx((mean, mean - half, mean + half, 3), rel=1e-9)
        assert p_value == pytest.approx(factor * P[name], rel=1e-9)
        assert detectable == pytest.approx((quantile(level) + quantile(0.6)) / math.sqrt(3), rel=1e-9)
    # not by Bonferroni, whose interval would cover zero
    assert compared["middle"].difference.low > 0 > 4 - quantile(1 - 0.05 / 3) / math.sqrt(3)


def test_from_the_first_interval_that_covers_zero_on_all_have_its_level():
    compared = holm_comparisons({"big": BIG, "middle": MIDDLE, "small": SMALL, "none": NONE}, REFERENCE)
    adjusted = {name: comparison.p_value for name, comparison in compared.items()}
    assert adjusted == pytest.approx(
        {"big": 4 * P["big"], "middle": 3 * P["middle"], "small": 2 * P["small"], "none": 1.0}, rel=1e-9
    )
    halves = {name: each.difference.high - each.difference.mean for name, each in compared.items()}
    factors = {"big": 4, "middle": 3, "small": 3, "none": 3}
    assert halves == pytest.approx({name: quantile(1 - 0.05 / f) / math.sqrt(3) for name, f in factors.items()})


def test_corrected_p_values_never_fall_with_the_rank():
    arms = {"a": arm(3, 4, 5), "b": arm(3.1, 4.1, 5.1), "c": arm(3.2, 4.2, 5.2)}
    p_values = [each.p_value for each in holm_comparisons(arms, REFERENCE).values()]
    smallest = 1 - (4.2 * math.sqrt(3)) / math.sqrt(2 + 3 * 4.2**2)
    assert p_values == pytest.approx([3 * smallest] * 3, rel=1e-6)


def test_an_interval_excludes_zero_just_where_holm_rejects():
    rng = np.random.default_rng(0)
    decided = set()
    for _ in range(200):
        shifts, base = rng.normal(0, 1, 6), rng.normal(size=8)
        arms = {i: dict(enumerate(base + shift + rng.normal(size=8))) for i, shift in enumerate(shifts)}
        for difference, p_value, _ in holm_comparisons(arms, dict(enumerate(base))).values():
            excluded = not difference.low <= 0 <= difference.high
            assert excluded == (p_value < 0.05)
            decided.add(excluded)
    assert decided == {True, False}


def test_equal_arms_are_called_different_in_one_family_of_twenty():
    rng = np.random.default_rng(1)
    families = 2000
    wrong = 0
    for _ in range(families):
        base = rng.normal(size=5)
        arms = {i: dict(enumerate(base + rng.normal(size=5))) for i in range(6)}
        wrong += any(each.p_value < 0.05 for each in holm_comparisons(arms, dict(enumerate(base))).values())
    assert 0.035 < wrong / families < 0.06


def test_arms_without_two_shared_seeds_count_for_nothing():
    compared = holm_comparisons({"big": BIG, "one": {0: 1.0}, "no": {7: 1.0}}, REFERENCE)
    assert compared["big"].p_value == pytest.approx(P["big"])
    assert compared["one"].difference.count == 1 and compared["no"].difference.count == 0
    assert all(math.isnan(compared[name][k]) for name in ("one", "no") for k in (1, 2))
    same = holm_comparisons({"same": REFERENCE, "shifted": arm(1, 1, 1)}, REFERENCE)
    assert [same[name].p_value for name in ("same", "shifted")] == [1.0, 0.0]


@pytest.mark.parametrize(("count", "alpha"), [(10, 0.05), (10, 0.05 / 9), (5, 0.05), (30, 0.01)])
def test_a_detectable_difference_is_found_four_times_in_five(count, alpha):
    shift = detectable_difference(2.0, count, alpha) / 2.0 * math.sqrt(count)
    critical = stats.t.ppf(1 - alpha / 2, count - 1)
    power = stats.nct.sf(critical, count - 1, shift) + stats.nct.cdf(-critical, count - 1, shift)
    assert power == pytest.approx(0.8, abs=0.03)
    assert math.isnan(detectable_difference(math.nan, 1))
