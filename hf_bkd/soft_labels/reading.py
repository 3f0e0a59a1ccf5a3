"""Soft labels are read from a dataset's columns and checked: one teacher's, or all that a student is to learn from."""

from dataclasses import replace
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
from torch import Tensor

from ..data.columns import BESIDE, EXAMPLE_ID, LOG_PROBS, NOISE
from ..data.rows import rows_between
from ..dirichlet import check_log_probs
from ..utils.deprecation import warn_renamed
from ..utils.errors import UserError
from .belonging import Facts, check_belonging, check_identity, check_one_labeling
from .columns import column, read_record, teachers_of
from .identity import Identity, content_column, dataset_ids
from .in_memory import SoftLabels
from .layout import Layout
from .lists import (
    check_lengths,
    combined,
    is_list_of_numbers,
    lengths_of,
    lists_of,
    number_of_tokens,
    numbers_of,
    uneven,
)
from .record import LabelRecord

SPOT_CHECKED_ROWS = 256
READ_AT_ONCE = 2**14  # rows whose labels are checked at once
TEXTS_AT_ONCE = 2**8  # and those with labels of all of their tokens


def read(dataset: datasets.Dataset | Any, name: str | None = None) -> SoftLabels:
    """Read and check all soft labels of one teacher; a :class:`~hf_bkd.BatchedDataset` has them in memory.

    Whether they are of these very rows is checked by :func:`stored_labels` and by ``BatchedDataset``.

    Args:
        dataset: with soft labels.
        name: the teacher's, if there are several.

    Raises:
        UserError: no such column, one of another shape, rows that are not distributions, an unreadable record, or
            other classes than the dataset's.
    """
    return dataset.soft_labels(name) if hasattr(dataset, "soft_labels") else _read(dataset, name)


def _read(dataset: datasets.Dataset, name: str | None, first: int = 0) -> SoftLabels:
    """The labels of rows that are called ``first`` and so on."""
    layout = Layout.of(dataset.features, name)
    names = {kind: layout.beside(kind) for kind in BESIDE if layout.beside(kind) in dataset.column_names}
    values = [each for each in (layout.name, layout.token_ids) if each is not None]
    table = dataset.with_format("arrow", columns=[*values, *names.values(), *_inputs(dataset, layout)])[:]
    flat, lengths = layout.flat_parts({each: combined(table[each]) for each in values})
    layout = layout.with_width(flat["probs"].shape[-1])
    check_belonging(layout, Facts(features=dataset.features))
    parts, numbers = layout.parts(flat), np.arange(first, first + len(dataset))
    if lengths is not None:
        for each in _inputs(dataset, layout):
            check_lengths(layout.name, lengths, number_of_tokens(each, combined(table[each])), numbers)
        numbers = np.repeat(numbers, lengths)
    layout.check(parts, numbers)
    beside = {kind: _variance(dataset, table, each, layout, lengths) for kind, each in names.items()}
    if NOISE in beside and not (beside[NOISE] > 0).all():
        row = numbers[int((~(beside[NOISE] > 0)).flatten(1).any(dim=1).nonzero()[0])]
        raise UserError(
            f"row {row} of column {names[NOISE]} holds a variance that is not above 0: label again, or remove "
            "this column"
        )
    if LOG_PROBS in beside:
        check_log_probs(beside[LOG_PROBS], f"column {names[LOG_PROBS]}", numbers)
        if beside[LOG_PROBS].shape[-1] != layout.num_classes:
            raise uneven(names[LOG_PROBS])
    return SoftLabels(layout, parts, beside, lengths)


def _variance(dataset: datasets.Dataset, table: pa.Table, name: str, layout: Layout, lengths: Tensor | None) -> Tensor:
    """The variance or noise in a column [N, V, C], or [N, V, 1]; N are T for tokens."""
    feature, rows = dataset.features[name], combined(table[name])
    by_class = is_list_of_numbers(getattr(feature, "feature", None))
    if not (is_list_of_numbers(feature) or (layout.ragged and by_class)):
        raise UserError(f"column {name} holds {feature}, not a list of numbers per row")
    if lengths is not None:
        check_lengths(name, lengths_of(rows, name), lengths)
        rows = rows.flatten()
    is_flat = lengths is not None and not by_class  # one number a token
    return layout.variance(numbers_of(rows)[:, None] if is_flat else lists_of(rows, name))


