"""Whether soft labels belong to the examples that they stand beside, and to the student that is to learn from them."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.columns import EXAMPLE_ID
from ..data.views import Views
from ..utils.errors import UserError
from .identity import class_names, fingerprint
from .kinds import Labels, check_class_count, check_class_names, check_tokenizer
from .record import LabelRecord
from .record_parts import NEXT_TOKENS
from .storage import EXACT

NAMED = 3  # ids in a message
MOST_LOST = 1e-3  # probability of a class whose own is stored as 0, once it is raised to a temperature


@dataclass(frozen=True)
class Facts:
    """What is known of the examples and of the student; what is ``None`` or not given is not compared.

    Args:
        features: of the dataset's columns, for the number and the names of its classes.
        num_classes: of the student: its number of classes, labels or numbers.
        tokenizer: hash of the student's, see :func:`~hf_bkd.data.preprocessors.tokenizer_hash`.
        unrecorded: the argument that allows labels without a record, if they are not allowed.
        image_size: [channels, height, width] of the images.
        largest_label: the largest of the dataset's labels.
        preprocessing: of the student's images, as ``ImagePreprocessor.to_dict()``.
        shows_views: whether views of the examples can be shown.
        temperature: T_t that the labels are to have.
        ids: what the labels were made for, int64 [N], by the column beside them.
        example_ids: what the examples are, int64 [N].
        rows: numbers in the dataset of the N rows that the ids are of, where they are not all.
        label_set_ids: ids of all labels of a set, in any order, that examples are to be found in.
    """

    features: Mapping[str, Any] | None = None
    num_classes: int | None = None
    tokenizer: str | None = None
    unrecorded: str | None = None
    image_size: Sequence[int] | None = None
    largest_label: int | None = None
    preprocessing: Mapping[str, Any] | None = None
    shows_views: bool = True
    temperature: float | None = None
    ids: np.ndarray | None = None
    example_ids: np.ndarray | None = None
    rows: np.ndarray | None = None
    label_set_ids: np.ndarray | None = None


def check_belonging(labels: Labels, facts: Facts) -> None:
    """Refuse labels that don't belong to a dataset and a student of which this is known.

    Raises:
        UserError: labels without a record; of another number of classes than the student's, or of other names; of
            other images, texts, tokens or rows; of views that can't be shown; of another normalization; at a
            temperature from which they can't be brought to the one asked for, or stored too coarsely for it.
    """
    name, record, called = labels.name, labels.record, labels.likelihood.called
    kind = labels.likelihood, labels.ragged
    check_tokenizer(labels, facts.tokenizer)
    if facts.features is not None and labels.num_classes:
        check_class_count(name, labels.num_classes, facts.features, *kind)
    if facts.features is not None and record is not None:
        check_class_names(record.class_names, class_names(facts.features, *kind))
    if record is not None:
        _check_image_size(name, record.dataset.image_size, facts.image_size)
    if facts.ids is not None and facts.example_ids is not None:
        check_identity(facts.ids, facts.example_ids, facts.rows)
    if record is not None and record.views and not facts.shows_views:
        raise UserError(
            f"{name} was made for augmented views of each image, which a stream, a transform or a data_collator can't "
            "show again: pass the dataset of images itself, loaded without streaming"
        )
    if record is None and facts.unrecorded is not None:
        raise UserError(
            f"{name} has no teacher_provenance, so nobody can tell which examples and classes it was made for: "
            f"label with add_soft_labels, or pass {facts.unrecorded}=True if you know that it belongs here"
        )
    if facts.num_classes is not None and facts.num_classes != labels.num_classes:
        raise UserError(
            f"{name} has {labels.num_classes} {called} and the model has {facts.num_classes}: build the student with "
            f"{labels.num_classes} {called}, or label the dataset with another teacher"
        )
    if facts.largest_label is not None and facts.largest_label >= labels.num_classes:
        raise UserError(
            f"{name} has {labels.num_classes} classes and the dataset's labels go up to {facts.largest_label}: label "
            "it with a teacher of its classes"
        )
    if record is not None:
        _check_preprocessing(record.preprocessing or {}, facts.preprocessing or {})
        _check_temperature(name, record, facts.temperature)
        _check_repetitions(record.dataset.repeated_ids, facts.label_set_ids)


def check_identity(expected: np.ndarray, actual: np.ndarray, rows: np.ndarray | None = None) -> None:
    """UserError unless the ids stored with the labels are those of the rows that carry them.

    Args:
        expected, actual: int64 [N], stored and computed.
        rows: their numbers in the dataset, where not all of its rows are compared.
    """
    wrong = np.flatnonzero(expected != actual)
    if len(wrong):
        raise UserError(
            f"the soft labels of {len(wrong)} of {len(actual)} rows{'' if rows is None else ' looked at'} were made "
            f"for other examples (first: row {wrong[0] if rows is None else rows[wrong[0]]}): they come from another "
            "dataset, split or order; label this dataset with add_soft_labels"
        )


def check_one_labeling(ids: np.ndarray, record: LabelRecord | None) -> None:
    """UserError if there are more examples than the record is of: rows of several labelings, of which it is one's.

    Libraries that put files together keep the record of the first one.

    Args:
        ids: int64 [N], of the rows.
        record: the only one that they have.
    """
    if record is None or record.dataset.rows is None:
        return
    distinct, most = len(np.unique(ids)), record.dataset.rows - (record.dataset.repeated_ids or 0)
    if distinct > most:
        raise UserError(
            f"{distinct} different examples have soft labels whose record is of {most}: files of several labelings "
            "were loaded together, which keeps the record of the first alone; load each by itself, and join its "
            "labels to its own examples"
        )


def shared_views(labels: Sequence[Labels], own: Views | None, example_ids: np.ndarray | None) -> Views | None:
    """The views in which labels and images are both seen: the labels' views if they have some, or the dataset's own.

    Args:
        labels: of each teacher.
        own: the views that the dataset was made with.
        example_ids: int64 [N], of the dataset.

    Raises:
        UserError: teachers that labeled different views, or labels of other views than the dataset's, or of mixtures
            with images that the dataset lacks.
    """
    views = [None if each.record is None else each.record.shown_views() for each in labels]
    if any(each != views[0] for each in views):
        raise UserError(f"the teachers labeled different views ({views}): label them all with the same views")
    labeled = views[0] if views else None
    if labeled is None:
        if labels and own is not None:
            warnings.warn(
                "the soft labels are of the images as they are, and the student sees them augmented, which is known "
                "to make it overfit: label the same views with add_soft_labels(views=...)",
                stacklevel=3,
            )
        return own
    if own is not None and not own.allow(labeled):
        raise UserError(
            f"the soft labels are of {labeled}, and this dataset was made with {own}: omit views, the labels know "
            "theirs"
        )
    if example_ids is None:
        raise UserError("labels of views need a dataset with example_ids, by which each view is drawn")
    if labeled.mixing is not None and labels[0].record.dataset.fingerprint != fingerprint(example_ids):
        raise UserError(
            f"the labeled views mix each image with others of the whole dataset, by {labeled.mixing}, and some "
            "of it are not here: use all the images that were labeled"
        )
    return labeled


def _check_image_size(name: str, labeled: list[int] | None, own: Sequence[int] | None) -> None:
    if labeled is not None and own is not None and labeled != list(own):
        raise UserError(
            f"{name} was made for images of [channels, height, width] {labeled}, and these are {list(own)}: use the "
            "images that were labeled"
        )


def _check_preprocessing(labeled: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    if any(labeled.get(key, value) != value for key, value in own.items()):
        raise UserError(
            f"the teacher saw images normalized with {labeled}, this dataset is prepared with {own}: use the same "
            "ImagePreprocessor for both"
        )


def _check_temperature(name: str, record: LabelRecord, wanted: float | None) -> None:
    stored, storage = record.temperature, record.storage or EXACT
    if wanted is None or wanted == stored:
        return
    if record.positions == NEXT_TOKENS:
        raise UserError(
            f"{name} is of next tokens at temperature {stored:g}, and what is sampled or cut there has a bias at "
            f"{wanted:g}: omit teacher_temperature, or label again with teacher.temperature = {wanted:g}"
        )
    if not record.likelihood.smallest:
        raise UserError(f"{name} is of a regression, where a temperature means nothing: omit teacher_temperature")
    if stored != 1 and record.tempering == "per_sample":
        raise UserError(
            f"{name} was averaged over draws at temperature {stored:g} and can't be brought to {wanted:g}: omit "
            "teacher_temperature, or label again"
        )
    if wanted > stored and storage != EXACT:
        raise UserError(
            f"{name} is stored as {storage}, which loses the small probabilities, and at temperature {wanted:g} they "
            f"would count: label with teacher.temperature = {wanted:g}, or with storage='float32'"
        )
    smallest = record.likelihood.smallest
    lost = smallest ** (stored / wanted)
    if wanted > stored and lost > MOST_LOST:
        raise UserError(
            f"{name} holds no probability below {smallest:.1g}, and at temperature {wanted:g} such a class would have "
            f"up to {lost:.2g}: label with teacher.temperature = {wanted:g}"
        )


def _check_repetitions(expected: int | None, ids: np.ndarray | None) -> None:
    if expected is None or ids is None:
        return
    repeated = len(ids) - len(np.unique(ids))
    if repeated > expected:
        values, counts = np.unique(ids, return_counts=True)
        first = ", ".join(str(value) for value in values[counts > 1][:NAMED])
        raise UserError(
            f"{repeated} rows of the labels repeat an {EXAMPLE_ID} and {expected} did when they were made (the first: "
            f"{first}): rows were added twice, or ids got lost; load the labels again"
        )
