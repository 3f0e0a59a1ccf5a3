"""Soft labels as Arrow arrays: built without a Python loop over rows, and read back the same way."""

from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from ..utils.errors import UserError
from .identity import EXAMPLE_ID
from .storage import check_parts, encode

PROBS, VARIANCE = "teacher_probs", "teacher_variance"
KNOWN = {"uint8": np.uint8, "int32": np.int32, "float16": np.float16}  # all others are read as float32


def encoded_table(
    probs: np.ndarray,
    variance: np.ndarray | None,
    example_ids: np.ndarray | None,
    storage: str,
    top_k: int,
) -> pa.Table:
    """The columns of some rows but for the record, encoded; see :func:`attach`."""
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
    table = {PROBS: _struct(parts) if "classes" in parts else parts["probs"]}
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
        raise _uneven(name)
    values = _tensor(rows.flatten().to_numpy(zero_copy_only=False))
    return values.reshape(len(rows), -1 if len(rows) else 0)


def stacked_lists(rows: list, name: str) -> Tensor:
    """The same of rows that were read one by one, as lists, arrays or tensors."""
    try:
        values = np.asarray([np.asarray(row) for row in rows])
    except (TypeError, ValueError):
        raise _uneven(name) from None
    if values.ndim != 2 or values.dtype.kind not in "iuf":
        raise _uneven(name)
    return _tensor(values)


def as_bytes(values: Tensor, name: str) -> Tensor:
    """The uint8 that a dataset's format has made larger numbers of."""
    small = values.to(torch.uint8)
    if not (small == values).all():
        raise UserError(f"column {name} holds numbers that are no bytes, though it is stored as uint8: label again")
    return small


def _tensor(values: np.ndarray) -> Tensor:
    with np.errstate(over="ignore"):  # what becomes infinite is refused later
        return torch.from_numpy(np.array(values, dtype=KNOWN.get(str(values.dtype), np.float32)))


def _uneven(name: str) -> UserError:
    return UserError(f"the rows of column {name} don't all hold a list of the same length: label the dataset again")
