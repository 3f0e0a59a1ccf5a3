"""Labels of an example's tokens stand where the network's inputs have these tokens."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..likelihoods import UNLABELED
from ..soft_labels.ragged import check_lengths


def placed(labels: Sequence[Tensor], inputs: Mapping[str, Tensor], name: str) -> Tensor:
    """Return the labels of tokens as one tensor, ``UNLABELED`` where inputs are padded or rows have none.

    Args:
        labels: int64 of each of B rows, one for each of its tokens, or of its inputs where these are padded already;
            empty where a row has no labels.
        inputs: of the network for these rows; an ``attention_mask`` [B, L] says where they are padded.
        name: of the column of labels, in errors.

    Returns:
        int64 [B, L].

    Raises:
        UserError: a row has another number of labels than tokens.
    """
    mask, longest = inputs.get("attention_mask"), next(iter(inputs.values())).shape[1]
    mask = torch.ones(len(labels), longest) if mask is None else mask
    lengths = torch.tensor([len(row) for row in labels])
    places = mask.bool().masked_fill((lengths == longest).unsqueeze(1).to(mask.device), True)
    places = places.masked_fill((lengths == 0).unsqueeze(1).to(mask.device), False)
    check_lengths(name, lengths, places.sum(dim=1).cpu())
    result = torch.full(places.shape, UNLABELED, device=mask.device)
    result[places] = torch.cat(list(labels)).to(mask.device)
    return result
