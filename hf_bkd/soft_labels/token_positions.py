"""Whether stored soft labels of next tokens stand beside the tokens that they are of."""

import datasets
import torch
from torch import Tensor

from ..likelihoods import UNLABELED
from ..utils.errors import UserError
from .layout import Layout
from .lists import combined, lists_of, numbers_of

COMPARED = 256  # rows, evenly spaced, whose labels are compared with the tokens beside them
LEAST = 8  # positions from which it can be told
ERRORS = 3  # standard errors by which another shift must fit better
RULE = "entry t of a row must be the distribution of its token t + 1"


def check_positions(dataset: datasets.Dataset, layout: Layout, remedy: str = RULE) -> None:
    """Refuse labels that don't stand beside the token before the one that they are of.

    What a label says of the next token must not be less than what it says of the one that it stands at, or of the one
    after the next: of no other shift, by ``ERRORS`` standard errors. And each token that is taught must have a label.

    Args:
        dataset: some of whose rows are looked at.
        layout: of its labels.
        remedy: what is to be done about shifted ones.

    Raises:
        UserError: labels that are shifted, or missing.
    """
    if "input_ids" not in dataset.column_names:
        return
    step = max(1, len(dataset) // COMPARED)
    names = [
        each
        for each in ("input_ids", "labels", "attention_mask", layout.token_ids, layout.name)
        if each in dataset.column_names
    ]
    rows, shares = dataset.with_format("arrow").select_columns(names), []
    for row in range(0, len(dataset), step):
        table = {name: combined(rows[row : row + 1][name]) for name in names}
        ids = numbers_of(table["input_ids"].flatten()).long()
        probs = lists_of(table[layout.name].flatten(), layout.name).float()
        there = probs.ne(0).any(dim=-1)
        labels = numbers_of(table["labels"].flatten()).long() if "labels" in names else ids
        if "attention_mask" in names:
            labels = labels.masked_fill(numbers_of(table["attention_mask"].flatten()) == 0, UNLABELED)
        missing = ((labels[1:] != UNLABELED) & ~there[:-1]).nonzero()
        if "labels" in names and len(missing):
            raise UserError(
                f"row {row} teaches its token {int(missing[0]) + 1}, and the position before it has no soft label in "
                f"column {layout.name}: label the dataset again with the labels that it has now"
            )
        classes = None if layout.token_ids is None else lists_of(table[layout.token_ids].flatten(), layout.name)
        inner = torch.arange(1, max(len(ids) - 2, 1))[there[1:-2]] if len(ids) > 3 else torch.arange(0)
        shares += [torch.stack([_share(probs, classes, inner, ids[inner + by]) for by in (0, 1, 2)], dim=-1)]
    compared = torch.cat(shares)
    if len(compared) < LEAST:
        return
    for by, where in ((0, "the token that they stand at"), (2, "the token after the next")):
        more = compared[:, by] - compared[:, 1]
        if more.mean() > ERRORS * more.std() / len(more) ** 0.5:
            raise UserError(
                f"the soft labels of column {layout.name} give {where} {float(compared[:, by].mean()):.2g} on "
                f"average, and the next one {float(compared[:, 1].mean()):.2g}: they are shifted by one; "
                f"{remedy}"
            )


def _share(probs: Tensor, classes: Tensor | None, positions: Tensor, tokens: Tensor) -> Tensor:
    """Return what the labels at some positions [n] give some tokens [n]."""
    if classes is None:
        return probs[positions].gather(-1, tokens[:, None])[:, 0]
    return (probs[positions] * (classes[positions] == tokens[:, None])).sum(dim=-1)
