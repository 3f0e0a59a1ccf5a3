"""A Gaussian around the weights that training found: last-layer Laplace approximation (Daxberger et al. 2021).

Fitted by laplace-torch on the features that one pass through the backbone leaves, which gives the posterior that
fitting through the backbone would. The predictive is ours and in closed form. With the Kronecker factors
G = Q1 diag(l1) Q1^T over classes and A = Q2 diag(l2) Q2^T over features, the prior precision delta and
u = Q2^T phi, the weights' share of the logits' covariance is Q1 diag(s) Q1^T with

    s_i = sum_j u_j^2 / (l1_i l2_j + delta),

and the bias adds Qb diag(1 / (lb + delta)) Qb^T. No Jacobian is built: a draw costs what a matrix product costs.
"""

import math
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ..backbones import classification_head, head_features
from ..errors import UserError
from .base import Teacher
from .network import HeadData, Inputs, head_data
from .variational import standard_normal

LINKS = ("mc", "probit")
PRECISION_RANGE = (1e-4, 1e6)


class KroneckerFactors(NamedTuple):
    """Eigendecompositions of a last layer's curvature, eigenvalues >= 0; the bias' are empty where there is none.

    class_vectors [C, C], class_values [C]; feature_vectors [d, d], feature_values [d]; bias_vectors [C, C],
    bias_values [C]. Vectors stand in columns.
    """

    class_vectors: Tensor
    class_values: Tensor
    feature_vectors: Tensor
    feature_values: Tensor
    bias_vectors: Tensor
    bias_values: Tensor

    def logit_scales(self, features: Tensor, prior_precision: float) -> tuple[Tensor, Tensor]:
        """Variances of the logits along the eigenvectors: s [B, C] of the weights, [C] of the bias."""
        rotated = (features @ self.feature_vectors).square()
        weights = rotated @ (1 / (torch.outer(self.feature_values, self.class_values) + prior_precision))
        return weights, 1 / (self.bias_values + prior_precision)

    def logit_covariance(self, features: Tensor, prior_precision: float) -> Tensor:
        """Covariance [B, C, C] of the logits for features [B, d]."""
        weights, bias = self.logit_scales(features, prior_precision)
        covariance = torch.einsum("ik,bk,jk->bij", self.class_vectors, weights, self.class_vectors)
        return covariance + self.bias_vectors @ torch.diag(bias) @ self.bias_vectors.T if len(bias) else covariance

    def logit_variance(self, features: Tensor, prior_precision: float) -> Tensor:
        """Diagonal [B, C] of :meth:`logit_covariance`."""
        weights, bias = self.logit_scales(features, prior_precision)
        variance = weights @ self.class_vectors.square().T
        return variance + bias @ self.bias_vectors.square().T if len(bias) else variance

    def logit_noise(self, noise: Tensor, features: Tensor, prior_precision: float) -> Tensor:
        """Turn standard normal noise [S, 2, B, C] into zero-mean draws [S, B, C] with :meth:`logit_covariance`."""
        weights, bias = self.logit_scales(features, prior_precision)
        drawn = (noise[:, 0] * weights.sqrt()) @ self.class_vectors.T
        return drawn + (noise[:, 1] * bias.sqrt()) @ self.bias_vectors.T if len(bias) else drawn


