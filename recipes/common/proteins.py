"""How recipes read protein sequences: what residues they are composed of, or a network that one of them pre-trains."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
UNKNOWN, HIDDEN = len(RESIDUES) + 1, len(RESIDUES) + 2  # beside 0, where nothing is, and 1 to 20
FIRST, LAST = 350, 150  # residues of a longer protein that are read
END = 60
ENDS = 50  # residues at either end whose composition counts
DISTANCES = (15.0, 60.0)


class ProteinEncoder(nn.Module, PyTorchModelHubMixin):
    """Convolutions over residues, pooled over all of them and over both ends, where the signals are.

    Args:
        num_classes: C.
        width: channels of the convolutions.
        heads: of the attention that pools them.
        features: d, the width of what the last layer reads.
    """

    def __init__(self, num_classes: int = 13, width: int = 128, heads: int = 4, features: int = 256):
        super().__init__()
        self.num_classes = num_classes
        self.embed = nn.Embedding(HIDDEN + 1, 32)
        self.first = nn.Conv1d(32 + 2 * len(DISTANCES), width, 11, padding=5)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(3))
        self.convolutions = nn.ModuleList(nn.Conv1d(width, width, 5, padding=2 * d, dilation=d) for d in (1, 2, 4))
        self.attention = nn.Conv1d(width, heads, 1)
        pooled = width * (4 + heads)
        self.body = nn.Sequential(nn.BatchNorm1d(pooled), nn.Dropout(0.3), nn.Linear(pooled, features), nn.GELU())
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(features, num_classes))

    def forward(self, residues: Tensor) -> Tensor:
        """Residues [B, L] as :func:`encoded` to logits [B, C]."""
        return self.head(self.features(residues))

    def features(self, residues: Tensor) -> Tensor:
        """[B, d]; training hides a tenth of the residues."""
        residues = residues.long()
        there = residues > 0
        if self.training:
            residues = residues.masked_fill(there & (torch.rand(residues.shape) < 0.1), HIDDEN)
        place = torch.arange(residues.shape[1]).expand_as(residues)
        to_end = (there.sum(dim=1, keepdim=True) - 1 - place).clamp_min(0)
        near = torch.stack([torch.exp(-side / d) for side in (place, to_end) for d in DISTANCES], dim=1)
        hidden = torch.cat([self.embed(residues).transpose(1, 2), near], dim=1) * there[:, None]
        hidden = F.max_pool1d(F.gelu(self.first(hidden)), 3)
        mask, place, to_end = (value[:, None, : 3 * hidden.shape[2] : 3] for value in (there, place, to_end))
        hidden = hidden * mask
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            hidden = hidden + F.gelu(convolution(norm(hidden) * mask))
        weights = self.attention(hidden).masked_fill(~mask, -torch.inf).softmax(dim=-1)
        pooled = [
            _highest(hidden, mask),
            (hidden * mask).sum(dim=2) / mask.sum(dim=2),
            _highest(hidden, mask & (place < END)),
            _highest(hidden, mask & (to_end < END)),
            torch.einsum("bhl,bcl->bhc", weights, hidden).flatten(1),
        ]
        return self.body(torch.cat(pooled, dim=1))

    @torch.no_grad()
    def features_of(self, sequences: Sequence[str], batch_size: int = 100) -> np.ndarray:
        """Float32 [N, d] of sequences, in evaluation mode."""
        self.eval()
        parts = encoded(sequences).split(batch_size)
        return torch.cat([self.features(part) for part in parts]).numpy()


def _highest(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(~mask, -torch.inf).amax(dim=2)


def encoded(sequences: Sequence[str]) -> Tensor:
    """Residues as numbers, uint8 [N, 500]: 1 to 20, 21 for others, 0 behind the end; long ones lose their middle."""
    numbers = np.zeros((len(sequences), FIRST + LAST), np.uint8)
    for row, sequence in zip(numbers, sequences, strict=True):
        if len(sequence) > len(row):
            sequence = sequence[:FIRST] + sequence[-LAST:]
        row[: len(sequence)] = [RESIDUES.find(residue) + 1 or UNKNOWN for residue in sequence]
    return torch.from_numpy(numbers)


def composed(sequence: str) -> np.ndarray:
    """Shares of residues in all of it and at its ends, and of pairs of neighbors: 460 numbers."""
    numbers = np.array([RESIDUES.find(residue) for residue in sequence])
    numbers = numbers[numbers >= 0]
    pairs = np.bincount(20 * numbers[:-1] + numbers[1:], minlength=400)
    parts = [np.bincount(part, minlength=20) for part in (numbers, numbers[:ENDS], numbers[-ENDS:])]
    return np.concatenate([part / part.sum() for part in (*parts, pairs)]).astype(np.float32)
