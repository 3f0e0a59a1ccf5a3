"""Columns of Arrow lists as tensors."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from .layout import Layout, as_tensor, uneven


def flat_parts(columns: Mapping[str, pa.Array], layout: Layout) -> tuple[dict[str, Tensor], Tensor | None]:
    """The parts of a teacher's values as tensors [N, L], or [T, L] of tokens beside the number of each row's."""
    parts = _parts_of(columns[layout.name])
    if layout.token_ids is not None:
        parts = {"classes": columns[layout.token_ids]} | parts
    if not layout.ragged:
        return {part: lists_of(rows, layout.name) for part, rows in parts.items()}, None
    lengths = [lengths_of(rows, layout.name) for rows in parts.values()]
    if any(not torch.equal(each, lengths[0]) for each in lengths):
        raise uneven(layout.name)
    return {part: lists_of(rows.flatten(), layout.name) for part, rows in parts.items()}, lengths[0]


def _parts_of(array: pa.Array) -> dict[str, pa.Array]:
    if not pa.types.is_struct(array.type):
        return {"probs": array}
    return dict(zip((field.name for field in array.type), array.flatten(), strict=True))


def lists_of(rows: pa.Array, name: str) -> Tensor:
    """Lists of equal length as a tensor [N, L]."""
    if len(set(lengths_of(rows, name).tolist())) > 1:
        raise uneven(name)
    return numbers_of(rows.flatten()).reshape(len(rows), -1 if len(rows) else 0)


def lengths_of(rows: pa.Array, name: str) -> Tensor:
    """The lengths of lists, int64 [N]; UserError if a row is missing."""
    if rows.null_count:
        raise uneven(name)
    return torch.from_numpy(pc.list_value_length(rows).to_numpy(zero_copy_only=False).astype(np.int64))


def numbers_of(values: pa.Array) -> Tensor:
    """Numbers as a tensor [N]."""
    return as_tensor(values.to_numpy(zero_copy_only=False))


def number_of_tokens(name: str, rows: pa.Array) -> Tensor:
    """How many tokens there are in each row of ``input_ids``, or how many ones in an ``attention_mask``."""
    lengths = pc.list_value_length(rows).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    ones = np.ones(int(lengths.sum()), np.int64) if name == "input_ids" else rows.flatten().to_numpy()
    ends, sums = lengths.cumsum(), np.concatenate([[0], np.cumsum(ones, dtype=np.int64)])
    return torch.from_numpy(sums[ends] - sums[ends - lengths])
