"""Datasets that are read by whole batches: columns of tensors, with soft labels and the views these were made for."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import datasets
import numpy as np
import torch
from torch import Tensor

from ..data.columns import EXAMPLE_ID, find_input, find_label
from ..data.labels import plain_labels
from ..data.preprocessing import (
    ImagePreprocessor,
    Images,
    Pool,
    StoredImages,
    check_one_size,
    decoded,
    in_mode,
    look,
    stacked,
)
from ..data.preprocessors import Preprocessor
from ..data.rows import read_rows
from ..data.views import Views
from ..soft_labels.belonging import Facts, check_belonging, shared_views
from ..soft_labels.columns import column, teachers_of
from ..soft_labels.identity import Identity, content_column, content_ids
from ..soft_labels.in_memory import SoftLabels
from ..soft_labels.reading import ids_to_compare, read
from ..utils.errors import UserError
from ..utils.progress import track
from .supervision import TEACHER_INPUTS
from .token_labels import labeled_tokens


class BatchedDataset(torch.utils.data.Dataset):
    """A dataset that is read by whole batches: ``dataset[[3, 5]]`` is a dict of tensors with two rows each.

    The trainer hands its batches on as they are; elsewhere use :meth:`batches`. Soft labels of views bring their views
    with them: each epoch shows the next one, and the labels that were made for it.

    Args:
        values: column name -> tensor of N rows, all on one device. ``pixel_values`` may be uint8 images. Where there
            is an ``attention_mask`` [N, L], 0 where a row is padded at its end, a batch gets as many of the L columns
            of each tensor of that shape as its longest row needs.
        preprocessor: turns uint8 ``pixel_values`` into the network's; any that reads images.
        views: how uint8 images are augmented; a view is an epoch unless their number is given.
        labels: soft labels by teacher's name (``None`` for an unnamed one).
        example_ids: content hash of each row, int64 [N], by which soft labels are recognized and views are drawn; the
            rows' numbers if not given.
        class_names: names of the classes that ``labels`` number, where they are known.
    """

    def __init__(
        self,
        values: dict[str, Any],
        preprocessor: ImagePreprocessor | Preprocessor | None = None,
        views: Views | None = None,
        labels: dict[str | None, SoftLabels] | None = None,
        example_ids: np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
    ):
        self.values = values
        self.preprocessor = preprocessor
        self.views = views
        self.labels = labels or {}
        self.example_ids = example_ids
        self.class_names = class_names
        self.teacher_preprocessor: Preprocessor | None = None  # of an online teacher that reads the same pictures
        self.view_order, self._epoch = "cycle", 0
        self._ids = torch.tensor(np.arange(len(self)) if example_ids is None else example_ids, device=self.device)

    @classmethod
    def from_images(
        cls,
        dataset: datasets.Dataset,
        preprocessor: ImagePreprocessor | Preprocessor,
        views: Views | None = None,
        device: torch.device | str = "cpu",
        progress: bool = True,
        resident: bool = True,
        problem_type: str | None = None,
    ) -> Self:
        """Make a dataset of images with their labels and their checked soft labels.

        Args:
            dataset: images of one size, unless ``resident`` is false and their views bring them to one.
            preprocessor, views: as for the class; soft labels know their own views.
            device: where the images are kept, if they are.
            progress: whether to show a bar.
            resident: decode once and keep the pixels; else decode what a batch needs when it is asked for.
            problem_type: what the labels are of, in transformers' words; what they look like if not given.

        Raises:
            UserError: no images or labels, images of several sizes, or soft labels that are no distributions or were
                made for other examples, classes, views or another normalization.
        """
        image_column, label_column = find_input(dataset, "image"), find_label(dataset)
        if len(dataset) == 0:
            raise UserError("the dataset of images is empty")
        labels, names = plain_labels(dataset, label_column, problem_type)
        plain = dataset.with_format(None)
        ids, pictures, mode = [], plain.select_columns([image_column]), getattr(preprocessor, "mode", None)
        pixels: Any = None if resident else StoredImages(dataset, image_column, mode)
        batches = range(0, len(dataset), 1000)
        for start in track(batches, "decoding images" if progress and len(batches) > 5 else None):
            stop = min(start + 1000, len(dataset))
            rows = read_rows(pictures, start, stop)[image_column]
            ids.append(content_ids(rows))
            if resident:
                images = stacked(decoded(rows if mode is None else in_mode(rows, mode)))
                if pixels is None:
                    pixels = torch.empty((len(dataset), *images.shape[1:]), dtype=images.dtype, device=device)
                check_one_size({tuple(each.shape[1:]) for each in (pixels, images)})
                pixels[start:stop] = images
        values = {"pixel_values": pixels, "labels": labels.to(pixels.device)}
        ids = np.concatenate(ids)
        return cls(values, preprocessor, views, example_ids=ids, class_names=names).with_soft_labels(dataset)

    @classmethod
    def from_texts(
        cls,
        dataset: datasets.Dataset,
        tokenize: Preprocessor | Callable[[dict[str, list]], dict[str, Tensor]],
        device: torch.device | str = "cpu",
        problem_type: str | None = None,
        per_token: bool = False,
    ) -> Self:
        """Make a dataset of texts as tokens, with their labels and their checked soft labels.

        Args:
            dataset: N rows with a column ``label`` and the columns that ``tokenize`` reads, ``text`` of a function.
            tokenize: rows to ``input_ids``, ``attention_mask`` (0 where a text is padded, at its end) and what else
                the network takes, each [N, L].
            device: where the tokens are kept.
            problem_type: what the labels are of, in transformers' words; what they look like if not given.
            per_token: whether labels are lists of classes, of each token, or each word if ``tokenize`` reads words.

        Raises:
            UserError: no rows, or one with another number of labels than tokens; soft labels that don't belong here.
        """
        if len(dataset) == 0:
            raise UserError("the dataset of texts is empty")
        rows = dataset.with_format(None)[:]
        if per_token:
            classes = getattr(dataset.features["label"], "feature", None)
            values, names = labeled_tokens(dataset, rows, tokenize), getattr(classes, "names", None)
        else:
            labels, names = plain_labels(dataset, "label", problem_type)
            values = tokenize(rows) | {"labels": labels}
        values = {name: value.to(device) for name, value in values.items()}
        content = content_column(dataset.features)
        read = getattr(tokenize, "columns", ("text",)) if content is None else (content,)
        ids = Identity(tuple(read)).ids(rows)
        return cls(values, example_ids=ids, class_names=names).with_soft_labels(dataset)

    def with_soft_labels(self, dataset: datasets.Dataset) -> Self:
        """Return the same rows with the soft labels of ``dataset`` and their views, after checking that they belong.

        Raises:
            UserError: soft labels that are no distributions or were made for other rows, classes, views or another
                normalization.
        """
        if len(dataset) != len(self):
            raise UserError(f"soft labels of {len(dataset)} rows were given for a dataset of {len(self)} rows")
        labels = {}
        for teacher in teachers_of(dataset.column_names):
            read_labels = read(dataset, teacher)
            check_belonging(
                read_labels.layout,
                replace(self._facts, **ids_to_compare(dataset, read_labels.record, self.example_ids)),
            )
            labels[teacher] = read_labels.to(self.device)
        views = shared_views([each.layout for each in labels.values()], self.views, self.example_ids)
        return self._changed(labels=labels, views=views)

    def known_by(self, example_ids: np.ndarray) -> Self:
        """Return the same rows, known by other ids, int64 [N]."""
        return self._changed(example_ids=example_ids, _ids=torch.tensor(example_ids, device=self.device))

    def _changed(self, **attributes: Any) -> Self:
        """Return another dataset of the same values, starting at the first epoch."""
        other = copy.copy(self)
        for name, value in {"view_order": "cycle", "_epoch": 0, **attributes}.items():
            setattr(other, name, value)
        return other

    @property
    def _facts(self) -> Facts:
        """What soft labels are compared with."""
        images, labels = self.values.get("pixel_values"), self.values.get("labels")
        return Facts(
            image_size=list(images.shape[1:]) if isinstance(images, Tensor) else None,
            largest_label=None if labels is None or labels.is_floating_point() else int(labels.max()),
            preprocessing=self.preprocessor.to_dict() if isinstance(self.preprocessor, ImagePreprocessor) else None,
            example_ids=self.example_ids,
        )

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def __getitem__(self, index: int | list[int]) -> dict[str, Tensor]:
        if isinstance(index, int):
            return {name: value[0] for name, value in self.__getitems__([index]).items()}
        return self.__getitems__(index)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        rows = self._rows(indices)
        ids = self._ids[rows]
        batch = {name: value[rows] for name, value in self.values.items()}
        if "attention_mask" in batch:
            longest, padded = max(self._lengths[index] for index in indices), batch["attention_mask"].shape
            batch = {name: value[:, :longest] if value.shape == padded else value for name, value in batch.items()}
        if self.views is not None:
            pool = None if self.views.mixing is None else self._pool
            batch["pixel_values"] = look(batch["pixel_values"], ids, self.views, self.view, pool)
        if self.teacher_preprocessor is not None:
            batch[TEACHER_INPUTS] = _inputs(self.teacher_preprocessor, batch["pixel_values"])
        if self.preprocessor is not None:
            batch |= _inputs(self.preprocessor, batch["pixel_values"])
        batch |= self.label_columns(rows, batch.get("attention_mask"))
        if self.example_ids is not None:
            batch[EXAMPLE_ID] = ids
        return batch

    def _rows(self, indices: list[int]) -> Tensor:
        rows = torch.tensor(indices)
        if self.device.type == "cuda":  # from pageable memory the host would wait for all that the device has queued
            rows = rows.pin_memory()
        return rows.to(self.device, non_blocking=True)

    def label_columns(self, rows: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Return the soft-label columns of some rows, in the view that comes next.

        Those of tokens stand where the ``mask`` [B, L] of the inputs says that there are some.
        """
        columns = {}
        for teacher, labels in self.labels.items():
            seen = labels.at(rows, self.view if labels.num_views > 1 else 0, mask)
            columns |= {column(kind, teacher): value for kind, value in seen.items()}
        return columns

    @cached_property
    def _lengths(self) -> list[int]:
        """How many columns each row of tokens needs. Read once: asking every batch would be waiting for the device."""
        mask = self.values["attention_mask"]
        places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
        return (mask.bool() * places).amax(dim=1).tolist()

    @cached_property
    def _pool(self) -> Pool:
        """The images that views may mix others with."""
        return Pool.of(self._ids.cpu().numpy(), self.values["pixel_values"], self.device)

    @property
    def device(self) -> torch.device:
        """Where the values are kept."""
        return next(iter(self.values.values())).device

    @property
    def column_names(self) -> list[str]:
        """Names of what a batch holds."""
        names = list(self.values)
        for teacher, labels in self.labels.items():
            names.append(column(labels.layout.likelihood.column, teacher))
            names += [column(kind, teacher) for kind in labels.beside]
        return names if self.example_ids is None else [*names, EXAMPLE_ID]

    def soft_labels(self, teacher: str | None = None) -> SoftLabels:
        """Return one teacher's labels, and what made them."""
        return self.labels[teacher]

    @property
    def view(self) -> int:
        """Which view of each image comes next."""
        return self._epoch if self.views is None else self.views.at_epoch(self._epoch, self.view_order)

    def set_epoch(self, epoch: int) -> None:
        """Set which epoch comes next, and with it which view."""
        self._epoch = epoch

    def batches(self, batch_size: int = 512) -> Iterator[dict[str, Tensor]]:
        """Yield un-augmented batches of inputs and labels in order, for fitting and evaluating teachers."""
        plain = self._changed(views=None, labels={}, example_ids=None)
        for start in range(0, len(self), batch_size):
            yield plain[list(range(start, min(start + batch_size, len(self))))]


def _inputs(preprocessor: ImagePreprocessor | Preprocessor, pictures: Images) -> dict[str, Tensor]:
    """Return what a network reads of uint8 pictures."""
    if isinstance(preprocessor, ImagePreprocessor):
        return {"pixel_values": preprocessor.normalize(stacked(pictures))}
    return preprocessor.of_pictures(pictures)
