"""What every likelihood answers, and what most of them answer alike."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from ..metrics import Reliability
from ..targets import mix_teachers
from ..utils.errors import UserError
from .tensors import averaged
from .values import Values


class Likelihood(Values):
    """The distribution of a label given a network's outputs; leading dimensions are free throughout."""

    name: ClassVar[str]
    problem_type: ClassVar[str]
    smallest: ClassVar[float] = 0.0
    """What a probability, or its distance from 1, can be off by in float32; 0 where a temperature means nothing."""
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
                "'multi_label_classification' for one label that is there or not (likelihood= of a teacher's own "
                "constructor)"
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

    def summed_variances(self, variances: Tensor) -> Tensor:
        """Sum the variances [..., M, C] of M teachers over the C values: [..., M], by which they are compared."""
        return variances.sum(dim=-1)

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

    def squared_error(self, target: Tensor, labels: Tensor) -> Tensor:
        """Return |y - target|^2 [...] of labels that are there, for targets [..., C] that are probabilities."""
        raise NotImplementedError

    @abstractmethod
    def unbounded(self, target: Tensor, labels: Tensor, kd_lambda: float, weight: float = 1.0) -> Tensor:
        """Return where (1 - lambda) label_loss + lambda scale divergence has no lower bound, bool [...].

        Lambda is above 1, ``weight`` is scale / T_s; it means nothing for an example without a label.
        """

    def check_label_smoothing(self, label_smoothing: float) -> None:
        """Raise a UserError if smoothing labels by epsilon > 0 means nothing."""
        if label_smoothing and not self.has_temperature:
            raise UserError("label smoothing means nothing for regression: leave label_smoothing_factor out")

    def of_student(self, num_outputs: int, num_values: int | None) -> "Likelihood":
        """Return that of a student of K outputs that is taught C values (if known); UserError if they don't fit."""
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

    @abstractmethod
    def reliability(self, prediction: Tensor, labels: Tensor) -> Reliability | None:
        """Compare what a :meth:`prediction` promises with what labels say; ``None`` where it promises nothing."""

    @abstractmethod
    def agreement(self, prediction: Tensor, other: Tensor) -> float | None:
        """Return the share of equal decisions of two predictions; ``None`` where there are no decisions."""

    def as_json(self) -> dict[str, Any]:
        """Return what :func:`likelihood_from` makes it of again."""
        return {"problem_type": self.problem_type}
