"""Labels that are each there or not."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..metrics import Reliability, multi_label_metrics, multi_label_reliability
from ..utils.errors import UserError
from .base import Likelihood
from .tensors import label_matrix, log_mean, probability_problems, wide, without_nan


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """C labels, each of which is there or isn't, independently of the others given the input."""

    name = "bernoulli"
    problem_type = "multi_label_classification"
    headline = "mean_average_precision"
    storages = ("float16", "float32", "uint8")
    called = "labels"
    classes_in = "list"
    smallest = 2.0**-25  # from 1, where float32 is coarser than at 0
    summaries = ("minimum", "maximum")
    remedy = "pass probabilities of labels, not logits"

    def values(self, outputs: Tensor, temperature: float = 1.0) -> Tensor:
        return torch.sigmoid(outputs / temperature)

    def averaged_outputs(self, outputs: Tensor, weights: Tensor | None = None) -> Tensor:
        return log_mean(F.logsigmoid(outputs), weights) - log_mean(F.logsigmoid(-outputs), weights)

    def outputs_of(self, values: Tensor, noise: Tensor | None = None) -> Tensor:
        return torch.logit(values)

    def checked_labels(self, labels: Tensor, num_values: int) -> Tensor:
        single = labels.is_floating_point() or num_values == 1
        labels = label_matrix(labels, num_values, "0 or 1 for each of the network's labels", single)
        wrong = labels[~((labels >= 0) & (labels <= 1))]
        if len(wrong):
            raise UserError(
                f"labels that are each there or not must be 0 to 1, and one of them is {wrong[0]:g}: leave out such "
                "examples, or pass problem_type='regression' for numbers"
            )
        return labels

    def look_like_values(self, outputs: Tensor) -> bool:
        lowest, highest = outputs.min(), outputs.max()  # logits of a new network may all be in [0, 1], but near 0
        return outputs.numel() >= 16 and bool((lowest >= 0) & (highest <= 1) & (highest - lowest > 0.3))

    def curvature(self, outputs: Tensor) -> Tensor:
        values = self.values(outputs)
        return values * (1 - values)

    def temper(self, values: Tensor, temperature: float) -> Tensor:
        return values if temperature == 1 else torch.sigmoid(torch.logit(values) / temperature)

    def label_variance(self, target: Tensor) -> Tensor:
        return (target * (1 - target)).sum(dim=-1)

    def entropy(self, target: Tensor) -> Tensor:
        return -(torch.xlogy(target, target) + torch.xlogy(1 - target, 1 - target)).sum(dim=-1)

    def divergence(self, target: Tensor, outputs: Tensor, temperature: float = 1.0) -> Tensor:
        outputs = wide(outputs) / temperature
        target = target.to(outputs.dtype)
        cross = F.binary_cross_entropy_with_logits(outputs, target, reduction="none").mean(dim=-1)
        return cross - self.entropy(target) / target.shape[-1]

    def label_loss(
        self, outputs: Tensor, labels: Tensor, label_smoothing: float = 0.0, target: Tensor | None = None
    ) -> Tensor:
        outputs, there = wide(outputs), self.labeled(labels)
        wanted = torch.where(there[..., None], labels, 0).to(outputs.dtype)
        wanted = (1 - label_smoothing) * wanted + label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(outputs, wanted, reduction="none").mean(dim=-1)
        return losses.masked_fill(~there, 0)

    def squared_error(self, target: Tensor, labels: Tensor) -> Tensor:
        return (labels - target).square().sum(dim=-1)

    def unbounded(self, target: Tensor, labels: Tensor, kd_lambda: float, weight: float = 1.0) -> Tensor:
        """Return where it is so for one of the labels, as of two classes."""
        there = kd_lambda * weight * target < (kd_lambda - 1) * labels
        missing = kd_lambda * weight * (1 - target) < (kd_lambda - 1) * (1 - labels)
        return (there | missing).any(dim=-1)

    def labeled(self, labels: Tensor) -> Tensor:
        return without_nan(labels)

    def measures(self, prediction: Tensor, labels: Tensor) -> dict[str, float]:
        known = self.labeled(labels)
        return multi_label_metrics(prediction[known], labels[known]) if known.any() else {}

    def reliability(self, prediction: Tensor, labels: Tensor) -> Reliability:
        known = self.labeled(labels)
        return multi_label_reliability(prediction[known], labels[known])

    def agreement(self, prediction: Tensor, other: Tensor) -> float:
        return ((prediction > 0.5) == (other > 0.5)).double().mean().item()

    def to_bytes(self, values: Tensor) -> Tensor:
        """Return 255 arcsin(sqrt(p)) / (pi / 2), rounded: steps of equal size in p's own standard deviation."""
        return (510 / math.pi * values.clamp(0, 1).sqrt().asin()).round().to(torch.uint8)

    def from_bytes(self, numbers: Tensor) -> Tensor:
        return (numbers.float() * (math.pi / 510)).sin().square()

    def distance(self, values: Tensor, others: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Return the largest total variation of a label."""
        return (values - others).abs().amax(dim=-1)

    def problems(self, values: Tensor) -> dict[str, Tensor]:
        return probability_problems(values) | {"holds a probability above one": (values > 1 + 1e-6).any(dim=-1)}
