"""The energy U(theta) of a student: what training minimises, summed over the full training set, and the prior's share.

    U(theta) = sum_i [a CE(y_i, softmax(z_i)) + b CE(p_i, softmax(z_i / T_s))] + delta / 2 * |theta|^2

exp(-U) is the posterior of which distillation finds the mode: with T_s = 1, that of labels that count a times and the
prior Dir(1 + b p_i) on each example's probabilities (BKD, the parent paper of arXiv 2605.27967).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ..backbones import call_arguments, classification_head, logits_of
from ..errors import UserError
from ..targets import mixed_target
from .network import HeadData, Inputs

CHUNK = 1024  # examples whose activations are held at a time
MOST_FULL_WEIGHTS = 1_000


class CrossEntropy(NamedTuple):
    """weight * CE(target, softmax(z / temperature)) of each example; target [N, C]."""

    target: Tensor
    weight: float
    temperature: float


class WholeData(NamedTuple):
    """All N examples' inputs in one batch, the network's logits [N, C] and the labels [N], on its device."""

    inputs: Inputs
    logits: Tensor
    labels: Tensor


def loss_terms(
    data: HeadData | WholeData, targets: Tensor | None, label_weight: float, teacher_weight: float, temperature: float
) -> list[CrossEntropy]:
    """The energy's cross-entropies to labels and targets [N, C], as a single one where they can be."""
    labels = data.labels.long()
    onehot = F.one_hot(labels, data.logits.shape[-1]).float()
    if targets is None:
        return [CrossEntropy(onehot, label_weight, 1.0)]
    if temperature == 1:
        total = label_weight + teacher_weight
        return [CrossEntropy(mixed_target(labels, targets, teacher_weight / total), total, 1.0)]
    return [CrossEntropy(onehot, label_weight, 1.0), CrossEntropy(targets, teacher_weight, temperature)]


def summed_loss(logits: Tensor, terms: list[CrossEntropy], rows: Tensor | slice) -> tuple[Tensor, Tensor]:
    """The losses of logits [K, B, C] of some rows, [B] or [K, B], summed to [K] in float64; their gradient in z."""
    energy, gradient = torch.zeros(len(logits), dtype=torch.float64, device=logits.device), torch.zeros_like(logits)
    for target, weight, temperature in terms:
        log_probs = (logits / temperature).log_softmax(dim=-1)
        energy -= weight * (target[rows] * log_probs).sum(dim=-1).double().sum(dim=-1)
        gradient += weight / temperature * (log_probs.exp() - target[rows])
    return energy, gradient


class Whitening(NamedTuple):
    """A positive definite matrix H by its eigenvectors, and how to multiply by its powers.

    vectors: one orthogonal basis [P, P], or of a Kronecker product one of the classes and one of a class' weights.
    values: eigenvalues [P], or [C, P / C].
    """

    vectors: tuple[Tensor, ...]
    values: Tensor

    def power(self, theta: Tensor, exponent: float) -> Tensor:
        """H^exponent theta of vectors [..., P]."""
        if len(self.vectors) == 1:
            (basis,) = self.vectors
            return (theta @ basis * self.values**exponent) @ basis.T
        classes, rows = self.vectors
        rotated = classes.T @ theta.unflatten(-1, self.values.shape) @ rows
        return (classes @ (rotated * self.values**exponent) @ rows.T).flatten(-2)


