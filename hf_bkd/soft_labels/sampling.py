"""Distributions over a whole vocabulary as k entries each, without bias: systematic sampling proportional to size.

For a row p and k entries there is a threshold tau with sum_i min(1, p_i / tau) = k. Class i is kept with probability
min(1, p_i / tau), and max(p_i, tau) is stored for it: exactly k classes are kept, those of at least tau for certain
and as they are, and the expectation of what is stored is p (Madow 1949; for soft labels of tokens compare Anshumann et
al. 2025, "Sparse Logit Sampling", who draw with replacement). What is stored sums to one, as p does.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 64  # classes whose sum is searched before they are
TINY = torch.finfo(torch.float64).tiny
MARGIN = 1e-5  # relative distance from tau within which rounding of the sums could keep a class twice


@torch.no_grad()
def sample_classes(probs: Tensor, k: int, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Keep k classes of each row of probabilities.

    Args:
        probs: [T, V], >= 0; they need not sum to one. Their largest are 0 while this runs, which saves a copy.
        k: 1 <= k <= V.
        uniform: float64 [T], in [0, 1): where the systematic sampling of each row starts.

    Returns:
        Distinct classes int64 [T, k], those that are kept for certain first, and what is stored for them, [T, k] in
        the type of ``probs``. Of a row with fewer than k classes above zero all are kept as they are, beside others
        that are stored as 0.
    """
    largest, classes = largest_classes(probs, k)
    rest = F.pad(probs, (0, -probs.shape[-1] % BLOCK))
    borrowed = rest.data_ptr() == probs.data_ptr()
    if borrowed and not probs.is_contiguous():
        rest, borrowed = probs.clone(), False
    rest.scatter_(1, classes, 0)
    # the rest is summed by itself: the total less the largest would be too coarse
    blocks = rest.unflatten(1, (-1, BLOCK)).sum(dim=-1).double()
    certain, tau = _threshold(largest.double(), blocks.sum(dim=-1))
    drawn = torch.arange(k, device=probs.device) >= certain[:, None]
    again = largest.masked_fill(~drawn, 0)
    rest.scatter_(1, classes, again)
    blocks.scatter_add_(1, classes // BLOCK, again.double())
    places = (torch.arange(k, device=probs.device) - certain[:, None] + uniform[:, None]) * tau[:, None]
    sampled = _classes_at(rest, blocks, places.clamp_min(0))
    if borrowed:
        rest.scatter_(1, classes, largest)
    stored = torch.where(drawn, tau[:, None].to(probs.dtype), largest)
    return torch.where(drawn, sampled, classes), stored


def largest_classes(probs: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row [T, V] and their classes [T, k], the largest first.

    They are in the k blocks whose own largest are the greatest, which are fewer to sort.
    """
    if probs.shape[-1] % BLOCK or 4 * k * BLOCK > probs.shape[-1]:
        return tuple(probs.topk(k, dim=-1))
    blocks = probs.unflatten(1, (-1, BLOCK))
    chosen = blocks.amax(dim=-1).topk(k, dim=-1).indices
    largest, places = blocks.gather(1, chosen[..., None].expand(-1, -1, BLOCK)).flatten(1).topk(k, dim=-1)
    return largest, chosen.gather(1, places // BLOCK) * BLOCK + places % BLOCK


def _threshold(largest: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many of the k largest probabilities [T, k] are kept for certain, and tau [T], by the rest's sum."""
    k = largest.shape[-1]
    left = torch.cat([largest, rest[:, None]], dim=-1).flip(-1).cumsum(dim=-1).flip(-1)  # without the c largest
    thresholds = left[:, :k] / torch.arange(k, 0, -1, device=largest.device)
    certain = (largest >= (1 - MARGIN) * thresholds).cumprod(dim=-1).sum(dim=-1)
    return certain, F.pad(thresholds, (0, 1)).gather(1, certain[:, None])[:, 0]


def _classes_at(probs: Tensor, blocks: Tensor, places: Tensor) -> Tensor:
    """Return the classes [T, k] at places [T, k] on the line on which all of a row [T, V] lie side by side.

    Args:
        probs: [T, blocks * BLOCK], those that are kept for certain 0.
        blocks: float64 [T, blocks], their sums.
        places: float64 [T, k], >= 0; what rounding puts beyond the end is the last class above zero.
    """
    ends = blocks.cumsum(dim=-1)
    last = blocks.shape[-1] - 1 - (blocks > 0).flip(-1).int().argmax(dim=-1, keepdim=True)
    block = torch.minimum(torch.searchsorted(ends, places, right=True), last)
    within = probs.unflatten(1, (-1, BLOCK)).gather(1, block[..., None].expand(-1, -1, BLOCK)).double()
    sums = within.cumsum(dim=-1)  # which end where the block's own sum does, but for its rounding
    inner = (places - (ends - blocks).gather(1, block)) / blocks.gather(1, block).clamp_min(TINY) * sums[..., -1]
    last = BLOCK - 1 - (within > 0).flip(-1).int().argmax(dim=-1, keepdim=True)
    place = torch.searchsorted(sums, inner[..., None], right=True)
    return block * BLOCK + torch.minimum(place, last)[..., 0]
