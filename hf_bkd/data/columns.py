"""Columns of a dataset: which hold the images, texts and labels, and how a network numbers its classes."""

from collections.abc import Sequence
from typing import Any

import datasets

from ..likelihoods import UNLABELED
from ..models.class_names import check_not_shuffled, given_names, matching_places
from ..utils.errors import UserError
from ..utils.limits import LIMITS

EXAMPLE_ID = "example_id"
RENAMED = "own_"  # before the name of a column that a user had, and soft labels need
PROBS, VARIANCE, RECORD = "teacher_probs", "teacher_variance", "teacher_provenance"
MEAN, NOISE = "teacher_mean", "teacher_noise"  # of a regression, in the place of the probabilities
TOKEN_IDS = "teacher_tokens"  # beside probabilities of some tokens of a vocabulary: which these are
LOG_PROBS = "teacher_mean_log_probs"
VALUES = (PROBS, MEAN)
BESIDE = (VARIANCE, NOISE, LOG_PROBS)  # what may stand beside the values
LABELS = ("label", "labels", "label_ids")  # which the Trainer takes for labels too
LABEL_COLUMNS = (*LABELS, "fine_label")  # where labels are looked for, and which are never a network's inputs
LABELS_OF_TOKENS = ("ner_tags", "pos_tags", "chunk_tags", "tags")


def is_soft_label_column(name: str) -> bool:
    """Whether a column belongs to this library and not to a model's inputs."""
    return name == EXAMPLE_ID or name.split("__")[0] in (*VALUES, TOKEN_IDS, *BESIDE, RECORD)


def is_label(name: str, feature: Any) -> bool:
    """Whether a column holds what an example is to be called, not the example."""
    return name in LABEL_COLUMNS or isinstance(feature, datasets.ClassLabel) or holds_label_lists(name, feature)


def holds_label_lists(name: str, feature: Any) -> bool:
    """Return whether a column holds a list of classes for each row: of its tokens, or those that are there."""
    is_list = isinstance(feature, (datasets.List, datasets.LargeList))
    return is_list and (name in LABELS_OF_TOKENS or isinstance(feature.feature, datasets.ClassLabel))


def find_columns(dataset: datasets.Dataset) -> tuple[str, str]:
    """Return the names of the image and the label column.

    Raises:
        UserError: there is none of either, or labels are no numbers.
    """
    image, label = find_input(dataset, "image"), find_label(dataset)
    feature = dataset.features[label]
    if not _is_number(feature):
        raise UserError(
            f"the labels in column {label} are not class numbers but {feature}: use "
            f"dataset.class_encode_column({label!r})"
        )
    return image, label


def find_input(dataset: datasets.Dataset, kind: str, beside: str | None = None) -> str:
    """Return the name of the first column of images, or of the only one of texts (``kind``).

    Columns of labels and the column ``beside`` don't count.

    Raises:
        UserError: there is none, or there are several of texts and not one of them is called text or sentence.
    """
    others = (*LABEL_COLUMNS, beside)
    names = [name for name, feature in dataset.features.items() if _holds(feature, kind) and name not in others]
    if kind == "text" and len(names) > 1:
        names = [name for name in names if name in ("text", "sentence")] or names
        if len(names) > 1:
            raise UserError(f"the dataset has several columns of texts ({', '.join(names)}): pass --input_column")
    if not names:
        raise UserError(f"the dataset has no column of {kind}s, only {', '.join(dataset.column_names)}")
    return names[0]


def find_label(dataset: datasets.Dataset, classes: Sequence[str] | None = None) -> str:
    """Return the name of the label column: of a usual name, or the only one of lists of classes.

    Args:
        dataset: its features.
        classes: names of a network's classes, by which one of several columns of lists is chosen.

    Raises:
        UserError: there is none, or there are several of lists.
    """
    usual = next((name for name in LABEL_COLUMNS if name in dataset.features), None)
    if usual is not None:
        return usual
    lists = [name for name, feature in dataset.features.items() if holds_label_lists(name, feature)]
    if len(lists) > 1 and classes is not None:
        lists = [name for name in lists if _are_classes_of(dataset.features[name].feature, classes)] or lists
    if len(lists) > 1:
        first, *others = lists
        raise UserError(
            f"the dataset has several columns of labels ({', '.join(lists)}): pass "
            f"dataset.remove_columns({others!r}), or --label_column {first}, if {first} is the one that is meant"
        )
    if not lists:
        raise UserError(
            f"the dataset has no labels column (label, labels or fine_label), only {', '.join(dataset.column_names)}"
        )
    return lists[0]


