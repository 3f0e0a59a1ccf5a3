"""Numbers with a mean and, where it is known, a variance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..metrics import Reliability, interval_reliability, regression_metrics
from ..targets import mix_teachers
from ..utils.errors import UserError
from .base import Likelihood
from .tensors import averaged, label_matrix, wide, without_nan
from .values import Numbers

LARGEST = 1e18  # of the numbers, whose squares float32 holds
UNKNOWN_VARIANCE = 0.5  # of a Gaussian whose variance nobody knows: its negative log-likelihood is the squared error


@dataclass(frozen=True)
class Gaussian(Numbers, Likelihood):
    """C numbers, each normally distributed around its mean.

    Args:
        observation_variance: sigma^2 > 0 of each of the C labels around the network's means, where the network
            doesn't predict it; ``None`` if it is unknown.
        predicts_variance: whether the network has 2 C outputs, the means and then the logarithms of the variances.
        label_scale: of each of the C labels, > 0, in which squared errors are taken where nobody knows a variance.
    """

    name = "gaussian"
    problem_type = "regression"
    has_temperature = False
    exact = True
    target_has_variance = True
    headline = "rmse"
    label_term = "label_loss"

    observation_variance: tuple[float, ...] | None = None
    predicts_variance: bool = False
    label_scale: tuple[float, ...] | None = None

    def __post_init__(self):
        given = self.observation_variance
        if given is not None and not all(math.isfinite(each) and each > 0 for each in given):
            raise UserError(f"observation_variance must be above 0 and finite, and it is {list(given)}")
        if given is not None and self.predicts_variance:
            raise UserError("observation_variance is given, and the network predicts it too: leave it out")

    def num_values(self, num_outputs: int) -> int:
        if self.predicts_variance and num_outputs % 2:
            raise UserError(f"means and variances need an even number of outputs, and the network has {num_outputs}")
        return num_outputs // 2 if self.predicts_variance else num_outputs

    def values(self, outputs: Tensor, temperature: float = 1.0) -> Tensor:
        self.check_temperature(temperature)
        return outputs[..., : self.num_values(outputs.shape[-1])]

    def averaged_outputs(self, outputs: Tensor, weights: Tensor | None = None) -> Tensor:
        noise, mean = self.noise(outputs), averaged(self.values(outputs), weights)
        return self.outputs_of(mean, None if noise is None else averaged(noise, weights))

    def outputs_of(self, values: Tensor, noise: Tensor | None = None) -> Tensor:
        return torch.cat([values, noise.log()], dim=-1) if self.predicts_variance else values

    def tempered(self, outputs: Tensor, temperature: float) -> Tensor:
        self.check_temperature(temperature)
        return outputs

    def joint(self, others: Sequence[Likelihood]) -> Likelihood:
        """Return itself if there are no others; each of several says its own variance, if all of them know one."""
        if not others:
            return self
        return Gaussian(predicts_variance=all(each.knows_variance for each in (self, *others)))

    @property
    def knows_variance(self) -> bool:
        """Whether :meth:`noise` is known."""
        return self.predicts_variance or self.observation_variance is not None

    def matching(self, labels: Tensor, num_outputs: int) -> tuple[Likelihood, Tensor]:
        twice = labels.ndim <= 2 and num_outputs == 2 * labels.reshape(len(labels), -1).shape[1]
        likelihood = replace(self, predicts_variance=True) if twice and not self.knows_variance else self
        return likelihood, likelihood.checked_labels(labels, likelihood.num_values(num_outputs))

    def checked_labels(self, labels: Tensor, num_values: int) -> Tensor:
        labels = label_matrix(labels, num_values, "a number for each of the network's outputs", True)
        wrong = labels[~(labels.abs() <= LARGEST)]
        if len(wrong):
            raise UserError(
                f"the numbers to predict must be finite and up to {LARGEST:g}, and one of them is {wrong[0]:g}: leave "
                "such examples out, or divide all by a power of ten"
            )
        known = self.observation_variance
        if known is not None and len(known) != num_values:
            raise UserError(f"observation_variance has {len(known)} entries, and there are {num_values} labels")
        return labels

    def observing(self, outputs: Tensor, labels: Tensor) -> Likelihood:
        return self if self.knows_variance else self.with_variance((labels - outputs).double().square().mean(dim=0))

    def with_variance(self, variance: Tensor) -> "Gaussian":
        """Return it with the variance [C] of each number; UserError if one is 0."""
        if not (variance > 0).all():
            number = int((variance > 0).int().argmin())
            raise UserError(
                f"the network predicts number {number} of each example without any error, so that its noise is 0 and "
                "the examples say nothing: pass held-out examples whose numbers vary"
            )
        return replace(self, observation_variance=tuple(variance.tolist()))

    def look_like_values(self, outputs: Tensor) -> bool:
        return False

    def curvature(self, outputs: Tensor) -> Tensor:
        noise = self.noise(outputs)
        if self.predicts_variance:
            raise UserError(
                "the network predicts its own variance, whose curvature is not known in closed form: take an "
                "ensemble, dropout or a variational posterior"
            )
        if noise is None:
            raise _unknown_variance()
        return 1 / noise

    def integrated(self, outputs: Tensor, variance: Tensor) -> Tensor:
        return outputs

    def marginal(self, outputs: Tensor, variance: Tensor) -> tuple[Likelihood, Tensor]:
        noise = self.noise(outputs)
        if noise is None:
            raise _unknown_variance()
        total = Gaussian(predicts_variance=True)
        return total, total.outputs_of(self.values(outputs), noise + variance)

    def temper(self, values: Tensor, temperature: float) -> Tensor:
        self.check_temperature(temperature)
        return values

    def noise(self, outputs: Tensor) -> Tensor | None:
        means = self.values(outputs)
        if self.predicts_variance:
            return outputs[..., means.shape[-1] :].exp()
        if self.observation_variance is None:
            return None
        return means.new_tensor(self.observation_variance).expand_as(means)

    def label_variance(self, target: Tensor) -> Tensor:
        """Sum the variances of a target [..., 2 C]."""
        return target.chunk(2, dim=-1)[1].sum(dim=-1)

    def entropy(self, target: Tensor) -> Tensor:
        raise UserError(
            "weights by entropy mean nothing for regression, where it depends on the unit: use "
            "teacher_weights='inverse_variance' or 'equal' (weights= of a MultiTeacher)"
        )

    def mixed(self, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the mean and variance of the mixture of M Gaussians, targets [..., M, 2 C]."""
        means, variances = targets.chunk(2, dim=-1)
        mean = mix_teachers(means, weights)
        spread = mix_teachers(variances + (means - mean.unsqueeze(-2)).square(), weights)
        return torch.cat([mean, spread], dim=-1)

    def divergence(self, target: Tensor, outputs: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the mean over the labels of KL(N(m, v) || N(mu, s)), with s = v if the network predicts none.

        Where nobody knows v either (a target of C means) it is the squared error.

        Raises:
            UserError: a network that predicts its variance, and a target that has none.
        """
        outputs = wide(outputs)
        mean, own = self.values(outputs, temperature), self.noise(outputs) if self.predicts_variance else None
        wanted, variance = self._mean_and_variance(target.to(outputs.dtype), mean)
        if own is None:
            return ((wanted - mean).square() / (2 * variance)).mean(dim=-1)
        if target.shape[-1] == mean.shape[-1]:
            raise UserError(
                "the student predicts a variance, and the teacher's answers say none: take a student of half as many "
                "outputs, or label with a teacher that draws or knows its observation_variance"
            )
        ratio = variance / own
        return (((wanted - mean).square() / own + ratio - 1 - ratio.log()) / 2).mean(dim=-1)

    def label_loss(
        self, outputs: Tensor, labels: Tensor, label_smoothing: float = 0.0, target: Tensor | None = None
    ) -> Tensor:
        """Return the mean over the labels of the squared error, or of the negative log-likelihood.

        The latter is less log(2 pi) / 2 for a network that predicts its variance, and its part with the mean for one
        that takes over the target's.
        """
        self.check_label_smoothing(label_smoothing)
        outputs, there = wide(outputs), self.labeled(labels)
        mean = self.values(outputs)
        squares = (torch.where(there[..., None], labels.to(mean.dtype), 0) - mean).square()
        if self.predicts_variance:
            variance = self.noise(outputs)
            losses = (squares / variance + variance.log()) / 2
        else:
            taken_over = mean if target is None else target.to(mean.dtype)
            losses = squares / (2 * self._mean_and_variance(taken_over, mean)[1])
        return losses.mean(dim=-1).masked_fill(~there, 0)

    def unbounded(self, target: Tensor, labels: Tensor, kd_lambda: float, weight: float = 1.0) -> Tensor:
        """Return where a network predicts its variance s and the teacher's v < (lambda - 1) (label - mean)^2 = d.

        There the loss is, at the best mean, lambda (v - d) / (2 s) + log(s) / 2.
        """
        mean, variance = self._mean_and_variance(target, labels)
        return (variance < (kd_lambda - 1) * (labels - mean).square()).any(dim=-1) & self.predicts_variance

    def target(self, values: Tensor, variance: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Return [..., 2 C], means and the sum of those variances that are known; the means [..., C] if none is."""
        known = [each for each in (variance, noise) if each is not None]
        return torch.cat([values, sum(known)], dim=-1) if known else values

    def of_student(self, num_outputs: int, num_values: int | None) -> Likelihood:
        """Return one that predicts its variance if there are twice as many outputs as values."""
        if num_values not in (None, num_outputs) and num_outputs != 2 * num_values:
            raise UserError(
                f"there are {num_values} numbers an example to predict, and the student has {num_outputs} outputs: "
                "take one with as many, or with twice as many for a mean and a log-variance each"
            )
        predicts = self.predicts_variance if num_values is None else num_outputs == 2 * num_values
        return Gaussian(predicts_variance=predicts)

    def nats(self, num_values: int) -> float:
        if not self.predicts_variance:
            raise UserError(
                "a posterior that is trained by squared errors would be as wide as their unit makes it: take a "
                "network with twice as many outputs, means and then log-variances (with the commands "
                "--predict_variance), or a Laplace posterior"
            )
        return num_values

    def labeled(self, labels: Tensor) -> Tensor:
        return without_nan(labels)

    def summed_variances(self, variances: Tensor) -> Tensor:
        """Sum them in units of the teachers' average for each number, for numbers may have different units."""
        average = variances.mean(dim=-2, keepdim=True)
        return (variances / average.clamp_min(torch.finfo(average.dtype).tiny)).sum(dim=-1)

    def scattered_variance(self, target: Tensor, drawn: Tensor, num_samples: int) -> Tensor:
        return self.label_variance(target)  # the sum of a label's variance given a draw and the draws' own

    def prediction(self, outputs: Tensor) -> Tensor:
        noise = self.noise(outputs)
        return self.values(outputs) if noise is None else torch.cat([self.values(outputs), noise], dim=-1)

    def measures(self, prediction: Tensor, labels: Tensor) -> dict[str, float]:
        known = self.labeled(labels)
        if not known.any():
            return {}
        prediction, labels = prediction[known], labels[known]
        mean, variance = (
            prediction.split(labels.shape[-1], dim=-1) if prediction.shape != labels.shape else (prediction, None)
        )
        return regression_metrics(mean, labels, variance)

    def reliability(self, prediction: Tensor, labels: Tensor) -> Reliability | None:
        known, values = self.labeled(labels), labels.shape[-1]
        if prediction.shape[-1] == values:
            return None
        return interval_reliability(*prediction[known].split(values, dim=-1), labels[known])

    def agreement(self, prediction: Tensor, other: Tensor) -> None:
        return None

    def _mean_and_variance(self, target: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Split a target [..., 2 C], or [..., C] of unknown variance, for means [..., C]."""
        if target.shape[-1] != mean.shape[-1]:
            return target.chunk(2, dim=-1)
        return target, UNKNOWN_VARIANCE * mean.new_tensor(self.label_scale or 1.0).square().expand_as(mean)

    def as_json(self) -> dict[str, Any]:
        known = None if self.observation_variance is None else list(self.observation_variance)
        content = {"observation_variance": known, "predicts_variance": self.predicts_variance or None}
        return super().as_json() | {name: value for name, value in content.items() if value is not None}


def _unknown_variance() -> UserError:
    return UserError(
        "the variance of the numbers around the network's is unknown: pass validation examples, which tell it, or "
        "problem_type=hf_bkd.likelihoods.Gaussian(observation_variance=(...,))"
    )
