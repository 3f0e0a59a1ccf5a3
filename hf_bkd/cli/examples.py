"""The training and validation examples that `hf-bkd teacher fit` names."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import datasets

from ..data.columns import as_classification
from ..data.loading import check_split, load_splits
from ..data.subsets import check_labeled, stratified_split


@dataclass
class Examples:
    """The training and validation examples of a command, read when they are asked for.

    Args:
        options: the command's.
        kind: of the networks' inputs, ``"image"`` or ``"text"``.
        known_classes: names in the networks' order; the training split's if not given.

    Raises:
        UserError: a dataset, split or column that is not there, or examples without labels.
    """

    options: Any
    kind: str
    known_classes: list[str] | None

    def __post_init__(self):
        self.splits = load_splits(self.options.dataset)
        self.validation_split = self.options.validation_split or (
            "validation" if "validation" in self.splits else None
        )

    @cached_property
    def train(self) -> datasets.Dataset:
        """What networks are trained and posteriors fitted on."""
        return self._whole if self.validation_split else self._divided[1]

    @cached_property
    def validation(self) -> datasets.Dataset:
        """What is chosen and measured on."""
        return self._read(self.validation_split, self.classes) if self.validation_split else self._divided[0]

    @property
    def classes(self) -> list[str]:
        """Their names, in the networks' order."""
        return self.known_classes or self._whole.features["label"].names

    @cached_property
    def _whole(self) -> datasets.Dataset:
        return self._read(self.options.train_split, self.known_classes)

    @cached_property
    def _divided(self) -> tuple[datasets.Dataset, datasets.Dataset]:
        return stratified_split(self._whole, self.options.validation_size or len(self._whole) // 10, seed=0)

    def _read(self, split: str, classes: list[str] | None) -> datasets.Dataset:
        options = self.options
        check_split(self.splits, split, options.dataset)
        columns = options.input_column, options.label_column
        rows = as_classification(self.splits[split], self.kind, classes, *columns)
        check_labeled(rows, split)
        return rows
