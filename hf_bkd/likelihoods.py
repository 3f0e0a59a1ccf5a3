"""What a row of a network's outputs means, and everything that follows from it.

| likelihood    | problem type of transformers  | outputs [..., K]                      | values [..., C]             |
| ------------- | ----------------------------- | ------------------------------------- | --------------------------- |
| `Categorical` | `single_label_classification` | C logits                              | probabilities with sum 1    |
| `Bernoulli`   | `multi_label_classification`  | C logits                              | C independent probabilities |
| `Gaussian`    | `regression`                  | C means, or C means and log-variances | C means                     |

Values are what a teacher's draws are averaged to and what soft labels store. A target holds the values, for a Gaussian
also their variance where it is known: [..., 2 C], means before variances.

The divergence and the label's loss of `Categorical` are sums over the classes; those of `Bernoulli` and `Gaussian` are
means over the C labels, so that training without a teacher minimizes what transformers' own models do (torch's
`CrossEntropyLoss`, `BCEWithLogitsLoss` and `MSELoss`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .metrics import (
    Reliability,
    agreement,
    classification_metrics,
    entropy,
    interval_reliability,
    multi_label_metrics,
    multi_label_reliability,
    regression_metrics,
    reliability,
)
from .targets import mix_teachers, temper
from .utils.errors import UserError

UNLABELED = -100  # which torch's losses ignore
UNKNOWN_VARIANCE = 0.5  # of a Gaussian whose variance nobody knows: its negative log-likelihood is the squared error
SUM_TOLERANCE = 5e-3


class Likelihood(ABC):
    """The distribution of a label given a network's outputs; leading dimensions are free throughout."""

    name: ClassVar[str]
    problem_type: ClassVar[str]
    storages: ClassVar[tuple[str, ...]]
    """How soft labels can be stored, see `soft_labels.storage`; the first if nobody says."""
    column: ClassVar[str] = "teacher_probs"
    """Name of the column of a dataset that holds the values."""
    called: ClassVar[str] = "classes"
    """What the C values are of."""
    classes_in: ClassVar[str | None] = None
    """Whether a dataset's label column names the C values: of a ``"single"`` class a row, or in a ``"list"``."""
    least_values: ClassVar[int] = 1
    """How many of them say anything at all."""
    smallest: ClassVar[float] = 0.0
    """What a probability, or its distance from 1, can be off by in float32; 0 where a temperature means nothing."""
    summaries: ClassVar[tuple[str, ...]] = ()
    """What a message says of a row that is no answer: its sum, minimum or maximum."""
    unit: ClassVar[str] = "total variation"
    """Of :meth:`distance`."""
    remedy: ClassVar[str]
    """What to pass instead of such a row."""
    independent: ClassVar[bool] = True
    """Whether the curvature of a label's loss in the outputs is diagonal."""
    has_temperature: ClassVar[bool] = True
    """Whether a temperature other than 1 means something."""
    exact: ClassVar[bool] = False
    """Whether a normal distribution of the outputs can be integrated over, as by :meth:`marginal`."""
    target_has_variance: ClassVar[bool] = False
    """Whether a target holds the variance of a label beside the values."""
    headline: ClassVar[str]
    """The one of the measures by which trainings are compared, see `metrics.LOW_IS_BEST`."""
    label_term: ClassVar[str] = "cross_entropy"
    """What the loss of the labels is called in logs."""

    def num_values(self, num_outputs: int) -> int:
        """Return C for K outputs."""
        return num_outputs

    @abstractmethod
    def values(self, outputs: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the values [..., C] of outputs [..., K]; those of logits at a temperature T > 0."""

    def averaged(self, outputs: Tensor, weights: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Average the values of S draws, and then temper their mean.

        Args:
            outputs: of the draws [S, ..., K].
            weights: what each draw counts [S, ...], with a sum of 1 over the draws; ``None`` if they count equally.
            temperature: T > 0 of the mean.

        Returns:
            Values [..., C].
        """
        if temperature == 1:
            return averaged(self.values(outputs), weights)
        return self.values(self.averaged_outputs(outputs, weights), temperature)

    @abstractmethod
    def averaged_outputs(self, outputs: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return outputs [..., K] whose values are the average of those of S draws, as :meth:`averaged` has them.

        For values that are too small for their number format these say more than the average does.
        """

    @abstractmethod
    def outputs_of(self, values: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return outputs [..., K] with these values [..., C], and this :meth:`noise` if the outputs hold one."""

    def tempered(self, outputs: Tensor, temperature: float) -> Tensor:
        """Return outputs at temperature T > 0."""
        return outputs / temperature

    def check_temperature(self, temperature: float) -> None:
        """Raise a UserError if a temperature T other than 1 means nothing."""
        if temperature != 1 and not self.has_temperature:
            raise UserError(
                f"a temperature means nothing for regression, and it is {temperature:g}: leave it at 1 (what says how "
                "far to trust the teacher there is its variance)"
            )

    def joint(self, others: Sequence["Likelihood"]) -> "Likelihood":
        """Return the likelihood whose outputs can say what those of this one and of ``others``, of its kind, say."""
        return self

    def check_outputs(self, num_outputs: int) -> None:
        """Raise a UserError if a network has too few outputs for its answer to say anything."""
        if num_outputs < self.least_values:
            raise UserError(
                "a network with one output can't tell classes apart: pass problem_type='regression' for a number, or "
                "'multi_label_classification' for one label that is there or not"
            )

    def matching(self, labels: Tensor, num_outputs: int) -> tuple["Likelihood", Tensor]:
        """Return this likelihood and :meth:`checked_labels` for a network of K outputs.

        A Gaussian predicts its variance if there are twice as many outputs as labels, and it is not known.
        """
        self.check_outputs(num_outputs)
        return self, self.checked_labels(labels, num_outputs)

    @abstractmethod
    def checked_labels(self, labels: Tensor, num_values: int) -> Tensor:
        """Return the labels of N examples in one form.

        Args:
            labels: as somebody has them; those of one value may lack their last dimension.
            num_values: C.

        Returns:
            int64 [N] of a `Categorical`, [N, C] floats of the others.

        Raises:
            UserError: labels of another kind, of another number than the values, or out of range.
        """

    def observing(self, outputs: Tensor, labels: Tensor) -> "Likelihood":
        """Return this likelihood with what it doesn't know and held-out labels [N, C] tell, by outputs [N, K].

        Raises:
            UserError: a Gaussian of unknown variance whose outputs are the labels.
        """
        return self

    @abstractmethod
    def look_like_values(self, outputs: Tensor) -> bool:
        """Return whether outputs [N, K] can hardly be logits, for they are what a softmax or sigmoid returns."""

    def curvature(self, outputs: Tensor) -> Tensor:
        """Return the second derivatives [..., K] of a label's negative log-likelihood in each of the outputs.

        Raises:
            UserError: a Gaussian of unknown variance, or one that predicts it, whose curvature is not defined.
        """
        raise NotImplementedError

    def integrated(self, outputs: Tensor, variance: Tensor) -> Tensor:
        """Return outputs [..., K] with the values' mean for N(outputs, variance), in closed form.

        It is ``exact`` of a Gaussian, and for others MacKay's approximation (1992), z / sqrt(1 + pi/8 variance).
        """
        return outputs / (1 + math.pi / 8 * variance).sqrt()

    def marginal(self, outputs: Tensor, variance: Tensor) -> tuple["Likelihood", Tensor]:
        """Return the likelihood of a label for N(outputs, variance), and its outputs."""
        return self, self.integrated(outputs, variance)

    @abstractmethod
    def temper(self, values: Tensor, temperature: float) -> Tensor:
        """Return values [..., C] at temperature T > 0; UserError where a temperature means nothing."""

    def noise(self, outputs: Tensor) -> Tensor | None:
        """Return a label's variance [..., C] beside the values; ``None`` where these imply it, or nobody knows it."""
        return None

    @abstractmethod
    def label_variance(self, target: Tensor) -> Tensor:
        """Sum the variance of a label drawn from a target over its C values: [...]."""

    def scattered_variance(self, target: Tensor, drawn: Tensor, num_samples: int) -> Tensor:
        """Return, without bias, the :meth:`label_variance` [...] of what S draws scatter around.

        Args:
            target: the mean of the draws.
            drawn: their variance (ddof 1), summed over the C values [...].
            num_samples: S, for which the mean of S draws is too certain.
        """
        return self.label_variance(target) + drawn / num_samples

    @abstractmethod
    def entropy(self, target: Tensor) -> Tensor:
        """Return the entropy of a target [...], in nats; UserError where it is no measure of uncertainty."""

    def mixed(self, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Average the targets [..., M, K] of M teachers with weights [..., M] that sum to one (equal if not given)."""
        return mix_teachers(targets, weights)

    def normalized(self, values: Tensor) -> Tensor:
        """Return values [..., C] without what rounding did to them; rows of zeros stand for nothing, and stay."""
        return values

    def target(self, values: Tensor, variance: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Return the target of a teacher that answers with values [..., C].

        Args:
            values: mean over the draws.
            variance: of the draws [..., C]; ``None`` if it is unknown.
            noise: of a label given the draw [..., C]; ``None`` if it is unknown.
        """
        return values

    @abstractmethod
    def divergence(self, target: Tensor, outputs: Tensor, temperature: float = 1.0) -> Tensor:
        """Return KL(target || likelihood of the outputs at a temperature) [...], in nats, at least in float32."""

    @abstractmethod
    def label_loss(
        self, outputs: Tensor, labels: Tensor, label_smoothing: float = 0.0, target: Tensor | None = None
    ) -> Tensor:
        """Return the loss of labels [...], zero for an example without one.

        Args:
            outputs: [..., K].
            labels: class indices [...] of a `Categorical`; [..., C] of the others.
            label_smoothing: epsilon in [0, 1).
            target: the teacher's, whose variance a Gaussian that predicts none takes over.
        """

    def check_label_smoothing(self, label_smoothing: float) -> None:
        """Raise a UserError if smoothing labels by epsilon > 0 means nothing."""
        if label_smoothing and not self.has_temperature:
            raise UserError("label smoothing means nothing for regression: leave label_smoothing_factor out")

    def of_student(self, num_outputs: int, num_values: int | None) -> "Likelihood":
        """Return the likelihood of a student of K outputs that is taught C values (unknown if not given).

        Raises:
            UserError: numbers of outputs and of values that don't go together.
        """
        return self

    def as_columns(self, labels: Tensor) -> Tensor:
        """Return labels as the losses take them; those of one label an example, [B], as [B, 1]."""
        return labels.unsqueeze(-1) if labels.ndim == 1 else labels

    def nats(self, num_values: int) -> float:
        """Return how many nats of an example's negative log-likelihood :meth:`label_loss` counts as 1.

        Raises:
            UserError: a Gaussian that doesn't predict its variance, whose loss is in the labels' unit.
        """
        return num_values if self.independent else 1.0

    @abstractmethod
    def labeled(self, labels: Tensor) -> Tensor:
        """Return which examples have a label: bool [...]."""

    def prediction(self, outputs: Tensor) -> Tensor:
        """Return what outputs [..., K] predict, as a target holds it: values, and their variance where it is known."""
        return self.values(outputs)

    @abstractmethod
    def measures(self, prediction: Tensor, labels: Tensor) -> dict[str, float]:
        """Compute the measures of a :meth:`prediction` against labels, over the examples or positions with a label.

        They are empty if none has one; `metrics` says what each is.
        """

    def to_bytes(self, values: Tensor) -> Tensor:
        """Return whole numbers from 0 to 255, uint8 [..., C], for probabilities float64 [..., C]."""
        raise NotImplementedError

    def from_bytes(self, numbers: Tensor) -> Tensor:
        """Return the probabilities float32 [..., C] for which :meth:`to_bytes` stores such numbers."""
        raise NotImplementedError

    def problems_of_bytes(self, numbers: Tensor) -> dict[str, Tensor]:
        """Return what may be wrong with numbers [..., C] of :meth:`to_bytes`, as :meth:`problems` does."""
        return {}

    def scale(self, values: Tensor) -> Tensor | float:
        """Return the unit, [C] or one for all, in which values [N, ..., C] are compared."""
        return 1.0

    @abstractmethod
    def distance(self, values: Tensor, others: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Return how far values [..., C] are from others [...]: 0 where they are equal, and little below 0.02."""

    @abstractmethod
    def reliability(self, prediction: Tensor, labels: Tensor) -> Reliability | None:
        """Compare what a :meth:`prediction` promises with what labels say; ``None`` where it promises nothing."""

    @abstractmethod
    def agreement(self, prediction: Tensor, other: Tensor) -> float | None:
        """Return the share of equal decisions of two predictions; ``None`` where there are no decisions."""

    @abstractmethod
    def problems(self, values: Tensor) -> dict[str, Tensor]:
        """Return what may be wrong with values [..., C] and where it is: sentence -> bool [...]."""

    def as_json(self) -> dict[str, Any]:
        """Return what :func:`likelihood_from` makes it of again."""
        return {"problem_type": self.problem_type}


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
        return torch.softmax(outputs / temperature, dim=-1)

    def averaged_outputs(self, outputs: Tensor, weights: Tensor | None = None) -> Tensor:
        return _log_mean(outputs.log_softmax(dim=-1), weights)

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
        outputs = _wide(outputs)
        target = target.to(outputs.dtype)
        log_student = F.log_softmax(outputs / temperature, dim=-1)
        return (torch.xlogy(target, target) - target * log_student).sum(dim=-1)

    def label_loss(
        self, outputs: Tensor, labels: Tensor, label_smoothing: float = 0.0, target: Tensor | None = None
    ) -> Tensor:
        flat = _wide(outputs).reshape(-1, outputs.shape[-1])
        losses = F.cross_entropy(flat, labels.reshape(-1), reduction="none", label_smoothing=label_smoothing)
        return losses.view(labels.shape)

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
        return _probability_problems(values) | {
            "does not sum to one": ~((values.sum(dim=-1) - 1).abs() <= SUM_TOLERANCE)
        }


CATEGORICAL = Categorical()


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
        return _log_mean(F.logsigmoid(outputs), weights) - _log_mean(F.logsigmoid(-outputs), weights)

    def outputs_of(self, values: Tensor, noise: Tensor | None = None) -> Tensor:
        return torch.logit(values)

    def checked_labels(self, labels: Tensor, num_values: int) -> Tensor:
        single = labels.is_floating_point() or num_values == 1
        labels = _columns(labels, num_values, "0 or 1 for each of the network's labels", single)
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
        outputs = _wide(outputs) / temperature
        target = target.to(outputs.dtype)
        cross = F.binary_cross_entropy_with_logits(outputs, target, reduction="none").mean(dim=-1)
        return cross - self.entropy(target) / target.shape[-1]

    def label_loss(
        self, outputs: Tensor, labels: Tensor, label_smoothing: float = 0.0, target: Tensor | None = None
    ) -> Tensor:
        outputs, there = _wide(outputs), self.labeled(labels)
        wanted = torch.where(there[..., None], labels, 0).to(outputs.dtype)
        wanted = (1 - label_smoothing) * wanted + label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(outputs, wanted, reduction="none").mean(dim=-1)
        return losses.masked_fill(~there, 0)

    def labeled(self, labels: Tensor) -> Tensor:
        return _without_nan(labels)

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
        return _probability_problems(values) | {"holds a probability above one": (values > 1 + 1e-6).any(dim=-1)}


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """C numbers, each normally distributed around its mean.

    Args:
        observation_variance: sigma^2 > 0 of each of the C labels around the network's means, where the network
            doesn't predict it; ``None`` if it is unknown.
        predicts_variance: whether the network has 2 C outputs, the means and then the logarithms of the variances.
    """

    name = "gaussian"
    problem_type = "regression"
    has_temperature = False
    exact = True
    target_has_variance = True
    headline = "rmse"
    label_term = "label_loss"
    storages = ("float32", "float16")
    column = "teacher_mean"
    called = "numbers"
    unit = "standard deviations"
    remedy = "pass finite numbers"

    observation_variance: tuple[float, ...] | None = None
    predicts_variance: bool = False

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
        noise = self.noise(outputs)
        return self.outputs_of(
            averaged(self.values(outputs), weights), None if noise is None else averaged(noise, weights)
        )

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
        labels = _columns(labels, num_values, "a number for each of the network's outputs", True)
        wrong = labels[~labels.isfinite()]
        if len(wrong):
            raise UserError(
                f"the numbers to predict must be finite, and one of them is {wrong[0]:g}: leave such examples out"
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
        if noise is None or self.predicts_variance:
            raise UserError(
                "the network predicts its own variance, whose curvature is not known in closed form: take an "
                "ensemble, dropout or a variational posterior"
                if self.predicts_variance
                else "the variance of the numbers around the network's is unknown: pass validation examples, which "
                "tell it, or problem_type=hf_bkd.likelihoods.Gaussian(observation_variance=(...,))"
            )
        return 1 / noise

    def integrated(self, outputs: Tensor, variance: Tensor) -> Tensor:
        return outputs

    def marginal(self, outputs: Tensor, variance: Tensor) -> tuple[Likelihood, Tensor]:
        noise = self.noise(outputs)
        if noise is None:
            raise UserError(
                "the variance of the numbers around the network's is unknown: pass "
                "likelihood=hf_bkd.likelihoods.Gaussian(observation_variance=(...,))"
            )
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
            "teacher_weights='inverse_variance' or 'equal'"
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
        outputs = _wide(outputs)
        mean, own = self.values(outputs, temperature), self.noise(outputs) if self.predicts_variance else None
        wanted, variance = _mean_and_variance(target.to(outputs.dtype), mean)
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
        outputs, there = _wide(outputs), self.labeled(labels)
        mean = self.values(outputs)
        squares = (torch.where(there[..., None], labels.to(mean.dtype), 0) - mean).square()
        if self.predicts_variance:
            variance = self.noise(outputs)
            losses = (squares / variance + variance.log()) / 2
        elif target is None:
            losses = squares
        else:
            losses = squares / (2 * _mean_and_variance(target.to(mean.dtype), mean)[1])
        return losses.mean(dim=-1).masked_fill(~there, 0)

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
                "network with twice as many outputs, means and then log-variances, or a Laplace posterior"
            )
        return num_values

    def labeled(self, labels: Tensor) -> Tensor:
        return _without_nan(labels)

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

    def scale(self, values: Tensor) -> Tensor:
        """Return the standard deviation of each number over all rows, 1 where they are all equal."""
        flat = values.reshape(-1, values.shape[-1]).double()
        spread = flat.std(dim=0, correction=0)
        return torch.where(spread > 0, spread, 1).float()

    def distance(self, values: Tensor, others: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Return the largest difference of a number, in units of ``scale``."""
        return ((values - others).abs() / scale).amax(dim=-1)

    def problems(self, values: Tensor) -> dict[str, Tensor]:
        return {"holds a value that is not a finite number": ~values.isfinite().all(dim=-1)}

    def as_json(self) -> dict[str, Any]:
        known = None if self.observation_variance is None else list(self.observation_variance)
        content = {"observation_variance": known, "predicts_variance": self.predicts_variance or None}
        return super().as_json() | {name: value for name, value in content.items() if value is not None}


LIKELIHOODS: dict[str, type[Likelihood]] = {each.problem_type: each for each in (Categorical, Bernoulli, Gaussian)}


def likelihood_from(content: dict[str, Any] | str | None) -> Likelihood:
    """Make a likelihood of what :meth:`Likelihood.as_json` says, or of a problem type; `Categorical` if of nothing.

    Raises:
        UserError: an unknown problem type.
    """
    content = {"problem_type": content} if isinstance(content, str) else dict(content or {})
    problem_type = content.pop("problem_type", Categorical.problem_type)
    if problem_type not in LIKELIHOODS:
        raise UserError(f"problem_type is {problem_type!r}; it must be one of {', '.join(LIKELIHOODS)}")
    if content.get("observation_variance") is not None:
        content["observation_variance"] = tuple(content["observation_variance"])
    return LIKELIHOODS[problem_type](**content)


def averaged(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Average values [S, ..., C] over S draws with weights [S, ...] that sum to one (equal if not given)."""
    return values.mean(dim=0) if weights is None else (weights[..., None] * values).sum(dim=0)


def _wide(outputs: Tensor) -> Tensor:
    return outputs if outputs.dtype == torch.float64 else outputs.float()


def _log_mean(logs: Tensor, weights: Tensor | None) -> Tensor:
    """Return the logarithm of the mean [..., C] of what ``logs`` [S, ..., C] are the logarithms of."""
    weighted = logs - math.log(len(logs)) if weights is None else logs + weights[..., None].log()
    return weighted.logsumexp(dim=0)


def _columns(labels: Tensor, num_values: int, wanted: str, single: bool) -> Tensor:
    """Return labels [N, C] in float32 or float64; those of a ``single`` value may lack their last dimension."""
    if labels.ndim == 1 and single:
        labels = labels[:, None]
    if labels.ndim != 2:
        raise UserError(
            f"labels must be {wanted}, and they are {labels.dtype} of shape {list(labels.shape)}: for class indices "
            "pass problem_type='single_label_classification'"
        )
    if labels.shape[1] != num_values:
        raise UserError(
            f"an example has {labels.shape[1]} labels, and the network predicts {num_values}: take a network that "
            "predicts as many"
        )
    return _wide(labels)


def _without_nan(labels: Tensor) -> Tensor:
    return (
        ~labels.isnan().any(dim=-1)
        if labels.is_floating_point()
        else torch.ones(labels.shape[:-1], dtype=torch.bool, device=labels.device)
    )


def _mean_and_variance(target: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Split a target [..., 2 C], or [..., C] of unknown variance, for means [..., C]."""
    if target.shape[-1] == mean.shape[-1]:
        return target, torch.full_like(target, UNKNOWN_VARIANCE)
    wanted, variance = target.chunk(2, dim=-1)
    return wanted, variance


def _probability_problems(values: Tensor) -> dict[str, Tensor]:
    return {
        "holds a value that is not a finite number": ~values.isfinite().all(dim=-1),
        "holds a negative probability": (values < 0).any(dim=-1),
    }
