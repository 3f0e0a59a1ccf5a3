"""Soft labels are written into a dataset's columns, as Arrow arrays that are made without a loop over the rows."""

import hashlib
import json
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch

from ..data.columns import EXAMPLE_ID
from ..utils.checks import check_choice
from ..utils.deprecation import renamed_arguments
from ..utils.errors import UserError
from .columns import PROBS, RECORD, VARIANCE, check_reserved, column, is_record_column, soft_label_columns
from .record import LabelRecord, decode_record, encode_record
from .storage import STORAGES, check_parts, encode

ZEROS = 4096  # rows that are written at once


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
    """``dataset`` with the columns of :func:`encoded_table` and their record.

    Where other teachers' labels stand beside them, their records say of the ids what this one does: there is one
    ``example_id`` for all.
    """
    check_reserved(dataset.features)
    columns = label_columns(table, record, name)
    stale = {*columns, column(VARIANCE, name)}
    dataset = dataset.remove_columns([old for old in dataset.column_names if old in stale])
    if EXAMPLE_ID in columns and (record.dataset.identity or record.dataset.content_column) is not None:
        dataset = _with_ids_of(dataset, record)
    return with_columns(dataset, columns)


def label_columns(table: pa.Table, record: LabelRecord, name: str | None = None) -> dict[str, tuple[Any, Any]]:
    """The columns of :func:`encoded_table` and their record: name -> their values and their feature."""
    columns = {
        column(kind, name) if kind != EXAMPLE_ID else kind: (table[kind], _feature_of(table.schema.field(kind).type))
        for kind in table.column_names
    }
    return columns | {column(RECORD, name): (_zeros(len(table)), _feature_of_record(record))}


def _feature_of_record(record: LabelRecord) -> datasets.ClassLabel:
    return datasets.ClassLabel(names=[encode_record(record)])


def _zeros(number: int) -> pa.ChunkedArray:
    """Zeros, int64 [N], of which only some are in memory."""
    zeros = pa.array(np.zeros(min(number, ZEROS), np.int64))
    whole, rest = divmod(number, ZEROS)
    return pa.chunked_array([zeros] * whole + [zeros[:rest]], pa.int64())


def _with_ids_of(dataset: datasets.Dataset, record: LabelRecord) -> datasets.Dataset:
    """The dataset, whose records of labels say of its ids what ``record`` does."""
    said = {
        name: record.dataset.json.get(name) for name in ("content_column", "identity", "fingerprint", "repeated_ids")
    }
    said = {name: value for name, value in said.items() if name != "identity" or value is not None}
    features = dataset.features.copy()
    for name in filter(is_record_column, dataset.column_names):
        content = decode_record(features[name]).to_json()
        about = {key: value for key, value in (content.get("dataset") or {}).items() if key != "identity"} | said
        if about != content.get("dataset"):
            features[name] = _feature_of_record(LabelRecord.from_json(content | {"dataset": about}))
    return dataset if features == dataset.features else _with_features(dataset, features)


def _with_features(dataset: datasets.Dataset, features: datasets.Features) -> datasets.Dataset:
    """The dataset with records that say something else; its rows stay where they are."""
    changed = [name for name in features if features[name] != dataset.features[name]]
    columns = {name: (_zeros(len(dataset)), features[name]) for name in changed}
    order = dataset.column_names
    return with_columns(dataset.remove_columns(changed), columns).select_columns(order)


def with_record(dataset: datasets.Dataset, name: str, record: LabelRecord) -> datasets.Dataset:
    """The dataset with another record in the column ``name``."""
    features = dataset.features.copy()
    features[name] = _feature_of_record(record)
    return dataset if features == dataset.features else _with_features(dataset, features)


def with_columns(
    dataset: datasets.Dataset, columns: dict[str, tuple[pa.Array | pa.ChunkedArray, Any]]
) -> datasets.Dataset:
    """``dataset`` and further columns, which are not copied: name -> their values and their feature."""
    labels = dataset_of(columns)
    unformatted = set(dataset.column_names) - set(dataset.format["columns"])
    wide = datasets.concatenate_datasets([dataset, labels], axis=1)
    formatted = [name for name in wide.column_names if name not in unformatted] if unformatted else None
    form = dataset.format
    return wide.with_format(
        form["type"], formatted, output_all_columns=form["output_all_columns"], **form["format_kwargs"]
    )


def dataset_of(columns: dict[str, tuple[pa.Array | pa.ChunkedArray, Any]]) -> datasets.Dataset:
    """A dataset of Arrow columns, which are not copied: name -> their values and their feature."""
    features = datasets.Features({name: feature for name, (_, feature) in columns.items()})
    table = pa.table({name: values for name, (values, _) in columns.items()})
    table = table.cast(pa.schema(list(features.arrow_schema), metadata=features.arrow_schema.metadata))
    digest = hashlib.blake2b(table.schema.metadata[b"huggingface"], digest_size=8)
    for batch in table.to_batches(ZEROS):
        digest.update(batch.serialize())
    return datasets.Dataset(datasets.table.InMemoryTable(table), fingerprint=digest.hexdigest())


def label_set(table: pa.Table, record: LabelRecord, name: str | None = None) -> datasets.Dataset:
    """The same columns as a dataset without images or texts, which can be shared where those may not."""
    return dataset_of(label_columns(table, record, name))


def only_soft_labels(dataset: datasets.Dataset) -> datasets.Dataset:
    """A dataset's soft-label columns and ``example_id``, by which `join_soft_labels` finds their images again."""
    return dataset.with_format(None).select_columns(soft_label_columns(dataset))


def encoded_table(
    probs: np.ndarray,
    variance: np.ndarray | None,
    example_ids: np.ndarray | None,
    storage: str,
    top_k: int,
    numbers: np.ndarray | None = None,
) -> pa.Table:
    """The encoded columns of some rows, called ``numbers`` in messages, all but the record; see :func:`attach`."""
    probs = np.asarray(probs)
    shape = probs.shape
    if len(shape) not in (2, 3) or shape[-1] < 2:
        raise UserError(
            "soft labels must be [rows, classes] or [rows, views, classes] with at least two classes, and these are "
            f"{list(shape)}"
        )
    probs = probs[:, None] if len(shape) == 2 else probs
    check_parts({"probs": torch.from_numpy(probs.astype(np.float32))}, probs.shape[-1], numbers)
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
        table[VARIANCE] = _fixed_lists(variance.astype(np.float32))  # float16 would lose all below 6e-8
    if example_ids is not None:
        table[EXAMPLE_ID] = pa.array(example_ids, pa.int64())
    return pa.table(table)


def with_wide_variance(table: pa.Table) -> pa.Table:
    """The same columns with the variance in float32, where an earlier version wrote it in float16."""
    place = table.schema.get_field_index(VARIANCE)
    if place < 0 or table.schema.field(place).type.value_type != pa.float16():
        return table
    lists = combined(table[VARIANCE])
    values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return table.set_column(place, VARIANCE, _fixed_lists(values.reshape(len(table), -1)))


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
