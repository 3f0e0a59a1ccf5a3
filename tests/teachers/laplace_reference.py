"""The Laplace approximation of a linear head by brute force: laplace-torch, and dense matrices in float64."""

import pytest
import torch
from laplace import Laplace
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

EACH = pytest.mark.parametrize("structure", ["kron", "diag", "full"])
BIAS = pytest.mark.parametrize("bias", [True, False])
LINK = pytest.mark.parametrize("link", ["mc", "probit", "bridge"])


def library_fit(
    network: nn.Module, x: Tensor, labels: Tensor, structure: str = "kron", precision: float = 0.7, batch: int = 20
):
    """laplace-torch's posterior of the layer ``head``, fitted through the backbone with its own default backend."""
    part = {"subset_of_weights": "last_layer", "hessian_structure": structure, "last_layer_name": "head"}
    posterior = Laplace(network, "classification", prior_precision=precision, **part)
    posterior.fit(DataLoader(TensorDataset(x, labels), batch_size=batch))
    return posterior


def jacobians(features: Tensor, classes: int, bias: bool) -> Tensor:
    """[N, C, P] in float64: derivatives by the weights, row by row as nn.Linear keeps them, then by the biases."""
    identity = torch.eye(classes, dtype=torch.float64)
    rows = [torch.kron(identity, row[None]) for row in features.double()]
    return torch.stack([torch.cat([row, identity], dim=1) if bias else row for row in rows])


def gauss_newton(features: Tensor, logits: Tensor, structure: str, bias: bool) -> Tensor:
    """H [P, P] of the cross-entropy in float64: sum_n J_n^T (diag p - p p^T) J_n, or what ``structure`` makes of it.

    The Kronecker-factored one is sum_n (diag p - p p^T) (x) mean_n phi phi^T, and the former alone for the bias
    (Ritter et al. 2018, with the exact expectation over labels).
    """
    features, probs = features.detach().double(), torch.softmax(logits.detach().double(), dim=-1)
    inner = torch.diag_embed(probs) - torch.einsum("ni,nj->nij", probs, probs)
    if structure == "kron":
        over_classes, over_features = inner.sum(dim=0), features.T @ features / len(features)
        weights = torch.kron(over_classes, over_features)
        return torch.block_diag(weights, over_classes) if bias else weights
    derivatives = jacobians(features, probs.shape[-1], bias)
    full = torch.einsum("nip,nij,njq->pq", derivatives, inner, derivatives)
    return full if structure == "full" else torch.diag(full.diagonal())


def logit_covariance(hessian: Tensor, features: Tensor, classes: int, bias: bool, precision: float) -> Tensor:
    """J (H + delta I)^-1 J^T [N, C, C], in float64."""
    derivatives = jacobians(features.detach(), classes, bias)
    inverse = torch.linalg.inv(hessian + precision * torch.eye(len(hessian), dtype=torch.float64))
    return derivatives @ inverse @ derivatives.mT


def bridge(mean: Tensor, covariance: Tensor) -> Tensor:
    """Mean of the Dirichlet distribution of the Laplace bridge for N(mean, covariance), naively in float64."""
    ones, classes = torch.ones(mean.shape[-1], dtype=torch.float64), mean.shape[-1]
    total = torch.einsum("i,bij,j->b", ones, covariance, ones)
    towards = covariance @ ones
    mean = mean - towards * (mean.sum(dim=-1) / total)[:, None]
    covariance = covariance - torch.einsum("bi,bj,b->bij", towards, towards, 1 / total)
    bracket = 1 - 2 / classes + mean.exp() * (-mean).exp().sum(dim=-1, keepdim=True) / classes**2
    alpha = bracket / covariance.diagonal(dim1=1, dim2=2)
    return alpha / alpha.sum(dim=-1, keepdim=True)