def _are_classes_of(feature: Any, classes: Sequence[str]) -> bool:
    names = getattr(feature, "names", None)
    return names is not None and len(names) == len(classes) and matching_places(names, classes) is not None


def has_labels(dataset: datasets.Dataset) -> bool:
    """Return whether there is a label column, of a usual name or of lists of classes."""
    return any(name in LABEL_COLUMNS or holds_label_lists(name, each) for name, each in dataset.features.items())


def _holds(feature: object, kind: str) -> bool:
    if kind == "image":
        return isinstance(feature, datasets.Image)
    return getattr(feature, "dtype", "") in ("string", "large_string")


def _is_number(feature: object) -> bool:
    return str(getattr(feature, "dtype", "")).startswith(("int", "uint"))


def class_numbers(dataset: datasets.Dataset, column: str) -> list[int]:
    """Return the class numbers of all rows in a column, -1 where a row has no label.

    Raises:
        UserError: a value that is missing, no whole number, below -1 or above the column's last class, or a number
            that asks for more classes than ``LIMITS.num_classes``.
    """
    feature, values = dataset.features[column], dataset.with_format(None)[column][:]
    if not _is_number(feature):
        raise UserError(
            f"the labels in column {column} are not class numbers but {feature}: use "
            f"dataset.class_encode_column({column!r})"
        )
    for row, value in enumerate(values):
        if value is None:
            raise UserError(
                f"row {row} of column {column} has no label: leave such rows out with "
                f"dataset.filter(lambda row: row[{column!r}] is not None)"
            )
    _check_class_numbers(feature, values, column)
    return [-1 if value == UNLABELED else value for value in values]


def _check_class_numbers(feature: object, values: list[int | None], column: str) -> None:
    classes = getattr(feature, "num_classes", None)
    for row, value in enumerate(values):
        if value not in (None, UNLABELED) and not -1 <= value < (classes or LIMITS.num_classes):
            if value < -1 or classes:
                raise UserError(
                    f"row {row} of column {column} has the class number {value}, which must be "
                    f"{f'0 to {classes - 1}' if classes else 'at least 0'}, or -1 for no label: mend the labels"
                )
            LIMITS.check(f"row {row} of column {column}", num_classes=value + 1)


def as_image_classification(dataset: datasets.Dataset) -> datasets.Dataset:
    """Return only two columns, called ``image`` and ``label``."""
    image, label = find_columns(dataset)
    dataset = dataset.select_columns([image, label])
    return dataset.rename_columns({old: new for old, new in ((image, "image"), (label, "label")) if old != new})


def as_classification(
    dataset: datasets.Dataset,
    kind: str,
    classes: Sequence[str] | None = None,
    input_column: str | None = None,
    label_column: str | None = None,
) -> datasets.Dataset:
    """Return only two columns: ``image`` or ``text``, and ``label``, numbered as a network numbers its classes.

    Args:
        dataset: N rows; labels are a ClassLabel, numbers or names, and -1 or ``None`` where there is none.
        kind: ``"image"`` or ``"text"``.
        classes: the network's C names. Labels go by name where the dataset has the same ones, in whatever order and
            case, and by number where one side's are made up (``LABEL_0``, ``0``). If not given, the dataset's own;
            bare names in alphabetical order.
        input_column, label_column: names of the columns, where types and usual names don't identify them.

    Returns:
        N rows; ``label`` is a ClassLabel of C classes, -1 where there is none.

    Raises:
        UserError: no such columns, or other classes than the network's.
    """
    label = label_column or find_label(dataset)
    _check_column(dataset, label)
    inputs = as_inputs(dataset, kind, input_column or find_input(dataset, kind, beside=label))
    return add_labels(inputs, dataset, label, classes)


