"""Augmentation that can be replayed: what happens to an image is a pure function of (seed, view, example).

No random state is read or advanced, so an epoch seen again after a resume, by another process, on another device or
by the teacher that labels it, shows the same picture. A view is usually an epoch.
"""

import torch
from torch import Tensor

from .errors import UserError


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's ``>>`` copies the sign bit of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(constant: int) -> int:
    return constant - (1 << 64) if constant >= 1 << 63 else constant


def mix_bits(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection on int64 that scatters its input."""
    x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift_right(x, 31)


def random_integers(ids: Tensor, high: int, *, seed: int, view: int, stream: int) -> Tensor:
    """One integer per example, uniform over 0 .. high - 1, the same wherever and whenever it is asked for.

    Args:
        ids: int64 [B], one per example.
        high: exclusive upper end, 1 .. 2**31 (its bias, below high / 2**63, can't be measured).
        seed, view: which run and which view of the example.
        stream: which of the numbers that one view needs.

    Returns:
        int64 [B] on the device of ``ids``.
    """
    gamma = _signed(0x9E3779B97F4A7C15)
    state = ids
    for word in (seed, view, stream):
        state = mix_bits(state + gamma) ^ (word + 1)
    return _shift_right(mix_bits(state + gamma), 1) % high


def _reflect(index: Tensor, size: int) -> Tensor:
    """Coordinates outside 0 .. size - 1 mirrored back in, without repeating the border."""
    return (size - 1) - ((size - 1) - index.abs()).abs()


def crop_and_flip(images: Tensor, ids: Tensor, *, seed: int, view: int, padding: int = 4, flip: bool = True) -> Tensor:
    """Random crop after reflect padding, then a random horizontal flip: CIFAR's standard augmentation.

    Args:
        images: [B, C, H, W] of any dtype.
        ids: int64 [B].
        seed, view: see :func:`random_integers`.
        padding: pixels, 0 or more and below H and W; the crop has the size of the image.
        flip: whether to flip half of the images.

    Returns:
        [B, C, H, W], same dtype and device; one gather, no loop over images.

    Raises:
        UserError: ``padding`` that these images can't be mirrored by.
    """
    batch, _, height, width = images.shape
    if not 0 <= padding < min(height, width):
        raise UserError(
            f"images of {height} x {width} pixels can't be padded by {padding}: padding must be between 0 and "
            f"{min(height, width) - 1}"
        )

    def draw(high: int, stream: int) -> Tensor:
        return random_integers(ids, high, seed=seed, view=view, stream=stream)[:, None]

    columns = torch.arange(width, device=images.device)[None].expand(batch, -1)
    if flip:
        columns = torch.where(draw(2, 2) == 1, columns.flip(1), columns)
    rows = _reflect(torch.arange(height, device=images.device)[None] + draw(2 * padding + 1, 0) - padding, height)
    columns = _reflect(columns + draw(2 * padding + 1, 1) - padding, width)
    index = torch.arange(batch, device=images.device)[:, None, None]
    return images[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
