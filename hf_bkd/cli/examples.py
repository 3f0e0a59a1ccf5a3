"""The examples that a command names: the columns that a network reads, and labels in the order of its classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import datasets
import torch
from torch import Tensor, nn

from ..data.batches import DatasetBatches
from ..data.columns import is_soft_label_column
from ..data.loading import check_split, choose_split, load_splits
from ..data.preprocessors import Preprocessor, preprocessor_for, ready_columns
from ..data.preprocessors.content import Content, holds_words
from ..data.preprocessors.tables import readable_columns
from ..data.subsets import check_labeled, random_split, stratified_split
from ..training.problem import Problem
from ..utils.errors import UserError
from ..utils.progress import track
from .architectures import StandIn
from .label_columns import check_column, label_columns, names_of, one_column, problem_of, with_labels


def reader_of(network: nn.Module, rows: Any, processing_class: Any = None) -> Preprocessor:
    """Return a network's preprocessor of a dataset, also where its columns are the network's inputs already."""
    preprocessor = preprocessor_for(network, rows, processing_class)
    if preprocessor is not None:
        return preprocessor
    names = ready_columns(network, rows)
    return Preprocessor("features", names, partial(_as_tensors, names), {})


def labeled_batches(
    network: nn.Module,
    rows: Any,
    processing_class: Any = None,
    problem: Problem | None = None,
    progress: str | None = None,
) -> Any:
    """Return the batches of labeled rows, as a network reads them; ``progress`` names a bar."""
    likelihood = None if problem is None else problem.likelihood
    preprocessor = preprocessor_for(network, rows, processing_class)
    batches = DatasetBatches(rows, network, preprocessor, problem_type=likelihood)
    return batches if progress is None or len(batches) <= 5 else track(batches, progress)


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
    labels: Sequence[str],
    processing_class: Any,
) -> Any:
    """Return only the columns of a dataset that a network reads.

    A single one of images or texts, not of words, is then called ``image`` or ``text``.

    Args:
        dataset: of `datasets`, also a streamed one.
        network: that reads it.
        input_columns: those that were asked for; if not given, types and usual names identify them.
        labels: columns that are not among them.
        processing_class: see :func:`~hf_bkd.data.preprocessors.preprocessor_for`.

    Raises:
        UserError: there are no such columns.
    """
    offered = [name for name in dataset.column_names if name not in labels and not is_soft_label_column(name)]
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
    named = len(columns) > 1 or columns[0] == kind or holds_words(dataset.features[columns[0]])
    if kind not in ("image", "text") or named:
        return dataset
    return dataset.rename_column(columns[0], kind)


def examples_of(
    dataset: datasets.Dataset,
    network: nn.Module | StandIn,
    classes: list[str] | None,
    options: Any,
    processing_class: Any = None,
    problem: Problem | None = None,
    form: str | None = None,
) -> datasets.Dataset:
    """Return the columns that a network reads, and a column ``label`` numbered as it numbers its classes.

    Args:
        dataset: N rows.
        network: that reads them.
        classes: its C names; the dataset's own if not given.
        options: of a command, with ``input_column`` and ``label_column``.
        processing_class: the network's.
        problem: that it answers; of one class for each example if not given.
        form: of the training set's labels, see :func:`~hf_bkd.data.labels.read_labels`.

    Raises:
        UserError: no such columns, labels of another kind, or other classes.
    """
    columns = label_columns(dataset, options.label_column)
    inputs = inputs_of(dataset, network, options.input_column, columns, processing_class)
    return with_labels(inputs, *one_column(dataset, columns, classes), classes, problem or Problem(), form)


@dataclass
class Examples:
    """The training and validation examples of a command, read when they are asked for.

    Args:
        options: the command's.
        network: that reads them, or one that reads the same.
        known_classes: names in the networks' order; the training split's if not given.
        processing_class: the network's.
        problem: that they answer; the training split's if not given.

    Raises:
        UserError: a dataset, split or column that is not there, or examples without labels.
    """

    options: Any
    network: nn.Module | StandIn
    known_classes: list[str] | None
    processing_class: Any = None
    problem: Problem | None = None

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
        train = self.splits[self.train_split]
        self._columns = label_columns(train, options.label_column)
        if self.problem is None:
            joined = one_column(train, self._columns, self.known_classes)
            self.problem = problem_of(train, *joined[:2], options.problem_type)

    @cached_property
    def train(self) -> datasets.Dataset:
        """What networks are trained and posteriors fitted on."""
        return self._whole if self.validation_split else self._divided[1]

    @cached_property
    def validation(self) -> datasets.Dataset:
        """What is chosen and measured on."""
        if self.validation_split is None:
            return self._divided[0]
        named = isinstance(getattr(self._whole.features["label"], "feature", None), datasets.ClassLabel)
        form = "set" if named else "hot"
        return self._read(self.others[self.validation_split], self.classes, self.validation_split, form)

    @property
    def classes(self) -> list[str]:
        """Their names, in the networks' order."""
        names = self._columns if len(self._columns) > 1 else None
        return self.known_classes or names_of(self._whole, self.problem, names)

    @cached_property
    def _whole(self) -> datasets.Dataset:
        rows = self._read(self.splits[self.train_split], self.known_classes, self.train_split)
        labels = rows["label"][:]
        if len(set(map(str, labels))) < 2:
            same = labels[0] if labels else "there are none"
            if labels and self.problem.is_plain:
                same = rows.features["label"].names[same]
            raise UserError(
                f"all {len(rows)} examples of the split {self.train_split!r} have the same "
                f"{'class' if self.problem.is_plain else 'label'} ({same}): "
                f"{'a classifier needs two or more' if self.problem.is_plain else 'there is nothing to learn'}"
            )
        return rows

    @cached_property
    def _divided(self) -> tuple[datasets.Dataset, datasets.Dataset]:
        split = stratified_split if self.problem.is_plain else random_split
        return split(self._whole, self.options.validation_size or len(self._whole) // 10, seed=0)

    def _read(
        self, dataset: datasets.Dataset, classes: list[str] | None, split: str, form: str | None = None
    ) -> datasets.Dataset:
        rows = examples_of(dataset, self.network, classes, self.options, self.processing_class, self.problem, form)
        check_labeled(rows, split)
        return rows
