"""Labels that were shared without their images or texts, and anybody's own copy of these."""

import datasets
import numpy as np

from ..utils.errors import UserError
from .arrow import PROBS
from .columns import only_soft_labels, read, with_columns
from .identity import EXAMPLE_ID, content_column, dataset_ids
from .layout import column, soft_label_columns, teachers_of
from .record import check_class_names

TOLD = 3


def join_soft_labels(
    examples: datasets.Dataset, labels: datasets.Dataset, allow_unrecorded: bool = False
) -> datasets.Dataset:
    """Give each example the soft labels that were made for it, wherever they stand.

    Args:
        examples: N images or texts, in any order; all that were labeled, or some of them.
        labels: soft-label columns with ``example_id``, such as :func:`only_soft_labels` leaves; in any order.
        allow_unrecorded: whether labels may be used that don't say what made them.

    Returns:
        ``examples`` with the columns of ``labels``. Examples that are equal get equal ids: where the labels of such
        differ, as those of a cross-fitted teacher may, each of the examples gets one of them.

    Raises:
        UserError: examples without labels, with their number and the first of their ids; ids that occur more often
            than they were labeled; labels that are no distributions, of other classes, or without ids or record.
    """
    names = teachers_of(labels.column_names)
    if not names or EXAMPLE_ID not in labels.column_names:
        raise UserError(
            f"the labels need teacher_probs and {EXAMPLE_ID}, and they have only "
            f"{', '.join(labels.column_names) or 'rows without columns'}"
        )
    content = content_column(examples.features)
    if content is None:
        raise UserError(f"nothing in the columns {', '.join(examples.column_names)} tells what an example is")
    try:
        own = np.asarray(labels.with_format(None)[EXAMPLE_ID][:], dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"column {EXAMPLE_ID} of the labels holds something else than whole numbers") from None
    for name in names:
        record = read(labels, name).provenance
        if record is None and not allow_unrecorded:
            raise UserError(
                f"{column(PROBS, name)} has no teacher_provenance, so nobody can tell what made it: pass "
                "allow_unrecorded=True if you know"
            )
        check_class_names(record, examples.features)
        _check_repetitions(own, record)
    rows = _matches(dataset_ids(examples, content), own)
    matched = only_soft_labels(labels).select(rows).flatten_indices()
    kept = examples.remove_columns(soft_label_columns(examples))
    table = matched.with_format("arrow")[:]
    return with_columns(kept, {name: (table[name], matched.features[name]) for name in matched.column_names})


def _matches(wanted: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The row that has each wanted id; the k-th of equal ones gets the k-th such row, cyclically."""
    order = np.argsort(own, kind="stable")
    first, after = (np.searchsorted(own[order], wanted, side) for side in ("left", "right"))
    missing = np.flatnonzero(first == after)
    if len(missing):
        told = ", ".join(str(wanted[row]) for row in missing[:TOLD])
        raise UserError(
            f"{len(missing)} of {len(wanted)} examples have no soft labels (the first ids: {told}): the labels were "
            "made for other images, another split or another size; label these with add_soft_labels"
        )
    by_id = np.argsort(wanted, kind="stable")
    nth = np.empty(len(wanted), np.int64)
    ordered = wanted[by_id]
    nth[by_id] = np.arange(len(wanted)) - np.searchsorted(ordered, ordered, "left")
    return order[first + nth % (after - first)]


def _check_repetitions(ids: np.ndarray, record: dict | None) -> None:
    expected = ((record or {}).get("dataset") or {}).get("repeated_ids")
    repeated = len(ids) - len(np.unique(ids))
    if expected is not None and repeated > expected:
        values, counts = np.unique(ids, return_counts=True)
        told = ", ".join(str(value) for value in values[counts > 1][:TOLD])
        raise UserError(
            f"{repeated} rows of the labels repeat an {EXAMPLE_ID} and {expected} did when they were made (the first: "
            f"{told}): rows were added twice, or ids got lost; load the labels again"
        )
