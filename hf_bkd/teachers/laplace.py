"""The Laplace teacher: a Gaussian around the last layer's trained weights (Daxberger et al. 2021).

The posterior's covariance is the inverse of the loss' curvature plus a prior precision (`curvature.py`); a link turns
the Gaussian over logits that follows from it into class probabilities.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..metrics import classification_metrics
from ..models.calling import Inputs
from ..models.heads import HeadData, classification_head, head_data, head_features
from ..utils.checks import check_choice, check_count, check_positive
from ..utils.errors import UserError
from ..utils.random import example_normal, standard_normal
from .base import Teacher
from .curvature import STRUCTURES, Curvature, LogitCovariance, curvature_of
from .deterministic import Deterministic
from .examples import batches_of, used_processor
from .specification import FitContext, TeacherSpec, option

LINKS = ("mc", "probit", "bridge")
PRECISION_RANGE = (1e-4, 1e6)
SEARCH_DRAWS = 64
CHUNK = 2**24  # how many numbers the search for a precision holds at a time


class LaplaceTeacher(Teacher):
    """A trained network with a Gaussian posterior over its last layer.

    Args:
        network: the trained network; its weights are the posterior's mean.
        curvature: of the loss in the last layer's weights, see :func:`~hf_bkd.teachers.curvature.curvature_of`; it is
            moved to the network's device.
        prior_precision: delta > 0; the larger, the narrower the posterior.
        link: from the Gaussian over logits to class probabilities.

            - ``"probit"``: softmax(z / sqrt(1 + pi/8 var)), a single draw (MacKay 1992).
            - ``"mc"``: softmax of S draws, the only link with a variance; 10 draws of a wide posterior are noisy.
            - ``"bridge"``: mean of the Dirichlet distribution that the Laplace bridge matches, a single draw
              (Hobbhahn, Kristiadi and Hennig 2022).

    Raises:
        UserError: prior precision not above 0 or infinite, unknown link, or curvature of another head than the
            network's.
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
    ):
        super().__init__(network, temperature, tempering)
        check_choice(LINKS, link=link)
        check_positive(prior_precision=prior_precision)
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
    ) -> Self:
        """Fit the posterior of a trained network's last layer.

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

        Raises:
            UserError: neither validation examples nor a prior precision; no linear head; no examples, or labels that
                don't fit the head; a dataset that the network can't read; unknown structure, or a full one of a large
                head; ``num_samples`` below 1; and as for the class.
        """
        check_count(num_samples=num_samples)
        if validation is None and prior_precision is None:
            raise UserError(
                "pass validation batches to choose the prior precision on, or prior_precision: a number or "
                "'marginal_likelihood'"
            )
        given = 1.0 if prior_precision in (None, "marginal_likelihood") else prior_precision
        if isinstance(given, str):
            raise UserError(f"prior_precision is {given!r}; it must be a number or 'marginal_likelihood'")
        train = batches_of(train, network, processing_class)
        validation = None if validation is None else batches_of(validation, network, processing_class)
        seen = head_data(network, train)
        head = classification_head(network)[1]
        teacher = cls(network, curvature_of(seen, head, structure), given, link)
        held_out = None if validation is None else head_data(network, validation)
        teacher.processing_class, rule = used_processor(train, processing_class), "given"
        if prior_precision == "marginal_likelihood":
            rule, teacher.prior_precision = "marginal likelihood", _best_evidence(teacher.curvature, seen, head)
        elif prior_precision is None:
            rule, teacher.prior_precision = "validation NLL", teacher.best_precision(held_out, num_samples)
        teacher.record = {"examples": len(seen.labels), "prior precision chosen by": rule}
        if held_out is not None:
            projected = teacher.curvature.project(held_out.features)
            log_probs = teacher._log_predictive(projected, held_out.logits, teacher.prior_precision, num_samples)
            teacher.record["validation"] = classification_metrics(log_probs[0].exp(), held_out.labels)
        return teacher

    def num_draws(self, num_samples: int) -> int:
        return num_samples if self.link == "mc" else 1

    def draw_logits(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Tensor:
        self.network.eval()
        features, logits = (seen.float() for seen in head_features(self.network, inputs))
        if self.curvature.device != features.device:
            self.curvature = self.curvature.to(features.device)
        covariance = self.curvature.covariance(self.curvature.project(features), self.prior_precision)
        noise = None
        if self.link == "mc":
            noise = example_normal((num_samples, *logits.shape), logits, generator)
        return _linked(self.link, logits, covariance, noise)

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

        The likelihood is that of the mean of ``num_samples`` draws, averaged over several such means. All candidates
        share one set of draws, so that their difference is not noise, and half of the draws mirror the others, so that
        odd moments vanish, which would otherwise decide between nearly equal candidates.

        Raises:
            UserError: ``num_samples`` below 1.
        """
        check_count(num_samples=num_samples)
        projected, labels = self.curvature.project(data.features), data.labels.long()

        def nll(precision: float) -> float:
            log_probs = self._log_predictive(projected, data.logits, precision, num_samples).double()
            return F.nll_loss(log_probs.flatten(0, 1), labels.repeat(len(log_probs))).item()

        return _least(nll)

    def _log_predictive(self, projected: Tensor, logits: Tensor, prior_precision: float, num_samples: int) -> Tensor:
        """Compute log-probabilities [R, N, C] of R means of S draws, by some examples at a time.

        The draws are the same at every call, and those of the second half of the R means mirror those of the first; R
        is 1 where the link is in closed form.
        """
        pairs = math.ceil(SEARCH_DRAWS / (2 * num_samples))
        size = max(1, CHUNK // (2 * pairs * num_samples * logits.shape[-1]))
        generator = torch.Generator(logits.device).manual_seed(0)
        parts = []
        for part, part_logits in zip(projected.split(size), logits.split(size), strict=True):
            noise = None
            if self.link == "mc":
                noise = standard_normal((pairs * num_samples, *part_logits.shape), part_logits, generator)
                noise = torch.cat([noise, -noise])
            drawn = _linked(self.link, part_logits, self.curvature.covariance(part, prior_precision), noise)
            draws = drawn.log_softmax(dim=-1).unflatten(0, (-1, num_samples) if self.link == "mc" else (1, 1))
            parts.append(draws.logsumexp(dim=1) - math.log(draws.shape[1]))
        return torch.cat(parts, dim=1)

    def get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        settings = {"prior_precision": self.prior_precision, "link": self.link, "structure": self.curvature.structure}
        return settings, self.curvature.tensors()

    @classmethod
    def from_state(cls, network: nn.Module, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        settings = dict(settings)
        kind = STRUCTURES[settings.pop("structure")]
        return cls(network, kind(classification_head(network)[1].bias is not None, **tensors), **settings)


def _linked(link: str, logits: Tensor, covariance: LogitCovariance, noise: Tensor | None) -> Tensor:
    """Return logits [S, B, C] whose mean softmax is the predictive; S is 1 where the link is in closed form."""
    if link == "mc":
        return logits + covariance.correlate(noise)
    if link == "probit":
        return (logits / (1 + math.pi / 8 * covariance.variance()).sqrt())[None]
    return _bridge(logits, covariance)[None]


def _bridge(logits: Tensor, covariance: LogitCovariance) -> Tensor:
    """Map N(logits, covariance) to the log Dirichlet parameters of the Laplace bridge, up to a constant.

    The Gaussian is first conditioned on logits that sum to zero (Hobbhahn et al. 2022, section 3); then
    alpha_k = (1 - 2/C + exp(z_k) / C^2 * sum_l exp(-z_l)) / var_k. All is in float64: with a small prior precision
    nearly all of the variance is that of the sum, and what remains would be float32's rounding error.
    """
    covariance, logits = covariance.to(torch.float64), logits.double()
    sums, classes = covariance.row_sums(), logits.shape[-1]
    total = sums.sum(dim=-1, keepdim=True).clamp_min(1e-30)  # 0 for features 0 without a bias
    mean = logits - sums * logits.sum(dim=-1, keepdim=True) / total
    variance = covariance.variance() - sums.square() / total
    constant = mean.new_full((), 1 - 2 / classes).log()
    peaked = mean + (-mean).logsumexp(dim=-1, keepdim=True) - 2 * math.log(classes)
    return torch.logaddexp(peaked, constant) - variance.clamp_min(1e-30).log()


def _best_evidence(curvature: Curvature, data: HeadData, head: nn.Linear) -> float:
    """Find delta of greatest marginal likelihood, -(log det(H + delta I) - P log delta + delta |w|^2) / 2."""
    eigenvalues = curvature.eigenvalues().double()
    norm = sum(parameter.detach().double().square().sum().item() for parameter in head.parameters())

    def cost(delta: float) -> float:
        return (torch.log1p(eigenvalues / delta).sum().item() + delta * norm) / len(data.labels)

    return _least(cost)


def _least(cost: Callable[[float], float]) -> float:
    """Find delta in ``PRECISION_RANGE`` of least cost on a logarithmic grid, then by a search around its best."""
    from scipy.optimize import minimize_scalar

    grid = torch.linspace(*map(math.log, PRECISION_RANGE), 24, dtype=torch.float64).tolist()
    costs = [cost(math.exp(point)) for point in grid]
    best = min(range(len(grid)), key=costs.__getitem__)
    around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    minimum = minimize_scalar(lambda point: cost(math.exp(point)), bounds=around, method="bounded")
    return math.exp(minimum.x if minimum.fun < costs[best] else grid[best])


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
        return LaplaceTeacher.fit(
            context.trained().network,
            context.train_batches(),
            context.validation_batches(),
            structure=self.structure,
            link=self.link,
            prior_precision=self.prior_precision,
            num_samples=context.num_samples,
        )


def _precision(given: str | float) -> float:
    try:
        value = float(given)
    except (TypeError, ValueError):
        value = 0.0
    if not value > 0:
        raise UserError(f"prior_precision is {given!r}; it must be a number above 0 or marginal_likelihood")
    return value
