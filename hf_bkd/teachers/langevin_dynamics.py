"""Langevin dynamics: Markov chains of weights through a posterior exp(-U(theta) / T).

    theta <- theta - tau grad U(theta) + sqrt(2 tau T) xi,    xi ~ N(0, I)

U is the energy of the *full* data set: summed losses minus the log prior. With an unbiased estimate from a minibatch,
N times its mean loss, this is SGLD (Welling and Teh 2011; arXiv 2605.27967 with T = 1). A finite tau makes variances
too large, by a share of about tau h / 2 in a direction of curvature h. Accepting steps by Metropolis' rule removes
this bias (MALA, Roberts and Tweedie 1996) and costs no further gradient, but needs U itself, not an estimate.

To precondition, sample in other coordinates: with theta = theta_0 + R phi, a chain in phi is one in theta that is
preconditioned by R R^T.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..utils.checks import check_count, check_positive, check_shape
from ..utils.errors import UserError

Potential = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps theta [K, P] of K chains to energies U [K] and gradients [K, P]; an estimate draws anew at each call."""

ACCEPTANCE = 0.574  # best for high-dimensional MALA (Roberts and Rosenthal 1998)
POWER_ITERATIONS = 30


class Chains(NamedTuple):
    """Samples of K chains, and how the chains went after the burn-in."""

    samples: Tensor  # [K, S, P]
    step_size: Tensor  # [K]
    acceptance: Tensor | None  # shares of accepted steps [K]; None if every step is accepted


@torch.no_grad()
def langevin(
    potential: Potential,
    start: Tensor,
    step_size: float,
    *,
    steps: int,
    burn_in: int = 0,
    thinning: int = 1,
    generators: Sequence[torch.Generator],
    temperature: float = 1.0,
    metropolis: bool = False,
) -> Chains:
    """Run K chains at once, each as it would run alone.

    Args:
        potential: energies and gradients, see :data:`Potential`.
        start: where the chains begin, [K, P].
        step_size: tau > 0. With ``metropolis`` each chain adapts its own during the burn-in, towards accepting 57 %.
        steps: number of steps, the burn-in included, at one gradient each.
        burn_in: number of first steps that leave no samples, in [0, steps).
        thinning: each how many steps leave one sample: S = (steps - burn_in) // thinning.
        generators: one for each chain, on any device.
        temperature: T > 0; below 1 for a cold posterior, narrower than by Bayes' rule.
        metropolis: whether to correct for the finite step; ``potential`` must then not be an estimate.

    Raises:
        UserError: an argument out of its range, no sample left, or a chain that diverged.
    """
    check_positive(step_size=step_size, temperature=temperature)
    check_shape("start", start, len(generators), None)
    count = samples_per_chain(steps, burn_in, thinning)
    state, (energy, gradient) = start, potential(start)
    tau = torch.full_like(energy, step_size)
    samples, accepted = start.new_empty(len(start), count, start.shape[1]), torch.zeros_like(energy)
    for step in range(steps):
        noise = torch.stack([torch.randn(start.shape[1:], generator=g, device=g.device) for g in generators]).to(start)
        rate = tau.to(start)[:, None]
        proposal = state - rate * gradient + (2 * rate * temperature).sqrt() * noise
        its_energy, its_gradient = potential(proposal)
        if not metropolis:
            state, energy, gradient = proposal, its_energy, its_gradient
        else:
            back = (state - proposal + rate * its_gradient).square().sum(dim=1) / (4 * rate[:, 0] * temperature)
            there = noise.square().sum(dim=1) / 2
            odds = ((energy - its_energy) / temperature + there - back).nan_to_num(-math.inf)
            drawn = torch.stack([torch.rand((), generator=g, device=g.device) for g in generators]).to(odds)
            taken = drawn.log() < odds
            state, gradient = (
                torch.where(taken[:, None], *pair) for pair in ((proposal, state), (its_gradient, gradient))
            )
            energy = torch.where(taken, its_energy, energy)
            if step < burn_in:
                tau = tau * ((odds.exp().clamp_max(1) - ACCEPTANCE) / math.sqrt(step + 1)).exp()
            else:
                accepted += taken
        number, between = divmod(step - burn_in + 1, thinning)
        if step >= burn_in and between == 0:
            samples[:, number - 1] = state
    if not samples.isfinite().all():
        raise UserError(f"a chain diverged: step_size {step_size:g} is too large for this posterior")
    return Chains(samples, tau, accepted / (steps - burn_in) if metropolis else None)


def samples_per_chain(steps: int, burn_in: int, thinning: int) -> int:
    """Count the samples that a chain leaves; UserError if there are none."""
    check_count(steps=steps, thinning=thinning)
    if not 0 <= burn_in < steps:
        raise UserError(f"burn_in must be at least 0 and below the number of steps, {steps}, and it is {burn_in}")
    if steps - burn_in < thinning:
        raise UserError(
            f"thinning is {thinning}, and only {steps - burn_in} steps follow the burn-in: no sample would be left"
        )
    return (steps - burn_in) // thinning


def largest_curvature(potential: Potential, start: Tensor) -> float:
    """Find the largest eigenvalue of U's Hessian at ``start`` [1, P] by power iteration on gradient differences."""
    vector = torch.randn(start.shape, generator=torch.Generator().manual_seed(0)).to(start)
    size, value = 1e-3 * (1 + start.norm()), 0.0
    for _ in range(POWER_ITERATIONS):
        vector = vector / vector.norm()
        there, back = (potential(start + sign * size * vector)[1] for sign in (1, -1))
        vector = (there - back) / (2 * size)
        value = vector.norm().item()
    return value
