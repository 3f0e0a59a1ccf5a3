"""Datasets as a training loop wants them: decoded once, held as columns of tensors, read a whole batch at a time."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import datasets
import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn

from .data import find_columns
from .errors import UserError
from .progress import track
from .soft_labels import columns, provenance
from .soft_labels.check import stored_ids
from .views import crop_and_flip


@dataclass(frozen=True)
class ImagePreprocessor:
    """Images to a network's ``pixel_values``: scaled to [0, 1], less ``mean``, over ``std``, per channel.

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
        """What the network was made for, from its ``config.pretrained_cfg``; UserError if that doesn't say."""
        config = getattr(getattr(model, "config", None), "pretrained_cfg", None) or {}
        if "mean" not in config or "std" not in config:
            raise UserError("this model's config names no mean and std: pass ImagePreprocessor(mean=..., std=...)")
        return cls(tuple(config["mean"]), tuple(config["std"]))

    def __call__(self, rows: dict[str, list]) -> dict[str, Tensor]:
        """A batch of dataset rows with one column of PIL images -> ``{"pixel_values": float32 [B, C, H, W]}``."""
        images = next((values for values in rows.values() if isinstance(values[0], Image)), None)
        if images is None:
            raise UserError(f"none of the columns {', '.join(rows)} holds images")
        return {"pixel_values": self.normalize(stack_images(images))}

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] -> float32 [B, C, H, W], on the same device."""
        if images.shape[1] != len(self.mean):
            raise UserError(f"the images have {images.shape[1]} channels, and mean and std are of {len(self.mean)}")
        scale, shift = _scale_and_shift(tuple(self.mean), tuple(self.std), images.device)
        return images * scale - shift

    def to_dict(self) -> dict[str, list[float]]:
        return {"mean": [float(value) for value in self.mean], "std": [float(value) for value in self.std]}


@functools.lru_cache
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """1 / (255 std) and mean / std, [C, 1, 1], brought to a device once and not with every batch."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=device)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=device)
    return scale[:, None, None], shift[:, None, None]


@dataclass(frozen=True)
class CropAndFlip:
    """:func:`hf_bkd.views.crop_and_flip` with its parameters; ``seed`` tells runs apart."""

    seed: int = 0
    padding: int = 4
    flip: bool = True

    def __call__(self, images: Tensor, ids: Tensor, view: int) -> Tensor:
        return crop_and_flip(images, ids, seed=self.seed, view=view, padding=self.padding, flip=self.flip)


