"""Class numbers of a training: labels and soft labels are brought to the order of the student's outputs."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
from torch import Tensor, nn

from ..data.columns import LABEL_COLUMNS, is_label, is_soft_label_column
from ..data.label_values import LabelColumn
from ..data.labels import read_labels
from ..likelihoods import Likelihood
from ..models.class_names import (
    both_name,
    check_not_shuffled,
    given_names,
    matching_places,
    names_of_network,
    order_by_name,
    unmatched,
)
from ..soft_labels.columns import read_record, teachers_of
from ..soft_labels.record import LabelRecord
from ..utils.errors import UserError
from .problem import Problem

logger = logging.getLogger(__name__)


def label_column(features: Mapping[str, Any], asked: Sequence[str] | None = None) -> str | None:
    """Return the name of the column that holds the labels; ``None`` if there is none.

    Args:
        features: of the dataset.
        asked: the trainer's ``label_names``, of which the first that is there wins. Otherwise it is the first of
            ``labels``, ``label``, ``label_ids`` and ``fine_label``, or else the only `datasets.ClassLabel`, or list
            of such, or of tokens' tags.
    """
    usual = ("labels", "label", "label_ids", *LABEL_COLUMNS)
    named = [name for name in (*(asked or ()), *usual) if name in features]
    classes = [
        name for name, feature in features.items() if is_label(name, feature) and not is_soft_label_column(name)
    ]
    if not named and len(classes) > 1:
        raise UserError(
            f"the dataset has several columns of classes ({', '.join(classes)}): pass label_names=[{classes[0]!r}] to "
            "the training arguments"
        )
    return next(iter(named or classes), None)


def check_one_label(dataset: datasets.Dataset, name: str) -> None:
    """Raise a UserError if another column of a usual name has other class numbers than the column of labels."""
    for other in ({"labels", "label", "label_ids"} & {*dataset.column_names}) - {name}:
        both = [str(getattr(dataset.features[each], "dtype", "")) for each in (name, other)]
        if all(dtype.startswith(("int", "uint")) for dtype in both) and dataset[other][:] != dataset[name][:]:
            raise UserError(
                f"the columns {name} and {other} hold different labels: pass dataset.remove_columns({other!r}), or "
                f"dataset.remove_columns({name!r}) if these are wrong"
            )


def places_among(names: Sequence[str], classes: Sequence[str], whose: str, remedy: str) -> list[int]:
    """Return the place among ``classes``, the student's, of each of ``names``, which are those of ``whose``.

    Raises:
        UserError: one of them is not among the student's; it says the ``remedy`` where they are the same classes.
    """
    places = matching_places(names, classes)
    if places is None:
        raise UserError(unmatched(names, classes, whose, "the student", remedy))
    return places


def read_column(
    dataset: Any, name: str, classes: Sequence[str] | None, problem: Problem, form: str | None = None
) -> LabelColumn:
    """Say how a column of labels is read for a problem; see :func:`~hf_bkd.data.labels.read_labels`."""
    if problem.is_plain:
        return _read_label_column(dataset.features, name, classes, problem.num_values)
    return read_labels(dataset, name, problem.likelihood, problem.num_values, classes, problem.per_token, form)


def _read_label_column(
    features: Mapping[str, Any], name: str, classes: Sequence[str] | None, num_classes: int | None
) -> LabelColumn:
    """Say how a column of one label for each row is read.

    Args:
        features: of the dataset.
        name: of the column.
        classes, num_classes: names of the student's classes in order, and their number, where they are known.

    Raises:
        UserError: the classes are not the student's, or the column holds something else than classes.
    """
    feature = features[name]
    if isinstance(feature, datasets.ClassLabel):
        named = both_name(feature.names, classes)
        remedy = f"pass dataset.cast_column({name!r}, datasets.ClassLabel(names={list(classes or ())}))"
        places = places_among(feature.names, classes, f"the column {name}", remedy) if named else None
        in_order = places is None or places == list(range(len(places)))
        return LabelColumn(name, "class", num_classes, None if in_order else tuple(places))
    dtype = str(getattr(feature, "dtype", ""))
    if _are_texts(feature):
        if classes is None:
            raise UserError(
                f"the column {name} holds names, and nothing says which number each has: use "
                f"dataset.class_encode_column({name!r}), or set the student's config.id2label"
            )
        return LabelColumn(name, "class", num_classes, names=tuple(classes))
    if dtype.startswith(("int", "uint", "float", "double", "bool", "null")):
        check_not_shuffled(name, classes)
        return LabelColumn(name, "class", num_classes)
    raise UserError(
        f"the labels in column {name} are neither class numbers nor names but {feature}: only one class for each row "
        "can be taught"
    )


def check_number_of_outputs(
    features: Mapping[str, Any], name: str, classes: Sequence[str] | None, num_classes: int
) -> None:
    """Refuse a student that has another number of outputs than its labels have classes.

    Args:
        features: of the training set.
        name: of its column of labels.
        classes: names of the student's classes, where they are known; those of labels may be some of them.
        num_classes: of the student.

    Raises:
        UserError: a class without an output, or outputs that no label can have and no name explains.
    """
    several = hasattr(features[name], "feature")
    single = features[name].feature if several else features[name]
    own = getattr(single, "names", None) or (classes if _are_texts(single) else None)
    if not own or len(own) == num_classes or (both_name(own, classes) and len(own) < len(classes) == num_classes):
        return
    wider = f"datasets.ClassLabel(num_classes={num_classes})"
    wider = f"datasets.List({wider})" if several else wider
    more = f", or, if there are to be more, pass dataset.cast_column({name!r}, {wider})"
    more = more if len(own) < num_classes and not _are_texts(single) else ""
    raise UserError(
        f"the student has {num_classes} outputs, and the column {name} {len(own)} classes: build it with {len(own)} "
        f"(num_classes= of timm, num_labels= of transformers){more}"
    )


def _are_texts(feature: Any) -> bool:
    return str(getattr(feature, "dtype", "")) in ("string", "large_string")


def _names_of_column(features: Mapping[str, Any] | None, name: str | None) -> list[str] | None:
    """Return the names that a column of labels has for its classes, be they numbers; ``None`` if it has none."""
    feature = None if features is None or name is None else features[name]
    feature = getattr(feature, "feature", feature)  # of a list
    return feature.names if isinstance(feature, datasets.ClassLabel) else None


def names_of_soft_labels(record: LabelRecord | None, dataset: Any) -> list[str] | None:
    """Return the names of the classes of soft labels in their order: their record's, or the dataset's own."""
    if record is not None and record.class_names:
        return record.class_names
    features = getattr(dataset, "features", None)
    if features is None:
        return getattr(dataset, "class_names", None)
    return _names_of_column(features, label_column(features))


def order_of(names: Sequence[str] | None, classes: Sequence[str] | None, whose: str) -> list[int] | None:
    """Return the places among ``names`` of the student's ``classes``; ``None`` where they are the same, or unknown.

    Raises:
        UserError: they are other classes.
    """
    remedy = f"set the student's config.id2label to {dict(enumerate(names or ()))}"
    return order_by_name(names, classes, whose, "the student", remedy)


def classes_of_student(
    student: nn.Module, dataset: Any, label_names: Sequence[str] | None, alphabetical: bool
) -> list[str] | None:
    """Return the names of the student's classes in the order of its outputs; ``None`` where nobody says them.

    Args:
        student: its config's names come first, then those of the soft labels, then those of the column of labels.
        dataset: the training set.
        label_names: of the trainer's arguments.
        alphabetical: whether bare names in a column of labels may be numbered in alphabetical order, since nothing
            else numbers them.
    """
    own = names_of_network(student)
    names = own if given_names(own) else _names_of_data(dataset, label_names, alphabetical)
    return own if own is not None and (names is None or both_name(own, names)) else names


def _names_of_data(dataset: Any, label_names: Sequence[str] | None, alphabetical: bool) -> list[str] | None:
    """Return the names of classes that a training set's soft labels or labels say; numbers are no names there."""
    features = getattr(dataset, "features", None)
    if features is None:
        return getattr(dataset, "class_names", None)
    for teacher in teachers_of(list(features)):
        names = names_of_soft_labels(read_record(features, teacher), None)
        if given_names(names) is not None:
            return names
    column = label_column(features, label_names)
    feature = None if column is None else features[column]
    several = hasattr(feature, "feature")
    bare = column is not None and _are_texts(feature.feature if several else feature)
    if alphabetical and bare and isinstance(dataset, datasets.Dataset):
        rows = [row for row in dataset.with_format(None)[column][:] if row is not None]
        return sorted({name for row in rows for name in (row if several else [row]) if name is not None})
    return given_names(_names_of_column(features, column))


