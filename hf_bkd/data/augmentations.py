"""Augmentations of images, one class an operator, driven by counter-based random numbers.

An operator takes uint8 images [B, C, H, W] and their :class:`~hf_bkd.utils.random.Draws`, and changes the whole batch
at once; it never changes its input in place. Its fields are its parameters, as JSON. Results are the same to the
bit on every device and in any batch.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..utils.checks import check_count, check_not_negative, check_positive, check_share
from ..utils.errors import UserError
from ..utils.random import Draws
from .resampling import (
    ATTEMPTS,
    LEVELS,
    beta,
    blend,
    box,
    first_fitting,
    grayscale,
    inside,
    random_sides,
    reflect,
    resize,
    resize_weights,
)

PARTNER = 255


@dataclass(frozen=True)
class CropAndFlip:
    """A random crop after reflect padding, then a random horizontal flip: CIFAR's standard augmentation.

    Args:
        padding: pixels, 0 or more and below H and W; the crop has the size of the image.
        flip: whether to flip half of the images.

    Raises (when called):
        UserError: ``padding`` that these images can't be mirrored by.
    """

    padding: int = 4
    flip: bool = True

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Augment [B, C, H, W] of any dtype, keeping shape, dtype and device; one gather, no loop over images."""
        batch, _, height, width = images.shape
        if not 0 <= self.padding < min(height, width):
            raise UserError(
                f"images of {height} x {width} pixels can't be padded by {self.padding}: padding must be between 0 "
                f"and {min(height, width) - 1}"
            )
        columns = torch.arange(width, device=images.device)[None].expand(batch, -1)
        if self.flip:
            columns = torch.where(draws.integers(2, 2)[:, None] == 1, columns.flip(1), columns)
        shift = draws.integers(2 * self.padding + 1, range(2)) - self.padding
        rows = reflect(torch.arange(height, device=images.device) + shift[:, :1], height)
        columns = reflect(columns + shift[:, 1:], width)
        index = torch.arange(batch, device=images.device)[:, None, None]
        return images[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of the image, resized to ``size`` x ``size``, then a random horizontal flip.

    This is the augmentation of ImageNet's training (Szegedy et al. 2015) with the attempts and the central fallback of
    torchvision's ``RandomResizedCrop``; bilinear with antialiasing, within 0.2 of a gray level before rounding.

    Args:
        size: pixels of each side of the result, 1 or more.
        scale: range of the part's share of the image's area, uniform; above 0, up to 1.
        ratio: range of its width over its height, log-uniform; above 0.
        flip: whether to flip half of the images.

    Raises:
        UserError: a parameter outside its range, or (when called) images that aren't uint8.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True

    def __post_init__(self):
        check_count(size=self.size)
        _set_range(self, "scale", 1)
        _set_range(self, "ratio", math.inf)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Crop and resize uint8 [B, C, H, W] to uint8 [B, C, size, size]."""
        _require_uint8(self, images)
        top, left, height, width = self.parts(*images.shape[2:], draws)
        flipped = draws.integers(2, 2 * ATTEMPTS + 2) == 1 if self.flip else None
        rows = resize_weights(top, height, images.shape[2], self.size)
        columns = resize_weights(left, width, images.shape[3], self.size, flipped)
        return resize(images, rows, columns).round_().to(torch.uint8)

    def parts(self, height: int, width: int, draws: Draws) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw top, left, height and width of each part of images of ``height`` x ``width``, int64 [B]."""
        wide, tall = random_sides(draws, range(2 * ATTEMPTS), height * width, self.scale, self.ratio)
        fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
        central = self._central(height, width)
        tall, wide, fitted = first_fitting(fits, tall, wide, central)
        places = []
        for number, (length, side) in enumerate(((height, tall), (width, wide))):
            slack = length - side
            place = draws.integers(slack + 1, 2 * ATTEMPTS + number)
            places.append(torch.where(fitted, place, slack // 2))
        return *places, tall, wide

    def _central(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the largest central part whose ratio is in range."""
        if width / height < self.ratio[0]:
            return max(1, round(width / self.ratio[0])), width
        if width / height > self.ratio[1]:
            return height, max(1, round(height * self.ratio[1]))
        return height, width


@dataclass(frozen=True)
class ColorJitter:
    """A random change of brightness, then contrast, then saturation, as by torchvision's ``adjust_...`` functions.

    Each is changed by a factor that is uniform over max(0, 1 - x) .. 1 + x. Saturation leaves a grayscale image as it
    is.

    Args:
        brightness, contrast, saturation: x for each, 0 (no change) or more.

    Raises:
        UserError: one below 0, or (when called) images that aren't uint8 with 1 or 3 channels.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self):
        check_not_negative(brightness=self.brightness, contrast=self.contrast, saturation=self.saturation)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Change the colors of uint8 [B, C, H, W]; C is 1 or 3."""
        _require_uint8(self, images)
        channels, height, width = images.shape[1:]
        if channels not in (1, 3):
            raise UserError(f"ColorJitter needs images of 1 or 3 channels, these have {channels}: convert them to RGB")
        brightness, contrast, saturation = self.factors(draws)
        if self.brightness:
            images = blend(images, None, brightness).to(torch.uint8)
        if self.contrast:
            gray = images if channels == 1 else grayscale(images)
            mean = gray.sum((1, 2, 3), keepdim=True).double() * (1 / (height * width))
            images = blend(images, mean, contrast).to(torch.uint8)
        if self.saturation and channels == 3:
            images = blend(images, grayscale(images), saturation).to(torch.uint8)
        return images

    def factors(self, draws: Draws) -> tuple[Tensor, ...]:
        """Draw the factors of brightness, contrast and saturation, float64 [B] each."""
        spreads = (self.brightness, self.contrast, self.saturation)
        ranges = ((max(0.0, 1 - spread), 1 + spread) for spread in spreads)
        return tuple(low + (high - low) * draws.uniform(stream) for stream, (low, high) in enumerate(ranges))


@dataclass(frozen=True)
class RandomErasing:
    """One flat color in a random rectangle of some images (Zhong et al. 2020), as torchvision draws it.

    Where ten attempts give no rectangle that is smaller than the image, the image stays as it is.

    Args:
        probability: of erasing anything, 0 .. 1.
        scale: range of the rectangle's share of the image's area, uniform; above 0, up to 1.
        ratio: range of its height over its width, log-uniform; above 0.
        value: what all channels become, 0 .. 255.

    Raises:
        UserError: a parameter outside its range.
    """

    probability: float = 0.25
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    value: int = 0

    def __post_init__(self):
        check_share(probability=self.probability)
        check_count(0, value=self.value)
        if self.value > 255:
            raise UserError(f"value must be at most 255, and it is {self.value}")
        _set_range(self, "scale", 1)
        _set_range(self, "ratio", math.inf)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Erase a rectangle of some of the uint8 images [B, C, H, W]."""
        top, left, height, width = self.parts(*images.shape[2:], draws)
        rows, columns = inside(top, top + height, images.shape[2]), inside(left, left + width, images.shape[3])
        return images.masked_fill(box(rows, columns), self.value)

    def parts(self, height: int, width: int, draws: Draws) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw top, left, height and width of each erased rectangle, int64 [B]; of size 0 where there is none."""
        tall, wide = random_sides(draws, range(2 * ATTEMPTS), height * width, self.scale, self.ratio)
        chosen = draws.uniform(2 * ATTEMPTS + 2) < self.probability
        fits = (tall < height) & (wide < width) & chosen[:, None]
        tall, wide, _ = first_fitting(fits, tall, wide, (0, 0))
        top = draws.integers(height - tall + 1, 2 * ATTEMPTS)
        return top, draws.integers(width - wide + 1, 2 * ATTEMPTS + 1), tall, wide


@dataclass(frozen=True)
class _Mixing:
    alpha: float

    def __post_init__(self):
        check_positive(alpha=self.alpha)

    def share(self, draws: Draws) -> Tensor:
        """Draw the share of the first image, float64 [B]: one of the quantiles of Beta(alpha, alpha)."""
        return beta(self.alpha, draws.ids.device)[draws.integers(LEVELS, 0)]


@dataclass(frozen=True)
class Mixup(_Mixing):
    """A weighted mean of two images (Zhang et al. 2018), whose soft label is the teacher's answer to the mixture.

    Args:
        alpha: above 0; the share of the first image is drawn from Beta(alpha, alpha).

    Raises:
        UserError: ``alpha`` not above 0, or (when called) images that aren't uint8.
    """

    def __call__(self, images: Tensor, others: Tensor, draws: Draws) -> Tensor:
        """Blend two batches of uint8 images [B, C, H, W]."""
        _require_uint8(self, images)
        return blend(images, others, self.share(draws)).round_().to(torch.uint8)


@dataclass(frozen=True)
class CutMix(_Mixing):
    """An image with a random rectangle of another (Yun et al. 2019); soft labels as for :class:`Mixup`.

    Args:
        alpha: above 0; the share of the first image is drawn from Beta(alpha, alpha), and is larger where the
            rectangle, whose center may be anywhere, crosses the border.

    Raises:
        UserError: ``alpha`` not above 0.
    """

    def __call__(self, images: Tensor, others: Tensor, draws: Draws) -> Tensor:
        """Combine two batches of uint8 images [B, C, H, W]."""
        half = (1 - self.share(draws)).sqrt() * 0.5
        masks = []
        for stream, length in enumerate(images.shape[2:], start=1):
            center, reach = draws.integers(length, stream), (half * length).long()
            masks.append(inside(center - reach, center + reach, length))
        return torch.where(box(*masks), others, images)


MIXING = (Mixup, CutMix)
OPERATORS = {kind.__name__: kind for kind in (CropAndFlip, RandomResizedCrop, ColorJitter, RandomErasing, *MIXING)}


def _set_range(operator: object, name: str, highest: float) -> None:
    """Check a field that is a range within ]0, highest] and make it a pair of floats, whatever sequence it was."""
    value = getattr(operator, name)
    try:
        low, high = (float(end) for end in value)
    except (TypeError, ValueError):
        low = high = math.nan
    if not 0 < low <= high <= highest:
        limit = f"at most {highest}, " if highest < math.inf else ""
        raise UserError(f"{name} must be two numbers above 0, {limit}the lower one first, and it is {value!r}")
    object.__setattr__(operator, name, (low, high))


def _require_uint8(operator: object, images: Tensor) -> None:
    if images.dtype != torch.uint8:
        raise UserError(
            f"{type(operator).__name__} needs uint8 images, and these are {images.dtype}: augment before normalizing"
        )