class ResidentDataset(torch.utils.data.Dataset):
    """Columns in memory, read by whole batches: ``dataset[[3, 5]]`` is a dict of tensors with two rows each.

    The trainer knows it and passes its batches on as they are; elsewhere use :meth:`batches`.

    Args:
        values: column name -> tensor of N rows, all on one device. ``pixel_values`` may be uint8 images.
        preprocessor: turns uint8 ``pixel_values`` into the network's.
        augment: called as ``augment(images, ids, view)`` on uint8 images, where a row's id is its number and the view
            is the epoch.
        records: what made the soft labels, by teacher's name (``None`` for an unnamed one).
        example_ids: content hash of each row, int64 [N], by which soft labels are recognised.
    """

    def __init__(
        self,
        values: dict[str, Tensor],
        preprocessor: ImagePreprocessor | None = None,
        augment: Callable[[Tensor, Tensor, int], Tensor] | None = None,
        records: dict[str | None, dict | None] | None = None,
        example_ids: np.ndarray | None = None,
    ):
        self.values = values
        self.preprocessor = preprocessor
        self.augment = augment
        self.records = records or {}
        self.example_ids = example_ids
        self.epoch = 0

    @classmethod
    def from_images(
        cls,
        dataset: datasets.Dataset,
        preprocessor: ImagePreprocessor,
        augment: Callable[[Tensor, Tensor, int], Tensor] | None = None,
        device: torch.device | str = "cpu",
        progress: bool = True,
    ) -> Self:
        """Decode a dataset of images of one size, with its labels and its checked soft labels.

        Raises:
            UserError: no images or labels, images of several sizes, or soft labels that are no distributions or were
                made for other examples, classes or another normalisation.
        """
        image_column, label_column = find_columns(dataset)
        if len(dataset) == 0:
            raise UserError("the dataset of images is empty")
        plain = dataset.with_format(None)
        images, ids = [], []
        batches = range(0, len(dataset), 1000)
        for start in track(batches, "decoding images" if progress and len(batches) > 5 else None):
            rows = plain[start : start + 1000][image_column]
            images.append(stack_images(rows))
            _check_one_size({tuple(batch.shape[1:]) for batch in (images[0], images[-1])})
            ids.append(provenance.content_ids(rows))
        values = {"pixel_values": torch.cat(images), "labels": torch.tensor(plain[label_column][:])}
        values = {name: value.to(device) for name, value in values.items()}
        decoded = cls(values, preprocessor, augment, example_ids=np.concatenate(ids))
        return decoded.with_soft_labels(dataset)

    def with_soft_labels(self, dataset: datasets.Dataset) -> Self:
        """The same decoded rows with the soft labels of ``dataset``, after checking that they are theirs."""
        if len(dataset) != len(self):
            raise UserError(f"soft labels of {len(dataset)} rows were given for a dataset of {len(self)} rows")
        values = {name: value for name, value in self.values.items() if not columns.is_soft_label_column(name)}
        records = {}
        for teacher in columns.teachers_of(dataset.column_names):
            name, labels = columns.column(columns.PROBS, teacher), columns.read(dataset, teacher)
            self._check_belonging(name, labels, stored_ids(dataset, labels.provenance))
            values[name] = labels.probs.to(self.device)
            if labels.variance is not None:
                values[columns.column(columns.VARIANCE, teacher)] = labels.variance.to(self.device)
            records[teacher] = labels.provenance
        return type(self)(values, self.preprocessor, self.augment, records, self.example_ids)

    def _check_belonging(self, name: str, labels: columns.SoftLabels, ids: np.ndarray | None) -> None:
        if ids is not None and self.example_ids is not None:
            provenance.check_identity(ids, self.example_ids)
        num_classes = labels.probs.shape[1]
        if "labels" in self.values and self.values["labels"].max() >= num_classes:
            raise UserError(
                f"{name} has {num_classes} classes and the dataset's labels go up to "
                f"{int(self.values['labels'].max())}: label it with a teacher of its classes"
            )
        theirs = (labels.provenance or {}).get("preprocessing") or {}
        ours = {} if self.preprocessor is None else self.preprocessor.to_dict()
        if any(theirs.get(key, value) != value for key, value in ours.items()):
            raise UserError(
                f"the teacher saw images normalised with {theirs}, this dataset is prepared with {ours}: use the same "
                "ImagePreprocessor for both"
            )

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def __getitem__(self, index: int | list[int]) -> dict[str, Tensor]:
        if isinstance(index, int):
            return {name: value[0] for name, value in self.__getitems__([index]).items()}
        return self.__getitems__(index)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        ids = torch.tensor(indices, device=self.device)
        batch = {name: value[ids] for name, value in self.values.items()}
        if self.augment is not None:
            batch["pixel_values"] = self.augment(batch["pixel_values"], ids, self.epoch)
        if self.preprocessor is not None:
            batch["pixel_values"] = self.preprocessor.normalize(batch["pixel_values"])
        return batch

    @property
    def device(self) -> torch.device:
        return next(iter(self.values.values())).device

    @property
    def column_names(self) -> list[str]:
        return list(self.values)

    def soft_labels(self, teacher: str | None = None) -> columns.SoftLabels:
        """One teacher's labels, and what made them."""
        probs, variance = (self.values.get(columns.column(k, teacher)) for k in (columns.PROBS, columns.VARIANCE))
        return columns.SoftLabels(probs, variance, self.records.get(teacher))

    def set_epoch(self, epoch: int) -> None:
        """Which view of each image comes next."""
        self.epoch = epoch

    def batches(self, batch_size: int = 512) -> Iterator[dict[str, Tensor]]:
        """Un-augmented batches of inputs and labels in order, for fitting and evaluating teachers."""
        values = {name: value for name, value in self.values.items() if not columns.is_soft_label_column(name)}
        plain = ResidentDataset(values, self.preprocessor)
        for start in range(0, len(self), batch_size):
            yield plain[list(range(start, min(start + batch_size, len(self))))]


def stack_images(images: list) -> Tensor:
    """PIL images of one size, all grayscale, RGB or RGBA -> uint8 [B, C, H, W]; UserError if they aren't."""
    odd = {getattr(image, "mode", type(image).__name__) for image in images} - {"L", "RGB", "RGBA"}
    if odd:
        raise UserError(
            f"images of mode {', '.join(sorted(odd))} can't be read as 8-bit channels: use image.convert('RGB') first"
        )
    arrays = [np.asarray(image) for image in images]
    _check_one_size({array.shape for array in arrays})
    stacked = torch.from_numpy(np.stack(arrays))
    return stacked[:, None] if stacked.ndim == 3 else stacked.permute(0, 3, 1, 2).contiguous()


def _check_one_size(shapes: set[tuple[int, ...]]) -> None:
    if len(shapes) > 1:
        raise UserError(f"the images differ in size or mode ({sorted(shapes)[:3]}): bring them to one size first")
