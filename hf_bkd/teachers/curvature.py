"""Curvature of a trained linear head, and the Gaussian over logits that follows from it in closed form.

The posterior over the head's weights has the precision H + delta I, where H is the generalized Gauss-Newton matrix of
the training loss and delta the prior precision. A prediction needs the covariance that follows for the C logits of one
example with features phi [d], which takes no Jacobian for any of the three structures of H:

============ ============================== ========================================================================
structure    H                              covariance of the logits
============ ============================== ========================================================================
``"kron"``   G x A, G = Q1 diag(l1) Q1^T    Q1 diag(s) Q1^T, s_i = sum_j (Q2^T phi)_j^2 / (l1_i l2_j + delta)
             over classes, A = Q2 diag(l2)  + 1 / (l1_i + delta) for the bias
             Q2^T over features
``"diag"``   diag(h), h [C, d]              diag(s), s_i = sum_j phi_j^2 / (h_ij + delta) + 1 / (h_i + delta)
``"full"``   Q diag(l) Q^T over all weights J Q diag(1 / (l + delta)) Q^T J^T, J = [I x phi^T, I]
============ ============================== ========================================================================

H comes from laplace-torch (Daxberger et al. 2021), fitted on the features of one pass through the backbone, which
gives the same posterior as fitting through the backbone.
"""

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ..models.heads import HeadData
from ..utils.checks import check_choice
from ..utils.errors import UserError

MOST_FULL_WEIGHTS = 4_000
AT_ONCE = 2**24  # how many numbers a full covariance, or the fit, holds at a time


class LogitCovariance(NamedTuple):
    """Covariances basis diag(scales) basis^T of the C logits of B examples.

    scales: [B, C], >= 0.
    basis: [C, C], or one for each example [B, C, C]; ``None`` for the identity.
    """

    scales: Tensor
    basis: Tensor | None = None

    def correlate(self, noise: Tensor) -> Tensor:
        """Turn standard normal noise [S, B, C] into zero-mean draws [S, B, C] with this covariance.

        By the symmetric root where each example has a basis of its own: its eigenvectors' signs depend on the batch.
        """
        if self.basis is not None and self.basis.ndim == 3:
            noise = torch.einsum("...ji,s...j->s...i", self.basis, noise)
        noise = noise * self.scales.sqrt()
        return noise if self.basis is None else torch.einsum("...ij,s...j->s...i", self.basis, noise)

    def variance(self) -> Tensor:
        """Return the diagonals, [B, C]."""
        if self.basis is None:
            return self.scales
        return torch.einsum("...ij,...j->...i", self.basis.square(), self.scales)

    def row_sums(self) -> Tensor:
        """Return the sum of each row, [B, C]."""
        if self.basis is None:
            return self.scales
        return torch.einsum("...ij,...j->...i", self.basis, self.scales * self.basis.sum(dim=-2))

    def to(self, dtype: torch.dtype) -> Self:
        """Convert to another number format."""
        return LogitCovariance(self.scales.to(dtype), None if self.basis is None else self.basis.to(dtype))


@dataclass
class Curvature(ABC):
    """Eigendecomposition of H for a head with d features and C classes, in float32 tensors on one device."""

    has_bias: bool
    structure: ClassVar[str]

    @classmethod
    @abstractmethod
    def of(cls, fitted: Any, head: nn.Linear) -> Self:
        """Take H from a fitted posterior of laplace-torch."""

    @property
    @abstractmethod
    def head_size(self) -> tuple[int, int]:
        """The numbers d of features and C of classes."""

    @abstractmethod
    def project(self, features: Tensor) -> Tensor:
        """Compute what :meth:`covariance` needs of features [B, d] and that no prior precision changes."""

    @abstractmethod
    def covariance(self, projected: Tensor, prior_precision: float) -> LogitCovariance:
        """Compute the logits' covariance for what :meth:`project` made of features [B, d]."""

    @abstractmethod
    def row_covariance(self, prior_precision: float) -> Tensor:
        """Average the covariance of a class' weights and bias over classes: float64, [d, d] or [d+1, d+1]."""

    @abstractmethod
    def eigenvalues(self) -> Tensor:
        """Return all eigenvalues of H, [d * C], or [d * C + C] with a bias."""

    def scaled(self, factors: Tensor) -> Self:
        """Multiply the curvature of each row of the head [C], where its outputs are independent."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return next(iter(self.tensors().values())).device

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "has_bias"}

    def to(self, device: torch.device | str) -> Self:
        """Copy to a device, in float32, and contiguous as a loaded teacher's, for draws that are equal to the bit."""
        moved = {name: value.to(device, torch.float32).contiguous() for name, value in self.tensors().items()}
        return type(self)(self.has_bias, **moved)


