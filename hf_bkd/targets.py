"""The distribution that a student is trained towards: the one place where the library builds it.

    t(x) = (1 - lambda(x)) * onehot(y)  +  lambda(x) * sum_m r_m(x) * mean_s p_m^(s)(x)

m runs over teachers with weights r_m, s over the draws of one teacher's posterior (whose mean is what a soft-label
column stores), lambda is one number or one per example. Nothing here assumes images or one label per example:
leading dimensions are free, classes come last.
"""

import torch
from torch import Tensor


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
