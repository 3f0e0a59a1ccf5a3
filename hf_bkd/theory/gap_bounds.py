"""Bounds on a student's generalization gap by its teacher's (arXiv 2605.13143).

The gap is population loss minus empirical loss, and K the divergence of `divergence`. Only the paper's statements and
single lines of its proofs could be recovered: what is marked "derived here" follows from those lines, and the paper's
own constants may differ. Losses and gaps are in the same unit, divergences in nats.
"""

import math

from ..utils.checks import check_not_negative, check_positive, check_share
from ..utils.errors import UserError


def upper_gap_bound(teacher_gap: float, variance_proxy: float, divergence: float) -> float:
    """Bound the student's mean gap from above by gap_T + sqrt(2 R^2 K) (derived here).

    This holds if the teacher's gap is R^2-sub-Gaussian, by Donsker and Varadhan's inequality (arXiv 2605.13143). For
    losses in [a, b] and weights that don't depend on the n training examples, R^2 = (b - a)^2 / (4n).

    Args:
        teacher_gap: mean population loss minus empirical loss of the teacher.
        variance_proxy: R^2 >= 0.
        divergence: K >= 0, in nats.

    Raises:
        UserError: a number that is negative or not finite.
    """
    _check_finite(teacher_gap=teacher_gap)
    check_not_negative(variance_proxy=variance_proxy, divergence=divergence)
    return teacher_gap + math.sqrt(2 * variance_proxy * divergence)


def lower_gap_bound(teacher_gap: float, divergence: float, eta: float, c: float) -> float:
    """Bound the student's mean gap from below by c gap_T - K / eta (derived here).

    This holds if the teacher fulfills the (eta, c)-central condition (arXiv 2605.13143): log E exp(-eta gap) <=
    -c eta E gap. The bound falls linearly in K, where the upper one rises with the root of K.

    Args:
        teacher_gap: as for :func:`upper_gap_bound`.
        divergence: K, likewise.
        eta: > 0.
        c: in (0, 1].

    Raises:
        UserError: a number out of its range or not finite.
    """
    _check_finite(teacher_gap=teacher_gap)
    check_not_negative(divergence=divergence)
    check_positive(eta=eta, c=c)
    check_share(c=c)
    return c * teacher_gap - divergence / eta


def sharpness_gap_bound(teacher_gap: float, gradient_norm: float, largest_eigenvalue: float, radius: float) -> float:
    """Bound the gap of a student within rho of the teacher by gap_T + g rho + lambda rho^2 / 2 (derived here).

    By Taylor's theorem this is a bound if g is the norm of the *gap's* gradient at the teacher's weights, and lambda
    at least every eigenvalue of its Hessian on the way to the student's. With g and lambda of a loss
    (`hf_bkd.training.sharpness`), as in the sharpness-aware bound of arXiv 2605.13143, it holds for that loss to
    second order; the constants by which the paper goes from there to the gap could not be recovered. A negative lambda
    counts as 0.

    Args:
        teacher_gap: population loss minus empirical loss at the teacher's weights.
        gradient_norm: g >= 0.
        largest_eigenvalue: lambda.
        radius: rho >= 0.

    Raises:
        UserError: a number out of its range or not finite.
    """
    _check_finite(teacher_gap=teacher_gap, largest_eigenvalue=largest_eigenvalue)
    check_not_negative(gradient_norm=gradient_norm, radius=radius)
    return teacher_gap + gradient_norm * radius + max(largest_eigenvalue, 0) * radius**2 / 2


def tightness_radius(
    gradient_norm: float, largest_eigenvalue: float, variance_proxy: float, divergence: float
) -> float:
    """Find rho_0 below which :func:`sharpness_gap_bound` is tighter than :func:`upper_gap_bound` (derived here).

    It is the positive root of g rho + lambda rho^2 / 2 = sqrt(2 R^2 K) = b, as 2 b / (g + sqrt(g^2 + 2 lambda b)),
    which loses no digits when lambda is small. It grows as lambda falls: the flatter the teacher, the further away are
    students for which its sharpness is more informative than the divergence; it is infinite for g = lambda = 0.

    Args:
        gradient_norm: g, as for :func:`sharpness_gap_bound`.
        largest_eigenvalue: lambda, likewise.
        variance_proxy: R^2, as for :func:`upper_gap_bound`.
        divergence: K, likewise.

    Raises:
        UserError: a number out of its range or not finite.
    """
    _check_finite(largest_eigenvalue=largest_eigenvalue)
    check_not_negative(gradient_norm=gradient_norm)
    rise = upper_gap_bound(0.0, variance_proxy, divergence)
    slope = gradient_norm + math.hypot(gradient_norm, math.sqrt(2 * max(largest_eigenvalue, 0) * rise))
    if rise == 0:
        return 0.0
    return 2 * rise / slope if slope > 0 else math.inf


def _check_finite(**arguments: float) -> None:
    for name, value in arguments.items():
        if not math.isfinite(value):
            raise UserError(f"{name} must be finite, and it is {value:g}")