@dataclass
class KroneckerCurvature(Curvature):
    """Kronecker product of a matrix over classes and one over features, each with its eigenvectors in columns."""

    class_vectors: Tensor  # [C, C]
    class_values: Tensor  # [C]
    feature_vectors: Tensor  # [d, d]
    feature_values: Tensor  # [d]
    structure = "kron"

    @classmethod
    def of(cls, fitted: Any, head: nn.Linear) -> Self:
        (class_vectors, feature_vectors), *_ = fitted.H.eigenvectors  # the bias' block is over the same classes
        (class_values, feature_values), *_ = fitted.H.eigenvalues
        class_values = class_values.clone()
        class_values[0] = 0  # but for rounding: softmax has no curvature in the direction that all logits share
        return cls(head.bias is not None, class_vectors, class_values, feature_vectors, feature_values)

    @property
    def head_size(self) -> tuple[int, int]:
        return len(self.feature_values), len(self.class_values)

    def project(self, features: Tensor) -> Tensor:
        return (features @ self.feature_vectors).square()

    def covariance(self, projected: Tensor, prior_precision: float) -> LogitCovariance:
        scales = projected @ (1 / (torch.outer(self.feature_values, self.class_values) + prior_precision))
        bias = 1 / (self.class_values + prior_precision) if self.has_bias else 0.0
        return LogitCovariance(scales + bias, self.class_vectors)

    def row_covariance(self, prior_precision: float) -> Tensor:
        # over the rows of an orthogonal basis, all of its directions have the mean weight 1/C
        classes, vectors = self.class_values.double(), self.feature_vectors.double()
        variances = (1 / (torch.outer(self.feature_values.double(), classes) + prior_precision)).mean(dim=1)
        weights = vectors * variances @ vectors.T
        bias = (1 / (classes + prior_precision)).mean()
        return torch.block_diag(weights, bias) if self.has_bias else weights

    def eigenvalues(self) -> Tensor:
        weights = torch.outer(self.class_values, self.feature_values).flatten()
        return torch.cat([weights, self.class_values]) if self.has_bias else weights


@dataclass
class DiagonalCurvature(Curvature):
    """Diagonal matrix over weights and biases."""

    weight_values: Tensor  # [C, d]
    bias_values: Tensor  # [C], or empty without a bias
    structure = "diag"

    @classmethod
    def of(cls, fitted: Any, head: nn.Linear) -> Self:
        weights, bias = fitted.H[: head.weight.numel()], fitted.H[head.weight.numel() :]
        return cls(head.bias is not None, weights.view_as(head.weight), bias)

    @property
    def head_size(self) -> tuple[int, int]:
        return self.weight_values.shape[1], self.weight_values.shape[0]

    def project(self, features: Tensor) -> Tensor:
        return features.square()

    def covariance(self, projected: Tensor, prior_precision: float) -> LogitCovariance:
        bias = 1 / (self.bias_values + prior_precision) if self.has_bias else None
        return LogitCovariance(nn.functional.linear(projected, 1 / (self.weight_values + prior_precision), bias))

    def row_covariance(self, prior_precision: float) -> Tensor:
        values = torch.cat([self.weight_values, self.bias_values.reshape(len(self.weight_values), -1)], dim=1)
        return (1 / (values.double() + prior_precision)).mean(dim=0).diag()

    def eigenvalues(self) -> Tensor:
        return torch.cat([self.weight_values.flatten(), self.bias_values])

    def scaled(self, factors: Tensor) -> Self:
        factors = factors.to(self.weight_values)
        bias = self.bias_values * factors if self.has_bias else self.bias_values
        return replace(self, weight_values=self.weight_values * factors[:, None], bias_values=bias)


