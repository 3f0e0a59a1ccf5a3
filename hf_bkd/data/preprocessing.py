"""Images as tensors: decoded, augmented as in a view, normalized for a network."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import datasets
import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn

from ..utils.errors import UserError
from .rows import check_eight_bits
from .views import Views

Images = Tensor | list[Tensor]  # uint8 [B, C, H, W], or B times [C, H, W] where they differ in size


@dataclass(frozen=True)
class ImagePreprocessor:
    """The preprocessor of images: scaled to [0, 1], less ``mean``, over ``std``, per channel.

    Args:
        mean, std: one value per channel, on the scale of [0, 1]; ``std`` above 0.

    Raises:
        UserError: not as many means as standard deviations, or one that is not above 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        if len(self.mean) != len(self.std) or not all(s > 0 for s in self.std):
            raise UserError(
                f"mean {self.mean} and std {self.std} must have one value per channel each, those of std above 0"
            )

    @classmethod
    def for_model(cls, model: nn.Module) -> Self:
        """Make a timm network's own preprocessor, from its configuration; UserError if that doesn't say."""
        config = timm_settings(model) or {}
        if "mean" not in config or "std" not in config:
            raise UserError("this model's config names no mean and std: pass ImagePreprocessor(mean=..., std=...)")
        return cls(tuple(config["mean"]), tuple(config["std"]))

    def __call__(self, rows: dict[str, list]) -> dict[str, Tensor]:
        """Turn rows with a column of PIL images into ``{"pixel_values": float32 [B, C, H, W]}``."""
        images = next((values for values in rows.values() if isinstance(values[0], Image)), None)
        if images is None:
            raise UserError(f"none of the columns {', '.join(rows)} holds images")
        return {"pixel_values": self.normalize(stacked(decoded(images)))}

    def normalize(self, images: Tensor) -> Tensor:
        """Normalize uint8 images [B, C, H, W] to float32, on the same device."""
        if images.shape[1] != len(self.mean):
            raise UserError(f"the images have {images.shape[1]} channels, and mean and std are of {len(self.mean)}")
        scale, shift = _scale_and_shift(tuple(self.mean), tuple(self.std), images.device)
        return images * scale - shift

    def to_dict(self) -> dict[str, list[float]]:
        """Return what is recorded with labels of these inputs."""
        return {"mean": [float(value) for value in self.mean], "std": [float(value) for value in self.std]}


@functools.lru_cache
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return 1 / (255 std) and mean / std, [C, 1, 1], moved to a device once and not with every batch."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=device)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=device)
    return scale[:, None, None], shift[:, None, None]


def timm_settings(network: nn.Module) -> dict[str, Any] | None:
    """Return the ``pretrained_cfg`` of a timm network, plain or in transformers' wrapper; ``None`` of others."""
    inner = getattr(network, "timm_model", network)
    for settings in (getattr(getattr(network, "config", None), "pretrained_cfg", None), _own_settings(inner)):
        if settings:
            return dict(settings)
    return None


def _own_settings(network: nn.Module) -> Any:
    return getattr(network, "pretrained_cfg", None) or getattr(network, "default_cfg", None)


def in_mode(images: list[Image], mode: str | None) -> list[Image]:
    """Convert PIL images of 8 bits to a mode of PIL, or leave them as they are if that is ``None``."""
    check_eight_bits(images)
    return images if mode is None else [image if image.mode == mode else image.convert(mode) for image in images]


def decoded(images: list[Image]) -> Images:
    """Decode PIL images, all grayscale, RGB or RGBA, to uint8; UserError if they are of other modes."""
    odd = {getattr(image, "mode", type(image).__name__) for image in images} - {"L", "RGB", "RGBA"}
    check_eight_bits([image for image in images if hasattr(image, "mode")])
    if odd:
        raise UserError(
            f"images of mode {', '.join(sorted(odd))} can't be read as 8-bit channels: use "
            "dataset.cast_column(column, datasets.Image(mode='RGB')) first"
        )
    arrays = [np.asarray(image) for image in images]
    arrays = [array[None] if array.ndim == 2 else array.transpose(2, 0, 1) for array in arrays]
    if len({array.shape for array in arrays}) == 1:
        return torch.from_numpy(np.stack(arrays))
    return [torch.tensor(array) for array in arrays]


def stacked(images: Images) -> Tensor:
    """Stack images to one tensor; UserError if they differ in size."""
    if isinstance(images, Tensor):
        return images
    check_one_size({tuple(image.shape) for image in images})
    return torch.stack(images)


def check_one_size(shapes: set[tuple[int, ...]]) -> None:
    """Raise a UserError if there are several shapes [channels, height, width]."""
    if len(shapes) > 1:
        raise UserError(
            f"the images differ in size or mode ({sorted(shapes)[:3]}): bring them to one size first, or begin their "
            "views with RandomResizedCrop (--augmentation resized_crop); datasets.Image(mode='RGB') brings them to "
            "one mode"
        )


class StoredImages:
    """The images of a dataset, decoded on demand: ``images[rows]`` is what :func:`decoded` returns.

    Args:
        dataset, column: where they are.
        mode: of PIL, to which they are converted; as they are if not given.
    """

    device = torch.device("cpu")

    def __init__(self, dataset: datasets.Dataset, column: str, mode: str | None = None):
        self.dataset, self.column, self.mode = dataset.with_format(None).select_columns([column]), column, mode

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, rows: Tensor) -> Images:
        images = self.dataset[rows.tolist()][self.column]
        return decoded(images if self.mode is None else in_mode(images, self.mode))


class Pool(NamedTuple):
    """The examples of a dataset that others are mixed with.

    ids: int64 [D], sorted and distinct, so that it doesn't depend on the order of the dataset.
    rows: [D], where each of them stands.
    images: rows -> their images.
    """

    ids: Tensor
    rows: Tensor
    images: Callable[[Tensor], Images]

    @classmethod
    def of(cls, ids: np.ndarray, images: Any, device: torch.device | str = "cpu") -> Self:
        """Make the pool of a dataset with these ids, int64 [N], and these images, indexed by row."""
        distinct, rows = np.unique(ids, return_index=True)
        return cls(torch.tensor(distinct, device=device), torch.tensor(rows, device=device), images.__getitem__)


def look(images: Images, ids: Tensor, views: Views, view: int, pool: Pool | None) -> Tensor:
    """Show examples as they look in a view: uint8 [B, C, H, W].

    Args:
        images: as they are stored.
        ids: int64 [B].
        views, view: the views and the number of one of them.
        pool: needed by views that mix examples.

    Raises:
        UserError: the images have several sizes, also after augmentation.
    """
    shown = _augmented(images, ids, views, view)
    if views.mixing is None:
        return shown
    partners = views.partners(ids, view, pool.ids).to(pool.ids.device)  # which may be the host's
    others = _augmented(pool.images(pool.rows[partners]), pool.ids[partners], views, view)
    return views.mix(shown, others.to(shown.device), ids, view)


def _augmented(images: Images, ids: Tensor, views: Views, view: int) -> Tensor:
    if isinstance(images, Tensor):
        return views(images, ids, view)
    each = [views(image[None], ids[i : i + 1], view)[0] for i, image in enumerate(images)]
    return stacked(each)
