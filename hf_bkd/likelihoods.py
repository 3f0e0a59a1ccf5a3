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
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .metrics import entropy
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
    smallest: ClassVar[float] = 0.0
    """What a probability, or its distance from 1, can be off by in float32; 0 where a temperature means nothing."""
    summaries: ClassVar[tuple[str, ...]] = ()
    """What a message says of a row that is no answer: its sum, minimum or maximum."""
    remedy: ClassVar[str]
    """What to pass instead of such a row."""

    def num_values(self, num_outputs: int) -> int:
        """Return C for K outputs."""
        return num_outputs

    @abstractmethod
    def values(self, outputs: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the values [..., C] of outputs [..., K]; those of logits at a temperature T > 0."""

    @abstractmethod
    def averaged(self, outputs: Tensor, weights: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Average the values of S draws, and then temper their mean.

        Args:
            outputs: of the draws [S, ..., K].
            weights: what each draw counts [S, ...], with a sum of 1 over the draws; ``None`` if they count equally.
            temperature: T > 0 of the mean.

        Returns:
            Values [..., C].
        """

    @abstractmethod
    def temper(self, values: Tensor, temperature: float) -> Tensor:
        """Return values [..., C] at temperature T > 0; UserError where a temperature means nothing."""

    def noise(self, outputs: Tensor) -> Tensor | None:
        """Return a label's variance [..., C] beside the values; ``None`` where these imply it, or nobody knows it."""
        return None

    @abstractmethod
    def label_variance(self, target: Tensor) -> Tensor:
        """Sum the variance of a label drawn from a target over its C values: [...]."""

    @abstractmethod
    def entropy(self, target: Tensor) -> Tensor:
        """Return the entropy of a target [...], in nats; UserError where it is no measure of uncertainty."""

    def mixed(self, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Average the targets [..., M, K] of M teachers with weights [..., M] that sum to one (equal if not given)."""
        return mix_teachers(targets, weights)

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

    @abstractmethod
    def labeled(self, labels: Tensor) -> Tensor:
        """Return which examples have a label: bool [...]."""

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
    storages = ("float16", "float32", "uint8", "top_k")
    classes_in = "single"
    least_values = 2
    smallest = 2.0**-149
    summaries = ("sum", "minimum")
    remedy = "pass class probabilities, not logits or counts"

    def values(self, outputs: Tensor, temperature: float = 1.0) -> Tensor:
        return torch.softmax(outputs / temperature, dim=-1)

    def averaged(self, outputs: Tensor, weights: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        if temperature == 1:
            return _averaged(self.values(outputs), weights)
        # targets.temper of the mean, but in logarithms, where nothing is too small for float32
        return torch.softmax(_log_mean(outputs.log_softmax(dim=-1), weights) / temperature, dim=-1)

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

    def labeled(self, labels: Tensor) -> Tensor:
        return labels != UNLABELED

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


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """C labels, each of which is there or isn't, independently of the others given the input."""

    name = "bernoulli"
    problem_type = "multi_label_classification"
    storages = ("float16", "float32", "uint8")
    called = "labels"
    classes_in = "list"
    smallest = 2.0**-25  # from 1, where float32 is coarser than at 0
    summaries = ("minimum", "maximum")
    remedy = "pass probabilities of labels, not logits"

    def values(self, outputs: Tensor, temperature: float = 1.0) -> Tensor:
        return torch.sigmoid(outputs / temperature)

    def averaged(self, outputs: Tensor, weights: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        if temperature == 1:
            return _averaged(self.values(outputs), weights)
        logits = _log_mean(F.logsigmoid(outputs), weights) - _log_mean(F.logsigmoid(-outputs), weights)
        return torch.sigmoid(logits / temperature)

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
    storages = ("float32", "float16")
    column = "teacher_mean"
    called = "numbers"
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
        _check_no_temperature(temperature)
        return outputs[..., : self.num_values(outputs.shape[-1])]

    def averaged(self, outputs: Tensor, weights: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        return _averaged(self.values(outputs, temperature), weights)

    def temper(self, values: Tensor, temperature: float) -> Tensor:
        _check_no_temperature(temperature)
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
        """
        outputs = _wide(outputs)
        mean, own = self.values(outputs, temperature), self.noise(outputs) if self.predicts_variance else None
        wanted, variance = _mean_and_variance(target.to(outputs.dtype), mean)
        if own is None:
            return ((wanted - mean).square() / (2 * variance)).mean(dim=-1)
        ratio = variance / own
        return (((wanted - mean).square() / own + ratio - 1 - ratio.log()) / 2).mean(dim=-1)

    def label_loss(
        self, outputs: Tensor, labels: Tensor, label_smoothing: float = 0.0, target: Tensor | None = None
    ) -> Tensor:
        """Return the mean over the labels of the squared error, or of the negative log-likelihood.

        The latter is less log(2 pi) / 2 for a network that predicts its variance, and its part with the mean for one
        that takes over the target's.
        """
        if label_smoothing:
            raise UserError("label smoothing means nothing for regression: leave label_smoothing_factor out")
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

    def labeled(self, labels: Tensor) -> Tensor:
        return _without_nan(labels)

    def scale(self, values: Tensor) -> Tensor:
        """Return the standard deviation of each number over all rows, 1 where they are all equal."""
        flat = values.reshape(-1, values.shape[-1]).double()
        spread = flat.std(dim=0, correction=0)
        return torch.where(spread > 0, spread, 1).to(values.dtype)

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


def _wide(outputs: Tensor) -> Tensor:
    return outputs if outputs.dtype == torch.float64 else outputs.float()


def _averaged(values: Tensor, weights: Tensor | None) -> Tensor:
    return values.mean(dim=0) if weights is None else (weights[..., None] * values).sum(dim=0)


def _log_mean(logs: Tensor, weights: Tensor | None) -> Tensor:
    """Return the logarithm of the mean [..., C] of what ``logs`` [S, ..., C] are the logarithms of."""
    weighted = logs - math.log(len(logs)) if weights is None else logs + weights[..., None].log()
    return weighted.logsumexp(dim=0)


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


def _check_no_temperature(temperature: float) -> None:
    if temperature != 1:
        raise UserError(
            f"a temperature means nothing for regression, and it is {temperature:g}: leave it at 1 (what says how far "
            "to trust the teacher there is its variance)"
        )
