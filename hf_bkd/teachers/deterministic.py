"""A point estimate: the opponent that every Bayesian teacher has to beat."""

from collections.abc import Iterable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones import logits_of
from .base import Teacher
from .network import Inputs, head_data


class DeterministicTeacher(Teacher):
    """softmax(z / T) of one network; a single draw, without variance."""

    method = "deterministic"

    @classmethod
    def fit(cls, network: nn.Module, validation: Iterable[dict | tuple]) -> Self:
        """Temperature scaling: T by negative log-likelihood on validation batches (Guo et al. 2017)."""
        data = head_data(network, validation)
        return cls(network, temperature=best_temperature(data.logits, data.labels))

    def draw_logits(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Tensor:
        self.network.eval()
        return logits_of(self.network(**inputs) if isinstance(inputs, dict) else self.network(inputs))[None]


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """T in [0.05, 20] with the least negative log-likelihood of softmax(logits / T); logits [N, C], labels [N]."""
    from scipy.optimize import minimize_scalar

    logits, labels = logits.double(), labels.long()
    low, high = torch.tensor([0.05, 20.0]).log().tolist()
    found = minimize_scalar(
        lambda log_temperature: F.cross_entropy(logits / torch.tensor(log_temperature).exp(), labels).item(),
        bounds=(low, high),
        method="bounded",
    )
    return float(torch.tensor(found.x).exp())
