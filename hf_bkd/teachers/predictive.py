"""Draws from a teacher's posterior, and the mean and variance that become its answer."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..likelihoods import CATEGORICAL, Likelihood, averaged


class Predictive(NamedTuple):
    """A teacher's answer about B inputs, from S draws.

    The values are what the teacher's likelihood says: class probabilities, probabilities of labels that are each there
    or not, or the means of numbers.

    mean: values [B, C], averaged over the draws and tempered; [B, L, C] for a label per token.
    variance: variance (ddof 1) of the values [B, C] between the teacher's independent draws, so that divided by the
        teacher's ``num_draws`` it estimates the variance of the mean; exact where the draws are integrated over in
        closed form, as by the Laplace teacher of a regression; ``None`` for a single draw: unknown.
    samples: the draws' values [S, B, C] if asked for.
    weights: what each of the samples counts [S, B], with a sum of 1 over the samples; ``None`` if they count equally.
    noise: variance of a number [B, C] given the draw, averaged over the draws, so that ``variance + noise`` is that of
        a number given the input; ``None`` where the values imply it or nobody knows it.

    ``variance`` and ``samples`` belong to draws tempered one by one with ``"per_sample"``, untempered with
    ``"post_average"``.
    """

    mean: Tensor
    variance: Tensor | None
    samples: Tensor | None
    weights: Tensor | None = None
    noise: Tensor | None = None


class Draws(NamedTuple):
    """What a teacher draws for B inputs.

    logits: a network's outputs [S, B, K], logits or a regression's.
    weights: what each draw counts [S, B], with a sum of 1 over the draws; ``None`` if they count equally.
    units: how many of the draws, one after the other, belong to each of M independent units, such as the members of
        an ensemble; ``None`` if all draws are independent.
    variance: of the values [B, C] over the posterior, where it is known in closed form.
    mean: of the values [B, C] over the posterior, untempered, likewise; where it is given, it is also handed out.
    """

    logits: Tensor
    weights: Tensor | None = None
    units: tuple[int, ...] | None = None
    variance: Tensor | None = None
    mean: Tensor | None = None

    @property
    def num_independent(self) -> int:
        """How many units there are, or draws of the only one."""
        return len(self.units) if self.units is not None and len(self.units) > 1 else len(self.logits)


def predictive_of(
    drawn: Draws, temperature: float, tempering: str, return_samples: bool, likelihood: Likelihood = CATEGORICAL
) -> Predictive:
    """Average draws and temper them, one by one or their average (see :class:`~hf_bkd.Teacher`)."""
    outputs, weights = drawn.logits.float(), drawn.weights
    per_sample = tempering == "per_sample"
    values = likelihood.values(outputs, temperature if per_sample else 1.0)
    if drawn.mean is not None:
        mean = likelihood.temper(drawn.mean, temperature)
    elif per_sample or temperature == 1:
        mean = averaged(values, weights)
    else:
        mean = likelihood.averaged(outputs, weights, temperature)
    noise = likelihood.noise(outputs)
    return Predictive(
        mean,
        _variance(values, weights, drawn.units) if drawn.variance is None else drawn.variance,
        values if return_samples else None,
        weights if return_samples else None,
        None if noise is None else averaged(noise, weights),
    )


def _variance(values: Tensor, weights: Tensor | None, units: tuple[int, ...] | None) -> Tensor | None:
    """Compute the variance [B, C] between the units, or between the draws where these are one unit or independent."""
    if len(values) == 1:
        return None
    if units is None or len(units) == 1 or max(units) == 1:
        return _variance_of_equals(values) if weights is None else _weighted_variance(values, weights)
    if weights is None:
        examples = values.shape[1:-1]
        weights = torch.cat([values.new_full((size, *examples), 1 / (len(units) * size)) for size in units])
    shares = torch.stack([part.sum(dim=0) for part in weights.split(units)])
    sums = torch.stack([part.sum(dim=0) for part in (weights[..., None] * values).split(units)])
    return _weighted_variance(sums / shares.clamp_min(torch.finfo(shares.dtype).tiny)[..., None], shares)


def _variance_of_equals(values: Tensor) -> Tensor:
    """Return the variance (ddof 1) over the first dimension, draw by draw: torch's own takes seven times as long."""
    mean = values.mean(dim=0)
    squares = torch.zeros_like(mean)
    for value in values:
        deviation = value - mean
        squares.addcmul_(deviation, deviation)
    return squares / (len(values) - 1)


def _weighted_variance(values: Tensor, weights: Tensor) -> Tensor:
    """Estimate M times the variance of sum_m w_m x_m for independent x [M, B, C] of one variance and w [M, B].

    The variance is estimated without bias by sum_m w_m (x_m - mean)^2 / (1 - sum_m w_m^2), as by ddof 1 for equal
    weights; that of the mean is sum_m w_m^2 times it.
    """
    mean = (weights[..., None] * values).sum(dim=0)
    squares = (weights[..., None] * (values - mean).square()).sum(dim=0)
    concentration = weights.square().sum(dim=0)[..., None]
    return len(values) * concentration * squares / (1 - concentration).clamp_min(1e-6)