def _inputs(dataset: datasets.Dataset, layout: Layout) -> list[str]:
    """The column that says how many tokens an example has, if labels of tokens were made for such columns."""
    if layout.next_tokens:  # padding has an entry too
        return ["input_ids"] if "input_ids" in dataset.column_names else []
    read = dataset.column_names if layout.record is None else _columns_of_ids(layout.record)
    names = [name for name in ("attention_mask", "input_ids") if name in dataset.column_names and name in read]
    names = [name for name in names if is_list_of_numbers(dataset.features[name])]
    return names[:1] if layout.ragged else []


def _checked_layout(dataset: datasets.Dataset, name: str | None) -> Layout:
    """How all labels of one teacher are to be read, after they were checked some rows at a time."""
    layout, size = None, READ_AT_ONCE
    if Layout.of(dataset.features, name).next_tokens:
        size = TEXTS_AT_ONCE
    for start in range(0, max(len(dataset), 1), size):
        rows = rows_between(dataset, start, min(start + size, len(dataset)))
        before, layout = layout, _read(rows, name, start).layout
        if before is not None and before.num_classes != layout.num_classes:
            raise uneven(layout.name)
    return layout


def read_provenance(features: datasets.Features, name: str | None = None) -> dict | None:
    """The old name of :func:`read_record`; returns the record as plain JSON."""
    warn_renamed("read_provenance", "read_record")
    record = read_record(features, name)
    return None if record is None else record.to_json()


def bytes_per_example(dataset: datasets.Dataset) -> float:
    """How many bytes the values of one row, in all of its views, take in Arrow."""
    layouts = [Layout.of(dataset.features, teacher) for teacher in teachers_of(dataset.column_names)]
    names = [name for each in layouts for name in (each.name, each.token_ids) if name is not None]
    table = dataset.with_format("arrow", columns=names)[:]
    return sum(table[name].nbytes for name in names) / max(len(dataset), 1)


class Stored(NamedTuple):
    """One teacher's labels in a training set: their layout, their temperature, and the one that is wanted of them."""

    layout: Layout
    temperature: float
    wanted: float


def stored_labels(
    dataset: Any,
    wanted: float | None,
    num_classes: int | None,
    allow_unrecorded: bool = False,
    shows_views: bool = False,
) -> dict[str, Stored]:
    """Check all labels of a training set, once, before the first step.

    Args:
        dataset: a `datasets.Dataset`, a streamed one, or a :class:`~hf_bkd.BatchedDataset`.
        wanted: T_t; ``None`` for that of the labels.
        num_classes: of the student, where it is known.
        allow_unrecorded: whether labels without a record may be used.
        shows_views: whether views of the images of a `datasets.Dataset` can be shown.

    Returns:
        The labels by the name of their ``teacher_probs`` or ``teacher_mean`` column.

    Raises:
        UserError: no such column, labels that are no distributions, labels that don't belong to this dataset and
            student (see :func:`~hf_bkd.soft_labels.belonging.check_belonging`), or several temperatures.
    """
    names = list(getattr(dataset, "column_names", None) or [])
    if not names and isinstance(dataset, datasets.IterableDataset):
        raise UserError(
            "the stream doesn't say what its columns are, as after map: pass map(..., features=stream.features), with "
            "the features of the stream before, which hold the record of its soft labels"
        )
    if not teachers_of(names):
        raise UserError(
            f"the training set has no teacher_probs column (only {', '.join(names) or 'unnamed ones'}): add it with "
            "add_soft_labels, or train with kd_lambda=0"
        )
    stored = {}
    for teacher in teachers_of(names):
        layout, facts = _layout_and_facts(dataset, teacher)
        unrecorded = None if allow_unrecorded else "allow_unrecorded_labels"
        if not shows_views and not hasattr(dataset, "soft_labels"):
            facts["shows_views"] = False
        student = {"num_classes": num_classes, "temperature": wanted, "unrecorded": unrecorded}
        check_belonging(layout, Facts(**facts, **student))
        stored[layout.name] = Stored(layout, layout.temperature, wanted or layout.temperature)
    if len({each.wanted for each in stored.values()}) > 1:
        temperatures = ", ".join(f"{name} at {each.temperature:g}" for name, each in stored.items())
        raise UserError(
            f"the teachers' labels are stored at different temperatures ({temperatures}): pass teacher_temperature"
        )
    return stored


