"""Rows of a dataset as batches of a student: read, prepared and collated when they are asked for.

One rule says which column goes where. A column of labels becomes ``labels``, soft labels become what the loss reads,
the columns that the student's preprocessor reads (or those that are its network's inputs as they are) become its
inputs, and all others stay behind, whatever ``remove_unused_columns`` says.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Protocol

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import default_data_collator

from ..data.columns import EXAMPLE_ID, is_label
from ..data.label_values import LabelColumn
from ..data.preprocessing import Pool, StoredImages, look
from ..data.preprocessors import Preprocessor, ready_columns
from ..data.rows import AsStored, as_stored, check_present, decoded_rows, rows_at
from ..data.views import Views
from ..soft_labels.belonging import shared_views
from ..soft_labels.columns import soft_label_columns
from ..soft_labels.identity import Identity
from ..utils.errors import UserError
from .supervision import TEACHER_INPUTS, StoredLabels
from .token_labels import placed

AnyDataset = datasets.Dataset | datasets.IterableDataset
Rows = dict[str, Any]


class Prepare(Protocol):
    """A preparation of rows for one network: `data.preprocessors.Preprocessor`, or :class:`AsTheyAre`."""

    columns: tuple[str, ...]

    def __call__(self, rows: Rows) -> Mapping[str, Tensor]: ...


@dataclass(frozen=True)
class AsTheyAre:
    """A preparation of columns that are a network's inputs already.

    Args:
        columns: their names.
        per_example: makes a batch of a list of examples, as the Trainer's collators do.
    """

    columns: tuple[str, ...]
    per_example: Callable[[list], Mapping[str, Tensor]]

    def __call__(self, rows: Rows) -> dict[str, Tensor]:
        """Turn rows, column name -> B values, into inputs."""
        if self.per_example is default_data_collator and all(isinstance(each, Tensor) for each in rows.values()):
            return rows
        examples = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
        try:
            return dict(self.per_example(examples))
        except (ValueError, TypeError, RuntimeError) as error:
            ragged = [name for name in self.columns if len({np.shape(value) for value in rows[name]}) > 1]
            if not ragged:
                raise
            raise UserError(
                f"the rows of column {ragged[0]} differ in length, and nothing says how to pad them: pass "
                "data_collator=, a function from a list of rows to a batch"
            ) from error


@dataclass(frozen=True)
class AskedRows:
    """What an online teacher is asked about rows.

    Args:
        prepare: rows -> the inputs of the teacher's network; ``None`` where they are the student's.
        identity: by which rows have the ids of their draws, as `add_soft_labels` would know them.
    """

    prepare: Prepare | None
    identity: Identity | None

    @property
    def columns(self) -> list[str]:
        """Names of the columns that are read."""
        of_inputs = () if self.prepare is None else self.prepare.columns
        return [*of_inputs, *(() if self.identity is None else self.identity.columns)]

    def batch(self, rows: Rows) -> dict[str, Any]:
        """Return the teacher's inputs, and the rows' ids."""
        batch: dict[str, Any] = {}
        if self.prepare is not None:
            batch[TEACHER_INPUTS] = dict(self.prepare({name: rows[name] for name in self.prepare.columns}))
        if self.identity is not None:
            batch[EXAMPLE_ID] = torch.from_numpy(self.identity.ids(rows).copy())
        return batch


def asked_rows(teacher: Any, dataset: Any, student: Prepare) -> AskedRows:
    """Return what an online teacher is asked about rows, as `add_soft_labels` would ask it about them.

    One that doesn't say what it reads is asked about the student's inputs.
    """
    if not hasattr(teacher, "preprocessor_for"):
        return AskedRows(None, Identity(student.columns))
    own = teacher.preprocessor_for(dataset)
    if own is None:
        own = AsTheyAre(ready_columns(teacher.network, dataset), default_data_collator)
    columns = [name for name in own.columns if not is_label(name, dataset.features[name])]
    return AskedRows(None if _reads_the_same(own, student) else own, Identity(tuple(columns)) if columns else None)


def _reads_the_same(one: Prepare, other: Prepare) -> bool:
    """Return whether two networks get the same images, so that they need be prepared only once."""
    return all(getattr(each, "kind", None) == "image" for each in (one, other)) and one.reads_as(other)


@dataclass(frozen=True)
class Preparation:
    """How the rows of one dataset become batches.

    Args:
        dataset: the rows, as its owner gave it.
        prepare: rows -> the student's inputs.
        labels: how its labels are read; ``None`` where they aren't wanted, or there are none.
        stored: whose targets its soft labels are, if they are wanted.
        asked: what an online teacher is asked, if there is one.
        views: in which the soft labels were made, and the student sees the images.
        pool: of the images that such views mix.
    """

    dataset: AnyDataset
    prepare: Prepare
    labels: LabelColumn | None = None
    stored: StoredLabels | None = None
    asked: AskedRows | None = None
    views: Views | None = None
    pool: Pool | None = None

    @property
    def columns(self) -> list[str]:
        """Names of the columns that are read."""
        read = [*self.prepare.columns, *([] if self.labels is None else [self.labels.name])]
        read += [] if self.stored is None else soft_label_columns(self.dataset)
        read += [] if self.asked is None else self.asked.columns
        return list(dict.fromkeys(read))

    def batch(
        self, rows: Rows, view: int = 0, tensors: Rows | None = None, numbers: Sequence[int] | None = None
    ) -> dict[str, Any]:
        """Return the student's inputs, labels and soft labels of some rows in a view, and the teacher's inputs.

        Args:
            rows: column name -> B values, images decoded.
            view: number of the view.
            tensors: the student's columns as tensors, where it takes them as they are.
            numbers: of the rows in the dataset, for messages, where they are known.
        """
        others: dict[str, Any] = {}
        if self.stored is not None and EXAMPLE_ID in rows:
            others[EXAMPLE_ID] = torch.as_tensor(np.asarray(rows[EXAMPLE_ID], np.int64))
        if self.asked is not None:
            others |= self.asked.batch(rows)
        own = tensors or {name: rows[name] for name in self.prepare.columns}
        labels = None if self.labels is None else self.labels(rows[self.labels.name], None)
        of_words = isinstance(labels, list) and getattr(self.prepare, "prepare_labeled", None) is not None
        if of_words:
            inputs = self.prepare.labeled(own, labels, numbers)
        elif self.views is None:
            inputs = dict(self.prepare(own))
        else:
            shown = look(self.prepare.pictures(own), others[EXAMPLE_ID], self.views, view, self.pool)
            inputs = dict(self.prepare.of_pictures(shown))
        if labels is not None and not of_words:
            of_tokens = isinstance(labels, list)
            others["labels"] = placed(labels, inputs, self.labels.name, numbers) if of_tokens else labels
        if self.stored is not None:
            others |= self.stored.decoded(rows, view, inputs.get("attention_mask"), numbers)
        return inputs | others


class PreparedDataset(torch.utils.data.Dataset):
    """The rows of a `datasets.Dataset` as batches: ``dataset[[3, 5]]`` is what a student is trained on."""

    def __init__(self, preparation: Preparation, view_order: str = "cycle"):
        self.preparation, self.view_order, self._epoch = preparation, view_order, 0
        dataset, prepare = preparation.dataset, preparation.prepare
        self._tensors = self._arrays = None
        if preparation.stored is not None:  # in an array, which reads fast
            self._arrays = dataset.select_columns(soft_label_columns(dataset)).with_format("numpy")
        if isinstance(prepare, AsTheyAre):
            tensors = dataset.select_columns([*prepare.columns])
            self._tensors = tensors if dataset.format["type"] == "torch" else tensors.with_format("torch")
        self._plain = self._read_as_values()

    def _read_as_values(self) -> AsStored | None:
        """Return the columns that are read neither as arrays nor as tensors, if there are some."""
        preparation = self.preparation
        otherwise = [] if self._arrays is None else [*self._arrays.column_names]
        if self._tensors is not None:
            asked = preparation.asked.columns if preparation.asked else ()
            otherwise += [name for name in preparation.prepare.columns if name not in asked]
        names = [name for name in preparation.columns if name not in otherwise]
        return as_stored(preparation.dataset.select_columns(names)) if names else None

    def with_labels(self, labels: LabelColumn | None) -> "PreparedDataset":
        """Return the same rows, whose labels are read so."""
        if labels is None and self.preparation.labels is None:
            return self
        labeled = copy(self)
        labeled.preparation = replace(self.preparation, labels=labels)
        labeled._plain = labeled._read_as_values()
        return labeled

    def __len__(self) -> int:
        return len(self.preparation.dataset)

    def __getitem__(self, index: int | list[int]) -> dict[str, Any]:
        if isinstance(index, int):
            return {name: value[0] for name, value in self.__getitems__([index]).items() if isinstance(value, Tensor)}
        return self.__getitems__(index)

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        rows: Rows = {} if self._plain is None else rows_at(self._plain, indices)
        check_present(rows, [name for name in self.preparation.prepare.columns if name in rows], indices)
        if self._arrays is not None:
            rows |= self._arrays[indices]
        tensors = None if self._tensors is None else dict(self._tensors[indices])
        return self.preparation.batch(rows, self.view, tensors, indices)

    @property
    def views(self) -> Views | None:
        """The views that are shown."""
        return self.preparation.views

    @property
    def view(self) -> int:
        """Which view of each image comes next."""
        return 0 if self.views is None else self.views.at_epoch(self._epoch, self.view_order)

    def set_epoch(self, epoch: int) -> None:
        """Set which epoch comes next, and with it which view."""
        self._epoch = epoch


@dataclass(frozen=True)
class PreparingCollator:
    """A collator that makes batches of the rows of a stream, or hands on those of a :class:`PreparedDataset`."""

    preparation: Preparation

    def __call__(self, examples: Any) -> dict[str, Any]:
        """Make a batch of a list of rows whose images are not decoded yet."""
        if isinstance(examples, dict):
            return examples
        rows = {name: [example[name] for example in examples] for name in self.preparation.columns}
        return self.preparation.batch(decoded_rows(rows, self.preparation.dataset.features))


def shown_views(dataset: Any, stored: StoredLabels, prepare: Prepare) -> tuple[Views | None, Pool | None]:
    """Return the views that the labels are of, and the images that these mix others with.

    Raises:
        UserError: the student's preprocessor can't show them, or images that are mixed are not here.
    """
    layouts = [each.layout for each in stored.stored.values()]
    if not any(each.record is not None and each.record.views for each in layouts):
        return None, None
    if getattr(prepare, "of_pictures", None) is None:
        raise UserError(
            "the soft labels were made for augmented views of each image, and what makes the student's inputs can't "
            "show them: pass processing_class, an image processor, a transform or ImagePreprocessor(mean=..., std=...)"
        )
    ids = np.asarray(dataset.with_format(None)[EXAMPLE_ID][:], np.int64) if EXAMPLE_ID in dataset.features else None
    views = shared_views(layouts, None, ids)
    if views.mixing is None:
        return views, None
    return views, Pool.of(ids, StoredImages(dataset, prepare.columns[0], prepare.mode))


def reader_of_pictures(teacher: Any) -> Preprocessor | None:
    """Return what makes a teacher's inputs of pictures that are decoded already, if it brings its own processor."""
    if getattr(teacher, "processing_class", None) is None or not hasattr(teacher, "preprocessor_for"):
        return None
    features = datasets.Features({"image": datasets.Image()})
    own = teacher.preprocessor_for(datasets.Dataset.from_dict({"image": []}, features=features))
    return own if own is not None and own.of_pictures is not None else None
