"""Paired differences over seeds, with intervals and p-values that are corrected for how many are looked at."""

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student_t

LEVEL = 0.95
POWER = 0.8


class Spread(NamedTuple):
    """Mean and standard deviation (ddof 1; NaN below two values) of `count` seeds' values."""

    mean: float
    std: float
    count: int


class Difference(NamedTuple):
    """Mean paired difference over `count` shared seeds and the two ends of its interval (NaN below two seeds)."""

    mean: float
    low: float
    high: float
    count: int


class Comparison(NamedTuple):
    """A difference with its corrected interval, its corrected p-value, and what :func:`detectable_difference` says."""

    difference: Difference
    p_value: float
    detectable: float


def spread(values: list[float]) -> Spread:
    """Return mean, standard deviation and number of some values."""
    mean = float(np.mean(values)) if values else math.nan
    return Spread(mean, float(np.std(values, ddof=1)) if len(values) > 1 else math.nan, len(values))


def paired_difference(a: dict[int, float], b: dict[int, float], level: float = LEVEL) -> Difference:
    """Return the mean of `a - b` over the seeds that both hold, with its Student-t interval.

    `a`, `b`: seed -> value, in any one unit; the result is in that unit. Its ends are NaN when fewer than two seeds
    are shared, and its mean when none is. ValueError unless 0 < level < 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    return _with_interval(_paired(a, b), level)


def holm_comparisons(
    arms: dict[str, dict[int, float]], reference: dict[int, float], level: float = LEVEL
) -> dict[str, Comparison]:
    """Compare several arms with one over shared seeds, corrected for their number by the steps of Holm (1979).

    Of the m arms that share two seeds or more with the reference, the one with the k-th smallest p-value of the paired
    two-sided t test has the Student-t interval of level 1 - a_k, a_k = (1 - level) / (m - k + 1). From the first one
    on whose interval covers zero, all have the level of that one. So an interval excludes zero just where Holm rejects
    equality, and with a probability of at least ``level`` no arm that equals the reference has such an interval.
    How far from zero those intervals end is not covered jointly, that of Bonferroni's would be.

    The corrected p-value of rank k is the largest (m - j + 1) p_j, at most 1, of the ranks j up to k.

    Args:
        arms: name -> seed -> value.
        reference: seed -> value.
        level: of all statements together, between 0 and 1.

    Returns:
        Name -> comparison, in the order of ``arms``; NaN where fewer than two seeds are shared.
    """
    spreads = {name: _paired(values, reference) for name, values in arms.items()}
    p_values = {name: _p_value(each) for name, each in spreads.items() if each.count > 1}
    corrected, alphas = {}, {}
    largest, stopped = 0.0, None
    for k, name in enumerate(sorted(p_values, key=p_values.get)):
        factor = stopped or len(p_values) - k
        largest = max(largest, min(1.0, (len(p_values) - k) * p_values[name]))
        if factor * p_values[name] > 1 - level:
            stopped = factor
        corrected[name], alphas[name] = largest, (1 - level) / factor
    return {
        name: Comparison(
            _with_interval(each, 1 - alphas.get(name, 1 - level)),
            corrected.get(name, math.nan),
            detectable_difference(each.std, each.count, alphas.get(name, 1 - level)),
        )
        for name, each in spreads.items()
    }


def detectable_difference(std: float, count: int, alpha: float = 1 - LEVEL, power: float = POWER) -> float:
    """Return the smallest true difference that a paired two-sided t test of level `alpha` finds with this power.

    It is (t_{1 - alpha/2} + t_{power}) s / sqrt(n), both quantiles of Student's t with n - 1 degrees of freedom: half
    the interval's width, and as much again as the mean must not fall short by. By the noncentral t distribution its
    power is the one asked for within three points, from five pairs on.

    Args:
        std: s, the standard deviation (ddof 1) of the paired differences; the result is in its unit.
        count: n, how many pairs; below two the result is NaN.
        alpha: of the test, corrected where several are made.
        power: between 0 and 1.
    """
    if count < 2:
        return math.nan
    quantiles = student_t.ppf(1 - alpha / 2, count - 1) + student_t.ppf(power, count - 1)
    return float(quantiles) * std / math.sqrt(count)


def _paired(a: dict[int, float], b: dict[int, float]) -> Spread:
    return spread([a[seed] - b[seed] for seed in a if seed in b])


def _with_interval(differences: Spread, level: float) -> Difference:
    mean, std, count = differences
    half = float(student_t.ppf((1 + level) / 2, count - 1)) * std / math.sqrt(count) if count > 1 else math.nan
    return Difference(mean, mean - half, mean + half, count)


def _p_value(differences: Spread) -> float:
    """Return the two-sided p-value of the paired t test; equal differences are 0, or 1 if they are zero."""
    mean, std, count = differences
    if std == 0:
        return float(mean == 0)
    return float(2 * student_t.sf(abs(mean) * math.sqrt(count) / std, count - 1))
