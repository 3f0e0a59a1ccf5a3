"""A teacher's answer."""

from typing import NamedTuple

from torch import Tensor


class Predictive(NamedTuple):
    """What a teacher says of B inputs in S draws.

    mean: class probabilities [B, C], averaged over the draws and tempered.
    variance: across-draw variance (ddof 1) of the probabilities [B, C]; ``None`` for a single draw: unknown.
    samples: the draws' probabilities [S, B, C] if asked for.

    ``variance`` and ``samples`` belong to draws tempered one by one with ``"per_sample"``, untempered with
    ``"post_average"``.
    """

    mean: Tensor
    variance: Tensor | None
    samples: Tensor | None
