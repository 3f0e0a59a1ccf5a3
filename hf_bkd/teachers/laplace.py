"""The Laplace teacher: a Gaussian around the last layer's trained weights (Daxberger et al. 2021).

The posterior's covariance is the inverse of the loss' curvature plus a prior precision (`curvature.py`); a link turns
the Gaussian over logits that follows from it into class probabilities.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from ..likelihoods import CATEGORICAL, Likelihood
from ..models.calling import Inputs
from ..models.heads import HeadData, classification_head, head_data, head_features
from ..utils.checks import check_choice, check_count, check_positive
from ..utils.errors import UserError
from ..utils.random import example_normal
from .base import Teacher
from .curvature import STRUCTURES, Curvature
from .deterministic import Deterministic
from .examples import batches_of, used_processor
from .laplace_links import LINKS, check_link, linked
from .laplace_precision import by_evidence, by_validation, by_validation_with_noise, calibrated_noise, predictive
from .predictive import Draws
from .row_curvature import fitted_curvature, kind_of_curvature
from .specification import FitContext, TeacherSpec, option


class LaplaceTeacher(Teacher):
    """A trained network with a Gaussian posterior over its last layer.

    Args:
        network: the trained network; its weights are the posterior's mean.
        curvature: of the loss in the last layer's weights, see
            :func:`~hf_bkd.teachers.row_curvature.fitted_curvature`; it is moved to the network's device.
        prior_precision: delta > 0, of the weights and the bias; the larger, the narrower the posterior.
        link: from the Gaussian over logits to class probabilities.

            - ``"probit"``: softmax(z / sqrt(1 + pi/8 var)), a single draw (MacKay 1992). Labels that are each there or
              not have a sigmoid in its place. A regression's mean and ``variance`` are exact.
            - ``"mc"``: softmax of S draws, the only link with a variance for classes and labels; 10 draws of a wide
              posterior are noisy.
            - ``"bridge"``: mean of the Dirichlet distribution that the Laplace bridge matches, a single draw
              (Hobbhahn, Kristiadi and Hennig 2022); of classes only.

    Raises:
        UserError: prior precision not above 0 or infinite, unknown link, or curvature of another head than the
            network's, or of another problem type.
    """

    method = "laplace"

    def __init__(
        self,
        network: nn.Module,
        curvature: Curvature,
        prior_precision: float,
        link: str = "probit",
        temperature: float = 1.0,
        tempering: str = "post_average",
        likelihood: Likelihood | str | None = None,
    ):
        super().__init__(network, temperature, tempering, likelihood)
        check_link(link, self.likelihood)
        check_positive(prior_precision=prior_precision)
        if type(curvature) is not kind_of_curvature(curvature.structure, self.likelihood):
            raise UserError(f"the posterior is not of the network's problem type, {self.likelihood.problem_type}")
        head = classification_head(network)[1]
        fitted = *curvature.head_size, curvature.has_bias
        needed = head.in_features, head.out_features, head.bias is not None
        if fitted != needed:
            raise UserError(
                "the posterior is of a head with {} features, {} classes and bias: {}; ".format(*fitted)
                + "the network's has {}, {} and {}".format(*needed)
            )
        self.curvature = curvature.to(head.weight.device)
        self.prior_precision = float(prior_precision)
        self.link = link

    @classmethod
    def fit(
        cls,
        network: nn.Module,
        train: Any,
        validation: Any = None,
        *,
        processing_class: Any = None,
        structure: str = "kron",
        link: str = "probit",
        prior_precision: float | str | None = None,
        num_samples: int = 10,
        problem_type: str | Likelihood | None = None,
    ) -> Self:
        """Fit the posterior of a trained network's last layer.

        A regression's is that of Bayesian linear regression on the last layer's inputs (exact for ``"kron"`` and
        ``"full"``), around the trained weights. The variance of its numbers, if nobody gives it, is such that squared
        validation errors are on average what is predicted.

        Args:
            network: the trained network; its modules are in evaluation mode for the pass, and then in their own.
            train: the *un-augmented* training set: a ``datasets.Dataset`` with a label column, or batches (dicts with
                ``labels``, or pairs).
            validation: held-out examples to choose ``prior_precision`` on, by the predictive's negative
                log-likelihood; likewise.
            processing_class: the tokenizer, image processor, feature extractor or transform by which the network
                reads a dataset, if it isn't beside its weights or timm's data configuration.
            structure: of the curvature: ``"kron"``, ``"diag"`` or, for small heads, ``"full"``.
            link: see the class.
            prior_precision: delta > 0 where it is known, or ``"marginal_likelihood"`` to choose it on the training
                set by the Laplace approximation of the evidence (MacKay 1992).
            num_samples: S >= 1, how many draws the labels will be made with. The fewer, the narrower is the posterior
                of least validation NLL, for few draws of a wide one are noisy.
            problem_type: what the network's outputs mean, if it doesn't say it, see
                :func:`~hf_bkd.models.problem_types.likelihood_of`; or ``Gaussian(observation_variance=...)``.

        Raises:
            UserError: neither validation examples nor a prior precision; no linear head; no examples, or labels that
                don't fit the head; a dataset that the network can't read; unknown structure, or a full one of a large
                head; ``num_samples`` below 1; a regression that predicts its variance; and as for the class.
        """
        check_count(num_samples=num_samples)
        check_choice(STRUCTURES, structure=structure)
        check_choice(LINKS, link=link)
        if validation is None and prior_precision is None:
            raise UserError(
                "pass validation batches to choose the prior precision on, or prior_precision: a number or "
                "'marginal_likelihood'"
            )
        given = 1.0 if prior_precision in (None, "marginal_likelihood") else prior_precision
        if isinstance(given, str):
            raise UserError(f"prior_precision is {given!r}; it must be a number or 'marginal_likelihood'")
        check_positive(prior_precision=given)
        train = batches_of(train, network, processing_class, problem_type=problem_type)
        seen = head_data(network, train, problem_type)
        check_link(link, seen.likelihood)
        held_out = None
        if validation is not None:
            validation = batches_of(validation, network, processing_class, problem_type=seen.likelihood)
            held_out = head_data(network, validation, seen.likelihood)
        head = classification_head(network)[1]
        posterior = _posterior(seen, held_out, head, structure, prior_precision, link, num_samples)
        teacher = cls(network, posterior.curvature, posterior.precision, link, likelihood=posterior.likelihood)
        teacher.processing_class = used_processor(train, processing_class)
        teacher.record = {"examples": len(seen.labels), "prior precision chosen by": posterior.rule}
        if posterior.likelihood != seen.likelihood:
            teacher.record["observation variance chosen by"] = "validation error"
        if held_out is not None:
            projected = teacher.curvature.project(held_out.features)
            held_out = held_out._replace(likelihood=teacher.likelihood)
            kind, outputs = predictive(
                teacher.curvature, projected, held_out, link, teacher.prior_precision, num_samples
            )
            teacher.record["validation"] = kind.measures(kind.prediction(outputs[0]), held_out.labels)
        return teacher

    def num_draws(self, num_samples: int) -> int:
        return num_samples if self.link == "mc" else 1

    def draws(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Draws:
        self.network.eval()
        features, outputs = (seen.float() for seen in head_features(self.network, inputs))
        if self.curvature.device != features.device:
            self.curvature = self.curvature.to(features.device)
        noise = None
        if self.link == "mc":
            noise = example_normal((num_samples, *outputs.shape), outputs, generator).flatten(1, -2)
        covariance = self.curvature.covariance(self.curvature.project(features.flatten(0, -2)), self.prior_precision)
        drawn = linked(self.link, outputs.flatten(0, -2), covariance, noise, self.likelihood)
        exact = self.likelihood.exact and self.link != "mc"
        return Draws(
            drawn.unflatten(1, outputs.shape[:-1]),
            variance=covariance.variance().unflatten(0, outputs.shape[:-1]) if exact else None,
        )

    def draw_logits(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Tensor:
        return self.draws(inputs, num_samples, generator).logits

    @torch.no_grad()
    def head_posterior(self) -> tuple[Tensor, Tensor]:
        """Approximate the head's posterior by the nearest matrix normal MN(M, I, S), with independent, like rows.

        :func:`hf_bkd.theory.divergence.distillation_divergence` compares two of these. S is the mean of the diagonal
        blocks Sigma_cc of the posterior's covariance, one for each class, which minimizes KL(posterior || MN(M, I, S))
        = (tr(S^-1 sum_c Sigma_cc) + C log det S) / 2 + a constant. What it omits is how classes correlate and differ.

        Returns:
            M [C, d+1], the bias in its last column, and S [d+1, d+1], in float64; without a bias [C, d] and [d, d].
        """
        head = classification_head(self.network)[1]
        rows = head.weight if head.bias is None else torch.cat([head.weight, head.bias[:, None]], dim=1)
        return rows.double(), self.curvature.row_covariance(self.prior_precision).to(rows.device)

    @torch.no_grad()
    def best_precision(self, data: HeadData, num_samples: int = 10) -> float:
        """Find delta in [1e-4, 1e6] of least negative log-likelihood on what the head saw of held-out examples.

        See :func:`~hf_bkd.teachers.laplace_precision.by_validation`.
        """
        return by_validation(self.curvature, data._replace(likelihood=self.likelihood), self.link, num_samples)

    def get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        settings = {"prior_precision": self.prior_precision, "link": self.link, "structure": self.curvature.structure}
        return settings, self.curvature.tensors()

    @classmethod
    def from_state(cls, network: nn.Module, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        settings = dict(settings)
        kind = kind_of_curvature(settings.pop("structure"), settings.get("likelihood", CATEGORICAL))
        return cls(network, kind(classification_head(network)[1].bias is not None, **tensors), **settings)


class _Posterior(NamedTuple):
    curvature: Curvature
    precision: float
    likelihood: Likelihood
    rule: str


def _posterior(
    seen: HeadData,
    held_out: HeadData | None,
    head: nn.Linear,
    structure: str,
    prior_precision: float | str | None,
    link: str,
    num_samples: int,
) -> _Posterior:
    """Fit the curvature, and choose the prior precision and the variance of numbers where they aren't given."""
    likelihood = seen.likelihood
    if held_out is not None:
        likelihood = likelihood.observing(held_out.logits, held_out.labels)
        held_out = held_out._replace(likelihood=likelihood)
    curvature = fitted_curvature(seen._replace(likelihood=likelihood), head, structure)
    learned = likelihood != seen.likelihood
    if prior_precision == "marginal_likelihood":
        rule, precision = "marginal likelihood", by_evidence(curvature, seen, head)
    elif prior_precision is not None:
        rule, precision = "given", prior_precision
    elif learned:
        rule, precision = "validation NLL", by_validation_with_noise(curvature, held_out)
    else:
        rule, precision = "validation NLL", by_validation(curvature, held_out, link, num_samples)
    if learned:
        noise = calibrated_noise(curvature, curvature.project(held_out.features), held_out, precision)
        before, likelihood = likelihood.noise(held_out.logits)[0], likelihood.with_variance(noise)
        curvature = curvature.scaled(before / noise)
    return _Posterior(curvature, precision, likelihood, rule)


