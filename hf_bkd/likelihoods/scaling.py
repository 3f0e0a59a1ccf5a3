"""Temperature scaling: the one number by which held-out labels correct how certain a prediction is."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .base import Likelihood
from .categorical import CATEGORICAL


class Scaled(NamedTuple):
    """The temperature T that held-out labels chose, and the measures of predictions at it."""

    temperature: float
    metrics: dict[str, float]

    def as_json(self) -> dict[str, float]:
        """Return all of it as one dict."""
        return self.metrics | {"temperature": self.temperature}


def best_temperature(logits: Tensor, labels: Tensor, likelihood: Likelihood = CATEGORICAL) -> float:
    """Find T in [0.05, 20] of least negative log-likelihood of labels [N] or [N, C], by logits [N, C] / T."""
    from scipy.optimize import minimize_scalar

    logits = logits.double()
    minimum = minimize_scalar(
        lambda log_temperature: likelihood.label_loss(logits / math.exp(log_temperature), labels).mean().item(),
        bounds=(math.log(0.05), math.log(20)),
        method="bounded",
    )
    return math.exp(minimum.x)


def scaled_measures(
    likelihood: Likelihood, held_out: tuple[Tensor, Tensor], tested: tuple[Tensor, Tensor]
) -> Scaled | None:
    """Measure predictions after temperature scaling (Guo et al. 2017), ``None`` where a temperature means nothing.

    Args:
        likelihood: of the outputs.
        held_out: outputs [N, ..., K] and labels that T is chosen by, which are not those it is measured on.
        tested: outputs and labels that are measured.
    """
    if not likelihood.has_temperature or not likelihood.labeled(held_out[1]).any():
        return None
    temperature = best_temperature(*held_out, likelihood)
    prediction = likelihood.prediction(likelihood.tempered(tested[0].double(), temperature))
    return Scaled(temperature, likelihood.measures(prediction, tested[1]))


def scaled_predictions(
    likelihood: Likelihood, held_out: tuple[Tensor, Tensor], tested: tuple[Tensor, Tensor]
) -> Scaled | None:
    """Return :func:`scaled_measures` of predictions, probabilities [N, C] in place of outputs."""
    if not likelihood.has_temperature:
        return None
    numbers = torch.finfo(torch.float64)
    finite = [
        (likelihood.outputs_of(probs.double().clamp(numbers.tiny, 1 - numbers.eps / 2)), labels)
        for probs, labels in (held_out, tested)
    ]
    return scaled_measures(likelihood, *finite)
