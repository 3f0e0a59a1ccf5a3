"""The examples that a command names: the columns that a network reads, and labels in the order of its classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import datasets
import torch
from torch import Tensor, nn

from ..data.columns import add_labels, find_label, is_soft_label_column
from ..data.loading import check_split, choose_split, load_splits
from ..data.preprocessors import Preprocessor, preprocessor_for, ready_columns
from ..data.preprocessors.content import Content
from ..data.preprocessors.tables import readable_columns
from ..data.subsets import check_labeled, stratified_split
from ..utils.errors import UserError
from .architectures import StandIn


def reader_of(network: nn.Module, rows: Any, processing_class: Any = None) -> Preprocessor:
    """Return a network's preprocessor of a dataset, also where its columns are the network's inputs already."""
    preprocessor = preprocessor_for(network, rows, processing_class)
    if preprocessor is not None:
        return preprocessor
    names = ready_columns(network, rows)
    return Preprocessor("features", names, partial(_as_tensors, names), {})


def _as_tensors(names: tuple[str, ...], columns: dict[str, list]) -> dict[str, Tensor]:
    return {name: torch.as_tensor(columns[name]) for name in names}


def _columns_of(network: nn.Module | StandIn, dataset: Any, processing_class: Any) -> tuple[str, tuple[str, ...]]:
    """What a network reads, and in which columns of a dataset."""
    if isinstance(network, StandIn):
        if network.kind == "table":
            return network.kind, readable_columns(dataset)
        return network.kind, Content.of(dataset).columns(network.kind, network)
    reader = reader_of(network, dataset, processing_class)
    return reader.kind, tuple(reader.columns)


def inputs_of(
    dataset: Any,
    network: nn.Module | StandIn,
    input_columns: Sequence[str] | None,
    label: str | None,
    processing_class: Any,
) -> Any:
    """Return only the columns of a dataset that a network reads.

    A single one of images or texts is then called ``image`` or ``text``.

    Args:
        dataset: of `datasets`, also a streamed one.
        network: that reads it.
        input_columns: those that were asked for; if not given, types and usual names identify them.
        label: a column that is not among them.
        processing_class: see :func:`~hf_bkd.data.preprocessors.preprocessor_for`.

    Raises:
        UserError: there are no such columns.
    """
    offered = [name for name in dataset.column_names if name != label and not is_soft_label_column(name)]
    for name in input_columns or ():
        check_column(dataset, name)
    dataset = dataset.select_columns(list(input_columns or offered))
    try:
        kind, columns = _columns_of(network, dataset, processing_class)
    except UserError as error:
        if input_columns or "nothing says which" not in str(error):
            raise
        raise UserError(f"{error} (--input_column names the columns to read)") from None
    dataset = dataset.select_columns(list(columns))
    if kind not in ("image", "text") or len(columns) > 1 or columns[0] == kind:
        return dataset
    return dataset.rename_column(columns[0], kind)


def check_column(dataset: Any, name: str) -> None:
    """Raise a UserError if a dataset has no such column."""
    if name not in dataset.column_names:
        raise UserError(f"the dataset has no column {name!r}, only {', '.join(dataset.column_names)}")


def examples_of(
    dataset: datasets.Dataset,
    network: nn.Module | StandIn,
    classes: list[str] | None,
    options: Any,
    processing_class: Any = None,
) -> datasets.Dataset:
    """Return the columns that a network reads, and a column ``label`` numbered as it numbers its classes.

    Args:
        dataset: N rows.
        network: that reads them.
        classes: its C names; the dataset's own if not given.
        options: of a command, with ``input_column`` and ``label_column``.
        processing_class: the network's.

    Raises:
        UserError: no such columns, or other classes.
    """
    label = options.label_column or find_label(dataset)
    check_column(dataset, label)
    inputs = inputs_of(dataset, network, options.input_column, label, processing_class)
    return add_labels(inputs, dataset, label, classes)


@dataclass
class Examples:
    """The training and validation examples of a command, read when they are asked for.

    Args:
        options: the command's.
        network: that reads them, or one that reads the same.
        known_classes: names in the networks' order; the training split's if not given.
        processing_class: the network's.

    Raises:
        UserError: a dataset, split or column that is not there, or examples without labels.
    """

    options: Any
    network: nn.Module | StandIn
    known_classes: list[str] | None
    processing_class: Any = None

    def __post_init__(self):
        options = self.options
        self.splits = load_splits(options.dataset, configuration=options.dataset_config)
        self.train_split = choose_split(self.splits, options.train_split, ("train",), options.dataset)
        self.others = self.splits
        self.validation_split = options.validation_split or ("validation" if "validation" in self.splits else None)
        if options.eval_dataset:
            self.others = load_splits(options.eval_dataset)
            usual = ("validation", "test")
            self.validation_split = choose_split(self.others, options.validation_split, usual, options.eval_dataset)
        elif self.validation_split:
            check_split(self.splits, self.validation_split, options.dataset)

    @cached_property
    def train(self) -> datasets.Dataset:
        """What networks are trained and posteriors fitted on."""
        return self._whole if self.validation_split else self._divided[1]

    @cached_property
    def validation(self) -> datasets.Dataset:
        """What is chosen and measured on."""
        if self.validation_split is None:
            return self._divided[0]
        return self._read(self.others[self.validation_split], self.classes, self.validation_split)

    @property
    def classes(self) -> list[str]:
        """Their names, in the networks' order."""
        return self.known_classes or self._whole.features["label"].names

    @cached_property
    def _whole(self) -> datasets.Dataset:
        rows = self._read(self.splits[self.train_split], self.known_classes, self.train_split)
        if len(set(rows["label"][:])) < 2:
            names = rows.features["label"].names
            raise UserError(
                f"all {len(rows)} examples of the split {self.train_split!r} have the same class "
                f"({names[rows['label'][0]] if len(rows) else 'there are none'}): a classifier needs two or more"
            )
        return rows

    @cached_property
    def _divided(self) -> tuple[datasets.Dataset, datasets.Dataset]:
        return stratified_split(self._whole, self.options.validation_size or len(self._whole) // 10, seed=0)

    def _read(self, dataset: datasets.Dataset, classes: list[str] | None, split: str) -> datasets.Dataset:
        rows = examples_of(dataset, self.network, classes, self.options, self.processing_class)
        check_labeled(rows, split)
        return rows
