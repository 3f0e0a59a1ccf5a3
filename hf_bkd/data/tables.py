"""A dataset as the table and the labels that estimators of scikit-learn are fitted on."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pandas as pd

from ..utils.errors import UserError
from .columns import find_label, numbered_labels
from .preprocessors.base import Preprocessor
from .preprocessors.tables import TABLE, readable_columns, table_of
from .rows import read_rows


def table_and_columns(
    dataset: datasets.Dataset, columns: Sequence[str] | None = None, label_column: str | None = None
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return a dataset's columns of numbers and words as a table [N, d], and their names.

    Args:
        dataset: N rows.
        columns: those to take; all but labels, soft labels and ids if not given.
        label_column: a column of labels that has another name than usual.

    Raises:
        UserError: a streamed or empty dataset, or no such columns.
    """
    if not isinstance(dataset, datasets.Dataset) or not len(dataset):
        raise UserError("a table of rows is needed: pass a datasets.Dataset that is not empty and not streamed")
    names = _columns(dataset, columns, label_column)
    plain = dataset.select_columns(list(names))
    return table_of(read_rows(plain, 0, len(plain)), names, plain.features), names


def reader_of_table(
    dataset: Any, columns: Sequence[str] | None = None, label_column: str | None = None
) -> Preprocessor:
    """Make the preprocessor of rows to a table of the columns that :func:`table_and_columns` takes."""
    names, features = _columns(dataset, columns, label_column), dataset.features
    return Preprocessor("table", names, lambda rows: {TABLE: table_of(rows, names, features)}, {TABLE: list(names)})


def _columns(dataset: Any, columns: Sequence[str] | None, label_column: str | None) -> tuple[str, ...]:
    for name in columns or ():
        if name not in dataset.features:
            raise UserError(f"the dataset has no column {name!r}, only {', '.join(dataset.column_names)}")
    names = tuple(columns or (name for name in readable_columns(dataset) if name != label_column))
    if not names:
        raise UserError(f"the dataset has no columns of numbers or words, only {', '.join(dataset.column_names)}")
    return names


def labels_and_names(
    dataset: datasets.Dataset, label_column: str | None = None, classes: Sequence[str] | None = None
) -> tuple[np.ndarray, list[str]]:
    """Return the numbers of the rows' classes, int64 [N], and the names of all classes in order.

    Args:
        dataset: N rows.
        label_column: by default ``label``, ``labels`` or ``fine_label``.
        classes: the names, where they are known; the column's if not given.

    Raises:
        UserError: no label column, rows without a label, or labels that are no classes.
    """
    label = label_column or find_label(dataset)
    if label not in dataset.features:
        raise UserError(f"the dataset has no column {label!r}, only {', '.join(dataset.column_names)}")
    names, numbers = numbered_labels(dataset, label, classes)
    labels = np.asarray(numbers)
    if (labels < 0).any():
        raise UserError(
            f"row {int((labels < 0).argmax())} of column {label} has no label: leave such rows out with "
            f"dataset.filter(lambda row: row[{label!r}] not in (None, -1))"
        )
    return labels, names
