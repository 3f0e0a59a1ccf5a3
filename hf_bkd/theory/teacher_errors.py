"""What a teacher's errors cost beyond independent noise: its bias, and what its examples have wrong in common.

arXiv 2601.01484 assumes noise of mean zero that is independent between examples, and leaves the rest open: all
formulas here are derived by us. Let a student with logits z(x) [C] be exact at theta*, J = dz / d theta and the risk's
Hessian H = E_x J^T (diag p - p p^T) J. A teacher says t(x) = p(x) + b(x) + eps(x), with E eps = 0.

- *The minimum moves.* The gradient of CE(t, q) is -J^T (t - q), so the student settles at theta* + H^-1 g with
  g = E_x J^T b. The bias costs g^T H^-1 g / 2 nats whatever the step. A bias that the student cannot follow (g = 0)
  costs nothing here: the metric is the risk's own.
- *The rest of the bias is noise.* The residual r = p + b - q at the new minimum, which the student could not follow,
  keeps pulling, example by example: gradients have the covariance C = E_x J^T (Cov[eps] + r r^T) J, and SGD adds
  alpha tr(C) / (4 B) nats to the bias.
- *Errors in common.* Let K(x, x') = Cov[eps(x), eps(x')] for two examples of one draw of the teacher's weights, and
  Gamma = E_{x,x'} J^T K J' = Cov[E_x J^T eps]. The mean gradient of n examples under one draw has the covariance
  C / n + (1 - 1/n) Gamma: no batch averages Gamma out. Fresh draws at every step make a floor of it, with n = B. A
  draw that is stored with n labels is a bias, of tr(H^-1 (C / n + (1 - 1/n) Gamma)) / 2 nats on average. The mean of
  S draws has an S-th of either.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils._pytree import tree_leaves, tree_map

from ..losses import kl_to_target
from ..utils.checks import check_count, check_positive, check_probabilities, check_shape
from ..utils.errors import UserError
from .sgd_noise import logits_of, one_hot_covariance

ROUNDING = 1e-13  # of a Newton step's gain in nats, and of its length
NUMBERS = 2**22  # of derivatives that are held at a time


def parameter_covariance(network: nn.Module, inputs: Any, covariance: Tensor) -> Tensor:
    """Compute E_x J^T M J [p, p], in the parameters' space, of matrices M between the logits, J = d logits / d theta.

    With the covariance of the targets it is the covariance C of SGD's gradients, whose trace is sigma*; with
    diag q - q q^T it is the risk's Hessian H where the student is exact or linear (else its Gauss-Newton matrix).

    Args:
        network: returns logits [B, C]; its parameters that require gradients are theta, in their order.
        inputs: a tensor, or a dict of tensors, with N examples in the first dimension.
        covariance: M [N, C, C].

    Raises:
        UserError: ``covariance`` is not [N, C, C].
    """
    examples = len(tree_leaves(inputs)[0])

    def jacobian(example: Any) -> Tensor:
        logits, pull = logits_of(network, example)
        rows = vmap(lambda row: torch.cat([g.flatten() for g in pull(row)[0].values()]))
        return rows(torch.eye(len(logits)).to(logits))

    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    size = max(1, NUMBERS // (trained * covariance.shape[-1]))
    total = 0
    for start in range(0, examples, size):
        chunk = slice(start, start + size)
        rows = vmap(jacobian)(tree_map(lambda each, chunk=chunk: each[chunk], inputs))
        check_shape("covariance", covariance, examples, rows.shape[1], rows.shape[1])
        total = total + rows.flatten(0, 1).mT @ (covariance[chunk].to(rows) @ rows).flatten(0, 1)
    return total / examples


def mean_pull(network: nn.Module, inputs: Any, errors: Tensor) -> Tensor:
    """Compute g = E_x J^T e [p], with which errors e of the targets pull the parameters together.

    Arguments are those of :func:`parameter_covariance`, but for

    Args:
        errors: e [N, C], or [S, N, C] of S draws, for which [S, p] is returned.
    """
    if errors.ndim == 2:
        return mean_pull(network, inputs, errors[None])[0]
    logits, pull = logits_of(network, inputs, batched=True)
    check_shape("errors", errors, None, *logits.shape)
    return torch.stack([torch.cat([g.flatten() for g in pull(e.to(logits) / len(e))[0].values()]) for e in errors])


def nearest_student(network: nn.Module, inputs: Any, targets: Tensor, steps: int = 100) -> nn.Module:
    """Return a copy of a network at the minimum of E CE(t, q), where SGD would settle if it made no noise, by Newton.

    Where errors are so large that :func:`displacement_risk` is off, its risk is the exact one. Steps are halved until
    they lead down; for a linear student the minimum is the only one, else it is one near the start.

    Args:
        network: the start, as in :func:`parameter_covariance`.
        inputs: as there.
        targets: t [N, C], which sum to one.
        steps: after which it is given up.

    Raises:
        UserError: targets that don't sum to one, or no minimum within ``steps`` steps.
    """
    check_probabilities(targets=targets)
    student = copy.deepcopy(network)
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    vector = parameters_to_vector(trained).detach()

    def loss_at(place: Tensor) -> Tensor:
        vector_to_parameters(place, trained)
        return kl_to_target(targets, student(inputs)).mean()

    with torch.no_grad():
        loss = loss_at(vector)
        for _ in range(steps):
            probs = student(inputs).softmax(dim=-1)
            pull = mean_pull(student, inputs, targets - probs)
            step = displacement(parameter_covariance(student, inputs, one_hot_covariance(probs)), pull)
            if pull @ step < ROUNDING:
                return student
            if not step.isfinite().all():  # and would stay so, however often it is halved
                break
            while not (lower := loss_at(vector + step)) < loss:
                step = step / 2
                if step.abs().max() < ROUNDING:  # as low as the network's precision leads
                    vector_to_parameters(vector, trained)
                    return student
            vector, loss = vector + step, lower
    raise UserError(
        f"no minimum was reached in {steps} steps: the targets may be ones that only infinite weights reach"
    )


def displacement(hessian: Tensor, pull: Tensor) -> Tensor:
    """Return H^-1 g [..., p], the way by which pulls g [..., p] move a minimum of Hessian H [p, p].

    Directions without curvature, as that of a constant added to all logits, move nothing and are left out.
    """
    curvature, axes = _axes(hessian)
    return (pull @ axes / curvature) @ axes.mT


def displacement_risk(hessian: Tensor, pull: Tensor) -> float:
    """Return g^T H^-1 g / 2, or its mean tr(H^-1 Gamma) / 2: the excess risk, in nats, of a minimum that moved.

    Exact to second order in the errors.

    Args:
        hessian: H [p, p] at the minimum; directions as in :func:`displacement`.
        pull: g [p], from :func:`mean_pull`, or its second moment [p, p] over teachers.
    """
    curvature, axes = _axes(hessian)
    return (_along(axes, pull) / curvature).sum().item() / 2


def covariance_of_mean(own: Tensor, common: Tensor, count: int) -> Tensor:
    """Return C / n + (1 - 1/n) Gamma [p, p], the covariance of the mean gradient of n examples under one draw.

    Args:
        own: C, the covariance of one example's gradient.
        common: Gamma, that of the mean over all examples.
        count: n >= 1, of independent examples.
    """
    check_count(count=count)
    return own / count + (1 - 1 / count) * common


def kept_draw_risk(hessian: Tensor, common: Tensor, learning_rate: float, steps: float) -> float:
    """Return the stationary excess risk of SGD, in nats, whose teacher is drawn anew after every ``steps`` steps.

    Between the floor alpha tr(Gamma) / 4 of fresh draws and the tr(H^-1 Gamma) / 2 of a stored one. Along a curvature
    h with d = 1 - alpha h, the distance's variance is Gamma_h / h^2 times the mean over the steps j = 1 ... n of
    d^(2j) (1 - d^n) / (1 + d^n) + (1 - d^j)^2. Exact in a quadratic whose batches are large.

    Args:
        hessian: H [p, p].
        common: Gamma [p, p], of the mean gradient over a draw of the teacher.
        learning_rate: alpha > 0, below 2 over the largest curvature.
        steps: for which a draw is kept, >= 1; ``math.inf`` for ever.
    """
    check_positive(learning_rate=learning_rate)
    if steps == math.inf:
        return displacement_risk(hessian, common)
    check_count(steps=steps)
    curvature, axes = _axes(hessian)
    if learning_rate * curvature[-1] >= 2:
        raise UserError(
            f"learning_rate must be below {2 / curvature[-1]:.4g}, where SGD diverges, and it is {learning_rate:g}"
        )
    decay = (1 - learning_rate * curvature) ** torch.arange(1, steps + 1).to(curvature)[:, None]
    shares = decay.square() * (1 - decay[-1]) / (1 + decay[-1]) + (1 - decay).square()
    return (shares.mean(dim=0) * _along(axes, common) / curvature).sum().item() / 2


def _axes(hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Return the curvatures above zero [k] and their directions [p, k]."""
    values, vectors = torch.linalg.eigh(hessian)
    rounding = 10 * len(values) * torch.finfo(values.dtype).eps
    curved = values > rounding * values[-1]
    return values[curved], vectors[:, curved]


def _along(axes: Tensor, pull: Tensor) -> Tensor:
    """Return the second moment of a pull along each direction [k]."""
    return (pull @ axes).square() if pull.ndim == 1 else (axes * (pull @ axes)).sum(dim=0)
