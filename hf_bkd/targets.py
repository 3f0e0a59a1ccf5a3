"""The distribution that a student is trained towards: the one place where the library builds it.

    t(x) = (1 - lambda(x)) * onehot(y)  +  lambda(x) * sum_m r_m(x) * mean_s p_m^(s)(x)

m runs over teachers with weights r_m, s over the draws of one teacher's posterior (whose mean is what a soft-label
column stores), lambda is one number or one per example. Nothing here assumes images or one label per example:
leading dimensions are free, classes come last.
"""

import torch
from torch import Tensor

from .errors import UserError

PSEUDO_DRAWS = 10  # that the whole data set's noise ratio counts for beside an example's own


def temper(probs: Tensor, temperature: float) -> Tensor:
    """p^(1/T), renormalised: a distribution at temperature T (arXiv 2601.01484, the form of its Laplace teacher).

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


def mix_teachers(probs: list[Tensor], weights: Tensor | None = None) -> Tensor:
    """sum_m r_m p_m over M teachers.

    Args:
        probs: M tensors of class probabilities, each [..., C].
        weights: r, [M] or [..., M], summing to one over M; None for equal weights.

    Returns:
        Probabilities [..., C].
    """
    if len(probs) == 1:
        return probs[0]
    stacked = torch.stack(probs, dim=-2)
    if weights is None:
        return stacked.mean(dim=-2)
    return (weights.unsqueeze(-1) * stacked).sum(dim=-2)


def mixed_target(labels: Tensor, teacher: Tensor, kd_lambda: float | Tensor) -> Tensor:
    """(1 - lambda) onehot(y) + lambda * teacher: cross-entropy is linear in its target (arXiv 2601.01484, section 2).

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


def noise_ratio(probs: Tensor, variance: Tensor, num_samples: int) -> float:
    """How noisy one of a teacher's draws is beside a label, over all examples: rho in [0, 1].

    rho = sum_x V(x) / sum_x U(x) with V = sum_k Var_s[p_k^(s)], and U = 1 - sum_k p_k^2 + V / S, which is, without
    bias, the variance of a label drawn from the probabilities that the draws scatter around. (The second term makes
    up for the mean of S draws being more certain than what they scatter around.)

    Args:
        probs: p, the mean of S draws [..., C].
        variance: across-draw variance (ddof 1) [..., C], or its sum over the classes [...].
        num_samples: S >= 2.
    """
    drawn, label = _variances(probs, variance, num_samples)
    return min((drawn.sum() / label.sum().clamp_min(torch.finfo(label.dtype).tiny)).item(), 1.0)


def adaptive_lambda(probs: Tensor, variance: Tensor, num_samples: int, pooled_ratio: float) -> Tensor:
    """lambda(x) = 1 / (1 + r(x) / S), the inverse-variance weight of the teacher against the label, without a label.

    r(x) = ((S - 1) V(x) / U(x) + n0 rho) / (S - 1 + n0), V, U and rho as in :func:`noise_ratio`, n0 = 10. With
    r = V / U this is the lambda* = sigma_f* / (sigma_f* + sigma_T* / S) of `theory.sgd_noise`, example by example. An
    example's own ratio alone would give more weight to draws that happen to agree, so that the target's mean would no
    longer be the teacher's (up to 30 % more excess risk at S = 2); n0 draws' worth of the ratio of all examples bring
    that below 1 %, and the more draws there are the more an example counts.

    It sees how the draws scatter and not where they are wrong together: take it for an upper bound.

    Args:
        probs, variance, num_samples: as for :func:`noise_ratio`.
        pooled_ratio: rho of the whole data set.

    Returns:
        lambda [...] in [S / (S + 1), 1].
    """
    drawn, label = _variances(probs, variance, num_samples)
    own = torch.where(label > 0, drawn / label, pooled_ratio).clamp(0, 1)
    ratio = ((num_samples - 1) * own + PSEUDO_DRAWS * pooled_ratio) / (num_samples - 1 + PSEUDO_DRAWS)
    return 1 / (1 + ratio / num_samples)


def _variances(probs: Tensor, variance: Tensor, num_samples: int) -> tuple[Tensor, Tensor]:
    """V and U [...]."""
    if num_samples < 2:
        raise UserError(f"num_samples must be at least 2, for one draw has no variance, and it is {num_samples}")
    drawn = variance.sum(dim=-1) if variance.ndim == probs.ndim else variance
    return drawn, 1 - probs.square().sum(dim=-1) + drawn / num_samples