def in_order(values: Tensor, order: Sequence[int] | None) -> Tensor:
    """Return values [..., C] in the order of the student's outputs."""
    return values if order is None else values[..., order]


def warn_of_missing(labels: Tensor | list[Tensor], name: str, likelihood: Likelihood) -> None:
    """Warn of rows without a label."""
    if isinstance(labels, list):  # of tokens, most of which have none
        missing = sum(not likelihood.labeled(each).any() for each in labels)
    else:
        missing = int((~likelihood.labeled(labels)).sum())
    if missing:
        logger.warning(
            "%d of %d rows have no label in column %s, and learn from soft labels alone, if at all (a CSV file's NA, "
            "None and null are read as missing: keep_default_na=False keeps them)",
            missing,
            len(labels),
            name,
        )


def warn_of_more_outputs(feature: Any, name: str, highest: int, num_classes: int | None) -> None:
    """Warn of a student with more outputs than bare numbers reach; where the classes have names it is refused."""
    if isinstance(feature, datasets.Value) and "int" in feature.dtype and 0 <= highest < (num_classes or 0) - 1:
        logger.warning(
            "the labels of column %s go up to %d, and the student has %d outputs: build it with as many as there are "
            "classes, unless some are in no row",
            name,
            highest,
            num_classes,
        )
