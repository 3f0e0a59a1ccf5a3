"""Temperature scaling: the one number by which held-out labels correct how certain a prediction is."""

import math
import warnings
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from .base import Likelihood
from .categorical import CATEGORICAL

TEMPERATURES = (0.05, 20.0)
INWARD = 1e-3  # from an end of the range, in log T: where the loss would fall if the best T lay inside

Value = TypeVar("Value", float, Tensor)


class Scaled(NamedTuple):
    """The temperature T that held-out labels chose, and the measures of predictions at it."""

    temperature: float
    metrics: dict[str, float]

    def as_json(self) -> dict[str, float]:
        """Return all of it as one dict."""
        return self.metrics | {"temperature": self.temperature}


def best_temperature(logits: Tensor, labels: Tensor, likelihood: Likelihood = CATEGORICAL) -> float:
    """Find T in [0.05, 20] by which logits [N, C] / T predict labels [N] or [N, C] best (Guo et al. 2017, sec. 4.2).

    That is the T of least negative log-likelihood, summed over the examples, plus :func:`prior_loss`. Warns where the
    labels alone would choose an end of the range.
    """
    from scipy.optimize import minimize_scalar

    logits, nats = logits.double(), likelihood.nats(likelihood.num_values(logits.shape[-1]))

    def loss(log_temperature: float) -> float:
        return nats * likelihood.label_loss(logits / math.exp(log_temperature), labels).sum().item()

    lowest, highest = (math.log(end) for end in TEMPERATURES)
    minimum = minimize_scalar(
        lambda log_temperature: loss(log_temperature) + prior_loss(log_temperature),
        bounds=(lowest, highest),
        method="bounded",
    )
    temperature = math.exp(minimum.x)
    below, above = loss(lowest) <= loss(lowest + INWARD), loss(highest) <= loss(highest - INWARD)
    warn_of_ends(temperature, TEMPERATURES, below, above, int(nats * likelihood.labeled(labels).sum()))
    return temperature


def prior_loss(log_temperature: Value) -> Value:
    """Return -log of the prior of T but for a constant: log T is standard normal.

    Where all held-out examples are classified right, no T is too small for the likelihood alone: it is that of a
    logistic regression of separable data, against which Gelman et al. 2008 advise a weak prior. A temperature of
    0.3 to 4 that 500 examples choose moves by less than a percent.
    """
    return log_temperature * log_temperature / 2


def warn_of_ends(temperature: float, ends: tuple[float, float], below: bool, above: bool, number: int) -> None:
    """Warn if held-out labels alone would choose a T at or beyond an end of its range, or don't care for T at all."""
    if below and above:
        reason = "are as likely at any temperature"
    elif below:
        reason = f"would choose a temperature of {ends[0]:g} or less, as where all are classified right"
    elif above:
        reason = f"would choose a temperature of {ends[1]:g} or more, as where their order isn't the network's"
    else:
        return
    warnings.warn(
        f"{number} held-out labels alone {reason}: T = {temperature:.2f} rests on the prior that it is about 1; hold "
        "out more examples, or leave the temperature at 1",
        stacklevel=3,
    )


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
