"""Labels that were shared without their images or texts are joined with anybody's own copy of these."""

import datasets
import numpy as np
import torch
from torch import Tensor

from ..data.caches import caches_elsewhere
from ..data.columns import EXAMPLE_ID
from ..utils.errors import UserError
from .belonging import NAMED, Facts, check_belonging, check_one_labeling
from .columns import check_reserved, read_record, soft_label_columns, teachers_of
from .identity import Identity
from .in_memory import SoftLabels
from .lists import owners
from .reading import read
from .record import LabelRecord
from .writing import only_soft_labels, with_columns

COMPARED_AT_ONCE = 8192  # rows
TOLERANCE = 0.02  # in Likelihood.distance, of a teacher whose draws depend on the batch


def join_soft_labels(
    examples: datasets.Dataset, labels: datasets.Dataset, allow_unrecorded: bool = False
) -> datasets.Dataset:
    """Give each example the soft labels that were made for it, in whatever row they are.

    Args:
        examples: N images or texts, in any order; all that were labeled, or some of them.
        labels: soft-label columns with ``example_id``, as :func:`only_soft_labels` returns them; in any order.
        allow_unrecorded: whether labels without a record of what made them may be used.

    Returns:
        ``examples`` with the columns of ``labels``. Examples that are equal get equal ids: where the labels of such
        differ, as those of a cross-fitted teacher may, each of the examples gets one of them.

    Raises:
        UserError: examples without labels, with their number and the first of their ids; examples that lack a column
            which the ids are of; ids that occur more often than they were labeled, or with different labels; labels
            that are no distributions, of other classes, or without ids or record; a column of the user's own that has
            the name of soft labels.
    """
    names = teachers_of(labels.column_names)
    if not names or EXAMPLE_ID not in labels.column_names:
        raise UserError(
            f"the labels need teacher_probs and {EXAMPLE_ID}, and they have only "
            f"{', '.join(labels.column_names) or 'rows without columns'}"
        )
    check_reserved(examples.features)
    try:
        ids = np.asarray(labels.with_format(None)[EXAMPLE_ID][:], dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"column {EXAMPLE_ID} of the labels holds something else than whole numbers") from None
    unrecorded = None if allow_unrecorded else "allow_unrecorded"
    facts = Facts(features=examples.features, unrecorded=unrecorded, label_set_ids=ids)
    identity = _identity(examples, read_record(labels.features, names[0]))
    for name in names:
        own = read(labels, name)
        check_belonging(own.layout, facts)
        check_one_labeling(ids, own.record)
        _check_repeated(own, ids)
    rows = _matches(identity.of_dataset(examples), ids)
    with caches_elsewhere(labels):
        matched = only_soft_labels(labels).select(rows).flatten_indices()
    table = matched.with_format("arrow")[:]
    columns = {name: (table[name], matched.features[name]) for name in matched.column_names}
    return with_columns(examples.remove_columns(soft_label_columns(examples)), columns)


def _identity(examples: datasets.Dataset, record: LabelRecord | None) -> Identity:
    """What the labels' ids are of; UserError if the examples lack it."""
    dataset_record = None if record is None else record.dataset
    identity = Identity.of(dataset_record, examples.features)
    if identity is None:
        needed = ((dataset_record and dataset_record.identity) or {}).get("columns") or []
        missing = [name for name in needed if name not in examples.column_names]
        if len(needed) > 1:
            raise UserError(
                f"the labels were made for the columns {', '.join(needed)}, and the examples lack "
                f"{', '.join(missing)}: join them to a dataset that has these columns"
            )
        raise UserError(f"nothing in the columns {', '.join(examples.column_names)} tells what an example is")
    return identity


def _check_repeated(labels: SoftLabels, ids: np.ndarray) -> None:
    """UserError if equal ids have different labels: then the ids don't tell whose labels are whose.

    Those of cross-fitted teachers may: equal examples in several folds are labeled by several teachers.
    """
    if labels.record is not None and labels.record.folds is not None:
        return
    order = np.argsort(ids, kind="stable")
    again = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    for start in range(0, len(again), COMPARED_AT_ONCE):
        block = again[start : start + COMPARED_AT_ONCE]
        pairs = [torch.from_numpy(order[block + step].copy()) for step in (0, 1)]
        distance = _distances(labels, *pairs)
        if (distance > TOLERANCE).any():
            place = block[int((distance > TOLERANCE).nonzero()[0])]
            raise UserError(
                f"rows {order[place]} and {order[place + 1]} of the labels have the same {EXAMPLE_ID} and different "
                "labels, so that nobody can tell which are whose: label these examples with add_soft_labels"
            )


def _distances(labels: SoftLabels, first: Tensor, second: Tensor) -> Tensor:
    """How far the labels of rows are from those of others [B]; infinite where they have other numbers of tokens."""
    likelihood = labels.layout.likelihood
    scale = labels.scale
    if labels.lengths is None:
        return likelihood.distance(labels.rows(first), labels.rows(second), scale).flatten(1).amax(dim=1)
    lengths, others = labels.lengths[first], labels.lengths[second]
    same = lengths == others
    distances = likelihood.distance(labels.rows(first[same]), labels.rows(second[same]), scale)[:, 0]
    result = torch.full(lengths.shape, torch.inf)
    largest = torch.zeros(int(same.sum()))
    result[same] = largest.index_reduce(0, owners(lengths[same]), distances, "amax")
    return result


def _matches(wanted: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The row of ``ids`` that has each wanted id; the k-th of equal ones gets the k-th such row, cyclically."""
    order = np.argsort(ids, kind="stable")
    first, after = (np.searchsorted(ids[order], wanted, side) for side in ("left", "right"))
    missing = np.flatnonzero(first == after)
    if len(missing):
        first_ids = ", ".join(str(wanted[row]) for row in missing[:NAMED])
        raise UserError(
            f"{len(missing)} of {len(wanted)} examples have no soft labels (the first ids: {first_ids}): the labels "
            "were made for other images, another split or another size; label these with add_soft_labels"
        )
    by_id = np.argsort(wanted, kind="stable")
    nth = np.empty(len(wanted), np.int64)
    ordered = wanted[by_id]
    nth[by_id] = np.arange(len(wanted)) - np.searchsorted(ordered, ordered, "left")
    return order[first + nth % (after - first)]
