"""The units in which a regression's numbers are learned: which they are, and whether they are needed."""

import torch
from torch import Tensor

from ..likelihoods import LARGEST
from ..utils.errors import UserError

USUAL = (0.5, 2.0)  # standard deviations of numbers around 0 that are learned as they are
LEVELS = 50  # of float32 that a standard deviation has at least
NARROW_LEVELS = 10  # of a type of 16 bits
WIDEST = 4  # standard deviations from the mean that a type of 16 bits has to hold
EXPLAINED, FAR = 0.9, 3.0  # squared errors, of which the mean has 1


def are_usual(numbers: Tensor) -> bool:
    """Return whether numbers [N, C] scatter by about 1 around about 0 already, so that no units are needed."""
    low, high = USUAL
    spread, mean = torch.std_mean(numbers, dim=0, correction=0)
    return bool(((spread >= low) & (spread <= high) & (mean.abs() <= spread)).all())


def units_of(numbers: Tensor, num_outputs: int, has_bias: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return scale and shift [K] of a network's K outputs, float64, by which they are numbers [N, C] like these.

    The outputs are C numbers, or C numbers and C log-variances. A layer without a bias can't be shifted: its scale
    is the numbers' root mean square.

    Raises:
        UserError: numbers so close to each other that the layer's ``dtype`` (float32 if it is wider) can't hold their
            differences or float32 the squares of these, or numbers that are too large or small for a layer in 16 bits.
    """
    scale = numbers.std(dim=0, correction=0) if has_bias else numbers.square().mean(dim=0).sqrt()
    spread, mean = torch.std_mean(numbers, dim=0, correction=0)
    _check_narrow(numbers, scale, dtype)
    coarse = (spread > 0) & (spread < LEVELS * torch.finfo(torch.float32).eps * mean.abs())
    if coarse.any():
        place = int(coarse.int().argmax())
        raise UserError(
            f"the numbers to predict lie around {mean[place]:.6g} with a standard deviation of {spread[place]:.3g}, "
            "which float32 holds too coarsely: subtract a number from all of them"
        )
    small = scale[(scale > 0) & (scale < 1 / LARGEST)]
    if len(small):
        raise UserError(
            f"the numbers to predict have a standard deviation of {small[0]:.3g}, whose square float32 can't hold: "
            "multiply them by a power of ten"
        )
    scale = torch.where(scale > 0, scale, 1.0)
    shift = numbers.mean(dim=0) if has_bias else torch.zeros_like(scale)
    if num_outputs > len(scale):
        if has_bias:
            return torch.cat([scale, torch.ones_like(scale)]), torch.cat([shift, 2 * scale.log()])
        scale = torch.ones_like(scale)
        return torch.cat([scale, scale]), torch.cat([shift, shift])
    return scale, shift


def _check_narrow(numbers: Tensor, scale: Tensor, dtype: torch.dtype) -> None:
    """Raise a UserError unless a layer in 16 bits can answer with numbers [N, C] of this scale [C]."""
    if torch.finfo(dtype).bits > 16:
        return
    holds, mean = torch.finfo(dtype), numbers.mean(dim=0).abs()
    wrong = (mean + WIDEST * scale > holds.max) | (scale < NARROW_LEVELS * holds.eps * mean)
    wrong |= (scale > 0) & (scale < NARROW_LEVELS * holds.tiny)
    if wrong.any():
        place = int(wrong.int().argmax())
        raise UserError(
            f"the numbers to predict lie around {numbers.mean(dim=0)[place]:.6g} with a standard deviation of "
            f"{scale[place]:.3g}, and the network's last layer is {str(dtype).removeprefix('torch.')}, which can't "
            "answer so: load the network with dtype=torch.float32 (bf16=True trains it fast, too)"
        )


def answer_already(numbers: Tensor, outputs: Tensor, scale: Tensor, shift: Tensor) -> bool:
    """Return whether outputs [N, K] are answers in the units of the numbers [N, C], rather than a new network's.

    They explain a tenth of the numbers' variance as they are, or would be far worse than the mean in standard units.
    """
    values = numbers.shape[-1]
    mean, scale, shift = outputs[:, :values], scale[:values], shift[:values]
    as_they_are, in_units = (((each - numbers) / scale).square().mean() for each in (mean, mean * scale + shift))
    return bool(as_they_are <= in_units and (as_they_are < EXPLAINED or in_units > FAR))
