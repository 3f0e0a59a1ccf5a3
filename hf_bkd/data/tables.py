"""A dataset as the table and the labels that estimators of scikit-learn are fitted on."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pandas as pd

from ..likelihoods import CATEGORICAL, Bernoulli, Gaussian, Likelihood, likelihood_from
from ..utils.errors import UserError
from .columns import find_label, numbered_labels
from .labels import problem_type_of_column, read_labels
from .preprocessors.tables import readable_columns, table_of
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
    if isinstance(dataset, pd.DataFrame):
        raise UserError("a DataFrame is no dataset: pass datasets.Dataset.from_pandas(frame, preserve_index=False)")
    if not isinstance(dataset, datasets.Dataset) or not len(dataset):
        raise UserError("a table of rows is needed: pass a datasets.Dataset that is not empty and not streamed")
    names = _columns(dataset, columns, label_column)
    plain = dataset.select_columns(list(names))
    return table_of(read_rows(plain, 0, len(plain)), names, plain.features), names


def _columns(dataset: Any, columns: Sequence[str] | None, label_column: str | None) -> tuple[str, ...]:
    for name in columns or ():
        if name not in dataset.features:
            raise UserError(f"the dataset has no column {name!r}, only {', '.join(dataset.column_names)}")
    names = tuple(columns or (name for name in readable_columns(dataset) if name != label_column))
    if not names:
        raise UserError(f"the dataset has no columns of numbers or words, only {', '.join(dataset.column_names)}")
    return names


def labels_and_names(
    dataset: datasets.Dataset,
    label_column: str | None = None,
    classes: Sequence[str] | None = None,
    kind: str | None = None,
) -> tuple[np.ndarray, list[str] | None]:
    """Return what an estimator is fitted to, and the names of all classes or labels in order, where they have any.

    Args:
        dataset: N rows.
        label_column: by default ``label``, ``labels`` or ``fine_label``.
        classes: the names, where they are known; the column's if not given.
        kind: of the estimator, ``"classifier"`` or ``"regressor"``; what the labels look like if not given.

    Returns:
        Numbers of classes int64 [N], zeros and ones [N, C] of labels that are each there or not, or numbers to
        predict [N] or [N, C].

    Raises:
        UserError: no label column, rows without a label, labels of another kind than the estimator's.
    """
    label = label_column or find_label(dataset)
    if label not in dataset.features:
        raise UserError(f"the dataset has no column {label!r}, only {', '.join(dataset.column_names)}")
    likelihood = _likelihood(dataset, label, kind)
    if likelihood == CATEGORICAL:
        names, numbers = numbered_labels(dataset, label, classes)
        labels, missing = np.asarray(numbers), np.asarray(numbers) < 0
    else:
        single = getattr(dataset.features[label], "feature", None)
        names = list(classes or getattr(single, "names", ())) or None
        read = read_labels(dataset, label, likelihood, None, names)
        tensor = read(dataset.with_format("arrow").select_columns([label])[:][label])
        labels, missing = tensor.numpy(), ~likelihood.labeled(tensor).numpy()
        labels = labels[:, 0] if labels.shape[1] == 1 else labels
        names = names if likelihood.problem_type == Bernoulli.problem_type else None
    if missing.any():
        raise UserError(
            f"row {int(missing.argmax())} of column {label} has no label: leave such rows out with "
            f"dataset.filter(lambda row: row[{label!r}] not in (None, -1, -100))"
        )
    return labels, names


def _likelihood(dataset: datasets.Dataset, label: str, kind: str | None) -> Likelihood:
    told = problem_type_of_column(dataset, label)
    feature = dataset.features[label]
    if kind == "regressor":
        if isinstance(feature, datasets.ClassLabel) or getattr(feature, "dtype", "") in ("string", "large_string"):
            raise UserError(f"the estimator is a regressor, and the column {label} holds classes: pass a classifier")
        return Gaussian()
    if kind == "classifier" and told == Gaussian.problem_type:
        raise UserError(
            f"the estimator is a classifier, and the column {label} holds numbers with decimals: pass a regressor, or "
            f"cast classes by dataset.cast_column({label!r}, datasets.Value('int64'))"
        )
    return likelihood_from(told)
