"""Diagnostics of Markov chains: whether they mix, and how many independent draws they are worth.

Rank-normalized split R-hat and bulk effective sample size (Vehtari, Gelman, Simpson, Carpenter and Buerkner 2021), as
arviz computes them, for many parameters at once.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ..utils.errors import UserError

FEWEST = 8  # samples by which a chain can be judged
MOST_CHECKED = 1_000  # parameters
MOST_APART = 1e6  # JSON has no infinity
MIXED = 1.1  # largest R-hat of chains that count as mixed


def summarize(samples: Tensor, start: Tensor, others: Tensor | None = None) -> dict[str, Any]:
    """Summarize chains [K, S, P] of a network's weights, as JSON; UserError as for :func:`rhat`.

    - ``ess min``, ``ess median``: effective sample sizes of the parameters, ``None`` where one never moved;
    - ``rhat max``: the largest R-hat, likewise;
    - ``mixed``: whether that is below 1.1 (chains that barely move have one above 2, however many samples they leave)
      and the chains are not apart;
    - ``apart``: see :func:`apart`, ``None`` of a single chain; above 1 the chains are in different places;
    - ``moved``: root mean square distance of the samples from the start, relative to the start's norm,
      ``None`` if that is 0.

    Of more than 1,000 parameters, 1,000 evenly spaced ones are examined.

    Args:
        samples: of the weights.
        start: the network's own [P].
        others: further quantities [K, S, Q] to examine like parameters, such as the energy; constant ones are not.
    """
    chosen = torch.linspace(0, samples.shape[-1] - 1, min(samples.shape[-1], MOST_CHECKED)).long()
    examined = samples[..., chosen].double()
    if others is not None:
        varying = others.flatten(0, 1).double().var(dim=0) > 0
        examined = torch.cat([examined, others[..., varying].double()], dim=-1)
    sizes, scales, distinct = effective_sample_size(examined), rhat(examined), apart(examined)
    constant = ~scales.isfinite() & (torch.arange(len(scales)) >= len(chosen)).to(scales.device)  # in each chain
    scale = scales.masked_fill(constant, 0).max().item()
    distance = (samples - start).double().square().sum(dim=-1).mean().sqrt() / start.double().norm()
    never = not math.isfinite(scale)
    return {
        "ess min": None if never else sizes.min().item(),
        "ess median": None if never else sizes.median().item(),
        "rhat max": None if never else scale,
        "mixed": not never and scale < MIXED and not distinct > 1,
        "apart": None if math.isnan(distinct) else min(distinct, MOST_APART),
        "moved": distance.item() if distance.isfinite() else None,
    }


def apart(samples: Tensor) -> float:
    """Compute how far apart chains [K, S, P] are: the largest ratio of their means' deviation to that within chains.

    Returns:
        About the root of one over the effective samples of a chain if they mix; NaN of a single chain, or one sample.
    """
    if min(samples.shape[:2]) < 2:
        return math.nan
    values = samples.double()
    ratio = values.mean(dim=1).std(dim=0) / values.var(dim=1).mean(dim=0).sqrt()
    return ratio[~ratio.isnan()].max().item() if (~ratio.isnan()).any() else math.nan


def rhat(samples: Tensor) -> Tensor:
    """Compute R-hat [P]: how much wider all chains together are than each alone, near 1 where they mix.

    Args:
        samples: [K, S, P], S >= 8 of each of K chains; the two halves of a chain count as chains of their own.

    Returns:
        The larger one of the samples' and of their distances to the median, in float64; above 1.01 chains do not mix.
        NaN for a constant parameter.

    Raises:
        UserError: another shape, or too few samples.
    """
    halves = _halves(samples)
    folded = (halves - halves.flatten(0, 1).quantile(0.5, dim=0)).abs()
    return torch.maximum(*(_potential_scale(_normal_scores(each)) for each in (halves, folded)))


def effective_sample_size(samples: Tensor) -> Tensor:
    """Compute how many independent draws the samples are worth for the center of each parameter's distribution, [P].

    Args:
        samples: as for :func:`rhat`.

    Returns:
        Float64, at most K S log10(K S); NaN for a constant parameter.

    Raises:
        UserError: as for :func:`rhat`.
    """
    scores = _normal_scores(_halves(samples))
    chains, draws, _ = scores.shape
    covariance = _autocovariance(scores)
    within, total = covariance[0] * draws / (draws - 1), covariance[0] + scores.mean(dim=1).var(dim=0)
    correlation = 1 - (within - covariance) / total
    correlation[0] = 1
    # Geyer's initial monotone sequence: sums of neighbors until one is not positive, at the latest the last one
    even = correlation[: 2 * ((draws - 1) // 2) : 2]
    pairs = even + correlation[1::2][: len(even)]
    positive = (pairs > 0).cumprod(dim=0)
    positive[-1] = 0
    summed = (pairs.cummin(dim=0).values * positive).sum(dim=0)
    after = positive.sum(dim=0, keepdim=True)
    time = 2 * summed - 1 + even.gather(0, after)[0].clamp_min(0)
    count = chains * draws
    return torch.where(total > 0, count / time.clamp_min(1 / math.log10(count)), math.nan)


def _halves(samples: Tensor) -> Tensor:
    """Split chains [K, S, P] into [2K, S // 2, P], in float64; the middle one of an odd number is omitted."""
    if samples.ndim != 3 or samples.shape[1] < FEWEST:
        raise UserError(
            f"samples must have the shape [chains, at least {FEWEST}, parameters], not {list(samples.shape)}"
        )
    half = samples.shape[1] // 2
    return torch.cat([samples[:, :half], samples[:, -half:]]).double()


def _normal_scores(values: Tensor) -> Tensor:
    """Replace each parameter's values [K, S, P] by normal quantiles of their ranks; ties share their mean rank."""
    flat = values.flatten(0, 1).T.contiguous()
    ordered = flat.sort(dim=1).values
    ranks = (torch.searchsorted(ordered, flat) + torch.searchsorted(ordered, flat, right=True) + 1).double() / 2
    scores = torch.special.ndtri((ranks - 3 / 8) / (flat.shape[1] + 1 / 4))
    return scores.T.reshape(values.shape)


def _potential_scale(values: Tensor) -> Tensor:
    draws = values.shape[1]
    within, between = values.var(dim=1).mean(dim=0), values.mean(dim=1).var(dim=0)
    return ((draws - 1) / draws + between / within).sqrt()


def _autocovariance(values: Tensor) -> Tensor:
    """Average the autocovariance [S, P] at lags 0 to S - 1 over the chains of values [K, S, P]."""
    draws = values.shape[1]
    spectrum = torch.fft.rfft(values - values.mean(dim=1, keepdim=True), n=2 * draws, dim=1)
    return torch.fft.irfft(spectrum.abs().square(), n=2 * draws, dim=1)[:, :draws].mean(dim=0) / draws
