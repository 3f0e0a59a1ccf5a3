"""A dataset's rows as a teacher gets them: batch by batch, in each view, with the ids of their content."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, NamedTuple, Self

import datasets
import numpy as np
import torch
from torch import Tensor

from ..data.preprocessing import Pool, StoredImages, decoded, look
from ..data.views import Views
from ..utils.errors import UserError
from .belonging import LABELS
from .columns import is_soft_label_column
from .identity import content_column, content_ids, dataset_ids

Rows = dict[str, Any]
Preprocessor = Callable[[Rows], dict[str, Tensor]]
AnyDataset = datasets.Dataset | datasets.IterableDataset


class Batch(NamedTuple):
    """Some rows, read and decoded once.

    ids: int64 [B], of their content; their numbers where no column says what an example is.
    sizes: [channels, height, width] that their images have, if they are images.
    inputs: view -> the network's inputs.
    """

    ids: np.ndarray
    sizes: set[tuple[int, int, int]]
    inputs: Callable[[int], dict[str, Tensor]]


class Examples:
    """The rows to label, and how they become inputs.

    Args:
        dataset: the rows.
        preprocessor: rows -> inputs, or ``None`` for the dataset's transform or columns.
        views: need ``preprocessor.normalize``, which turns uint8 images into inputs.

    Raises:
        UserError: no rows, a stream of unknown columns, views without a number or of something else than images, or a
            mixing view of a streamed dataset.
    """

    def __init__(self, dataset: AnyDataset, preprocessor: Preprocessor | None, views: Views | None):
        self.dataset, self.preprocessor, self.views = dataset, preprocessor, views
        self.streamed = isinstance(dataset, datasets.IterableDataset)
        self.num_rows = None if self.streamed else len(dataset)
        if dataset.features is None:
            raise UserError(
                "the streamed dataset doesn't say what its columns are, so that nobody could tell whose labels these "
                "are: pass dataset.cast(features)"
            )
        if self.num_rows == 0:
            raise UserError("the dataset to label is empty")
        self.content = content_column(dataset.features)
        self.are_images = isinstance(dataset.features.get(self.content), datasets.Image)
        if views is not None:
            self._check_views()

    def _check_views(self) -> None:
        if self.views.num_views is None:
            raise UserError("views that are labeled need a number: pass Views(..., num_views=V)")
        if not self.are_images or not hasattr(self.preprocessor, "normalize"):
            raise UserError(
                "views are made of images: pass a dataset that has some and preprocessor=ImagePreprocessor(...)"
            )
        if self.views.mixing is not None and self.streamed:
            raise UserError(
                f"{type(self.views.mixing).__name__} mixes each example with any other one, which a streamed dataset "
                "can't deliver: load it without streaming"
            )

    @property
    def num_views(self) -> int:
        """V, 1 for the examples as they are."""
        return 1 if self.views is None else self.views.num_views

    @property
    def settings(self) -> dict[str, Any]:
        """What the record says of preprocessing and views, as JSON."""
        says = hasattr(self.preprocessor, "to_dict")
        return {
            "preprocessing": self.preprocessor.to_dict() if says else None,
            "views": None if self.views is None else self.views.to_dict(),
        }

    def select(self, rows: np.ndarray) -> Self:
        """The examples of some rows."""
        return type(self)(self.dataset.select(rows), self.preprocessor, self.views)

    def pieces(self, size: int) -> Iterator[tuple[int, Callable[[], datasets.Dataset]]]:
        """The number of each piece of ``size`` rows, and a function that reads it."""
        if not self.streamed:
            for number, start in enumerate(range(0, self.num_rows, size)):
                stop = min(start + size, self.num_rows)
                yield number, lambda start=start, stop=stop: self.dataset.select(range(start, stop))
            return
        stream, features = iter(self.dataset.decode(False)), self.dataset.features
        for number in itertools.count():
            rows = list(itertools.islice(stream, size))
            if not rows:
                return
            yield number, lambda rows=rows: datasets.Dataset.from_list(rows, features=features)

    def batches(self, piece: datasets.Dataset, offset: int, size: int, device: torch.device) -> Iterator[Batch]:
        """The rows of a piece that has ``offset`` rows before it, with views made on ``device``."""
        plain = piece.with_format(None)
        tensors = piece if piece.format["type"] in ("custom", "torch") else piece.with_format("torch")
        for start in range(0, len(piece), size):
            rows = plain[start : start + size]
            number, sizes = len(next(iter(rows.values()))), set()
            numbers = np.arange(offset + start, offset + start + number)
            ids = numbers if self.content is None else content_ids(rows[self.content])
            if self.are_images:
                sizes = {(len(image.getbands()), image.height, image.width) for image in rows[self.content]}
            if self.views is not None:
                inputs = self._views_of(rows[self.content], torch.from_numpy(ids.copy()), device)
            elif self.preprocessor is not None:
                inputs = _always(self.preprocessor(rows))
            else:
                inputs = _always(_columns_as_inputs(tensors[start : start + size], self.dataset.features))
            yield Batch(ids, sizes, inputs)

    def _views_of(self, images: list, ids: Tensor, device: torch.device) -> Callable[[int], dict[str, Tensor]]:
        pixels, ids = decoded(images), ids.to(device)
        pixels = pixels.to(device) if isinstance(pixels, Tensor) else [image.to(device) for image in pixels]
        return lambda view: {
            "pixel_values": self.preprocessor.normalize(look(pixels, ids, self.views, view, self._pool))
        }

    @cached_property
    def _pool(self) -> Pool | None:
        """What examples are mixed with."""
        if self.views.mixing is None:
            return None
        return Pool.of(dataset_ids(self.dataset, self.content), StoredImages(self.dataset, self.content))


def ahead(items: Iterable) -> Iterator:
    """The same items, each made while the one before is in use."""
    source, end = iter(items), object()
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, source, end)
        while (item := coming.result()) is not end:
            coming = reader.submit(next, source, end)
            yield item


def _always(inputs: dict[str, Tensor]) -> Callable[[int], dict[str, Tensor]]:
    """The same inputs in whatever view."""
    return lambda view: inputs


def _columns_as_inputs(rows: Rows, features: datasets.Features) -> dict[str, Tensor]:
    inputs = {}
    for name, value in rows.items():
        if name in LABELS or is_soft_label_column(name) or isinstance(features.get(name), datasets.ClassLabel):
            continue
        if isinstance(value, list) and all(isinstance(x, Tensor) and x.shape == value[0].shape for x in value):
            value = torch.stack(value)
        if isinstance(value, Tensor):
            inputs[name] = value
    if not inputs or any(isinstance(features.get(name), datasets.Image) for name in inputs):
        raise UserError(
            f"the columns {', '.join(rows)} are not a network's inputs as they are; pass preprocessor=, a function "
            "from rows to inputs (for images: preprocessor=ImagePreprocessor.for_model(network))"
        )
    return inputs