class LaplaceTeacher(Teacher):
    """Draws around a trained network's last layer.

    Args:
        network: the trained network; its weights are the posterior's mean.
        factors: curvature of the last layer; held in float32 on the network's device.
        prior_precision: delta > 0; the larger, the narrower the posterior.
        link: ``"mc"`` draws logits; ``"probit"`` gives softmax(z / sqrt(1 + pi/8 var)) as its only draw (MacKay 1992).

    Raises:
        UserError: prior precision not above 0, unknown link, or factors of another head than the network's.
    """

    method = "laplace"

    def __init__(
        self,
        network: nn.Module,
        factors: KroneckerFactors,
        prior_precision: float,
        link: str = "mc",
        temperature: float = 1.0,
        tempering: str = "post_average",
    ):
        super().__init__(network, temperature, tempering)
        if link not in LINKS:
            raise UserError(f"link is {link!r}; it must be one of {', '.join(LINKS)}")
        if not prior_precision > 0:
            raise UserError(f"prior_precision must be above 0, and it is {prior_precision}")
        head = classification_head(network)[1]
        fitted = len(factors.feature_values), len(factors.class_values), len(factors.bias_values)
        needed = head.in_features, head.out_features, 0 if head.bias is None else head.out_features
        if fitted != needed:
            raise UserError(
                "the posterior is of a head with {} features, {} classes and {} biases, ".format(*fitted)
                + "the network's has {}, {} and {}".format(*needed)
            )
        # contiguous as they will be when loaded, for the same draws to the last bit
        placed = (factor.to(head.weight.device, torch.float32).contiguous() for factor in factors)
        self.factors = KroneckerFactors(*placed)
        self.prior_precision = float(prior_precision)
        self.link = link

    @classmethod
    def fit(
        cls,
        network: nn.Module,
        train: Iterable[dict | tuple],
        validation: Iterable[dict | tuple] | None = None,
        prior_precision: float | None = None,
        link: str = "mc",
    ) -> Self:
        """Fit the posterior of a trained network's last layer.

        Args:
            network: what was trained; put into evaluation mode for the pass.
            train: batches (dicts with ``labels``, or pairs) of the *un-augmented* training set.
            validation: batches to choose ``prior_precision`` on, by negative log-likelihood of the predictive.
            prior_precision: delta > 0, if it is known.
            link: see the class.

        Raises:
            UserError: neither validation batches nor a prior precision; no linear head; no examples, or labels that
                don't fit the head; and as for the class.
        """
        if validation is None and prior_precision is None:
            raise UserError("pass validation batches to choose the prior precision on, or prior_precision itself")
        factors = kronecker_factors(head_data(network, train), classification_head(network)[1])
        if prior_precision is not None:
            return cls(network, factors, prior_precision, link)
        teacher = cls(network, factors, prior_precision=1.0, link=link)
        teacher.prior_precision = teacher.best_precision(head_data(network, validation))
        return teacher

    def draw_logits(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Tensor:
        self.network.eval()
        features, logits = (seen.float() for seen in head_features(self.network, inputs))
        noise = None
        if self.link == "mc":
            noise = standard_normal((num_samples, 2, *logits.shape), logits, generator)
        return self._spread(features, logits, noise, self.prior_precision)

    def _spread(self, features: Tensor, logits: Tensor, noise: Tensor | None, prior_precision: float) -> Tensor:
        if noise is None:
            variance = self.factors.logit_variance(features, prior_precision)
            return (logits / (1 + math.pi / 8 * variance).sqrt())[None]
        return logits + self.factors.logit_noise(noise, features, prior_precision)

    @torch.no_grad()
    def best_precision(self, data: HeadData, num_samples: int = 64) -> float:
        """delta in [1e-4, 1e6] with the least validation NLL: a logarithmic grid, then a search around its best.

        All candidates share one set of ``num_samples`` (even) draws, so that their difference is not noise. Half of
        the draws mirror the others: odd moments vanish, which would else decide between nearly equal candidates.
        """
        from scipy.optimize import minimize_scalar

        noise = None
        if self.link == "mc":
            generator = torch.Generator().manual_seed(0)
            noise = standard_normal((num_samples // 2, 2, *data.logits.shape), data.logits, generator)
            noise = torch.cat([noise, -noise])

        def validation_nll(log_precision: float) -> float:
            logits = self._spread(data.features, data.logits, noise, math.exp(log_precision))
            picked = torch.softmax(logits, dim=-1).mean(dim=0).gather(1, data.labels.long()[:, None])
            return -picked.clamp_min(1e-12).log().mean().item()

        grid = torch.linspace(*(math.log(end) for end in PRECISION_RANGE), 24).tolist()
        best = min(range(len(grid)), key=lambda i: validation_nll(grid[i]))
        around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        found = minimize_scalar(validation_nll, bounds=around, method="bounded", options={"maxiter": 12}).x
        return math.exp(min((found, grid[best]), key=validation_nll))

    def get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {"prior_precision": self.prior_precision, "link": self.link}, self.factors._asdict()

    @classmethod
    def from_state(cls, network: nn.Module, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        return cls(network, KroneckerFactors(**tensors), **settings)

    def to(self, device: torch.device | str) -> Self:
        self.factors = KroneckerFactors(*(factor.to(device) for factor in self.factors))
        return super().to(device)


def kronecker_factors(data: HeadData, head: nn.Linear) -> KroneckerFactors:
    """Eigendecomposed Kronecker factors of the generalised Gauss-Newton matrix of ``head``, by laplace-torch."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)  # of its backends
        from laplace import Laplace

    linear = nn.Linear(head.in_features, head.out_features, head.bias is not None).to(data.features)
    with torch.no_grad():
        for mine, trained in zip(linear.parameters(), (head.weight, head.bias), strict=False):
            mine.copy_(trained)
    head_only = nn.Sequential(nn.Identity(), linear)  # laplace-torch refuses a single module
    posterior = Laplace(head_only, "classification", subset_of_weights="last_layer", hessian_structure="kron")
    with torch.enable_grad():
        posterior.fit(DataLoader(TensorDataset(data.features, data.labels.long()), batch_size=1024))
    blocks = zip(posterior.H.eigenvectors, posterior.H.eigenvalues, strict=True)  # of the weight and of the bias
    factors = [each for block in blocks for pair in zip(*block, strict=True) for each in pair]
    if head.bias is None:
        factors += [data.features.new_zeros(0)] * 2
    return KroneckerFactors(*factors)
