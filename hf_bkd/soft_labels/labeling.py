"""How examples become shards of labels: read ahead, shared between processes, kept as soon as they are done."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import datasets
import numpy as np
import pyarrow as pa
import torch
from accelerate.utils import find_executable_batch_size, gather_object
from torch import Tensor

from ..data.views import Views
from ..utils.errors import UserError
from ..utils.processes import processes
from ..utils.progress import progress_bar
from ..utils.random import ExampleGenerator
from .arrow import encoded_table
from .examples import AnyDataset, Batch, Examples, Rows, ahead, pieces
from .identity import EXAMPLE_ID, check_identity, content_column, content_ids
from .record import check_class_count
from .shards import Shards
from .storage import check_storage

VARIANCES = ("auto", "full", "sum", "none")
SIZES = b"image_sizes"  # of a shard's images, beside its columns
PRECISIONS = {None: None, "bf16": torch.bfloat16, "fp16": torch.float16}


class LabelingTeacher(Protocol):
    """All that labeling asks of a teacher; its ``device``, if it has one, is where views are made."""

    @property
    def num_classes(self) -> int: ...

    def predict(self, inputs: Any, num_samples: int, generator: ExampleGenerator) -> Any: ...

    def describe(self) -> dict[str, Any]:
        """Goes into the labels' record: ``num_classes``, ``temperature``, ``tempering``, ``weights`` and what else."""
        ...


