"""One class for each example, or for each of its tokens."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..metrics import Reliability, agreement, classification_metrics, entropy, reliability
from ..targets import temper
from ..utils.errors import UserError
from .base import Likelihood
from .tensors import log_mean, probability_problems, wide

UNLABELED = -100  # which torch's losses ignore
SUM_TOLERANCE = 5e-3


@dataclass(frozen=True)
class Categorical(Likelihood):
    """One of C classes."""

    name = "categorical"
    problem_type = "single_label_classification"
    headline = "accuracy"
    storages = ("float16", "float32", "uint8", "top_k")
    independent = False
    classes_in = "single"
    least_values = 2
    smallest = 2.0**-149
    summaries = ("sum", "minimum")
    remedy = "pass class probabilities, not logits or counts"

    def values(self, outputs: Tensor, temperature: float = 1.0) -> Tensor:
        return torch.softmax(outputs if temperature == 1 else outputs / temperature, dim=-1)

    def averaged_outputs(self, outputs: Tensor, weights: Tensor | None = None) -> Tensor:
        return log_mean(outputs.log_softmax(dim=-1), weights)

    def outputs_of(self, values: Tensor, noise: Tensor | None = None) -> Tensor:
        return values.log()

    def tempered(self, outputs: Tensor, temperature: float) -> Tensor:
        return (outputs / temperature).log_softmax(dim=-1)

    def checked_labels(self, labels: Tensor, num_values: int) -> Tensor:
        if labels.is_floating_point() or labels.ndim != 1:
            raise UserError(
                f"labels must be class indices [N], not {labels.dtype} of shape {list(labels.shape)}: for labels that "
                "are each there or not, or for numbers, pass problem_type='multi_label_classification' or 'regression'"
            )
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest >= num_values:
            if lowest in (-1, UNLABELED) and highest < num_values:
                raise UserError(
                    f"{int((labels == lowest).sum())} of {labels.numel()} labels are {lowest}, which is none: leave "
                    "these examples out of the batches, inputs[labels >= 0] and labels[labels >= 0]"
                )
            raise UserError(
                f"labels must be in 0 to {num_values - 1}, the network's classes; they go from {lowest} to {highest}"
            )
        return labels.long()

    def look_like_values(self, outputs: Tensor) -> bool:
        sums = outputs.double().sum(dim=-1)
        return bool((outputs >= 0).all() & ((sums - 1).abs() < 1e-4).all())

    def temper(self, values: Tensor, temperature: float) -> Tensor:
        return temper(values, temperature)

    def label_variance(self, target: Tensor) -> Tensor:
        return 1 - target.square().sum(dim=-1)

    def entropy(self, target: Tensor) -> Tensor:
        return entropy(target)

    def divergence(self, target: Tensor, outputs: Tensor, temperature: float = 1.0) -> Tensor:
        outputs = wide(outputs)
        target = target.to(outputs.dtype)
        log_student = F.log_softmax(outputs / temperature, dim=-1)
        return (torch.xlogy(target, target) - target * log_student).sum(dim=-1)

    def label_loss(
        self, outputs: Tensor, labels: Tensor, label_smoothing: float = 0.0, target: Tensor | None = None
    ) -> Tensor:
        flat = wide(outputs).reshape(-1, outputs.shape[-1])
        losses = F.cross_entropy(flat, labels.reshape(-1), reduction="none", label_smoothing=label_smoothing)
        return losses.view(labels.shape)

    def squared_error(self, target: Tensor, labels: Tensor) -> Tensor:
        return (F.one_hot(labels, target.shape[-1]) - target).square().sum(dim=-1)

    def unbounded(self, target: Tensor, labels: Tensor, kd_lambda: float, weight: float = 1.0) -> Tensor:
        """Return where lambda * weight * p_y < lambda - 1: the loss falls forever as the student's p_y goes to 0."""
        of_label = target.gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        return kd_lambda * weight * of_label < kd_lambda - 1

    def normalized(self, values: Tensor) -> Tensor:
        return values / values.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)

    def as_columns(self, labels: Tensor) -> Tensor:
        return labels

    def labeled(self, labels: Tensor) -> Tensor:
        return labels != UNLABELED

    def measures(self, prediction: Tensor, labels: Tensor) -> dict[str, float]:
        known = self.labeled(labels)
        return classification_metrics(prediction[known], labels[known]) if known.any() else {}

    def reliability(self, prediction: Tensor, labels: Tensor) -> Reliability:
        known = self.labeled(labels)
        return reliability(prediction[known], labels[known])

    def agreement(self, prediction: Tensor, other: Tensor) -> float:
        return agreement(prediction, other)

    def to_bytes(self, values: Tensor) -> Tensor:
        """Return 255 sqrt(p), rounded: steps of equal size in the Hellinger distance."""
        roots = (255 * values.sqrt()).round().clamp(0, 255).to(torch.uint8)
        if not roots.any(dim=-1).all():
            raise UserError(
                "storage='uint8' can't hold a distribution in which each class has less than 1 / 260,100: use float16 "
                "or top_k"
            )
        return roots

    def from_bytes(self, numbers: Tensor) -> Tensor:
        squares = numbers.float().square()
        return squares / squares.sum(dim=-1, keepdim=True)

    def problems_of_bytes(self, numbers: Tensor) -> dict[str, Tensor]:
        sums = numbers.float().square().sum(dim=-1) / 255**2
        tolerance = (1 + numbers.shape[-1] ** 0.5 / 510) ** 2 - 1 + SUM_TOLERANCE  # each root is off by 1/510 at most
        return {"does not sum to one": ~((sums > 0) & ((sums - 1).abs() <= tolerance))}

    def distance(self, values: Tensor, others: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Return the total variation."""
        return (values - others).abs().sum(dim=-1) / 2

    def problems(self, values: Tensor) -> dict[str, Tensor]:
        return probability_problems(values) | {
            "does not sum to one": ~((values.sum(dim=-1) - 1).abs() <= SUM_TOLERANCE)
        }


CATEGORICAL = Categorical()
