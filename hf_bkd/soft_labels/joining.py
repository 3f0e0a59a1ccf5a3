"""Labels that were shared without their images or texts are joined with anybody's own copy of these."""

import datasets
import numpy as np

from ..utils.errors import UserError
from .belonging import NAMED, Facts, check_belonging
from .columns import soft_label_columns, teachers_of
from .identity import EXAMPLE_ID, content_column, dataset_ids
from .reading import read
from .writing import only_soft_labels, with_columns


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
        ids = np.asarray(labels.with_format(None)[EXAMPLE_ID][:], dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"column {EXAMPLE_ID} of the labels holds something else than whole numbers") from None
    unrecorded = None if allow_unrecorded else "allow_unrecorded"
    facts = Facts(features=examples.features, unrecorded=unrecorded, label_set_ids=ids)
    for name in names:
        check_belonging(read(labels, name).layout, facts)
    rows = _matches(dataset_ids(examples, content), ids)
    matched = only_soft_labels(labels).select(rows).flatten_indices()
    table = matched.with_format("arrow")[:]
    columns = {name: (table[name], matched.features[name]) for name in matched.column_names}
    return with_columns(examples.remove_columns(soft_label_columns(examples)), columns)


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
