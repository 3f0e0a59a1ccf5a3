"""Labels of an example's tokens stand where the network's inputs have these tokens."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..likelihoods import UNLABELED
from ..soft_labels.ragged import check_lengths


def placed(labels: Sequence[Tensor], inputs: Mapping[str, Tensor], name: str) -> Tensor:
    """Return the labels of tokens as one tensor, ``UNLABELED`` where inputs are padded or rows have none.

    Args:
        labels: int64 [L] of each of B rows, one for each of its tokens; empty where a row has no labels.
        inputs: of the network for these rows; an ``attention_mask`` [B, L] says where they are padded.
        name: of the column of labels, in errors.

    Returns:
        int64 [B, L].

    Raises:
        UserError: a row has another number of labels than tokens.
    """
    lengths = torch.tensor([len(row) for row in labels])
    mask = inputs.get("attention_mask")
    mask = torch.ones(next(iter(inputs.values())).shape[:2]) if mask is None else mask
    mask = mask.bool() & (lengths > 0).unsqueeze(1).to(mask.device)
    check_lengths(name, lengths, mask.sum(dim=1).cpu())
    result = torch.full(mask.shape, UNLABELED, device=mask.device)
    result[mask] = torch.cat(list(labels)).to(mask.device) if len(labels) else result[mask]
    return result