class HeadEnergy:
    """U of a linear head's weights theta [K, C * (d + 1)]: a row a class, its bias last. All in closed form.

    Args:
        network: whose head it is; without a bias, rows have d numbers.
        data: what the head sees of the training set.
        terms: see :func:`loss_terms`.
        prior_precision: delta > 0.
    """

    def __init__(self, network: nn.Module, data: HeadData, terms: list[CrossEntropy], prior_precision: float):
        self.name, self.head = classification_head(network)
        self.has_bias, self.classes = self.head.bias is not None, self.head.out_features
        ones = data.features.new_ones(len(data.features), int(self.has_bias))
        self.features, self.terms, self.prior_precision = (
            torch.cat([data.features, ones], dim=1),
            terms,
            prior_precision,
        )
        self.count = len(data.features)

    def __call__(self, theta: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Energies [K] and gradients [K, P]; estimates of them from minibatches of rows [K, B]."""
        some = slice(None) if rows is None else rows
        features = self.features[some]
        energy, residual = summed_loss(features @ theta.unflatten(1, (self.classes, -1)).mT, self.terms, some)
        scale = self.count / residual.shape[1]
        return _with_prior(scale * energy, scale * (residual.mT @ features).flatten(1), theta, self.prior_precision)

    def start(self) -> Tensor:
        """The head's own weights, [P]."""
        rows = [self.head.weight.detach()] + ([self.head.bias.detach()[:, None]] if self.has_bias else [])
        return torch.cat(rows, dim=1).flatten().to(self.features)

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """Weights [..., P] by the names of the network's parameters, [..., *shape]."""
        rows = theta.unflatten(-1, (self.classes, -1))
        if not self.has_bias:
            return {f"{self.name}.weight": rows}
        return {f"{self.name}.weight": rows[..., :-1], f"{self.name}.bias": rows[..., -1]}

    def curvature(self, theta: Tensor) -> Whitening:
        """The Hessian of U, averaged over theta [K, P]; of more than 1,000 weights its Kronecker approximation.

        That is the mean of the examples' softmax curvatures times the sum of their features' outer products.
        """
        features = self.features.double()
        logits = features @ theta.double().unflatten(1, (self.classes, -1)).mT
        blocks = 0.0
        for _, weight, temperature in self.terms:
            q = (logits / temperature).softmax(dim=-1)
            outer = torch.einsum("kna,knb->nab", q, q)
            blocks = blocks + weight / temperature**2 / len(q) * (torch.diag_embed(q.sum(dim=0)) - outer)
        if theta.shape[1] <= MOST_FULL_WEIGHTS:
            hessian = torch.einsum("nab,ni,nj->aibj", blocks, features, features).flatten(2).flatten(0, 1)
            values, vectors = torch.linalg.eigh(hessian)
            return self._whitening((vectors,), values)
        (of_classes, classes), (of_rows, rows) = map(torch.linalg.eigh, (blocks.mean(dim=0), features.T @ features))
        return self._whitening((classes, rows), torch.outer(of_classes.clamp_min(0), of_rows))

    def _whitening(self, vectors: tuple[Tensor, ...], values: Tensor) -> Whitening:
        like = self.features
        return Whitening(
            tuple(each.to(like) for each in vectors), (values.clamp_min(0) + self.prior_precision).to(like)
        )


class NetworkEnergy:
    """U of all weights of a network that require a gradient, theta [K, P], one after the other.

    Args:
        network: in evaluation mode; its buffers, such as batch norm's statistics, stay as they are.
        data: the training set.
        terms: see :func:`loss_terms`.
        prior_precision: delta > 0.

    Raises:
        UserError: none requires a gradient.
    """

    def __init__(self, network: nn.Module, data: WholeData, terms: list[CrossEntropy], prior_precision: float):
        self.network, self.inputs, self.terms, self.prior_precision = network, data.inputs, terms, prior_precision
        self.shapes = {name: p.shape for name, p in network.named_parameters() if p.requires_grad}
        if not self.shapes:
            raise UserError(
                f"no weight of the {type(network).__name__} requires a gradient: network.requires_grad_(True)"
            )
        self.count = len(data.labels)

    def __call__(self, theta: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Energies [K] and gradients [K, P]; estimates of them from minibatches of rows [K, B]."""
        parts = [slice(start, start + CHUNK) for start in range(0, self.count, CHUNK)] if rows is None else [rows]
        energy, gradient = 0.0, torch.zeros_like(theta)
        for part in parts:
            with torch.enable_grad():
                theta = theta.detach().requires_grad_()
                logits = vmap(self._logits, in_dims=(0, None if rows is None else 0))(theta, _taken(self.inputs, part))
            its_energy, residual = summed_loss(logits.detach(), self.terms, part)
            energy = energy + its_energy
            gradient += torch.autograd.grad(logits, theta, residual)[0]
        scale = 1.0 if rows is None else self.count / rows.shape[1]
        return _with_prior(scale * energy, scale * gradient, theta.detach(), self.prior_precision)

    def start(self) -> Tensor:
        """The network's own weights, [P]."""
        parameters = dict(self.network.named_parameters())
        return torch.cat([parameters[name].detach().flatten() for name in self.shapes])

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """Weights [..., P] by the names of the network's parameters, [..., *shape]."""
        parts = theta.split([shape.numel() for shape in self.shapes.values()], dim=-1)
        return {n: part.unflatten(-1, shape) for (n, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def _logits(self, theta: Tensor, inputs: Inputs) -> Tensor:
        args, kwargs = call_arguments(self.network, inputs)
        return logits_of(functional_call(self.network, self.named(theta), args, kwargs))


def _taken(inputs: Inputs, rows: Tensor | slice) -> Inputs:
    return inputs[rows] if isinstance(inputs, Tensor) else {name: value[rows] for name, value in inputs.items()}


def _with_prior(energy: Tensor, gradient: Tensor, theta: Tensor, precision: float) -> tuple[Tensor, Tensor]:
    return energy + precision / 2 * theta.double().square().sum(dim=1), gradient + precision * theta
