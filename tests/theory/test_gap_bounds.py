"""The gap bounds where they are equalities, and the radius at which two of them cross."""

import math

import pytest
from scipy.optimize import brentq

from hf_bkd.theory.gap_bounds import lower_gap_bound, sharpness_gap_bound, tightness_radius, upper_gap_bound

GAP, PROXY = 1.3, 0.4


@pytest.mark.parametrize("shift", [0.0, 0.2, 1.5])
def test_the_upper_bound_is_an_equality_for_gaussian_gaps_of_one_variance(shift):
    divergence = shift**2 / (2 * PROXY)  # KL(N(gap + shift, R^2) || N(gap, R^2))
    assert upper_gap_bound(GAP, PROXY, divergence) == pytest.approx(GAP + shift)
    assert upper_gap_bound(-GAP, PROXY, divergence) == pytest.approx(shift - GAP)


@pytest.mark.parametrize("eta", [0.1, 1.0, 3.0])
def test_the_lower_bound_is_an_equality_for_the_worst_gaussian_gap(eta):
    c = 1 - eta * PROXY / (2 * GAP)  # log E exp(-eta gap) = -eta gap + eta^2 R^2 / 2 = -c eta gap
    shift = eta * PROXY
    assert lower_gap_bound(GAP, shift**2 / (2 * PROXY), eta, c) == pytest.approx(GAP - shift)


@pytest.mark.parametrize("eigenvalue", [0.0, 3.0, -3.0])
def test_the_sharpness_bound_is_the_taylor_polynomial_along_the_gradient(eigenvalue):
    def gap(step: float) -> float:
        return GAP + 0.6 * step + eigenvalue / 2 * step**2

    bound = sharpness_gap_bound(GAP, 0.6, eigenvalue, 0.7)
    assert bound == pytest.approx(gap(0.7)) if eigenvalue >= 0 else bound == pytest.approx(GAP + 0.42)


@pytest.mark.parametrize("gradient", [0.0, 1e-3, 0.6, 50.0])
@pytest.mark.parametrize("eigenvalue", [1e-12, 0.1, 40.0])
@pytest.mark.parametrize("divergence", [1e-3, 7.0])
def test_the_bounds_cross_at_the_tightness_radius(gradient, eigenvalue, divergence):
    upper = upper_gap_bound(GAP, PROXY, divergence)

    def difference(radius: float) -> float:
        return sharpness_gap_bound(GAP, gradient, eigenvalue, radius) - upper

    actual = tightness_radius(gradient, eigenvalue, PROXY, divergence)
    assert actual == pytest.approx(brentq(difference, 0, 1e9, xtol=1e-14, rtol=1e-12), rel=1e-9)
    assert difference(0.99 * actual) < 0 < difference(1.01 * actual)


def test_the_tightness_radius_grows_as_the_teacher_gets_flatter_and_has_its_limits():
    radii = [tightness_radius(0.6, eigenvalue, PROXY, 7.0) for eigenvalue in (100, 10, 1, 0.1, 1e-9, 1e-300, 0, -5)]
    rise = math.sqrt(2 * PROXY * 7)
    assert radii[:5] == sorted(radii[:5]) and len(set(radii[:5])) == 5
    assert radii[5:] == pytest.approx([rise / 0.6] * 3)
    assert tightness_radius(0.0, -5, PROXY, 7.0) == math.inf
    assert tightness_radius(0.0, 0.0, PROXY, 0.0) == tightness_radius(0.6, 1.0, 0.0, 7.0) == 0


@pytest.mark.parametrize(
    ("bound", "good", "changes"),
    [
        (
            upper_gap_bound,
            {"teacher_gap": GAP, "variance_proxy": PROXY, "divergence": 1.0},
            {"teacher_gap": math.nan, "variance_proxy": -0.1, "divergence": math.inf},
        ),
        (
            lower_gap_bound,
            {"teacher_gap": GAP, "divergence": 1.0, "eta": 0.5, "c": 0.5},
            {"teacher_gap": math.inf, "divergence": -1.0, "eta": 0.0, "c": 1.5},
        ),
        (
            sharpness_gap_bound,
            {"teacher_gap": GAP, "gradient_norm": 1.0, "largest_eigenvalue": 1.0, "radius": 1.0},
            {"teacher_gap": math.nan, "gradient_norm": -2.0, "largest_eigenvalue": math.inf, "radius": -3.0},
        ),
        (
            tightness_radius,
            {"gradient_norm": 1.0, "largest_eigenvalue": 1.0, "variance_proxy": PROXY, "divergence": 1.0},
            {"gradient_norm": -2.0, "largest_eigenvalue": math.nan, "variance_proxy": -1.0, "divergence": -3.0},
        ),
    ],
)
def test_bad_numbers_are_named_with_their_value(bound, good, changes):
    assert math.isfinite(bound(**good))
    for name, value in changes.items():
        with pytest.raises(ValueError, match=f"{name} must be .*, and it is {value:g}"):
            bound(**good | {name: value})
    if "c" in good:
        with pytest.raises(ValueError, match="c must be above 0 and finite, and it is 0"):
            bound(**good | {"c": 0})
