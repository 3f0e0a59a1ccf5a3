"""The deterministic teacher: one network with a temperature, the baseline of every Bayesian teacher."""

import math
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..metrics import classification_metrics
from ..models.calling import Inputs, call_network, logits_of
from ..models.heads import head_data
from .base import Teacher
from .examples import batches_of, used_processor
from .specification import FitContext, TeacherSpec, option


class DeterministicTeacher(Teacher):
    """One network's softmax(z / T): a single draw, without variance."""

    method = "deterministic"

    @classmethod
    def fit(cls, network: nn.Module, validation: Any, *, processing_class: Any = None) -> Self:
        """Choose the temperature by negative log-likelihood on held-out examples (Guo et al. 2017).

        Args:
            network: the trained network.
            validation: a ``datasets.Dataset`` with a label column; or batches: dicts with ``labels``, or pairs.
            processing_class: the tokenizer, image processor, feature extractor or transform by which the network
                reads a dataset, if it isn't beside its weights or timm's data configuration.

        Raises:
            UserError: no examples, labels that don't fit the network, or no linear head; a dataset that the network
                can't read.
        """
        validation = batches_of(validation, network, processing_class)
        data = head_data(network, validation)
        teacher = cls(network, temperature=best_temperature(data.logits, data.labels))
        teacher.processing_class = used_processor(validation, processing_class)
        probs = torch.softmax(data.logits / teacher.temperature, dim=-1)
        teacher.record = {"temperature chosen by": "validation NLL"}
        teacher.record["validation"] = classification_metrics(probs, data.labels)
        return teacher

    def num_draws(self, num_samples: int) -> int:
        return 1

    def draw_logits(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Tensor:
        self.network.eval()
        return logits_of(call_network(self.network, inputs))[None]


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """Find T in [0.05, 20] of least negative log-likelihood of softmax(logits / T); logits [N, C], labels [N]."""
    from scipy.optimize import minimize_scalar

    logits, labels = logits.double(), labels.long()
    minimum = minimize_scalar(
        lambda log_temperature: F.cross_entropy(logits / math.exp(log_temperature), labels).item(),
        bounds=(math.log(0.05), math.log(20)),
        method="bounded",
    )
    return math.exp(minimum.x)


@dataclass(frozen=True)
class Deterministic(TeacherSpec):
    """A trained network as it is.

    Args:
        scaled: set its temperature by validation NLL (Guo et al. 2017).
    """

    kind = method = "deterministic"
    kept = False

    scaled: bool = option(False, command_line=True)

    def fit(self, context: FitContext) -> Teacher:
        teacher = context.trained()
        return DeterministicTeacher.fit(teacher.network, context.validation_batches()) if self.scaled else teacher

    @property
    def sets_temperature(self) -> bool:
        return self.scaled