@dataclass
class FullCurvature(Curvature):
    """Dense matrix over all P weights and biases, by its eigenvectors and eigenvalues."""

    weight_vectors: Tensor  # [C, d, P]
    bias_vectors: Tensor  # [C, P], or empty without a bias
    values: Tensor  # [P]
    structure = "full"

    @classmethod
    def of(cls, fitted: Any, head: nn.Linear) -> Self:
        values, vectors = torch.linalg.eigh(fitted.H)
        weights, bias = vectors[: head.weight.numel()], vectors[head.weight.numel() :]
        return cls(head.bias is not None, weights.unflatten(0, head.weight.shape), bias, values.clamp_min(0))

    @property
    def head_size(self) -> tuple[int, int]:
        return self.weight_vectors.shape[1], self.weight_vectors.shape[0]

    def project(self, features: Tensor) -> Tensor:
        return features  # J Q, [B, C, P], would be too large to keep for many examples

    def covariance(self, projected: Tensor, prior_precision: float) -> LogitCovariance:
        widths = (self.values + prior_precision).rsqrt()
        bias = self.bias_vectors if self.has_bias else 0.0
        products = []
        for part in projected.split(max(1, AT_ONCE // self.weight_vectors[:, 0].numel())):
            root = (torch.einsum("bj,ijp->bip", part, self.weight_vectors) + bias) * widths
            products.append(root.double() @ root.double().mT)
        # the direction that all logits share has no curvature: beside its scale, float32 would lose the others
        scales, basis = torch.linalg.eigh(torch.cat(products))
        return LogitCovariance(scales.clamp_min(0), basis).to(projected.dtype)

    def row_covariance(self, prior_precision: float) -> Tensor:
        classes, _, size = self.weight_vectors.shape
        rows = torch.cat([self.weight_vectors, self.bias_vectors.reshape(classes, -1, size)], dim=1).double()
        root = (rows * (self.values.double() + prior_precision).rsqrt()).transpose(0, 1).flatten(1)
        return root @ root.T / classes

    def eigenvalues(self) -> Tensor:
        return self.values


STRUCTURES = {kind.structure: kind for kind in (KroneckerCurvature, DiagonalCurvature, FullCurvature)}


def curvature_of(data: HeadData, head: nn.Linear, structure: str = "kron") -> Curvature:
    """Fit the curvature of ``head`` on what it saw of N training examples, by laplace-torch.

    Raises:
        UserError: unknown structure, or a full one of more than 4,000 weights.
    """
    check_choice(STRUCTURES, structure=structure)
    num_weights = sum(parameter.numel() for parameter in head.parameters())
    if structure == "full" and num_weights > MOST_FULL_WEIGHTS:
        raise UserError(
            f"a full posterior of {num_weights} weights needs their number squared in memory: use structure='kron', "
            f"or a head with at most {MOST_FULL_WEIGHTS}"
        )
    # in float64: at a small prior precision float32's rounding of an eigenvalue 0 would be its curvature
    exact = torch.device("cpu") if data.features.device.type == "mps" else data.features.device
    features, labels = data.features.to(exact, torch.float64), data.labels.to(exact).long()
    linear = nn.Linear(head.in_features, head.out_features, head.bias is not None).to(features)
    with torch.no_grad():
        for copy, trained in zip(linear.parameters(), (head.weight, head.bias), strict=False):
            copy.copy_(trained)
    head_only = nn.Sequential(nn.Identity(), linear)  # laplace-torch refuses a single module
    # a full fit holds Jacobians, the others C x C numbers for each example
    size = 64 if structure == "full" else max(1, min(1024, AT_ONCE * 4 // head.out_features**2))
    loader = DataLoader(TensorDataset(features, labels), batch_size=size)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)  # of its backends
        warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
        from laplace import Laplace
        from laplace.curvature import BackPackGGN, CurvlinopsGGN

        backend = CurvlinopsGGN if structure == "kron" else BackPackGGN  # the other's diagonal is cubic in the classes
        part = {"subset_of_weights": "last_layer", "hessian_structure": structure}
        posterior = Laplace(head_only, "classification", backend=backend, **part)
        with torch.enable_grad():
            posterior.fit(loader)
    return STRUCTURES[structure].of(posterior, head).to(data.features.device)