@dataclass
class Labeling:
    """The arguments of :func:`~hf_bkd.add_soft_labels` that say how a teacher is asked and what is kept.

    Raises:
        UserError: a number below 1, or an unknown storage, variance or precision.
    """

    num_samples: int
    preprocess: Callable[[Rows], dict[str, Tensor]] | None
    views: Views | None
    batch_size: int
    seed: int
    storage: str
    top_k: int
    variance: str
    mixed_precision: str | None
    shard_rows: int
    progress: bool

    def __post_init__(self):
        for name in ("num_samples", "batch_size", "shard_rows", "top_k"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, and it is {getattr(self, name)}")
        check_storage(self.storage)
        for name, known in (("variance", VARIANCES), ("mixed_precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(map(str, known))}")
        if self.views is not None and self.views.number is None:
            raise UserError("views that are labeled need a number: pass Views(..., number=V)")
        if self.variance == "auto":
            self.variance = "full" if self.storage.startswith("float") else "sum"
        self._sizes: set[tuple[int, ...]] = set()

    @property
    def image_size(self) -> list[int] | None:
        """[channels, height, width] of the images labeled; ``None`` if there are none or of several sizes."""
        return list(*self._sizes) if len(self._sizes) == 1 else None

    @property
    def preprocessing(self) -> dict | None:
        """What the preprocessing tells of itself."""
        return self.preprocess.to_dict() if hasattr(self.preprocess, "to_dict") else None

    def plan(self, dataset: AnyDataset, teacher: dict | None, folds: int | None) -> dict[str, Any]:
        """All that decides the labels, as JSON; ``teacher`` is ``None`` where each fold has its own."""
        own = ("num_samples", "batch_size", "seed", "storage", "top_k", "variance", "mixed_precision", "shard_rows")
        return {
            "teacher": teacher,
            "folds": folds,
            "rows": len(dataset) if isinstance(dataset, datasets.Dataset) else None,
            "dataset": dataset.info.dataset_name,
            "split": None if dataset.split is None else str(dataset.split),
            **{name: getattr(self, name) for name in own},
            "preprocessing": self.preprocessing,
            "views": None if self.views is None else self.views.to_dict(),
        }

    def fit_batch(self, dataset: AnyDataset, teacher: LabelingTeacher) -> None:
        """Halve the batch size until one fits on the GPU; the same in all processes."""
        device = _device(teacher)
        if device.type != "cuda":
            return
        first = next(pieces(dataset, self.batch_size))[1]()
        examples = Examples(dataset, self.preprocess, self.views, device)

        @find_executable_batch_size(starting_batch_size=min(self.batch_size, len(first)))
        def largest(size: int) -> int:
            self._predict(teacher, next(examples.batches(first, 0, size)))
            return size

        self.batch_size = min([self.batch_size, *gather_object([largest()])])

    def run(self, dataset: AnyDataset, teacher: LabelingTeacher, shards: Shards, part: str, what: str) -> pa.Table:
        """The columns of all rows, in order.

        Args:
            dataset: the rows.
            teacher: labels them.
            shards: where they are kept, with names that begin with ``part``.
            what: the bar is called.
        """
        check_class_count("the teacher", teacher.num_classes, dataset.features)
        names: list[str] = []
        total = len(dataset) if isinstance(dataset, datasets.Dataset) else None
        main = processes().is_main_process
        with progress_bar(disable=not (self.progress and main), rate="rows") as bar:
            task = bar.add_task(what, total=total)
            done: list[dict[str, np.ndarray]] = []
            sizes: set[tuple[int, ...]] = set()
            for name, rows, batch in ahead(self._batches(dataset, teacher, shards, part, names)):
                if batch is not None:
                    done.append(self._predict(teacher, batch))
                    sizes |= batch.sizes
                if batch is None or sum(len(labels["probs"]) for labels in done) == rows:
                    if done:
                        shards.write(name, self._table(done, sizes))
                    done, sizes = [], set()
                    bar.advance(task, rows)
        shards.share()
        return self._whole(shards, names)

    def kept(self, dataset: datasets.Dataset, shards: Shards, part: str) -> pa.Table:
        """The columns of all rows, every shard of which is finished."""
        content, names = content_column(dataset.features), []
        for number, read in pieces(dataset, self.shard_rows):
            names.append(f"{part}{number:06d}")
            _check_first_row(shards.read(names[-1]), read(), content)
        return self._whole(shards, names)

    def _whole(self, shards: Shards, names: list[str]) -> pa.Table:
        if not names:
            raise UserError("the dataset to label is empty")
        tables = [shards.read(name) for name in names]
        for table in tables:
            self._sizes |= set(map(tuple, json.loads((table.schema.metadata or {}).get(SIZES, "[]"))))
        return pa.concat_tables(tables)

    def _batches(
        self, dataset: AnyDataset, teacher: LabelingTeacher, shards: Shards, part: str, names: list[str]
    ) -> Iterator[tuple[str, int, Batch | None]]:
        """Name and rows of the shard that each batch belongs to; no batch for a shard that others make, or have."""
        state = processes()
        examples = Examples(dataset, self.preprocess, self.views, _device(teacher))
        for number, read in pieces(dataset, self.shard_rows):
            name = f"{part}{number:06d}"
            names.append(name)
            piece = read()
            if name in shards:
                _check_first_row(shards.read(name), piece, examples.content)
            if name in shards or number % state.num_processes != state.process_index:
                yield name, len(piece), None
                continue
            for batch in examples.batches(piece, number * self.shard_rows, self.batch_size):
                yield name, len(piece), batch

    def _predict(self, teacher: LabelingTeacher, batch: Batch) -> dict[str, np.ndarray]:
        """``probs`` and ``variance`` [B, V, C], and the ids."""
        found: dict[str, list[np.ndarray]] = {"probs": [], "variance": []}
        for view in range(1 if self.views is None else self.views.number):
            generator = ExampleGenerator(torch.from_numpy(batch.ids.copy()), self.seed, view)
            with self._autocast(_device(teacher)):
                prediction = teacher.predict(batch.inputs(view), self.num_samples, generator)
            expected, found_shape = [len(batch.ids), teacher.num_classes], list(prediction.mean.shape)
            if found_shape != expected:
                raise UserError(
                    f"the teacher answered with probabilities {found_shape}, and for {expected[0]} examples of "
                    f"{expected[1]} classes they would be {expected}: its num_classes or its predict is wrong"
                )
            found["probs"].append(prediction.mean.float().cpu().numpy())
            if prediction.variance is not None and self.variance != "none":
                variance = prediction.variance.float()
                variance = variance.sum(dim=-1, keepdim=True) if self.variance == "sum" else variance
                found["variance"].append(variance.cpu().numpy())
        return {name: np.stack(each, axis=1) for name, each in found.items() if each} | {"ids": batch.ids}

    def _table(self, done: list[dict[str, np.ndarray]], sizes: set[tuple[int, ...]]) -> pa.Table:
        labels = {name: np.concatenate([each[name] for each in done]) for name in done[0]}
        table = encoded_table(labels["probs"], labels.get("variance"), labels["ids"], self.storage, self.top_k)
        return table.replace_schema_metadata({SIZES: json.dumps(sorted(sizes))})

    def _autocast(self, device: torch.device) -> AbstractContextManager:
        dtype = PRECISIONS[self.mixed_precision]
        return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def _device(teacher: Any) -> torch.device:
    return torch.device(getattr(teacher, "device", "cpu"))


def _check_first_row(shard: pa.Table, piece: datasets.Dataset, content: str | None) -> None:
    """UserError if a finished shard is not of these rows."""
    same_length = len(shard) == len(piece)
    if content is not None and same_length:
        found = content_ids(piece.with_format(None)[:1][content])
        check_identity(shard[EXAMPLE_ID].to_numpy()[:1], found)
    elif not same_length:
        raise UserError(
            f"a finished shard has {len(shard)} rows, and the dataset {len(piece)} in its place: it is of another "
            "dataset; pass another folder"
        )
