"""Columns of lists as tensors and back: in Arrow, in rows read one by one, and of rows that differ in length."""

from collections.abc import Sequence

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from ..utils.errors import UserError

UNCHANGED = {
    "uint8": np.uint8,
    "uint16": np.int32,
    "int32": np.int32,
    "float16": np.float16,
}  # all other types are read as float32
AS_LABELED = "use the tokenizer and the greatest length that it was labeled with, or label again"


def is_list_of_numbers(feature: object) -> bool:
    """Whether a feature is of lists of numbers."""
    inner = getattr(feature, "feature", None)
    return isinstance(inner, datasets.Value) and inner.dtype.startswith(("float", "int", "uint", "double"))


def joined_rows(rows: list, lengths: Tensor, name: str) -> list:
    """The entries of all rows, one after the other; UserError unless each row has as many as ``lengths`` say."""
    if any(row is None or len(row) != length for row, length in zip(rows, lengths.tolist(), strict=True)):
        raise uneven(name)
    return [entry for row in rows for entry in row]


def stacked_lists(rows: list, name: str) -> Tensor:
    """Rows that were read one by one, as lists, arrays or tensors, as one tensor [N, L].

    UserError with the column's ``name`` if they differ in length or hold something else than numbers.
    """
    try:
        values = np.asarray([np.asarray(row) for row in rows])
    except (TypeError, ValueError):
        raise uneven(name) from None
    if values.ndim != 2 or values.dtype.kind not in "iuf":
        raise uneven(name)
    return as_tensor(values)


def as_tensor(values: np.ndarray) -> Tensor:
    """A copy as a tensor, of the stored type if it is one of those in use and of float32 otherwise."""
    with np.errstate(over="ignore"):  # what becomes infinite is refused later
        return torch.from_numpy(np.array(values, dtype=UNCHANGED.get(str(values.dtype), np.float32)))


def uneven(name: str) -> UserError:
    """The error of lists that differ in length."""
    return UserError(f"the rows of column {name} don't all hold a list of the same length: label the dataset again")


def combined(array: pa.ChunkedArray | pa.Array) -> pa.Array:
    """An Arrow column as one array."""
    whole = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


def as_lists(values: np.ndarray, lengths: np.ndarray | None = None, summed: bool = False) -> pa.Array:
    """[N, V, L] -> N lists of V * L; [T, 1, L] of rows with ``lengths`` -> their lists of lists, or of numbers."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    if lengths is None or not summed:
        flat = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))
    if lengths is None:
        return flat
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), flat)


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
    ones = (
        np.ones(int(lengths.sum()), np.int64) if name == "input_ids" else rows.flatten().to_numpy(zero_copy_only=False)
    )
    ends, sums = lengths.cumsum(), np.concatenate([[0], np.cumsum(ones, dtype=np.int64)])
    return torch.from_numpy(sums[ends] - sums[ends - lengths])


def owners(lengths: Tensor) -> Tensor:
    """Return the row of each position, int64 [T], of rows with these lengths [N]."""
    return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)


def positions_of(rows: Tensor, lengths: Tensor) -> Tensor:
    """Return the positions of some rows [B], row after row, among those of all rows with these lengths [N]."""
    ends, own = lengths.cumsum(0), lengths[rows]
    starts = (ends - lengths)[rows] - (own.cumsum(0) - own)
    return torch.repeat_interleave(starts, own) + torch.arange(int(own.sum()), device=lengths.device)


def padded(
    flat: Tensor,
    lengths: Tensor,
    mask: Tensor | None = None,
    name: str = "teacher_probs",
    numbers: Sequence[int] | np.ndarray | None = None,
) -> Tensor:
    """Return rows as one tensor with zeros where there is no position.

    Args:
        flat: [T, ...], the positions of B rows.
        lengths: int64 [B], with sum T.
        mask: [B, L], of what the positions stand beside (a network's ``attention_mask``): 0 where a row is padded. At
            their end, and as little as need be, if not given.
        name, numbers: of the column, and of the rows, in messages.

    Returns:
        [B, L, ...].

    Raises:
        UserError: a row has another number of positions than the mask says.
    """
    if mask is None:
        mask = torch.arange(int(lengths.max()) if len(lengths) else 0, device=lengths.device) < lengths[:, None]
    else:
        mask = mask.to(flat.device).bool()
        check_lengths(name, lengths, mask.sum(dim=1), numbers)
    result = flat.new_zeros(*mask.shape, *flat.shape[1:])
    result[mask] = flat
    return result


def check_lengths(
    name: str,
    lengths: Tensor,
    expected: Tensor,
    numbers: Sequence[int] | np.ndarray | None = None,
    remedy: str = AS_LABELED,
) -> None:
    """Refuse labels of another number of tokens than the examples have.

    Args:
        name: of the column of labels.
        lengths, expected: int64 [B], of the labels and of the inputs.
        numbers: of the rows [B]; 0, 1, ... if not given.
        remedy: what is to be done.

    Raises:
        UserError: it names the first such row.
    """
    wrong = torch.nonzero(lengths.to(expected.device) != expected).flatten().tolist()
    if wrong:
        first = wrong[0]
        raise UserError(
            f"row {first if numbers is None else numbers[first]} of column {name} has labels of {int(lengths[first])} "
            f"tokens, and its example has {int(expected[first])} ({len(wrong)} such rows): {remedy}"
        )
