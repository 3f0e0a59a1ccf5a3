"""The energy U(theta) of a student: the loss that training minimizes, summed over the training set, and the prior.

    U(theta) = sum_i [a CE(y_i, softmax(z_i)) + b CE(p_i, softmax(z_i / T_s))] + delta / 2 * |theta|^2

exp(-U) is the posterior whose mode distillation finds: with T_s = 1, that of labels that count a times and the prior
Dir(1 + b p_i) on each example's probabilities (BKD, the parent paper of arXiv 2605.27967). With M teachers the second
term is

    -b / s * log sum_m w_m Dir(softmax(z_i / T_s); 1 + s p_m),

that paper's mixture prior with b = c * lambda and s = lambda; for M = 1 it is the former, up to a constant.
"""

from copy import copy
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ..models.calling import Inputs, call_arguments, logits_of
from ..models.heads import HeadData, classification_head, head_parameters
from ..targets import mix_teachers, mixed_target, mixture_energy, mixture_responsibilities
from ..utils.errors import UserError

CHUNK = 1024  # how many examples' activations are held at a time
MOST_FULL_WEIGHTS = 1_000


class CrossEntropy(NamedTuple):
    """The term weight * CE(target, q) of each example, with q = softmax(z / temperature)."""

    target: Tensor  # [N, C]
    weight: float
    temperature: float

    def at(self, log_q: Tensor, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return unweighted losses [K, B] at log q [K, B, C], and t [..., C] of their gradient q - t in z / T_s."""
        target = self.target[rows]
        return -(target * log_q).sum(dim=-1), target


class MixturePrior(NamedTuple):
    """The term -weight / s * log sum_m w_m Dir(q; 1 + s p_m) of each example, with q = softmax(z / temperature)."""

    targets: Tensor  # p [N, M, C]
    target_weights: Tensor  # w [N, M]
    prior_strength: float  # s
    weight: float
    temperature: float

    def at(self, log_q: Tensor, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Do what :meth:`CrossEntropy.at` does; t is the mean of the teachers by their responsibilities."""
        prior = self.targets[rows], self.target_weights[rows], self.prior_strength
        target = mix_teachers(prior[0], mixture_responsibilities(log_q, *prior))
        return mixture_energy(log_q, *prior) / self.prior_strength, target

    def shares(self, logits: Tensor) -> Tensor:
        """Average the teachers' responsibilities [K, M] at logits [K, N, C] over the examples."""
        log_q = (logits / self.temperature).log_softmax(dim=-1)
        return mixture_responsibilities(log_q, self.targets, self.target_weights, self.prior_strength).mean(dim=-2)

    def softened(self, share: float) -> Self:
        """Replace the responsibilities r_m by those proportional to r_m^share, for a share in (0, 1] (derived here).

        The result is a mixture prior, too, of the strength share * s, with weights that leave every mode as deep as it
        is where one teacher takes all; the barriers between modes sink, and the smaller the share, the nearer is the
        energy to that of the average of the teachers, which has one.
        """

        def log_beta(strength: float) -> Tensor:
            return torch.lgamma(1 + strength * self.targets).sum(dim=-1)

        strength = share * self.prior_strength
        logits = share * (self.target_weights.log() - log_beta(self.prior_strength)) + log_beta(strength)
        return self._replace(target_weights=logits.softmax(dim=-1), prior_strength=strength)

    def alone(self, teacher: int) -> CrossEntropy:
        """Return the term of a single one of the teachers."""
        return CrossEntropy(self.targets[:, teacher], self.weight, self.temperature)


Term = CrossEntropy | MixturePrior


class WholeData(NamedTuple):
    """The training set as one batch, on the network's device."""

    inputs: Inputs
    logits: Tensor  # [N, C]
    labels: Tensor  # [N]


def loss_terms(data: HeadData | WholeData, label_weight: float, teacher: Term | None) -> list[Term]:
    """List the energy's terms of the labels and of one or several teachers, joined into one where they can be."""
    labels = data.labels.long()
    onehot = F.one_hot(labels, data.logits.shape[-1]).float()
    if teacher is None:
        return [CrossEntropy(onehot, label_weight, 1.0)]
    if isinstance(teacher, CrossEntropy) and teacher.temperature == 1:
        total = label_weight + teacher.weight
        return [CrossEntropy(mixed_target(labels, teacher.target, teacher.weight / total), total, 1.0)]
    return [CrossEntropy(onehot, label_weight, 1.0), teacher]


def summed_loss(logits: Tensor, terms: list[Term], rows: Tensor | slice) -> tuple[Tensor, Tensor]:
    """Return the losses of logits [K, B, C] of rows [B] or [K, B], summed to float64 [K], and their gradient in z."""
    energy, gradient = torch.zeros(len(logits), dtype=torch.float64, device=logits.device), torch.zeros_like(logits)
    for term in terms:
        log_q = (logits / term.temperature).log_softmax(dim=-1)
        losses, target = term.at(log_q, rows)
        energy += term.weight * losses.double().sum(dim=-1)
        gradient += term.weight / term.temperature * (log_q.exp() - target)
    return energy, gradient


class Whitening(NamedTuple):
    """A positive definite matrix H in its eigenvectors, by whose powers vectors are multiplied.

    vectors: one orthogonal basis [P, P], or those of a Kronecker product, over classes and over a class' weights.
    values: eigenvalues [P], or [C, P / C].
    """

    vectors: tuple[Tensor, ...]
    values: Tensor

    def power(self, theta: Tensor, exponent: float) -> Tensor:
        """Multiply vectors theta [..., P] by H^exponent."""
        if len(self.vectors) == 1:
            (basis,) = self.vectors
            return (theta @ basis * self.values**exponent) @ basis.T
        classes, rows = self.vectors
        rotated = classes.T @ theta.unflatten(-1, self.values.shape) @ rows
        return (classes @ (rotated * self.values**exponent) @ rows.T).flatten(-2)


class _Energy:
    """What energies of a head and of a network have in common: terms, of which the last may be a mixture prior."""

    terms: list[Term]

    @property
    def mixture(self) -> MixturePrior | None:
        """The prior of several teachers, if there is one."""
        return self.terms[-1] if isinstance(self.terms[-1], MixturePrior) else None

    def with_teachers(self, term: Term) -> Self:
        """Return the same energy with another term of the teachers."""
        other = copy(self)
        other.terms = [*self.terms[:-1], term]
        return other


class HeadEnergy(_Energy):
    """The energy of a linear head's weights theta [K, C * (d + 1)], a row for each class with the bias last.

    Args:
        network: with the head; if this has no bias, rows have d numbers.
        data: the head's inputs on the training set.
        terms: see :func:`loss_terms`.
        prior_precision: delta > 0.
    """

    def __init__(self, network: nn.Module, data: HeadData, terms: list[Term], prior_precision: float):
        self.name, self.head = classification_head(network)
        self.has_bias, self.classes = self.head.bias is not None, self.head.out_features
        ones = data.features.new_ones(len(data.features), int(self.has_bias))
        self.features, self.count = torch.cat([data.features, ones], dim=1), len(data.features)
        self.terms, self.prior_precision = terms, prior_precision

    def __call__(self, theta: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Energies [K] and gradients [K, P]; estimates of them from minibatches of rows [K, B]."""
        some = slice(None) if rows is None else rows
        features = self.features[some]
        energy, residual = summed_loss(self.logits(theta, features), self.terms, some)
        scale = self.count / residual.shape[1]
        return _with_prior(scale * energy, scale * (residual.mT @ features).flatten(1), theta, self.prior_precision)

    def logits(self, theta: Tensor, features: Tensor | None = None) -> Tensor:
        """Logits [K, N, C] of the training set, or of some features of it."""
        return (self.features if features is None else features) @ theta.unflatten(1, (self.classes, -1)).mT

    def start(self) -> Tensor:
        """Return the head's own weights, [P]."""
        rows = [self.head.weight.detach()] + ([self.head.bias.detach()[:, None]] if self.has_bias else [])
        return torch.cat(rows, dim=1).flatten().to(self.features)

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """Weights [..., P] by the names of the network's parameters, [..., *shape]."""
        rows = theta.unflatten(-1, (self.classes, -1))
        weight, bias = head_parameters(self.name)
        return {weight: rows[..., :-1], bias: rows[..., -1]} if self.has_bias else {weight: rows}

    def curvature(self, theta: Tensor) -> Whitening:
        """Average U's Hessian over theta [K, P], for more than 1,000 weights in Kronecker approximation.

        That is the mean of the examples' softmax curvatures times the sum of their features' outer products. For a
        mixture prior the result is an upper bound: a cross-entropy's diag(q) - q q^T without the mixture's
        - s Cov_r(p) (in z / T_s, per unit of weight), and the record's ``width`` is relative to that bound.
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


class NetworkEnergy(_Energy):
    """The energy of all weights of a network that require a gradient, theta [K, P], one after the other.

    Args:
        network: in evaluation mode; its buffers, such as batch norm's statistics, are constants.
        data: the training set.
        terms: see :func:`loss_terms`.
        prior_precision: delta > 0.

    Raises:
        UserError: no weight requires a gradient.
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

    def logits(self, theta: Tensor) -> Tensor:
        """Logits [K, N, C] of the training set."""
        parts = [_taken(self.inputs, slice(start, start + CHUNK)) for start in range(0, self.count, CHUNK)]
        return torch.cat([vmap(self._logits, in_dims=(0, None))(theta, part) for part in parts], dim=1)

    def start(self) -> Tensor:
        """Return the network's own weights, [P]."""
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
