"""Soft labels are written into a dataset's columns, as Arrow arrays that are made without a loop over the rows."""

import json
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch

from ..utils.checks import check_choice
from ..utils.deprecation import renamed_arguments
from ..utils.errors import UserError
from .columns import PROBS, RECORD, VARIANCE, column, soft_label_columns
from .identity import EXAMPLE_ID
from .record import LabelRecord, encode_record
from .storage import STORAGES, check_parts, encode


@renamed_arguments(provenance="record")
def attach(
    dataset: datasets.Dataset,
    probs: np.ndarray,
    record: LabelRecord | dict[str, Any],
    variance: np.ndarray | None = None,
    example_ids: np.ndarray | None = None,
    storage: str = "float16",
    name: str | None = None,
    top_k: int = 10,
) -> datasets.Dataset:
    """Add soft labels that were computed elsewhere to a dataset; columns of the same name are replaced.

    Args:
        dataset: N rows.
        probs: [N, C], or [N, V, C].
        record: what made them; a dict needs ``format``, ``temperature`` and ``tempering`` and may have the other keys
            of :class:`~hf_bkd.soft_labels.record.LabelRecord`.
        variance: shaped as ``probs``, or with a last dimension of 1.
        example_ids: int64 [N].
        storage: one of `storage.STORAGES`.
        name: the teacher's name, if there are several.
        top_k: k of that storage.

    Raises:
        UserError: not one distribution per row, a variance of another shape, an unknown storage, or a record that
            could not be read back.
    """
    check_choice(STORAGES, storage=storage)
    if len(probs) != len(dataset):
        raise UserError(f"{len(probs)} rows of soft labels were given for a dataset of {len(dataset)} rows")
    if not isinstance(record, LabelRecord):
        record = LabelRecord.from_json(json.loads(json.dumps(record)))
    return attach_table(dataset, encoded_table(probs, variance, example_ids, storage, top_k), record, name)


def attach_table(
    dataset: datasets.Dataset, table: pa.Table, record: LabelRecord, name: str | None = None
) -> datasets.Dataset:
    """``dataset`` with the columns of :func:`encoded_table` and their record."""
    columns = {
        column(kind, name) if kind != EXAMPLE_ID else kind: (table[kind], _feature_of(table.schema.field(kind).type))
        for kind in table.column_names
    }
    feature = datasets.ClassLabel(names=[encode_record(record)])
    columns[column(RECORD, name)] = pa.array(np.zeros(len(table), np.int64)), feature
    stale = {*columns, column(VARIANCE, name)}
    return with_columns(dataset.remove_columns([old for old in dataset.column_names if old in stale]), columns)


def with_columns(
    dataset: datasets.Dataset, columns: dict[str, tuple[pa.Array | pa.ChunkedArray, Any]]
) -> datasets.Dataset:
    """``dataset`` and further columns: name -> their values and their feature."""
    for name, (array, feature) in columns.items():
        dataset = dataset.add_column(name, combined(array), feature=feature)
    return dataset


def label_set(table: pa.Table, record: LabelRecord, name: str | None = None) -> datasets.Dataset:
    """The same columns as a dataset without images or texts, which can be shared where those may not."""
    rows = datasets.Dataset.from_dict({"row": np.arange(len(table))})
    return only_soft_labels(attach_table(rows, table, record, name))


def only_soft_labels(dataset: datasets.Dataset) -> datasets.Dataset:
    """A dataset's soft-label columns and ``example_id``, by which `join_soft_labels` finds their images again."""
    return dataset.with_format(None).select_columns(soft_label_columns(dataset))


def encoded_table(
    probs: np.ndarray,
    variance: np.ndarray | None,
    example_ids: np.ndarray | None,
    storage: str,
    top_k: int,
) -> pa.Table:
    """The encoded columns of some rows, all but the record; see :func:`attach`."""
    probs = np.asarray(probs)
    shape = probs.shape
    if len(shape) not in (2, 3) or shape[-1] < 2:
        raise UserError(
            "soft labels must be [rows, classes] or [rows, views, classes] with at least two classes, and these are "
            f"{list(shape)}"
        )
    probs = probs[:, None] if len(shape) == 2 else probs
    check_parts({"probs": torch.from_numpy(probs.astype(np.float32))}, probs.shape[-1])
    parts = {name: _fixed_lists(values) for name, values in encode(probs, storage, top_k).items()}
    is_struct = "classes" in parts
    table = {PROBS: pa.StructArray.from_arrays(list(parts.values()), list(parts)) if is_struct else parts["probs"]}
    if variance is not None:
        variance = np.asarray(variance)
        if variance.shape not in (shape, (*shape[:-1], 1)):
            raise UserError(f"the variance is {variance.shape} and the probabilities are {shape}")
        if not (np.isfinite(variance).all() and (variance >= 0).all()):
            raise UserError("a variance is negative or no finite number: the teacher's draws must have diverged")
        variance = variance.reshape(*probs.shape[:2], variance.shape[-1])
        wide = storage == "float32" or variance.shape[-1] == 1
        table[VARIANCE] = _fixed_lists(variance.astype(np.float32 if wide else np.float16))
    if example_ids is not None:
        table[EXAMPLE_ID] = pa.array(example_ids, pa.int64())
    return pa.table(table)


def combined(array: pa.ChunkedArray | pa.Array) -> pa.Array:
    """An Arrow column as one array."""
    whole = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


def _fixed_lists(values: np.ndarray) -> pa.Array:
    """[N, V, L] -> N lists of V * L."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))


def _feature_of(kind: pa.DataType) -> Any:
    if pa.types.is_struct(kind):
        return {field.name: _feature_of(field.type) for field in kind}
    if pa.types.is_fixed_size_list(kind):
        return datasets.List(_feature_of(kind.value_type), length=kind.list_size)
    return datasets.Value({"halffloat": "float16", "float": "float32"}.get(str(kind), str(kind)))
