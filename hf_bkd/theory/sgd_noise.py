"""The noise that a kind of supervision puts into SGD's gradients at the optimum, and its cost (arXiv 2601.01484).

The gradient of one example's loss CE(t, q) is -sum_k t_k G_k with the scores G_k = d log q_k / d theta [P]. Its noise
is thus determined by the Gram matrix <G_k, G_l> of the example's scores and the covariance of the target t:
E ||gradient||^2 = tr(Cov[t] Gram) where q = E[t], for there sum_k q_k G_k = 0.

========================================== ================================ ============================
supervision of an example with p = p(y|x)  covariance of the target         noise sigma*
========================================== ================================ ============================
exact p                                    0                                0
one-hot label                              diag p - p p^T                   sigma_f*
additive noise of variance nu              nu I                             sigma_f* at nu = nu*
Dirichlet(a p)                             (diag p - p p^T) / (a + 1)       sigma_f* / (a + 1)
mean of S draws of a teacher               of one draw, / S                 of one draw, / S
(1 - lambda) label + lambda teacher        (1 - lambda)^2, lambda^2 of each :func:`mixed_noise`
========================================== ================================ ============================

The first three rows are Lemma 1 and Proposition 3 of the paper, as its public summaries state them; the others, the
floor and the best lambda are derived from them here.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.utils._pytree import tree_map

from ..targets import noise_ratio
from ..utils.checks import (
    check_count,
    check_not_negative,
    check_positive,
    check_probabilities,
    check_shape,
    check_share,
)

CHUNK = 64  # how many examples' gradients are held at a time


def squared_gradient_norms(network: nn.Module, inputs: Any, targets: Tensor) -> Tensor:
    """Compute ||d CE(t, softmax(z)) / d theta||^2 of each example, over all parameters that require a gradient.

    CE(t, q) = -sum_k t_k log q_k, also for targets that don't sum to one. All examples go at once through
    `torch.func`, in the network's present mode (batch norm must be in evaluation mode, for it mixes examples), at the
    cost of one forward and T backward passes of a batch and the memory of 64 examples' gradients.

    Args:
        network: returns logits [B, C].
        inputs: a tensor, or a dict of tensors, with B examples in the first dimension.
        targets: [T, B, C] or [B, C].

    Returns:
        Squared norms [T, B] or [B].
    """
    if targets.ndim == 2:
        return squared_gradient_norms(network, inputs, targets[None])[0]

    def of_example(example: Any, rows: Tensor) -> Tensor:
        logits, pull = logits_of(network, example)
        probs = logits.softmax(dim=-1)
        return vmap(lambda row: _square(pull(row.sum() * probs - row)[0]))(rows.to(probs.dtype))

    return vmap(of_example, in_dims=(0, 1), out_dims=1, chunk_size=CHUNK)(inputs, targets)


def score_gram(network: nn.Module, inputs: Any) -> Tensor:
    """Compute Gram matrices [B, C, C] of the scores d log q_k / d theta, at the cost of C backward passes.

    Arguments are those of :func:`squared_gradient_norms`.
    """

    def of_example(example: Any) -> Tensor:
        logits, pull = logits_of(network, example)
        onto_scores = torch.eye(len(logits)).to(logits) - logits.softmax(dim=-1)
        scores = vmap(lambda row: torch.cat([g.flatten() for g in pull(row)[0].values()]))(onto_scores)
        return scores @ scores.T

    return vmap(of_example, chunk_size=CHUNK)(inputs)


def logits_of(network: nn.Module, inputs: Any, batched: bool = False) -> tuple[Tensor, Callable]:
    """Return an example's logits [C] (a batch's [B, C]), and the function from their cotangent to the parameters'."""
    state = {name: value.detach() for name, value in (*network.named_parameters(), *network.named_buffers())}
    trained = {name: state.pop(name) for name, value in network.named_parameters() if value.requires_grad}
    batch = inputs if batched else tree_map(lambda value: value[None], inputs)

    def logits(parameters: dict[str, Tensor]) -> Tensor:
        values = functional_call(network, parameters | state, (batch,))
        return values if batched else values[0]

    return vjp(logits, trained)


def _square(gradient: dict[str, Tensor]) -> Tensor:
    return sum(value.square().sum() for value in gradient.values())