def _stored_ids(dataset: datasets.Dataset, record: LabelRecord | None) -> np.ndarray | None:
    """Ids int64 [N] of the rows that the soft labels were made for; ``None`` if there never were any.

    Raises:
        UserError: the labels' record says that there were, but they are gone.
    """
    if EXAMPLE_ID in dataset.column_names:
        ids = dataset.with_format("arrow", columns=[EXAMPLE_ID])[:][EXAMPLE_ID].to_numpy()
        if ids.dtype != np.int64:
            raise UserError(f"column {EXAMPLE_ID} of the labels holds something else than whole numbers: label again")
        check_one_labeling(ids, record)
        return ids
    if record is not None and (record.dataset.content_column or record.dataset.identity) is not None:
        raise UserError(
            f"the soft labels came with a column {EXAMPLE_ID} and it is gone, so that nobody can tell whether they "
            "are these rows' own: keep it beside them, or label this dataset with add_soft_labels"
        )
    return None


def _layout_and_facts(dataset: Any, teacher: str | None) -> tuple[Layout, dict[str, Any]]:
    """A teacher's labels, checked as far as the kind of dataset allows, and what is known of the examples."""
    if hasattr(dataset, "soft_labels"):
        layout = dataset.soft_labels(teacher).layout
        return replace(layout, name=column(layout.likelihood.column, teacher)), {}
    if isinstance(dataset, datasets.Dataset):
        layout = _checked_layout(dataset, teacher)
        return layout, _spot_checked_ids(dataset, layout.record)
    if not isinstance(dataset, datasets.IterableDataset):
        raise UserError(
            f"soft labels can't be read from a {type(dataset).__name__}: pass a datasets.Dataset or a BatchedDataset"
        )
    layout = Layout.of(dataset.features, teacher)
    if layout.num_classes < layout.likelihood.least_values:
        raise UserError(
            f"the features of the stream don't tell how many classes {layout.name} has: cast the column to "
            "datasets.List(datasets.Value('float32'), length=C), or load the dataset without streaming"
        )
    return layout, {"features": dataset.features}


def _spot_checked_ids(dataset: datasets.Dataset, record: LabelRecord | None) -> dict[str, np.ndarray]:
    """The ids stored beside evenly spaced rows, and those of their content, where that can be read."""
    ids, identity = _stored_ids(dataset, record), _present_identity(dataset, record)
    if ids is None or identity is None:
        return {}
    rows = np.arange(0, len(dataset), max(1, len(dataset) // SPOT_CHECKED_ROWS))
    some = dataset if len(rows) == len(dataset) else dataset.select(rows)
    return {"ids": ids[rows], "example_ids": identity.of_dataset(some), "rows": rows}


def _present_identity(dataset: datasets.Dataset, record: LabelRecord | None) -> Identity | None:
    """What tells the rows apart, if they still have it: a text that was turned into tokens can't be recognized."""
    identity = Identity.of(None if record is None else record.dataset, dataset.features)
    if identity is None or set(identity.columns) <= set(_columns_of_ids(record)):
        return identity
    (column_name,) = identity.columns  # of another name than there, as an image that was renamed
    return identity if isinstance(dataset.features[column_name], datasets.Image) else None


def _columns_of_ids(record: LabelRecord | None) -> list[str]:
    if record is None:
        return []
    return (record.dataset.identity or {}).get("columns") or [record.dataset.content_column]


def ids_to_compare(
    dataset: datasets.Dataset, record: LabelRecord | None, own: np.ndarray | None
) -> dict[str, np.ndarray | None]:
    """The ids of labeled rows to compare with ``own``, those of the same rows as they are kept elsewhere.

    Rows that are kept know themselves by their image or text. Labels that were made for more than that, or for
    something else, are compared with the dataset that they stand in, and this with the rows.

    Raises:
        UserError: the labels stand beside other rows than they were made for.
    """
    ids, content = _stored_ids(dataset, record), content_column(dataset.features)
    columns = _columns_of_ids(record)
    identity = _present_identity(dataset, record) if len(columns) > 1 or columns[:1] != [content] else None
    if identity is None and content is None:  # what the ids are of is not here any more
        return {"ids": None}
    if ids is None or own is None or identity is None or identity.columns == (content,):
        return {"ids": ids}
    check_identity(ids, identity.of_dataset(dataset))
    return {"ids": None if content is None else dataset_ids(dataset, content)}
