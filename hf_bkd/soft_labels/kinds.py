"""Whether soft labels are of the kind, and of the classes, that a dataset and a student have."""

from collections.abc import Mapping
from typing import Any, Protocol

import datasets

from ..data.columns import LABEL_COLUMNS, LABELS
from ..data.labels import can_hold, in_words
from ..likelihoods import CATEGORICAL, Likelihood
from ..models.class_names import both_name, given_names, order_by_name
from ..models.token_networks import classifies_tokens, predicts_next_tokens
from ..utils.errors import UserError
from .identity import class_names
from .record import LabelRecord


class Labels(Protocol):
    """One teacher's labels: their column's name, C (0 if unknown), what made them, and whether tokens have them."""

    name: str
    num_classes: int
    record: LabelRecord | None

    @property
    def likelihood(self) -> Likelihood: ...

    @property
    def ragged(self) -> bool: ...


def check_tokenizer(labels: Labels, tokenizer: str | None) -> None:
    """Refuse labels of other tokens than the student's, whose tokenizer's hash is given where it is known."""
    teachers = None if labels.record is None else labels.record.tokenizer
    if None not in (teachers, tokenizer) and teachers != tokenizer:
        raise UserError(
            f"{labels.name} was made for the tokens of another tokenizer ({teachers}) than the student's "
            f"({tokenizer}): pass processing_class=, the teacher's tokenizer, or take a student that has the same"
        )


def check_class_count(
    name: str,
    num_classes: int,
    features: Mapping[str, Any],
    likelihood: Likelihood = CATEGORICAL,
    per_token: bool = False,
) -> None:
    """UserError if ``name`` has another number of classes than the label column, or than all that might be one."""
    in_lists = per_token or likelihood.classes_in == "list"
    singles = {n: getattr(f, "feature", None) if in_lists else f for n, f in features.items() if "teacher" not in n}
    own = {n: f.num_classes for n, f in singles.items() if isinstance(f, datasets.ClassLabel)}
    own = {column: count for column, count in own.items() if column in LABELS} or own
    if likelihood.classes_in and own and num_classes not in own.values():
        counts = " and ".join(f"{column} has {count}" for column, count in own.items())
        raise UserError(
            f"{name} has {num_classes} {likelihood.called} and the dataset's column {counts}: label it with a teacher "
            "of its classes"
        )


def check_class_names(labeled: list[str] | None, own: list[str] | None) -> None:
    """UserError if labels were made for other classes than the dataset's, where both name them."""
    if labeled is None or own is None or labeled == own:
        return
    if given_names(labeled) is None and not both_name(labeled, own):
        return
    where = next((i for i, pair in enumerate(zip(labeled, own, strict=False)) if pair[0] != pair[1]), None)
    difference = (
        f"{len(labeled)} classes against {len(own)}"
        if where is None
        else f"class {where} is {labeled[where]!r} there and {own[where]!r} here"
    )
    raise UserError(f"the soft labels were made for other classes than the dataset's: {difference}; label it again")


def check_label_kind(features: Mapping[str, Any], teacher: Any, per_token: bool | None = None) -> None:
    """Refuse a dataset whose labels, in a column of a usual name, are of another kind than the teacher's.

    Args:
        features: of the dataset.
        teacher: that is to label it.
        per_token: whether it has answered for each token; of a plain network's classifier nothing else tells it.
    """
    likelihood, own = kind_of(teacher)
    silent = likelihood.classes_in == "single" and not hasattr(getattr(teacher, "network", None), "config")
    kinds = (per_token,) if per_token is not None else (False, True) if silent else (own,)
    usual = {name: features[name] for name in LABEL_COLUMNS if name in features}
    number = getattr(teacher, "num_classes", None)
    try:
        unfit = [
            name
            for name, each in usual.items()
            if not any(can_hold(each, name, likelihood, kind, number) for kind in kinds)
        ]
    except UserError:  # a column that holds no labels
        return
    if usual and len(unfit) == len(usual):
        predicts = in_words(likelihood.problem_type, kinds == (True,))
        raise UserError(
            f"the teacher predicts {predicts}, and the dataset's column {unfit[0]} holds {usual[unfit[0]]}: take a "
            f"teacher of its kind (its network's problem_type says which), or pass dataset.remove_columns({unfit}) if "
            "these are labels of something else"
        )


def kind_of(teacher: Any) -> tuple[Likelihood, bool]:
    """Return what a teacher's values are of, and whether it says that it answers for each token of an example."""
    network = getattr(teacher, "network", None)
    own = network is not None and (classifies_tokens(network) or predicts_next_tokens(network))
    return getattr(teacher, "likelihood", CATEGORICAL), getattr(teacher, "per_token", own)


def is_language_model(teacher: Any) -> bool:
    """Return whether a teacher says what token comes next."""
    network = getattr(teacher, "network", None)
    return network is not None and predicts_next_tokens(network)


def class_order(teacher: Any, features: Mapping[str, Any]) -> list[int] | None:
    """Return the places among a teacher's classes of a dataset's, by name; ``None`` where its answers are in order."""
    own = class_names(features, *kind_of(teacher))
    column = next((name for name, each in features.items() if _names_in(each) == own), "label")
    cast = "datasets.ClassLabel(names=teacher.class_names)"
    cast = f"datasets.List({cast})" if hasattr(features.get(column), "feature") else cast
    remedy = f"pass dataset.cast_column({column!r}, {cast})"
    return order_by_name(getattr(teacher, "class_names", None), own, "the teacher", "the dataset", remedy)


def _names_in(feature: Any) -> list[str] | None:
    return getattr(getattr(feature, "feature", feature), "names", None)
