"""The propagation of a teacher's noise to its students, and the combination of estimates (arXiv 2601.18909).

Inter-student variance is how much independently distilled students differ; intra-student entropy is how uncertain a
single student's predictions are. All arithmetic is in float64.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..metrics import entropy
from ..utils.checks import check_count, check_not_negative, check_positive, check_probabilities, check_shape
from ..utils.errors import UserError


class Estimate(NamedTuple):
    """An estimate with the variance *of this estimate*, not of a response that entered it."""

    mean: Tensor
    variance: Tensor


class VarianceComponents(NamedTuple):
    """The variance of responses [...], ``between`` the draws of a teacher's weights and ``within`` them.

    between: epistemic, what is left of it with infinitely many responses of a draw. It is estimated without bias, and
        so may be below 0. within: aleatoric, of the responses of one draw, >= 0. ``total`` is the sum of the two, of
        one response of a draw of its own.
    """

    between: Tensor
    within: Tensor

    @property
    def total(self) -> Tensor:
        return self.between + self.within


class Entropies(NamedTuple):
    """Mean entropies in nats of all, correct and incorrect predictions, and the share of correct ones.

    ``correct`` or ``incorrect`` is ``None`` if there are no such predictions.
    """

    all: float
    correct: float | None
    incorrect: float | None
    accuracy: float


def inter_student_variance(predictions: Tensor) -> Tensor:
    """Compute the variance (ddof 1) [...] over R >= 2 students of their predictions [R, ...]."""
    if len(predictions) < 2:
        raise UserError(f"a variance over students needs at least 2 of them, and predictions holds {len(predictions)}")
    return predictions.double().var(dim=0)


def intra_student_entropy(probs: Tensor, labels: Tensor) -> Entropies:
    """Average the entropy of students' predictions, of all and of those whose arg-max is right or wrong.

    Args:
        probs: of R students on N examples, [R, N, K].
        labels: [N].

    Raises:
        UserError: ``probs`` that are not distributions, or labels of another shape.
    """
    check_shape("probs", probs, None, None, None)
    check_probabilities(probs=probs)
    check_shape("labels", labels, probs.shape[1])
    entropies, correct = entropy(probs.double()), probs.argmax(dim=-1) == labels
    split = [entropies[chosen].mean().item() if chosen.any() else None for chosen in (correct, ~correct)]
    return Entropies(entropies.mean().item(), *split, correct.double().mean().item())


def average_responses(
    responses: Tensor, variance: float | Tensor | None = None, draws: Tensor | None = None
) -> Estimate:
    """Average k responses, and give the variance of their mean.

    Args:
        responses: [k, ...].
        variance: of one response; if not given, it is estimated (ddof 1) from the k responses.
        draws: int [k], the draw of the teacher's weights that each response comes from; each from one of its own if
            not given. Responses of one draw are not independent: with ``n_j`` of them from draw j the mean has the
            variance between * sum_j (n_j / k)^2 + within / k, which is that between the draws' means divided by their
            number where all ``n_j`` are equal. Of a single draw it is that given the draw.

    Raises:
        UserError: a single response whose variance isn't known, or a variance that isn't positive.
    """
    k = len(responses)
    check_count(responses=k)
    responses = responses.double()
    if variance is not None:
        check_positive(variance=variance)
        variance = torch.as_tensor(variance, dtype=torch.float64).expand(responses.shape[1:])
    elif k == 1:
        raise UserError(
            "the variance of one response is unknown, and responses holds k = 1: draw at least 2, or pass variance"
        )
    else:
        counts = torch.ones(k) if draws is None else torch.bincount(torch.as_tensor(draws).flatten())
        counts = counts[counts > 0].double()
        if 1 < len(counts) < k:
            parts = variance_components(responses, draws)
            of_mean = parts.between * (counts / k).square().sum() + parts.within / k
            return Estimate(responses.mean(dim=0), of_mean.clamp_min(0))
        variance = responses.var(dim=0)
    return Estimate(responses.mean(dim=0), variance / k)


def variance_components(responses: Tensor, draws: Tensor) -> VarianceComponents:
    """Tell the variance between draws of a teacher's weights from that within them, by one-way analysis of variance.

    With n_j responses of draw j, of S draws and k responses: within = SS_within / (k - S), and between =
    (SS_between / (S - 1) - within) / n_0, where n_0 = (k - sum_j n_j^2 / k) / (S - 1) (Searle, Casella and McCulloch
    1992, section 3.6).

    Args:
        responses: [k, ...].
        draws: int [k], the draw that each comes from.

    Raises:
        UserError: fewer than 2 draws, or none with two responses, which leaves one of the parts unknown.
    """
    k, responses = len(responses), responses.double()
    draws = torch.as_tensor(draws)
    check_shape("draws", draws, k)
    numbers, places = draws.unique(return_inverse=True)
    if len(numbers) < 2 or len(numbers) == k:
        raise UserError(
            f"{k} responses of {len(numbers)} draws of the weights don't tell the two parts of their variance apart: "
            "sample at least 2 responses of each of at least 2 draws"
        )
    counts = places.bincount().double().reshape(-1, *[1] * (responses.ndim - 1))
    sums = torch.zeros(len(numbers), *responses.shape[1:], dtype=torch.float64).index_add(0, places, responses)
    means = sums / counts
    within = (responses - means[places]).square().sum(dim=0) / (k - len(numbers))
    between = (counts * (means - responses.mean(dim=0)).square()).sum(dim=0) / (len(numbers) - 1)
    n_0 = (k - counts.square().sum().item() / k) / (len(numbers) - 1)
    return VarianceComponents((between - within) / n_0, within)


def inverse_variance_combine(
    means: Sequence[Tensor] | Tensor, variances: Sequence[float | Tensor | None] | Tensor
) -> Estimate:
    """Average M estimates of the same quantity, weighted by the inverses of their variances, as the paper does.

    If the estimates are unbiased and *independent*, no weighted mean has less variance, and it is the one returned.
    The arguments show neither: a teacher's labels and a student that learned from them are not independent, and a
    student's bias enters the mean with the student's weight.

    Args:
        means: M >= 1 tensors of one shape, or stacked [M, ...].
        variances: M variances *of these estimates* (for a mean of k responses, that of one response / k), each a
            number or elementwise, broadcast to its estimate's shape.

    Raises:
        UserError: a variance that is unknown (``None``), not positive or not finite; numbers or shapes that differ.
    """
    means = [mean.double() for mean in means]
    if not means or len(means) != len(variances):
        raise UserError(f"means and variances must be as many, and they are {len(means)} and {len(variances)}")
    known = [_variance_of(i, mean, variances[i]) for i, mean in enumerate(means)]
    for i, mean in enumerate(means):
        check_shape(f"means[{i}]", mean, *means[0].shape)
    known = torch.stack(known)
    least = known.amin(dim=0)
    weights = least / known  # of at most 1, so that no inverse overflows
    total = weights.sum(dim=0)
    return Estimate((weights * torch.stack(means)).sum(dim=0) / total, least / total)


def _variance_of(i: int, mean: Tensor, variance: float | Tensor | None) -> Tensor:
    if variance is None:
        raise UserError(f"variances[{i}] is None, and an estimate of unknown variance can't be weighted by it")
    variance = torch.as_tensor(variance, dtype=torch.float64)
    check_positive(**{f"variances[{i}]": variance})
    try:
        return variance.expand(mean.shape)
    except RuntimeError:
        shapes = f"{list(variance.shape)}, and means[{i}] has {list(mean.shape)}"
        raise UserError(f"variances[{i}] must be one number or of its estimate's shape; it has {shapes}") from None


def oracle_combine(responses: Tensor, teacher_mean: Tensor, noise_variance: float) -> Tensor:
    """Combine estimates as the regression experiments of the paper's code do: an ORACLE, to reproduce figures only.

    It cannot be used in practice: it mixes the averaged responses with the teacher's *noise-free* mean, which the
    responses are to estimate, and takes the teacher's true noise variance for that mean's own. The responses' variance
    is that of *one* of them (ddof 0), not of their average; for a single response it is 0, which leaves it unchanged.

    Args:
        responses: [k, ...].
        teacher_mean: the noise-free mean [...].
        noise_variance: the true variance of one response, above 0.

    Returns:
        The combined targets [...], without a variance, for the one that the formula implies is not theirs.
    """
    check_count(responses=len(responses))
    check_positive(noise_variance=noise_variance)
    check_shape("teacher_mean", teacher_mean, *responses.shape[1:])
    responses, teacher_mean = responses.double(), teacher_mean.double()
    share = noise_variance / (noise_variance + responses.var(dim=0, correction=0))
    return share * responses.mean(dim=0) + (1 - share) * teacher_mean


def leverage(design: Tensor, x: Tensor) -> Tensor:
    """Compute x^T (A^T A)^-1 x [M] for the rows of ``x`` [M, p] and a design A [N, p] of full column rank."""
    _, factor = _factorized(design)
    check_shape("x", x, None, design.shape[1])
    return torch.linalg.solve_triangular(factor.mT, x.double().mT, upper=False).square().sum(dim=0)


def ols_students(design: Tensor, responses: Tensor) -> Tensor:
    """Fit R students by least squares, from responses [R, N] on one design [N, p] to coefficients [R, p].

    Raises:
        UserError: a design without full column rank, or responses that don't match it.
    """
    orthogonal, factor = _factorized(design)
    check_shape("responses", responses, None, len(design))
    return torch.linalg.solve_triangular(factor, orthogonal.mT @ responses.double().mT, upper=True).mT


def ols_student_variance(design: Tensor, x: Tensor, noise_variance: float, k: int = 1) -> Tensor:
    """Compute the inter-student variance sigma^2 / k * leverage [M] at ``x`` of fits to means of k responses.

    If the teacher is linear, this is also the excess of the expected squared error at ``x`` over that of the
    noise-free teacher.
    """
    check_not_negative(noise_variance=noise_variance)
    check_count(k=k)
    return noise_variance / k * leverage(design, x)


def _factorized(design: Tensor) -> tuple[Tensor, Tensor]:
    check_shape("design", design, None, None)
    design = design.double()
    rank = int(torch.linalg.matrix_rank(design))
    if rank < design.shape[1]:
        raise UserError(f"design must have full column rank {design.shape[1]}, and its rank is {rank}")
    return torch.linalg.qr(design)
