"""A dataset's rows as a teacher gets them: batch by batch, in each view, with the ids of what they show."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from torch import Tensor

from ..data.preprocessing import Pool, StoredImages, decoded, look
from ..data.views import Views
from ..utils.errors import UserError
from .identity import content_column, content_ids, dataset_ids
from .layout import is_soft_label_column
from .record import LABELS

Rows = dict[str, Any]
AnyDataset = datasets.Dataset | datasets.IterableDataset


class Batch(NamedTuple):
    """Some rows, read and decoded once.

    ids: int64 [B], of their content; their numbers where nothing tells what an example is.
    sizes: [channels, height, width] that their images have, if they are images.
    inputs: view -> the network's inputs.
    """

    ids: np.ndarray
    sizes: set[tuple[int, int, int]]
    inputs: Callable[[int], dict[str, Tensor]]


class Examples:
    """How a dataset is read for labeling.

    Args:
        dataset: what is labeled, or one with the same columns.
        preprocess: rows -> inputs, or ``None`` for the dataset's transform or columns.
        views: needs ``preprocess.normalize``, which turns uint8 images into inputs.
        device: where views are made.

    Raises:
        UserError: views of something else than images, or a mixing view of a streamed dataset.
    """

    def __init__(
        self,
        dataset: AnyDataset,
        preprocess: Callable[[Rows], dict[str, Tensor]] | None,
        views: Views | None,
        device: torch.device,
    ):
        self.features = dataset.features
        self.content = content_column(self.features)
        self.preprocess, self.views, self.device = preprocess, views, device
        self.pool = None
        if views is None:
            return
        if not isinstance(self.features.get(self.content), datasets.Image) or not hasattr(preprocess, "normalize"):
            raise UserError(
                "views are made of images: pass a dataset that has some and preprocess=ImagePreprocessor(...)"
            )
        if views.mixing is not None:
            if isinstance(dataset, datasets.IterableDataset):
                raise UserError(
                    f"{type(views.mixing).__name__} mixes each example with any other one, which a streamed dataset "
                    "can't deliver: load it without streaming"
                )
            self.pool = Pool.of(dataset_ids(dataset, self.content), StoredImages(dataset, self.content))

    def batches(self, piece: datasets.Dataset, offset: int, size: int) -> Iterator[Batch]:
        """Of some rows of the dataset, ``offset`` of them before these."""
        plain, tensors = piece.with_format(None), _with_tensors(piece)
        for start in range(0, len(piece), size):
            rows = plain[start : start + size]
            number = len(next(iter(rows.values())))
            numbers = np.arange(offset + start, offset + start + number)
            ids = numbers if self.content is None else content_ids(rows[self.content])
            sizes = set()
            if isinstance(self.features.get(self.content), datasets.Image):
                sizes = {(len(image.getbands()), image.height, image.width) for image in rows[self.content]}
            where = slice(start, start + size)
            yield Batch(ids, sizes, self._inputs(rows, torch.from_numpy(ids.copy()), tensors, where))

    def _inputs(
        self, rows: Rows, ids: Tensor, tensors: datasets.Dataset, where: slice
    ) -> Callable[[int], dict[str, Tensor]]:
        if self.views is not None:
            images = decoded(rows[self.content])
            images = images.to(self.device) if isinstance(images, Tensor) else [i.to(self.device) for i in images]
            ids = ids.to(self.device)
            return lambda view: {
                "pixel_values": self.preprocess.normalize(look(images, ids, self.views, view, self.pool))
            }
        prepare = self.preprocess
        prepared = _columns_as_inputs(tensors[where], self.features) if prepare is None else prepare(rows)
        return lambda view: prepared


def pieces(dataset: AnyDataset, rows: int) -> Iterator[tuple[int, Callable[[], datasets.Dataset]]]:
    """Numbers of the pieces of ``rows`` rows that a dataset falls into, and how to read each."""
    if isinstance(dataset, datasets.Dataset):
        for number, start in enumerate(range(0, len(dataset), rows)):
            stop = min(start + rows, len(dataset))
            yield number, lambda start=start, stop=stop: dataset.select(range(start, stop))
        return
    stream = iter(dataset.decode(False))
    for number in itertools.count():
        piece = list(itertools.islice(stream, rows))
        if not piece:
            return
        yield number, lambda piece=piece: datasets.Dataset.from_list(piece, features=dataset.features)


def ahead(items: Iterable) -> Iterator:
    """The same items, each made while the one before is in use."""
    source, end = iter(items), object()
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, source, end)
        while (item := coming.result()) is not end:
            coming = reader.submit(next, source, end)
            yield item


def _with_tensors(dataset: datasets.Dataset) -> datasets.Dataset:
    """Rows as tensors: the dataset's own transform or torch format if it has one, else all of its columns."""
    return dataset if dataset.format["type"] in ("custom", "torch") else dataset.with_format("torch")


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
            f"the columns {', '.join(rows)} are not a network's inputs as they are; pass preprocess=, a function from "
            "rows to inputs (for images: preprocess=ImagePreprocessor.for_model(network))"
        )
    return inputs
