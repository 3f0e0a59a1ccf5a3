"""The energy U(theta) of a student: what training minimizes, summed over the full training set, and the prior's share.

    U(theta) = sum_i [a CE(y_i, softmax(z_i)) + b CE(p_i, softmax(z_i / T_s))] + delta / 2 * |theta|^2

exp(-U) is the posterior of which distillation finds the mode: with T_s = 1, that of labels that count a times and the
prior Dir(1 + b p_i) on each example's probabilities (BKD, the parent paper of arXiv 2605.27967). Of M teachers
the second term is

    -b / s * log sum_m w_m Dir(softmax(z_i / T_s); 1 + s p_m),

that paper's mixture prior with b = c * lambda and s = lambda; for M = 1 it is the former, up to a constant.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ..models.calling import HeadData, Inputs, call_arguments, classification_head, logits_of
from ..targets import mix_teachers, mixed_target, mixture_energy, mixture_responsibilities
from ..utils.errors import UserError

CHUNK = 1024  # examples whose activations are held at a time
MOST_FULL_WEIGHTS = 1_000


class CrossEntropy(NamedTuple):
    """weight * CE(target, q) of each example, with q = softmax(z / temperature); target [N, C]."""

    target: Tensor
    weight: float
    temperature: float

    def at(self, log_q: Tensor, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Unweighted losses [K, B] of rows at log q [K, B, C], and t [..., C]: their gradient in z / T_s is q - t."""
        target = self.target[rows]
        return -(target * log_q).sum(dim=-1), target


class MixturePrior(NamedTuple):
    """-weight / s * log sum_m w_m Dir(q; 1 + s p_m) of each example, with q = softmax(z / temperature).

    p: targets [N, M, C]. w: target_weights [N, M]. s: prior_strength.
    """

    targets: Tensor
    target_weights: Tensor
    prior_strength: float
    weight: float
    temperature: float

    def at(self, log_q: Tensor, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """As :meth:`CrossEntropy.at`; t is the mean of the teachers by their responsibilities."""
        prior = self.targets[rows], self.target_weights[rows], self.prior_strength
        target = mix_teachers(prior[0], mixture_responsibilities(log_q, *prior))
        return mixture_energy(log_q, *prior) / self.prior_strength, target


Term = CrossEntropy | MixturePrior


class WholeData(NamedTuple):
    """All N examples' inputs in one batch, the network's logits [N, C] and the labels [N], on its device."""

    inputs: Inputs
    logits: Tensor
    labels: Tensor


def loss_terms(data: HeadData | WholeData, label_weight: float, teacher: Term | None) -> list[Term]:
    """The energy's terms, of the labels and of one or several teachers, as a single one where they can be."""
    labels = data.labels.long()
    onehot = F.one_hot(labels, data.logits.shape[-1]).float()
    if teacher is None:
        return [CrossEntropy(onehot, label_weight, 1.0)]
    if isinstance(teacher, CrossEntropy) and teacher.temperature == 1:
        total = label_weight + teacher.weight
        return [CrossEntropy(mixed_target(labels, teacher.target, teacher.weight / total), total, 1.0)]
    return [CrossEntropy(onehot, label_weight, 1.0), teacher]


def summed_loss(logits: Tensor, terms: list[Term], rows: Tensor | slice) -> tuple[Tensor, Tensor]:
    """The losses of logits [K, B, C] of some rows, [B] or [K, B], summed to [K] in float64; their gradient in z."""
    energy, gradient = torch.zeros(len(logits), dtype=torch.float64, device=logits.device), torch.zeros_like(logits)
    for term in terms:
        log_q = (logits / term.temperature).log_softmax(dim=-1)
        losses, target = term.at(log_q, rows)
        energy += term.weight * losses.double().sum(dim=-1)
        gradient += term.weight / term.temperature * (log_q.exp() - target)
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

    def __init__(self, network: nn.Module, data: HeadData, terms: list[Term], prior_precision: float):
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

        The latter is the mean of the examples' softmax curvatures times the sum of their features' outer products. Of
        a mixture prior it is an upper bound: a cross-entropy's diag(q) - q q^T without the mixture's - s Cov_r(p) (in
        z / T_s, per unit of weight). The record's ``width`` is then relative to that bound.
        """
        features = self.features.double()
        logits = features @ theta.double().unflatten(1, (self.classes, -1)).mT
        blocks = 0.0
        for term in self.terms:
            q = (logits / term.temperature).softmax(dim=-1)
            outer = torch.einsum("kna,knb->nab", q, q)
            blocks = blocks + term.weight / term.temperature**2 / len(q) * (torch.diag_embed(q.sum(dim=0)) - outer)
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

    def __init__(self, network: nn.Module, data: WholeData, terms: list[Term], prior_precision: float):
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
