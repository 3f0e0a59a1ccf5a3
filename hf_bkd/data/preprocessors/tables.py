"""Columns of numbers, words and truth values as the table that an estimator of scikit-learn reads."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import pandas as pd

from ...likelihoods import Categorical
from ...models.class_names import given_names
from ...models.estimator_parts import name_of
from ...models.estimators import EstimatorNetwork
from ...utils.errors import UserError
from ..columns import LABEL_COLUMNS, LABELS
from ..labels import IN_WORDS
from .base import Preprocessor
from .content import Content

TABLE = "table"  # the name of an estimator's input


def table_preprocessor(network: EstimatorNetwork, dataset: Any, read: tuple[str, ...] = ()) -> Preprocessor:
    """Make the preprocessor of an estimator: rows to the table of the columns that it was fitted on.

    Columns go by name where the estimator knows names, and by their order otherwise. Values are those that
    ``dataset.to_pandas()`` shows; missing ones are NaN, and the estimator's to take or to refuse. ``read`` are the
    columns that it read before, whose order is kept where nothing names them.

    Raises:
        UserError: a column that is not there, another number of columns than the estimator was fitted on, labels
            among them, or classes that can't be told from the dataset's.
    """
    _check_numbers(network, dataset.features)
    _check_kind(network, dataset.features)
    columns, features = _columns(network, dataset, read), dataset.features

    def prepare(rows: dict[str, list]) -> dict[str, pd.DataFrame]:
        table = table_of(rows, columns, features)
        if network.takes_missing is False:
            _check_whole(table, network)
        return {TABLE: table}

    return Preprocessor("table", columns, prepare, {TABLE: list(columns)})


def table_of(rows: Mapping[str, Sequence], columns: Sequence[str], features: Mapping[str, Any]) -> pd.DataFrame:
    """Make a table of some columns of rows; one column of lists of numbers becomes as many as the lists are long.

    Raises:
        UserError: lists of several lengths, or lists beside other columns.
    """
    lists = [name for name in columns if isinstance(features[name], (datasets.List, datasets.LargeList))]
    if lists and len(columns) > 1:
        raise UserError(
            f"the column {lists[0]} holds lists, and a table of several columns needs one value in each: spread it "
            "over columns of their own"
        )
    if lists:
        try:
            return pd.DataFrame(np.asarray(rows[lists[0]], dtype=np.float64).reshape(len(rows[lists[0]]), -1))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"the column {lists[0]} holds lists of several lengths, or something else than numbers: bring them to "
                "one length"
            ) from error
    return pd.DataFrame({name: _values(rows[name], features[name]) for name in columns})


def readable_columns(dataset: Any, kinds: Sequence[str] = ("features", "text")) -> tuple[str, ...]:
    """Return the columns of numbers and words of a dataset, in its order; not its labels, soft labels and ids."""
    content = Content.of(dataset)
    names = {name for kind in kinds for name in content.of_kind(kind)}
    return tuple(name for name in content.features if name in names)


def _columns(network: EstimatorNetwork, dataset: Any, read: tuple[str, ...]) -> tuple[str, ...]:
    features, whose = dataset.features, name_of(network.estimator)
    if network.feature_names is not None:
        for name in network.feature_names:
            if name not in features:
                raise UserError(
                    f"{whose} was fitted on the columns {_listed(network.feature_names)}, and the dataset has no "
                    f"{name!r}, only {_listed(list(features))}: rename its columns, or pass feature_names, the "
                    "dataset's in the order of the estimator's"
                )
            if name in (*LABEL_COLUMNS, *LABELS):
                raise UserError(f"{whose} was fitted on the column {name!r}, which holds the labels: fit it without")
        return tuple(network.feature_names)
    if network.reads_texts:
        return Content.of(dataset).columns("text", network)[:1]
    offered, wanted = readable_columns(dataset, ("features",)), network.num_features
    width = _width(dataset, offered)
    if wanted is not None and width != wanted:
        raise UserError(
            f"{whose} was fitted on {wanted} features without names, and the dataset has {width} "
            f"({_listed(list(offered))}): pass feature_names, the columns in the order of the estimator's features"
        )
    if not offered:
        raise UserError(f"the dataset has no columns of numbers, only {_listed(list(features))}")
    if set(read) == set(offered):
        return read
    if width == len(offered) > 1 and not all(name.isdecimal() for name in offered):
        warnings.warn(
            f"{whose} was fitted on {width} features without names, and they are taken to be the columns "
            f"{_listed(offered)} in this order: pass feature_names, the columns in the order of the estimator's "
            "features, or fit it on a table with names",
            stacklevel=3,
        )
    return offered


def _width(dataset: Any, columns: Sequence[str]) -> int:
    """Return the number of features in columns: that of a single column of lists is the length of the first."""
    if len(columns) != 1 or not isinstance(dataset.features[columns[0]], (datasets.List, datasets.LargeList)):
        return len(columns)
    length = getattr(dataset.features[columns[0]], "length", -1)
    if length >= 0:
        return length
    first = next(iter(dataset.select_columns(list(columns)).take(1)), None)
    return np.size(first[columns[0]]) if first else 0


def _check_numbers(network: EstimatorNetwork, features: Mapping[str, Any]) -> None:
    """UserError if classes that are numbers, and names that are the same numbers in another order, could be mistaken.

    As of ``class_encode_column``, which sorts 10 before 2.
    """
    if network.known_names is not None or not network.is_numbered:
        return
    numbers = [str(number) for number in range(network.num_classes)]
    for name in LABEL_COLUMNS:
        names = getattr(features.get(name), "names", None)
        if given_names(names) is not None and sorted(names) == sorted(numbers):
            raise UserError(
                f"{name_of(network.estimator)} knows its classes as numbers, and the column {name} has these numbers "
                f"as names in another order ({_listed(names)}), so that nothing says whether 2 is the number or the "
                "name: pass class_names, the names of the classes 0, 1, 2 and so on"
            )


def _check_kind(network: EstimatorNetwork, features: Mapping[str, Any]) -> None:
    """UserError if a column of labels is of classes, and the estimator predicts something else than one of them."""
    for name in LABEL_COLUMNS:
        if isinstance(features.get(name), datasets.ClassLabel) and network.problem_type != Categorical.problem_type:
            raise UserError(
                f"{name_of(network.estimator)} predicts {IN_WORDS[network.problem_type]}, and the column {name} holds "
                "one class a row: pass a classifier that was fitted on these classes"
            )


def _check_whole(table: pd.DataFrame, network: EstimatorNetwork) -> None:
    missing = table.isna().any(axis=0)
    if missing.any():
        raise UserError(
            f"a value of column {table.columns[missing.argmax()]} is missing, and {name_of(network.estimator)} takes "
            "none: leave such rows out (on_error='skip'), or fit a pipeline that begins with SimpleImputer()"
        )


def _values(values: Sequence[Any], feature: Any) -> Any:
    """Return a column's values as pandas has them, NaN where one is missing."""
    dtype, missing = str(getattr(feature, "dtype", "")), any(value is None for value in values)
    if dtype.startswith(("float", "double")) or (dtype.startswith(("int", "uint")) and missing):
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    if dtype.startswith(("int", "uint", "bool")) and not missing:
        return np.array(values)
    return pd.Series([np.nan if value is None else value for value in values], dtype=object)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(list(names)[:6]) + ", ..." * (len(names) > 6)
