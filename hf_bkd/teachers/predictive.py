"""Draws from a teacher's posterior, and the mean and variance that become its answer."""

from typing import NamedTuple

import torch
from torch import Tensor


class Predictive(NamedTuple):
    """A teacher's answer about B inputs, from S draws.

    mean: class probabilities [B, C], averaged over the draws and tempered.
    variance: variance (ddof 1) of the probabilities [B, C] between the teacher's independent draws, so that divided by
        the teacher's ``num_draws`` it estimates the variance of the mean; ``None`` for a single draw: unknown.
    samples: the draws' probabilities [S, B, C] if asked for.
    weights: what each of the samples counts [S, B], with a sum of 1 over the samples; ``None`` if they count equally.

    ``variance`` and ``samples`` belong to draws tempered one by one with ``"per_sample"``, untempered with
    ``"post_average"``.
    """

    mean: Tensor
    variance: Tensor | None
    samples: Tensor | None
    weights: Tensor | None = None


class Draws(NamedTuple):
    """What a teacher draws for B inputs.

    logits: [S, B, C].
    weights: what each draw counts [S, B], with a sum of 1 over the draws; ``None`` if they count equally.
    units: how many of the draws, one after the other, belong to each of M independent units, such as the members of
        an ensemble; ``None`` if all draws are independent.
    """

    logits: Tensor
    weights: Tensor | None = None
    units: tuple[int, ...] | None = None

    @property
    def num_independent(self) -> int:
        """How many units there are, or draws of the only one."""
        return len(self.units) if self.units is not None and len(self.units) > 1 else len(self.logits)


def predictive_of(drawn: Draws, temperature: float, tempering: str, return_samples: bool) -> Predictive:
    """Average draws and temper them, one by one or their average (see :class:`~hf_bkd.Teacher`)."""
    logits, weights = drawn.logits.float(), drawn.weights
    per_sample = tempering == "per_sample"
    probs = torch.softmax(logits / temperature if per_sample else logits, dim=-1)
    if per_sample or temperature == 1:
        mean = probs.mean(dim=0) if weights is None else (weights[..., None] * probs).sum(dim=0)
    else:  # targets.temper of the mean, but in logarithms, where nothing is too small for float32
        logs = logits.log_softmax(dim=-1)
        logs = logs if weights is None else logs + weights[..., None].log()
        mean = torch.softmax(logs.logsumexp(dim=0) / temperature, dim=-1)
    variance = _variance(probs, weights, drawn.units)
    return Predictive(mean, variance, probs if return_samples else None, weights if return_samples else None)


def _variance(probs: Tensor, weights: Tensor | None, units: tuple[int, ...] | None) -> Tensor | None:
    """Compute the variance [B, C] between the units, or between the draws where these are one unit or independent."""
    if len(probs) == 1:
        return None
    if units is None or len(units) == 1 or max(units) == 1:
        return probs.var(dim=0) if weights is None else _weighted_variance(probs, weights)
    if weights is None:
        count = probs.shape[1]
        weights = torch.cat([probs.new_full((size, count), 1 / (len(units) * size)) for size in units])
    shares = torch.stack([part.sum(dim=0) for part in weights.split(units)])
    sums = torch.stack([part.sum(dim=0) for part in (weights[..., None] * probs).split(units)])
    return _weighted_variance(sums / shares.clamp_min(torch.finfo(shares.dtype).tiny)[..., None], shares)


def _weighted_variance(values: Tensor, weights: Tensor) -> Tensor:
    """Estimate M times the variance of sum_m w_m x_m for independent x [M, B, C] of one variance and w [M, B].

    The variance is estimated without bias by sum_m w_m (x_m - mean)^2 / (1 - sum_m w_m^2), as by ddof 1 for equal
    weights; that of the mean is sum_m w_m^2 times it.
    """
    mean = (weights[..., None] * values).sum(dim=0)
    squares = (weights[..., None] * (values - mean).square()).sum(dim=0)
    concentration = weights.square().sum(dim=0)[..., None]
    return len(values) * concentration * squares / (1 - concentration).clamp_min(1e-6)