def one_hot_covariance(probs: Tensor) -> Tensor:
    """Return diag p - p p^T [..., C, C], the covariance of a label drawn from probabilities [..., C]."""
    check_probabilities(probs=probs)
    return torch.diag_embed(probs) - probs.unsqueeze(-1) * probs.unsqueeze(-2)


def gradient_noise(gram: Tensor, covariance: Tensor) -> float:
    """Compute sigma* = E_x tr(Cov[t] Gram), the mean squared gradient norm at the optimum under noisy targets.

    For one-hot labels this is E_x sum_k ||J_k||^2 / P_k with J_k = d q_k / d theta, for additive noise
    nu E_x sum_k ||J_k||^2 / P_k^2 (arXiv 2601.01484, proposition 3).

    Args:
        gram: [N, C, C], from :func:`score_gram` with a student whose q is p(y|x).
        covariance: of the targets, [N, C, C], or one [C, C] for all.

    Raises:
        UserError: shapes that don't fit.
    """
    check_shape("gram", gram, None, None, gram.shape[-1])
    check_shape("covariance", covariance, *(() if covariance.ndim == 2 else (len(gram),)), *gram.shape[1:])
    return (gram * covariance).sum(dim=(-2, -1)).mean().item()


def break_even_variance(gram: Tensor, probs: Tensor) -> float:
    """Compute nu*, the variance of additive noise at which a teacher is no better than one-hot labels.

    nu* = E_x sum_k ||J_k||^2 / P_k  /  E_x sum_k ||J_k||^2 / P_k^2; arguments as in :func:`gradient_noise`.
    """
    return gradient_noise(gram, one_hot_covariance(probs)) / gradient_noise(gram, torch.eye(probs.shape[-1]).to(gram))


def mixed_noise(label_noise: float, teacher_noise: float, kd_lambda: float) -> float:
    """Return (1 - lambda)^2 sigma_f* + lambda^2 sigma_T*, for a teacher whose noise is independent of the labels'."""
    check_not_negative(label_noise=label_noise, teacher_noise=teacher_noise)
    check_share(kd_lambda=kd_lambda)
    return (1 - kd_lambda) ** 2 * label_noise + kd_lambda**2 * teacher_noise


def best_lambda(label_noise: float, teacher_noise: float) -> float:
    """Return lambda* = sigma_f* / (sigma_f* + sigma_T*) of least :func:`mixed_noise`, their product over their sum.

    Derived here; it is the inverse-variance weighting of arXiv 2601.18909. For Dirichlet(a p) it is (a + 1) / (a + 2).
    """
    check_positive(label_noise=label_noise)
    check_not_negative(teacher_noise=teacher_noise)
    return label_noise / (label_noise + teacher_noise)


def excess_risk_floor(noise: float, learning_rate: float, batch_size: int = 1, momentum: float = 0.0) -> float:
    """Return the stationary risk of SGD with a constant step, E KL(p || q) = alpha sigma* / (4 B (1 - m)), in nats.

    Derived here, and exact to first order in the step: near the optimum of cross-entropy, Hessian and noise covariance
    balance, H S + S H = (alpha / B) C. (Theorems 3 and 4 of arXiv 2601.01484 are upper bounds of it.)

    Args:
        noise: sigma* >= 0, of :func:`gradient_noise`.
        learning_rate: alpha > 0.
        batch_size: B >= 1.
        momentum: m in [0, 1), of heavy-ball momentum.
    """
    check_not_negative(noise=noise)
    check_positive(learning_rate=learning_rate, one_minus_momentum=1 - momentum)
    check_count(batch_size=batch_size)
    return learning_rate * noise / (4 * batch_size * (1 - momentum))


def label_free_lambda(probs: Tensor, variance: Tensor, num_samples: int) -> float:
    """Estimate lambda* for a teacher's mean of S draws from the draws alone: 1 / (1 + rho / S).

    It takes variances of probabilities for those of gradients, and these show how draws scatter but not where all of
    them are wrong: for a teacher with a bias it is an upper bound of the best lambda. Derived here; rho is
    :func:`hf_bkd.targets.noise_ratio`, which has the same arguments.
    """
    return 1 / (1 + noise_ratio(probs, variance, num_samples) / num_samples)
