"""The arithmetic of image operators, on whole batches: random rectangles, resized crops and color mixtures.

Each result is the same to the bit on every device and in every batch. So nothing here depends on an order of summation
(sums are of integers that float32 holds exactly, even with TF32's 11 bits), calls exp or log on a device, or divides
by a Python number (which CUDA replaces by a multiplication).
"""

import functools
import math

import torch
from torch import Tensor

from ..utils.random import Draws

ATTEMPTS = 10  # at a random rectangle that fits, as torchvision's
LEVELS = 4096  # of a number drawn by a table of its quantiles
WEIGHT = 2.0**11  # of a pixel that makes up all of another: weights are whole numbers, held exactly by TF32
STEPS = 8.0  # between two gray levels, halfway through a resize


@functools.lru_cache
def log_uniform(low: float, high: float, device: torch.device) -> Tensor:
    """Return the midpoints of a log-uniform number's quantiles, float64 [LEVELS]."""
    start, span = math.log(low), math.log(high) - math.log(low)
    values = [math.exp(start + span * (i + 0.5) / LEVELS) for i in range(LEVELS)]
    return torch.tensor(values, dtype=torch.float64).to(device)


@functools.lru_cache
def beta(alpha: float, device: torch.device) -> Tensor:
    """Return the midpoints of the quantiles of Beta(alpha, alpha), float64 [LEVELS]."""
    import numpy as np
    from scipy import stats

    return torch.from_numpy(stats.beta.ppf((np.arange(LEVELS) + 0.5) / LEVELS, alpha, alpha)).to(device)


def random_sides(
    draws: Draws, streams: range, pixels: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Draw the sides of ATTEMPTS random rectangles per example, rounded: two of float64 [B, ATTEMPTS].

    Args:
        streams: 2 * ATTEMPTS of them.
        pixels: the area of the image.
        scale: range of the rectangle's share of that, uniform.
        ratio: range of the first side over the second, log-uniform.
    """
    area = pixels * (scale[0] + (scale[1] - scale[0]) * draws.uniform(streams[:ATTEMPTS]))
    ratios = log_uniform(*ratio, area.device)[draws.integers(LEVELS, streams[ATTEMPTS:])]
    return (area * ratios).sqrt().round(), (area / ratios).sqrt().round()


def first_fitting(fits: Tensor, height: Tensor, width: Tensor, otherwise: tuple[int, int]) -> tuple[Tensor, ...]:
    """Choose the first of each example's attempts [B, ATTEMPTS] that fits.

    Returns:
        Its height and width, int64 [B], or ``otherwise`` where none fits, and whether one does, bool [B].
    """
    first, fitted = fits.int().argmax(1, keepdim=True), fits.any(1)
    sides = (attempts.gather(1, first)[:, 0].long() for attempts in (height, width))
    return *(torch.where(fitted, side, last) for side, last in zip(sides, otherwise, strict=True)), fitted


def reflect(index: Tensor, size: int) -> Tensor:
    """Mirror coordinates outside 0 .. size - 1 back in, without repeating the border."""
    return (size - 1) - ((size - 1) - index.abs()).abs()


def inside(start: Tensor, end: Tensor, length: int) -> Tensor:
    """Return which of 0 .. length - 1 are in start .. end - 1, each [B]: bool [B, length]."""
    positions = torch.arange(length, device=start.device)
    return (positions >= start[:, None]) & (positions < end[:, None])


def box(rows: Tensor, columns: Tensor) -> Tensor:
    """Return where both rows [B, H] and columns [B, W] hold: bool [B, 1, H, W]."""
    return rows[:, None, :, None] & columns[:, None, None, :]


def resize_weights(start: Tensor, extent: Tensor, length: int, size: int, backwards: Tensor | None = None) -> Tensor:
    """Return how much each of ``length`` pixels contributes to each of the ``size`` that a part is resized to.

    This is the triangle filter of torch's ``interpolate(mode="bilinear", antialias=True)`` on that part alone, in
    whole numbers.

    Args:
        start, extent: int64 [B], where the part starts and how many pixels it has.
        backwards: bool [B], which results to mirror.

    Returns:
        float32 [B, size, length], whole numbers 0 .. WEIGHT; each row is to be divided by its sum.
    """
    scale = extent.double() * (1 / size)
    places = (torch.arange(size, device=start.device) + 0.5).expand(len(start), -1)
    if backwards is not None:
        places = torch.where(backwards[:, None], size - places, places)
    centers = (start[:, None] + places * scale[:, None] - 0.5).float()
    support = scale.clamp(min=1).float()[:, None, None]
    distance = (torch.arange(length, device=start.device) - centers[:, :, None]).abs_()
    weights = (support - distance).clamp_(min=0).mul_(WEIGHT / support.square()).round_()
    return weights.mul_(inside(start, start + extent, length)[:, None])


def resize(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Resize uint8 images [B, C, H, W] by their :func:`resize_weights` for H and W; the result is not yet rounded.

    Between the two directions values are rounded to multiples of 1 / STEPS.
    """
    with torch.autocast(images.device.type, enabled=False):
        tall = torch.matmul(rows[:, None], images.float()).div_(rows.sum(2)[:, None, :, None])
        tall = tall.mul_(STEPS).round_()
        both = torch.matmul(tall, columns[:, None].transpose(2, 3))
        return both.div_(columns.sum(2)[:, None, None, :]).mul_(1 / STEPS)


def grayscale(images: Tensor) -> Tensor:
    """Convert uint8 [B, 3, H, W] to whole gray levels, int32 [B, 1, H, W], by torchvision's weights of the colors."""
    red, green, blue = images.int().unbind(1)
    return ((2989 * red + 5870 * green + 1140 * blue) // 10_000)[:, None]


def blend(images: Tensor, others: Tensor | None, share: Tensor) -> Tensor:
    """Compute share * images + (1 - share) * others in float32, clamped to 0 .. 255; ``others`` of None are black.

    Args:
        images: [B, C, H, W]; others: anything that broadcasts to it.
        share: float64 [B].
    """
    share = share[:, None, None, None]
    mixed = images * share.float()
    if others is not None:
        mixed += others * (1 - share).float()
    return mixed.clamp_(0, 255)
