"""The distribution that a student is trained towards: the one place where the library builds it.

    t(x) = (1 - lambda(x)) * onehot(y)  +  lambda(x) * sum_m r_m(x) * mean_s p_m^(s)(x)

m runs over teachers with weights r_m, s over the draws of one teacher's posterior (whose mean is what a soft-label
column stores), lambda is one number or one per example. Nothing here assumes images or one label per example:
leading dimensions are free, classes come last.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .metrics import entropy
from .utils.errors import UserError

TEACHER_WEIGHTS = ("equal", "entropy", "inverse_variance")
BIN_SIZE, MOST_BINS = 25, 10  # examples in a bin of confidence at least, and the number of bins at most
PSEUDO_DRAWS = 10  # that the whole data set's noise ratio counts for beside an example's own


def temper(probs: Tensor, temperature: float) -> Tensor:
    """Compute p^(1/T), renormalized: a distribution at temperature T (arXiv 2601.01484, as its Laplace teacher).

    Equals softmax(logits / T) when ``probs`` is softmax(logits).

    Args:
        probs: class probabilities [..., C] in [0, 1].
        temperature: T > 0; above 1 flattens, below 1 sharpens.

    Returns:
        Probabilities [..., C]; classes of probability 0 keep it.
    """
    if temperature == 1:
        return probs
    return torch.softmax(probs.log() / temperature, dim=-1)


def mix_teachers(probs: Tensor, weights: Tensor | None = None) -> Tensor:
    """Average M teachers: sum_m r_m p_m.

    Args:
        probs: class probabilities [..., M, C].
        weights: r, [M] or [..., M], summing to one over M; None for equal weights.

    Returns:
        Probabilities [..., C].
    """
    if weights is None:
        return probs.mean(dim=-2)
    return (weights.unsqueeze(-1) * probs).sum(dim=-2)


def entropy_weights(probs: Tensor) -> Tensor:
    """Weigh teachers by w_m = (1 - H_m / sum_j H_j) / (M - 1): a teacher that is surer of an example counts more.

    arXiv 2605.27967, for M = 2 as in its released code, w_1 = H_2 / (H_1 + H_2); for more, the natural reading of it.

    Args:
        probs: class probabilities of M teachers [..., M, C].

    Returns:
        Weights [..., M], summing to one; equal where all teachers are certain.
    """
    return weights_by_entropy(entropy(probs))


def weights_by_entropy(entropies: Tensor) -> Tensor:
    """Weigh M teachers by the entropies [..., M] of what they say, as :func:`entropy_weights` does."""
    teachers = entropies.shape[-1]
    total = entropies.sum(dim=-1, keepdim=True)
    shares = torch.where(total > 0, entropies / total, 1 / teachers)
    return (1 - shares) / (teachers - 1) if teachers > 1 else torch.ones_like(entropies)


def inverse_variance_weights(variances: Tensor) -> Tensor:
    """Weigh teachers by 1 / v_m, normalized (arXiv 2601.18909).

    The mean has the least variance if the teachers are independent and unbiased.

    Args:
        variances: of M teachers' means, not of one draw, [..., M]; a teacher without any outweighs all that have some.

    Returns:
        Weights [..., M], summing to one.
    """
    return torch.softmax(-variances.clamp_min(torch.finfo(variances.dtype).tiny).log(), dim=-1)


def mixture_responsibilities(
    log_student: Tensor, probs: Tensor, weights: Tensor | None, prior_strength: float
) -> Tensor:
    """Compute r_m, the share of each teacher's prior in the student's prediction, by arXiv 2605.27967's mixture prior.

    The prior on the student's probabilities q is sum_m w_m Dir(q; 1 + s p_m), and the gradient of its negative
    logarithm with respect to the logits is s (q - sum_m r_m p_m): that of distillation towards the mean of the
    teachers with these weights. Where teachers disagree and s is large, one of them takes all.

    Args:
        log_student: log q [..., C].
        probs: p [..., M, C].
        weights: w [..., M]; equal if not given.
        prior_strength: s > 0, of each teacher in examples (lambda in the paper).

    Returns:
        r [..., M], summing to one.
    """
    return torch.softmax(_log_components(log_student, probs, weights, prior_strength), dim=-1)


def mixture_energy(log_student: Tensor, probs: Tensor, weights: Tensor | None, prior_strength: float) -> Tensor:
    """Compute -log sum_m w_m Dir(q; 1 + s p_m) [...], whose gradient :func:`mixture_responsibilities` describes."""
    normalizer = math.lgamma(probs.shape[-1] + prior_strength)
    return -torch.logsumexp(_log_components(log_student, probs, weights, prior_strength), dim=-1) - normalizer


def _log_components(log_student: Tensor, probs: Tensor, weights: Tensor | None, prior_strength: float) -> Tensor:
    """Compute log w_m + log Dir(q; 1 + s p_m) [..., M], less what all have in common."""
    log_beta = torch.lgamma(1 + prior_strength * probs).sum(dim=-1)
    fit = prior_strength * (probs * log_student.unsqueeze(-2)).sum(dim=-1)
    return fit - log_beta + (-math.log(probs.shape[-2]) if weights is None else weights.log())


def mixed_target(labels: Tensor, teacher: Tensor, kd_lambda: float | Tensor) -> Tensor:
    """Mix labels and teacher, (1 - lambda) onehot(y) + lambda * teacher (arXiv 2601.01484, section 2).

    Cross-entropy is linear in its target, so that training towards the mixture is training towards both.

    Args:
        labels: class indices [...].
        teacher: class probabilities [..., C].
        kd_lambda: lambda in [0, 1], one number or a tensor [...].

    Returns:
        Probabilities [..., C].
    """
    onehot = torch.nn.functional.one_hot(labels, teacher.shape[-1]).to(teacher.dtype)
    if isinstance(kd_lambda, Tensor):
        kd_lambda = kd_lambda.unsqueeze(-1)
    return (1 - kd_lambda) * onehot + kd_lambda * teacher


def noise_ratio(probs: Tensor, variance: Tensor, num_samples: int, label_variance: Tensor | None = None) -> float:
    """Measure the variance of a teacher's draws relative to that of labels, over all examples: rho in [0, 1].

    rho = sum_x V(x) / sum_x U(x) with V = sum_k Var_s[p_k^(s)], and U = 1 - sum_k p_k^2 + V / S, which is, without
    bias, the variance of a label drawn from the probabilities that the draws scatter around. (The second term makes
    up for the mean of S draws being more certain than what they scatter around.)

    Args:
        probs: p, the mean of S draws [..., C].
        variance: across-draw variance (ddof 1) [..., C], or its sum over the classes [...].
        num_samples: S >= 2.
        label_variance: U [...] of another likelihood than one of C classes (its ``label_variance``).
    """
    drawn, label = _variances(probs, variance, num_samples, label_variance)
    return min((drawn.sum() / label.sum().clamp_min(torch.finfo(label.dtype).tiny)).item(), 1.0)


def summed_variance(probs: Tensor, variance: Tensor) -> Tensor:
    """Sum a variance beside probabilities [..., C] over the classes, [...], unless it is summed already."""
    return variance.sum(dim=-1) if variance.ndim == probs.ndim else variance


def adaptive_lambda(
    probs: Tensor, variance: Tensor, num_samples: int, pooled_ratio: float, label_variance: Tensor | None = None
) -> Tensor:
    """Weigh the teacher against the label by inverse variances, lambda(x) = 1 / (1 + r(x) / S), without a label.

    r(x) = ((S - 1) V(x) / U(x) + n0 rho) / (S - 1 + n0), V, U and rho as in :func:`noise_ratio`, n0 = 10. With
    r = V / U this is the lambda* = sigma_f* / (sigma_f* + sigma_T* / S) of `theory.sgd_noise`, example by example. An
    example's own ratio alone would give more weight to draws that happen to agree, so that the target's mean would no
    longer be the teacher's (up to 30 % more excess risk at S = 2); n0 draws' worth of the ratio of all examples bring
    that below 1 %, and the more draws there are the more an example counts.

    It measures how far the draws scatter, not the errors that they share: take it for an upper bound.

    Args:
        probs, variance, num_samples: as for :func:`noise_ratio`.
        pooled_ratio: rho of the whole data set.
        label_variance: as for :func:`noise_ratio`.

    Returns:
        lambda [...] in [S / (S + 1), 1].
    """
    drawn, label = _variances(probs, variance, num_samples, label_variance)
    own = torch.where(label > 0, drawn / label, pooled_ratio).clamp(0, 1)
    ratio = ((num_samples - 1) * own + PSEUDO_DRAWS * pooled_ratio) / (num_samples - 1 + PSEUDO_DRAWS)
    return 1 / (1 + ratio / num_samples)


def exact_lambda(variance: Tensor, label_variance: Tensor) -> Tensor:
    """Weigh the teacher against the label by inverse variances where that of its mean's error is known in closed form.

    lambda(x) = 1 / (1 + V(x) / U(x)), as :func:`adaptive_lambda` for a target that errs by as much as a single draw:
    the posterior's mean itself is off by its variance V. (Nothing has to be pooled, since V is not estimated.)

    Args:
        variance: V [...] of the teacher's mean, summed over the values.
        label_variance: U > 0 [...] of a label, V included.

    Returns:
        lambda [...] in [1/2, 1].
    """
    return 1 / (1 + (variance / label_variance).clamp(0, 1))


class ErrorByConfidence(NamedTuple):
    """The mean squared error E|y - p|^2 of soft labels against labels, by the variance that they claim for a label.

    bounds: claimed variances between the bins [B - 1], ascending.
    errors: of the bins [B], never falling, above 0; the first is the noise of the labels.
    """

    bounds: Tensor
    errors: Tensor


def error_by_confidence(claimed: Tensor, squares: Tensor, largest: float) -> ErrorByConfidence:
    """Measure the error of soft labels of examples that their teacher has not seen, in bins of its confidence.

    The bins are of equal size, at least 25 and at most 10. To each are added one example that agrees and one that
    contradicts (Laplace's rule of succession), for that no label of 25 was wrong doesn't mean that none is. Bins where
    a surer teacher errs more are pooled (isotonic regression), as its ignorance can't fall with its confidence.

    Args:
        claimed: the labels' variance by the teacher, 1 - sum_k p_k^2 of classes [N].
        squares: |y - p|^2 [N].
        largest: what ``squares`` can be at most, 2 of classes.

    Raises:
        UserError: fewer examples than two bins need.
    """
    if len(claimed) < 2 * BIN_SIZE:
        raise UserError(
            f"the noise of labels shows in the errors of at least {2 * BIN_SIZE} labeled examples, and there are "
            f"{len(claimed)}: pass a fixed lambda"
        )
    ascending, number = claimed.sort().values, min(len(claimed) // BIN_SIZE, MOST_BINS)
    starts = torch.arange(1, number) * len(claimed) // number
    before, after = ascending[starts - 1], ascending[starts]
    between = ((before + after) / 2)[before < after]  # equal ones stay together
    places = torch.bucketize(claimed, between, right=True)
    totals = torch.bincount(places, squares.double(), len(between) + 1) + largest
    pooled: list[tuple[float, int, float]] = []  # sum, number and lower bound of the bins
    lower = [-math.inf, *between.tolist()]
    for block in zip(totals.tolist(), (torch.bincount(places) + 2).tolist(), lower, strict=True):
        while pooled and pooled[-1][0] / pooled[-1][1] >= block[0] / block[1]:
            total, count, start = pooled.pop()
            block = (total + block[0], count + block[1], start)
        pooled.append(block)
    errors = [total / count for total, count, _ in pooled]
    return ErrorByConfidence(claimed.new_tensor([start for *_, start in pooled[1:]]), claimed.new_tensor(errors))


def bias_aware_lambda(claimed: Tensor, error: ErrorByConfidence) -> Tensor:
    """Weigh the teacher against the label by the errors of both, lambda(x) = u / (u + v / S + b^2).

    Let p* be the true probabilities, y a label drawn from them, and p the mean of S draws of a teacher that has not
    seen y, with the draws' variance v and the squared bias b^2. The target (1 - lambda) y + lambda p has the expected
    squared error

        E|(1 - lambda) (y - p*) + lambda (p - p*)|^2 = (1 - lambda)^2 u + lambda^2 (v / S + b^2),

    u = E|y - p*|^2 = 1 - |p*|^2, with no mixed term, for y is independent of p. It is least at the lambda above. (With
    the loss correction p + gamma (y - p) of Dao et al. 2021, lambda is 1 - gamma.) For the same reason

        E|y - p|^2 = u + v / S + b^2,

    so the denominator is measured by out-of-fold labels, draws' variance included, in bins of confidence. The
    numerator is not: an ignorant teacher of clean labels and a perfect one of noisy labels may say and err the same.
    It is taken from where the teacher is surest: what still contradicts it there is noise, and the noise is taken to
    be that of all labels. So lambda is the error of the surest bin divided by that of the example's own.

    Where classes overlap, and a label is less certain than those of the surest examples, this is too small a lambda.
    Where the teacher is never right it is too large.

    Args:
        claimed: the variance of a label by the teacher [...].
        error: of the training set.

    Returns:
        lambda [...] in (0, 1].
    """
    return error.errors[0] / error.errors[torch.bucketize(claimed, error.bounds, right=True)]


def _variances(
    probs: Tensor, variance: Tensor, num_samples: int, label_variance: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return V and U of :func:`noise_ratio`, [...]."""
    if num_samples < 2:
        raise UserError(f"num_samples must be at least 2, for one draw has no variance, and it is {num_samples}")
    drawn = summed_variance(probs, variance)
    if label_variance is None:
        label_variance = 1 - probs.square().sum(dim=-1) + drawn / num_samples
    return drawn, label_variance