def add_labels(
    inputs: datasets.Dataset, dataset: datasets.Dataset, label: str, classes: Sequence[str] | None
) -> datasets.Dataset:
    """Return ``inputs`` with the labels of the same rows of ``dataset``; see :func:`as_classification`."""
    names, numbers = numbered_labels(dataset, label, classes)
    return inputs.add_column("label", numbers, feature=datasets.ClassLabel(names=names))


def label_names(dataset: datasets.Dataset, label: str) -> list[str]:
    """Return the names of a label column's classes in order; bare names in alphabetical order."""
    return numbered_labels(dataset, label, None)[0]


def as_inputs(dataset: datasets.Dataset, kind: str, input_column: str | None = None) -> datasets.Dataset:
    """Return only the column ``image`` or ``text`` (``kind``); UserError if ``input_column`` is not of that kind."""
    column = input_column or find_input(dataset, kind)
    _check_column(dataset, column)
    if not _holds(dataset.features[column], kind):
        raise UserError(f"the column {column!r} holds no {kind}s but {dataset.features[column]}")
    dataset = dataset.select_columns([column])
    return dataset if column == kind else dataset.rename_column(column, kind)


def _check_column(dataset: datasets.Dataset, name: str) -> None:
    if name not in dataset.column_names:
        raise UserError(f"the dataset has no column {name!r}, only {', '.join(dataset.column_names)}")


def numbered_labels(
    dataset: datasets.Dataset, label: str, classes: Sequence[str] | None
) -> tuple[list[str], list[int]]:
    """Return the classes' names in the network's order, and each row's number among them, -1 where it has no label.

    Args:
        dataset: N rows.
        label: the label column: a ClassLabel, numbers or names.
        classes: the network's names, in order; the column's own if not given. Labels go by name where both have the
            same ones, and by number where one side's are made up.

    Raises:
        UserError: other classes than the network's, or labels that are neither numbers nor names.
    """
    feature, values = dataset.features[label], dataset.with_format(None)[label][:]
    if _is_number(feature):
        _check_class_numbers(feature, values, label)
    if isinstance(feature, datasets.ClassLabel):
        own = feature.names
        known = list(classes or own)
        places = matching_places(own, known)
        differ = places is None and None not in (given_names(own), given_names(known))
        places = places or list(range(len(own)))
        names = [name for _, name in sorted(zip(places, own, strict=True))]
        numbers = dict(enumerate(places))
        fits = len(own) == len(known) and not differ
    elif _holds(feature, "text"):
        own = sorted({value for value in values if value is not None})
        known = names = list(classes or own)
        places = matching_places(own, known)
        numbers = dict(zip(own, places or (), strict=False))
        fits = places is not None
    elif getattr(feature, "dtype", "") == "bool":
        known, own = list(classes or ("False", "True")), ["False", "True"]
        places = matching_places(own, known) or ([0, 1] if given_names(known) is None else None)
        names, numbers = (known if classes else own), dict(zip((False, True), places or (), strict=False))
        fits = places is not None and len(known) == len(own)
    elif _is_number(feature) and _are_named_numbers(values, classes):
        names, own = list(classes), list(classes)
        known, fits, numbers = own, True, {int(name): place for place, name in enumerate(names)}
    elif _is_number(feature):
        check_not_shuffled(label, classes)
        highest = max((value for value in values if value is not None), default=-1)
        own = [str(number) for number in range(max(highest + 1, len(classes or ())))]
        known = names = list(classes or own)
        numbers = {number: number for number in range(len(own))}
        fits = len(own) == len(known)
    else:
        raise UserError(f"the labels in column {label} are neither class numbers nor names but {feature}")
    if not fits:
        raise UserError(
            f"the network knows {_listed(known)}, and the column {label} has {_listed(own)}: take a network or "
            "a label column (--label_column) that fits, or, if they are the same in the same order, give the "
            "network's config.id2label the column's names"
        )
    return names, [numbers.get(value, -1) for value in values]


def _are_named_numbers(values: Sequence[int | None], classes: Sequence[str] | None) -> bool:
    """Whether a network's classes are called as the numbers of a column are, such as 3 to 8, and not just numbered."""
    names = list(classes or ())
    if not names or set(names) == {str(number) for number in range(len(names))}:
        return False
    numbers = {str(value) for value in values if value not in (None, -1, UNLABELED)}
    return all(name.isdecimal() for name in names) and numbers <= set(names)


def _listed(names: list[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
