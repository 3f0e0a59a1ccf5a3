"""Soft labels are written into a dataset's columns, as Arrow arrays that are made without a loop over the rows."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch

from ..data.caches import caches_elsewhere
from ..data.columns import BESIDE, EXAMPLE_ID, LOG_PROBS, NOISE, RECORD, TOKEN_IDS, VALUES, VARIANCE
from ..dirichlet import check_log_probs
from ..likelihoods import Likelihood
from ..utils.deprecation import renamed_arguments
from ..utils.errors import UserError
from .columns import check_reserved, column, is_record_column, soft_label_columns
from .lists import as_lists, combined
from .record import LabelRecord, decode_record, encode_record
from .record_parts import NEXT_TOKENS
from .storage import EXACT, check_parts, chosen_storage, encode, shape_error

ZEROS = 4096  # rows that are written at once


@renamed_arguments(provenance="record")
def attach(
    dataset: datasets.Dataset,
    probs: np.ndarray,
    record: LabelRecord | dict[str, Any],
    variance: np.ndarray | None = None,
    example_ids: np.ndarray | None = None,
    storage: str = "auto",
    name: str | None = None,
    top_k: int = 10,
    noise: np.ndarray | None = None,
    lengths: np.ndarray | None = None,
    log_probs: np.ndarray | None = None,
) -> datasets.Dataset:
    """Add soft labels that were computed elsewhere to a dataset; columns of the same name are replaced.

    Args:
        dataset: N rows.
        probs: [N, C], or [N, V, C]: class probabilities, or what the record's ``problem_type`` says: probabilities of
            labels that are each there or not, or a regression's means. [T, C] of the tokens of all rows.
        record: what made them; a dict needs ``format``, ``temperature`` and ``tempering`` and may have the other keys
            of :class:`~hf_bkd.soft_labels.record.LabelRecord`.
        variance: shaped as ``probs``, or with a last dimension of 1.
        example_ids: int64 [N].
        storage: one of `storage.STORAGES`; ``"auto"`` is float16, and float32 for a regression.
        name: the teacher's name, if there are several.
        top_k: k of that storage.
        noise: of a regression, shaped as ``probs``: the labels' variance around the teacher's draws.
        lengths: int [N], with sum T, where there is a label for each token of a row; the record's ``positions`` are
            then ``"tokens"``.
        log_probs: shaped as ``probs``: the logarithms of class probabilities, averaged over the draws.

    Raises:
        UserError: not one answer per row, a variance or logarithms of another shape, an unknown storage, or a record
            that could not be read back.
    """
    if not isinstance(record, LabelRecord):
        record = LabelRecord.from_json(json.loads(json.dumps(record)))
    if record.positions == NEXT_TOKENS:
        raise UserError("labels of next tokens are made by add_soft_labels alone: label with a language model")
    storage = chosen_storage(storage, record.likelihood)
    rows = len(probs if lengths is None else lengths)
    if rows != len(dataset):
        raise UserError(f"{rows} rows of soft labels were given for a dataset of {len(dataset)} rows")
    if (lengths is None) == (record.positions is not None):
        raise UserError("labels of tokens need both lengths and a record whose positions are 'tokens'")
    beside = {VARIANCE: variance, NOISE: noise, LOG_PROBS: log_probs}
    beside = {kind: values for kind, values in beside.items() if values is not None}
    table = encoded_table(probs, beside, example_ids, storage, top_k, None, record.likelihood, lengths)
    return attach_table(dataset, table, record, name)


def attach_table(
    dataset: datasets.Dataset, table: pa.Table, record: LabelRecord, name: str | None = None
) -> datasets.Dataset:
    """``dataset`` with the columns of :func:`encoded_table` and their record.

    Where other teachers' labels stand beside them, their records say of the ids what this one does: there is one
    ``example_id`` for all.
    """
    check_reserved(dataset.features)
    columns = label_columns(table, record, name)
    stale = {*columns, *(column(kind, name) for kind in (*VALUES, TOKEN_IDS, *BESIDE))}
    dataset = dataset.remove_columns([old for old in dataset.column_names if old in stale])
    if EXAMPLE_ID in columns and (record.dataset.identity or record.dataset.content_column) is not None:
        dataset = with_ids_of(dataset, record)
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


def with_ids_of(dataset: datasets.Dataset, record: LabelRecord) -> datasets.Dataset:
    """The dataset, whose records of labels say of its ids what ``record`` does."""
    said = {
        name: record.dataset.json.get(name) for name in ("content_column", "identity", "fingerprint", "repeated_ids")
    }
    said = {name: value for name, value in said.items() if name != "identity" or value is not None}
    records = {}
    for name in filter(is_record_column, dataset.column_names):
        content = decode_record(dataset.features[name]).to_json()
        about = {key: value for key, value in (content.get("dataset") or {}).items() if key != "identity"} | said
        if about != content.get("dataset"):
            records[name] = LabelRecord.from_json(content | {"dataset": about})
    return with_records(dataset, records)


def with_records(dataset: datasets.Dataset, records: dict[str, LabelRecord]) -> datasets.Dataset:
    """The dataset with other records in some of its columns of such; its rows stay where they are."""
    features = {name: _feature_of_record(record) for name, record in records.items()}
    changed = [name for name in features if features[name] != dataset.features[name]]
    if not changed:
        return dataset
    columns = {name: (_zeros(len(dataset)), features[name]) for name in changed}
    return with_columns(dataset.remove_columns(changed), columns).select_columns(dataset.column_names)


def with_columns(
    dataset: datasets.Dataset, columns: dict[str, tuple[pa.Array | pa.ChunkedArray, Any]]
) -> datasets.Dataset:
    """``dataset`` and further columns, which are not copied: name -> their values and their feature."""
    labels = dataset_of(columns)
    unformatted = set(dataset.column_names) - set(dataset.format["columns"])
    with caches_elsewhere(dataset):
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
    values: np.ndarray,
    beside: Mapping[str, np.ndarray],
    example_ids: np.ndarray | None,
    storage: str,
    top_k: int,
    numbers: np.ndarray | None,
    likelihood: Likelihood,
    lengths: np.ndarray | None,
) -> pa.Table:
    """The encoded columns of some rows, all but the record; see :func:`attach`.

    What stands ``beside`` the values comes by the kind of its column, and messages call the rows by their ``numbers``.
    """
    values = np.asarray(values)
    shape = values.shape
    if len(shape) not in (2, 3) or shape[-1] < likelihood.least_values:
        raise shape_error(shape, likelihood)
    values = values[:, None] if len(shape) == 2 else values
    if lengths is not None and (int(np.sum(lengths)) != len(values) or values.shape[1] > 1):
        raise UserError(f"there are labels of {len(values)} tokens, and the rows have {int(np.sum(lengths))} together")
    rows = np.arange(len(values)) if numbers is None else numbers
    named = rows if lengths is None else np.repeat(rows[: len(lengths)], lengths)
    check_parts({"probs": torch.from_numpy(values.astype(np.float32))}, values.shape[-1], named, likelihood)
    encoded = encode(values, storage, top_k, likelihood)
    parts = {name: as_lists(each, lengths) for name, each in encoded.items()}
    is_struct = "classes" in parts
    whole = pa.StructArray.from_arrays(list(parts.values()), list(parts)) if is_struct else parts["probs"]
    table = {likelihood.column: whole}
    if VARIANCE in beside:
        variance = _as_variance("variance", beside[VARIANCE], shape, (*shape[:-1], 1))
        if not (np.isfinite(variance).all() and (variance >= 0).all()):
            raise UserError("a variance is negative or no finite number: the teacher's draws must have diverged")
        variance = variance.reshape(*values.shape[:2], variance.shape[-1])
        table[VARIANCE] = as_lists(variance, lengths, summed=variance.shape[-1] < values.shape[-1])
    if NOISE in beside:
        noise = _as_variance("noise", beside[NOISE], shape, shape)
        if not (np.isfinite(noise).all() and (noise > 0).all()):
            raise UserError(
                "the noise is a label's variance given the draw, and must be above 0 and finite: omit it where it is "
                "not known"
            )
        table[NOISE] = as_lists(noise.reshape(values.shape), lengths)
    if LOG_PROBS in beside:
        logs = _as_variance(LOG_PROBS, beside[LOG_PROBS], shape, shape)
        check_log_probs(torch.from_numpy(logs), LOG_PROBS, named)
        kind = EXACT if storage == EXACT else "float16"
        table[LOG_PROBS] = as_lists(logs.reshape(values.shape).astype(kind), lengths)
    if example_ids is not None:
        table[EXAMPLE_ID] = pa.array(example_ids, pa.int64())
    return pa.table(table)


def is_ragged(table: pa.Table, likelihood: Likelihood) -> bool:
    """Whether a table of :func:`encoded_table` holds an answer for each token of a row."""
    kind = table.schema.field(likelihood.column).type
    return pa.types.is_list(kind.field(0).type if pa.types.is_struct(kind) else kind)


def _as_variance(what: str, variance: np.ndarray, shape: tuple[int, ...], other: tuple[int, ...]) -> np.ndarray:
    """A variance as float32, for float16 would lose all below 6e-8; UserError if it has neither shape."""
    variance = np.asarray(variance)
    if variance.shape not in (shape, other):
        raise UserError(f"the {what} is {variance.shape} and the soft labels are {shape}")
    return variance.astype(np.float32)


def with_wide_variance(table: pa.Table) -> pa.Table:
    """The same columns with the variance in float32, where an earlier version wrote it in float16."""
    place = table.schema.get_field_index(VARIANCE)
    if place < 0 or table.schema.field(place).type.value_type != pa.float16():  # which labels of tokens never were
        return table
    lists = combined(table[VARIANCE])
    values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return table.set_column(place, VARIANCE, as_lists(values.reshape(len(table), -1)))


def _feature_of(kind: pa.DataType) -> Any:
    if pa.types.is_struct(kind):
        return {field.name: _feature_of(field.type) for field in kind}
    if pa.types.is_fixed_size_list(kind):
        return datasets.List(_feature_of(kind.value_type), length=kind.list_size)
    if pa.types.is_list(kind):
        return datasets.List(_feature_of(kind.value_type))
    return datasets.Value({"halffloat": "float16", "float": "float32"}.get(str(kind), str(kind)))
