"""Rows that differ in length, one after the other in one tensor: the labels of all tokens of all examples."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..utils.errors import UserError


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
    name: str, lengths: Tensor, expected: Tensor, numbers: Sequence[int] | np.ndarray | None = None
) -> None:
    """Refuse labels of another number of tokens than the examples have.

    Args:
        name: of the column of labels.
        lengths, expected: int64 [B], of the labels and of the inputs.
        numbers: of the rows [B]; 0, 1, ... if not given.

    Raises:
        UserError: it names the first such row.
    """
    wrong = torch.nonzero(lengths.to(expected.device) != expected).flatten().tolist()
    if wrong:
        first = wrong[0]
        raise UserError(
            f"row {first if numbers is None else numbers[first]} of column {name} has labels of {int(lengths[first])} "
            f"tokens, and its example has {int(expected[first])} ({len(wrong)} such rows): use the tokenizer and the "
            "greatest length that it was labeled with, or label again"
        )
