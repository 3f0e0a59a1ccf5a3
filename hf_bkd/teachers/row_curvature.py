"""Curvature of a linear head whose outputs are independent: labels that are each there or not, and numbers.

The second derivatives of an example's loss in its outputs are diagonal, h_c for output c: p_c (1 - p_c) of a label,
1 / sigma_c^2 of a number. So H has a block for each row of the head, over its weights and its bias (which has the
prior too), sum_n h_nc phi_n phi_n^T with phi the features and 1. A number's is 1 / sigma_c^2 times what all rows
share, so that the posterior is that of Bayesian linear regression, in closed form.

============ ================================ ==========================================================
structure    block c of H                     variance of output c
============ ================================ ==========================================================
``"kron"``   g_c A, g_c = sum_n h_nc,         s_c = sum_j (Q^T phi)_j^2 / (g_c l_j + delta)
             A = mean_n phi phi^T = Q l Q^T   (exact for numbers)
``"diag"``   its diagonal                     s_c = sum_j phi_j^2 / (h_cj + delta)
``"full"``   itself, Q_c l_c Q_c^T            s_c = sum_j (Q_c^T phi)_j^2 / (l_cj + delta)
============ ================================ ==========================================================
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..likelihoods import Likelihood
from ..models.heads import HeadData
from ..utils.checks import check_choice
from ..utils.errors import UserError
from .curvature import STRUCTURES, Curvature, DiagonalCurvature, LogitCovariance, curvature_of

MOST_NUMBERS = 2**27  # in all blocks of a full posterior: 0.5 GiB


@dataclass
class RowCurvature(Curvature):
    """A block for each of the C rows of a head, over its D weights and bias, by eigenvectors in columns."""

    vectors: Tensor  # [C, D, D], or [1, D, D] if all rows share them
    values: Tensor  # [C, D]

    @classmethod
    def of(cls, fitted: Any, head: nn.Linear) -> Self:
        blocks, scales = fitted
        values, vectors = torch.linalg.eigh(blocks)
        return cls(head.bias is not None, vectors, values.clamp_min(0) * scales[:, None])

    @property
    def head_size(self) -> tuple[int, int]:
        return self.values.shape[1] - self.has_bias, self.values.shape[0]

    def project(self, features: Tensor) -> Tensor:
        rows = _with_one(features) if self.has_bias else features
        return (rows @ self.vectors[0]).square() if len(self.vectors) == 1 else rows

    def covariance(self, projected: Tensor, prior_precision: float) -> LogitCovariance:
        variances = 1 / (self.values + prior_precision)
        if len(self.vectors) == 1:
            return LogitCovariance(projected @ variances.T)
        rows = [(projected @ basis).square() @ each for basis, each in zip(self.vectors, variances, strict=True)]
        return LogitCovariance(torch.stack(rows, dim=1))

    def row_covariance(self, prior_precision: float) -> Tensor:
        variances = 1 / (self.values.double() + prior_precision)
        variances = variances.mean(dim=0, keepdim=True) if len(self.vectors) == 1 else variances
        vectors = self.vectors.double()
        return (vectors * variances[:, None] @ vectors.mT).mean(dim=0)

    def eigenvalues(self) -> Tensor:
        return self.values.flatten()

    def scaled(self, factors: Tensor) -> Self:
        return replace(self, values=self.values * factors.to(self.values)[:, None])


class SharedRows(RowCurvature):
    """Blocks that are multiples of one."""

    structure = "kron"


class SeparateRows(RowCurvature):
    """Blocks of their own."""

    structure = "full"


ROW_STRUCTURES = {kind.structure: kind for kind in (SharedRows, DiagonalCurvature, SeparateRows)}


def kind_of_curvature(structure: str, likelihood: Likelihood) -> type[Curvature]:
    """Return the class of a structure of a likelihood's curvature."""
    return (ROW_STRUCTURES if likelihood.independent else STRUCTURES)[structure]


def fitted_curvature(data: HeadData, head: nn.Linear, structure: str = "kron") -> Curvature:
    """Fit the curvature of ``head`` on what it saw of N training examples.

    Raises:
        UserError: unknown structure, a full one of too many weights, or a regression whose variance is unknown or
            predicted.
    """
    check_choice(STRUCTURES, structure=structure)
    kind = kind_of_curvature(structure, data.likelihood)
    if not data.likelihood.independent:
        return curvature_of(data, head, structure)
    size = head.in_features + (head.bias is not None)
    if structure == "full" and head.out_features * size**2 > MOST_NUMBERS:
        raise UserError(
            f"a full posterior of {head.out_features} rows of {size} weights needs {head.out_features * size**2:,} "
            "numbers: use structure='kron'"
        )
    exact = torch.device("cpu") if data.features.device.type == "mps" else data.features.device
    weights = data.likelihood.curvature(data.logits.to(exact, torch.float64))
    features = data.features.to(exact, torch.float64)
    rows = features if head.bias is None else _with_one(features)
    if structure == "diag":
        values = weights.T @ rows.square()
        bias = values[:, head.in_features :].flatten()
        fitted: Curvature = DiagonalCurvature(head.bias is not None, values[:, : head.in_features], bias)
    elif structure == "full":
        blocks = torch.stack([rows.T @ (each[:, None] * rows) for each in weights.unbind(dim=1)])
        fitted = kind.of((blocks, weights.new_ones(len(blocks))), head)
    else:
        fitted = kind.of(((rows.T @ rows)[None] / len(rows), weights.sum(dim=0)), head)
    return fitted.to(data.features.device)


def _with_one(features: Tensor) -> Tensor:
    return torch.cat([features, features.new_ones(len(features), 1)], dim=1)