@dataclass(frozen=True)
class Laplace(TeacherSpec):
    """A last-layer Laplace approximation around a trained network; see :meth:`LaplaceTeacher.fit`."""

    kind = method = "laplace"

    structure: str = option("kron", "of the curvature", tuple(STRUCTURES))
    link: str = option("probit", "from logits to probabilities, mc by draws", LINKS)
    prior_precision: float | str | None = option(
        None, "a number or marginal_likelihood; chosen by validation NLL if not given", kind=str
    )

    def __post_init__(self):
        super().__post_init__()
        if self.prior_precision not in (None, "marginal_likelihood"):
            object.__setattr__(self, "prior_precision", _precision(self.prior_precision))

    @property
    def parts(self) -> tuple[TeacherSpec, ...]:
        return (Deterministic(),)

    def fit(self, context: FitContext) -> Teacher:
        trained = context.trained()
        return LaplaceTeacher.fit(
            trained.network,
            context.train_batches(),
            context.validation_batches(),
            structure=self.structure,
            link=self.link,
            prior_precision=self.prior_precision,
            num_samples=context.num_samples,
            problem_type=context.problem_type or trained.likelihood,
        )


def _precision(given: str | float) -> float:
    try:
        value = float(given)
    except (TypeError, ValueError):
        value = 0.0
    if not value > 0:
        raise UserError(f"prior_precision is {given!r}; it must be a number above 0 or marginal_likelihood")
    return value
