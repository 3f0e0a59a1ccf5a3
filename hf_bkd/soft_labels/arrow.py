"""Soft labels as Arrow arrays: built without a Python loop over rows, and read back the same way."""

from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from ..errors import UserError
from .identity import EXAMPLE_ID
from .storage import check_parts, encode

PROBS, VARIANCE = "teacher_probs", "teacher_variance"


def encoded_table(
    probs: np.ndarray,
    variance: np.ndarray | None,
    example_ids: np.ndarray | None,
    storage: str,
    top_k: int,
) -> pa.Table:
    """The columns of some rows but for the record, encoded; see :func:`attach`."""
    probs = np.asarray(probs)
    probs = probs[:, None] if probs.ndim == 2 else probs
    if probs.ndim != 3:
        raise UserError(f"soft labels must be [rows, classes] or [rows, views, classes], and these are {probs.shape}")
    check_parts({"probs": torch.from_numpy(probs.astype(np.float32))}, probs.shape[-1])
    parts = {name: _fixed_lists(values) for name, values in encode(probs, storage, top_k).items()}
    table = {PROBS: _struct(parts) if "classes" in parts else parts["probs"]}
    if variance is not None:
        variance = np.reshape(variance, (len(probs), probs.shape[1], -1))
        if variance.shape[-1] not in (1, probs.shape[-1]):
            raise UserError(f"the variance is {variance.shape} and the probabilities are {probs.shape}")
        wide = storage == "float32" or variance.shape[-1] == 1
        table[VARIANCE] = _fixed_lists(variance.astype(np.float32 if wide else np.float16))
    if example_ids is not None:
        table[EXAMPLE_ID] = pa.array(example_ids, pa.int64())
    return pa.table(table)


def is_list_of_numbers(feature: object) -> bool:
    inner = getattr(feature, "feature", None)
    return isinstance(inner, datasets.Value) and inner.dtype.startswith(("float", "int", "uint", "double"))


def _fixed_lists(values: np.ndarray) -> pa.Array:
    """[N, V, L] -> N lists of V * L."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))


def _struct(parts: dict[str, pa.Array]) -> pa.Array:
    return pa.StructArray.from_arrays(list(parts.values()), list(parts))


def feature_of(kind: pa.DataType) -> Any:
    if pa.types.is_struct(kind):
        return {field.name: feature_of(field.type) for field in kind}
    if pa.types.is_fixed_size_list(kind):
        return datasets.List(feature_of(kind.value_type), length=kind.list_size)
    return datasets.Value({"halffloat": "float16", "float": "float32"}.get(str(kind), str(kind)))


def combined(array: pa.ChunkedArray | pa.Array) -> pa.Array:
    combined = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined


def children(array: pa.Array) -> dict[str, pa.Array]:
    if not pa.types.is_struct(array.type):
        return {"probs": array}
    return dict(zip((field.name for field in array.type), array.flatten(), strict=True))


def lists(rows: pa.Array, name: str) -> Tensor:
    """Lists of equal length as a tensor [N, L]."""
    lengths = pc.list_value_length(rows).to_numpy(zero_copy_only=False)  # NaN where a row is missing
    if len(set(lengths.tolist())) > 1 or rows.null_count:
        raise UserError(f"the rows of column {name} don't all hold a list of the same length: label the dataset again")
    values = rows.flatten().to_numpy(zero_copy_only=False)
    known = {"uint8": np.uint8, "int32": np.int32, "float16": np.float16}
    values = np.array(values, dtype=known.get(str(values.dtype), np.float32))
    return torch.from_numpy(values.reshape(len(rows), -1 if len(rows) else 0))
