"""The labels that a command's dataset has, in one column or in several, and what they are labels of."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.columns import add_labels, find_label
from ..data.label_values import are_hot, as_arrow, lengths_of
from ..data.labels import IN_WORDS, can_hold, problem_type_of_column, read_labels
from ..data.preprocessors.content import holds_words
from ..likelihoods import likelihood_from
from ..models.class_names import given_names, matching_places, with_variances
from ..training.problem import Problem
from ..utils.errors import UserError
from ..utils.limits import LIMITS

LABEL = "label"
FEW = 0.1  # share of the rows


def check_column(dataset: Any, name: str) -> None:
    """Raise a UserError if a dataset has no such column."""
    if name not in dataset.column_names:
        raise UserError(f"the dataset has no column {name!r}, only {', '.join(dataset.column_names)}")


def label_columns(dataset: Any, asked: Sequence[str] | None) -> list[str]:
    """Return the names of the columns of labels: those that were asked for, or the one that types and names tell.

    Raises:
        UserError: they are not there, or nothing tells one.
    """
    for name in asked or ():
        check_column(dataset, name)
    return list(asked or [find_label(dataset)])


def one_column(
    dataset: datasets.Dataset, columns: Sequence[str], classes: Sequence[str] | None
) -> tuple[datasets.Dataset, str, list[str] | None]:
    """Return a dataset with one column of labels, its name, and the names that several columns gave the labels.

    Several columns of numbers become one of lists, in the order of the network's own names if it has them.

    Args:
        dataset: N rows.
        columns: C of them, or the only one.
        classes: names of a network's values; ``None`` if they aren't known.

    Raises:
        UserError: a column of something else than numbers, a row with some of the labels, or other names.
    """
    if len(columns) == 1:
        return dataset, columns[0], None
    columns = _in_order(columns, given_names(classes))
    table = dataset.with_format("arrow").select_columns(columns)[:]
    for name in columns:
        if not pa.types.is_primitive(table[name].type) or pa.types.is_temporal(table[name].type):
            raise UserError(
                f"the column {name} holds {dataset.features[name]}, and several columns of labels are numbers: name "
                "one --label_column, or columns of zeros and ones"
            )
    whole = all(pa.types.is_integer(table[name].type) or pa.types.is_boolean(table[name].type) for name in columns)
    values = np.stack([_floats(table[name]) for name in columns], axis=1)
    missing = np.isnan(values)
    partly = np.flatnonzero(missing.any(axis=1) & ~missing.all(axis=1))
    if len(partly):
        lacking = columns[int(missing[partly[0]].argmax())]
        raise UserError(f"row {partly[0]} has no label in column {lacking}, and has others: mend it, or leave it out")
    rows = [None if gone else row for gone, row in zip(missing.all(axis=1), values.tolist(), strict=True)]
    feature = datasets.List(datasets.Value("int64" if whole else "float32"), length=len(columns))
    rows = [row and ([int(value) for value in row] if whole else row) for row in rows]
    return datasets.Dataset.from_dict({LABEL: rows}, datasets.Features({LABEL: feature})), LABEL, columns


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    return pc.cast(pc.cast(column, pa.int8()) if pa.types.is_boolean(column.type) else column, pa.float64()).to_numpy()


def _in_order(columns: Sequence[str], classes: Sequence[str] | None) -> list[str]:
    places = None if classes is None else matching_places(columns, classes)
    if classes is not None and (places is None or len(places) != len(classes)):
        raise UserError(
            f"the labels are in the columns {', '.join(columns)}, and the network's own are called "
            f"{', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}: pass these as --label_column"
        )
    return [columns[places.index(number)] for number in range(len(places))] if places else list(columns)


def problem_of(dataset: datasets.Dataset, labels: datasets.Dataset, name: str, problem_type: str | None) -> Problem:
    """Return the problem that labels pose a network that is yet to be made.

    A list of classes for each row is one for each of its words, if these are always as many.

    Args:
        dataset: N rows.
        labels, name: the same rows' labels, and their column.
        problem_type: what somebody says.
    """
    per_token = _are_of_words(dataset, labels, name)
    return Problem(likelihood_from(problem_type or problem_type_of_column(labels, name, per_token)), per_token)


def _are_of_words(dataset: datasets.Dataset, labels: datasets.Dataset, name: str) -> bool:
    feature = labels.features[name]
    inner = str(getattr(getattr(feature, "feature", None), "dtype", "float"))
    if inner.startswith(("float", "double")):
        return False
    words = [each for each, own in dataset.features.items() if (holds_words(own) or each == "input_ids")]
    lengths = _lengths(labels, name)
    for each in (each for each in words if each != name):
        expected = _lengths(dataset, each)
        wrong = np.flatnonzero(lengths != expected)
        if not len(wrong):
            return True
        if len(wrong) < FEW * len(lengths):  # a slip, and no other kind of labels
            first = wrong[0]
            raise UserError(
                f"row {first} of column {name} has {lengths[first]} labels, and its column {each} {expected[first]} "
                f"({len(wrong)} such rows): give each one label, or leave such rows out"
            )
    return False


def _lengths(dataset: datasets.Dataset, name: str) -> np.ndarray:
    column = as_arrow(dataset.with_format("arrow").select_columns([name])[:][name], name)
    return pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)


def with_labels(
    inputs: datasets.Dataset,
    labels: datasets.Dataset,
    name: str,
    names: Sequence[str] | None,
    classes: Sequence[str] | None,
    problem: Problem,
    form: str | None = None,
) -> datasets.Dataset:
    """Return inputs with a column ``label`` as a problem wants it.

    Args:
        inputs: N rows.
        labels, name: the same rows' labels, and their column.
        names: of the labels, where they stood in several columns.
        classes: of a network, in its order; those of the labels if not given.
        problem: that it answers.
        form: of the training set's labels, see :func:`~hf_bkd.data.labels.read_labels`.

    Raises:
        UserError: labels of another kind, or of other classes.
    """
    if problem.is_plain:
        if names is not None:
            raise UserError(
                f"the network predicts one class for each example, and --label_column names {len(names)} columns: "
                "name one, or pass --problem_type multi_label_classification or regression"
            )
        return add_labels(inputs, labels, name, classes)
    feature = labels.features[name]
    words = str(getattr(getattr(feature, "feature", feature), "dtype", "")) in ("string", "large_string")
    rows = labels.with_format(None)[name][:]
    if words and classes is None and can_hold(feature, name, problem.likelihood, problem.per_token):
        classes = sorted({value for row in rows if row is not None for value in row if value is not None})
        labels = labels.select_columns([name]).cast_column(name, datasets.List(datasets.ClassLabel(names=classes)))
        rows, feature = labels.with_format(None)[name][:], labels.features[name]
    if problem.likelihood.classes_in is None:
        width = None
    else:
        width = _number_in(rows, name, feature) if classes is None else len(classes)
    read = read_labels(labels, name, problem.likelihood, width, classes, problem.per_token, form)
    if classes is not None and width is not None:
        read(as_arrow(labels.with_format("arrow").select_columns([name])[:][name], name))  # each row is looked at
    if names is not None and problem.likelihood.classes_in is not None and are_hot(as_arrow(rows, name)):
        rows = [None if row is None else [place for place, value in enumerate(row) if value] for row in rows]
        feature = datasets.List(datasets.ClassLabel(names=list(names)))
    elif read.form == "set" and width is not None and _are_bare_numbers(feature):
        feature = datasets.List(datasets.ClassLabel(names=list(classes or map(str, range(width)))))
    elif str(getattr(feature, "dtype", "")).startswith(("int", "uint", "bool")):
        rows, feature = [None if row is None else float(row) for row in rows], datasets.Value("float64")
    return inputs.add_column(LABEL, rows, feature=feature)


def _are_bare_numbers(feature: Any) -> bool:
    single = getattr(feature, "feature", None)
    return isinstance(single, datasets.Value) and single.dtype.startswith(("int", "uint"))


def _number_in(rows: Sequence[Any], name: str, feature: Any) -> int | None:
    """Return how many labels there are, where rows list the numbers of those that are there; else ``None``."""
    column = as_arrow(rows, name)
    if not _are_bare_numbers(feature) or are_hot(column):
        return None
    number = (pc.max(column.flatten()).as_py() or 0) + 1
    LIMITS.check(f"column {name}", num_classes=number)
    return number


def outputs_of(names: list[str], problem: Problem, predict_variance: bool) -> list[str]:
    """Return the names of a new network's outputs; UserError if it is to predict variances of other than numbers."""
    if not predict_variance:
        return names
    if not problem.likelihood.target_has_variance:
        raise UserError(
            f"--predict_variance is for numbers, and the labels are {IN_WORDS[problem.likelihood.problem_type]}: "
            "omit it, or pass --problem_type regression"
        )
    return with_variances(names)


def names_of(rows: datasets.Dataset, problem: Problem, names: Sequence[str] | None = None) -> list[str]:
    """Return the names of what a column ``label`` holds, in order; made-up ones where they have none.

    Args:
        rows: of :func:`with_labels`.
        problem: that they pose.
        names: of the labels, where they stood in several columns.
    """
    feature = rows.features[LABEL]
    single = getattr(feature, "feature", feature)
    if isinstance(single, datasets.ClassLabel):
        return list(single.names)
    if names is not None:
        return list(names)
    column = as_arrow(rows.with_format("arrow").select_columns([LABEL])[:][LABEL], LABEL)
    lengths = lengths_of(column) if hasattr(feature, "feature") else np.ones(1, int)
    if problem.likelihood.classes_in is None:
        return [f"LABEL_{number}" for number in range(lengths.max(initial=1))]
    one_for_each = not problem.per_token and (str(single.dtype).startswith("float") or are_hot(column))
    number = int(lengths.max(initial=1)) if one_for_each else (pc.max(column.flatten()).as_py() or 0) + 1
    LIMITS.check(f"column {LABEL}", num_classes=number)
    return [str(each) for each in range(number)]
