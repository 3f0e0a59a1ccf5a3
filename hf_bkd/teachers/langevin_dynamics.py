"""Langevin dynamics: Markov chains of weights through a posterior exp(-U(theta) / T).

    theta <- theta - tau grad U(theta) + sqrt(2 tau T) xi,    xi ~ N(0, I)

U is the energy of the *full* data set: summed losses minus the log prior. With an unbiased estimate from a minibatch,
N times its mean loss, this is SGLD (Welling and Teh 2011; arXiv 2605.27967 with T = 1). A finite tau makes variances
too large, by a share of about tau h / 2 in a direction of curvature h. Accepting steps by Metropolis' rule removes
this bias (MALA, Roberts and Tweedie 1996) and costs no further gradient, but needs U itself, not an estimate. Several
steps that keep their momentum, accepted or rejected as one, go further than as many that don't (Hamiltonian Monte
Carlo, Neal 2011): xi is the momentum, and sqrt(2 tau) the time of a leapfrog step.

To precondition, sample in other coordinates: with theta = theta_0 + R phi, a chain in phi is one in theta that is
preconditioned by R R^T.

Between modes that no step crosses, chains of other energies help (parallel tempering, Geyer 1991): they form a ladder
of rungs, and neighbors exchange their states by Metropolis' rule, in turns with the one and the other neighbor (Syed
et al. 2022). Only the first rung leaves samples.
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
ACCEPTANCE_OF_PATHS = 0.651  # best for Hamiltonian Monte Carlo (Beskos et al. 2013)
JITTER = 0.3  # of the time of a path's steps, which might else be a period
EXCHANGE_EVERY = 5  # steps, at the price of one
POWER_ITERATIONS = 30


class Chains(NamedTuple):
    """Samples of K chains, and how the chains went after the burn-in."""

    samples: Tensor  # [K, S, P]
    energies: Tensor  # U of the samples [K, S]
    ends: Tensor  # where each row ended, [R * K, P]
    step_size: Tensor  # [R * K]
    acceptance: Tensor | None  # shares of accepted proposals [R * K]; None if every step is accepted
    exchanges: Tensor | None  # shares of accepted exchanges between neighboring rungs [R - 1]; None of a single one


class _Points(NamedTuple):
    theta: Tensor  # [K, P]
    energy: Tensor  # [K]
    gradient: Tensor  # [K, P]


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
    leapfrogs: int = 1,
    rungs: int = 1,
) -> Chains:
    """Run K chains at once, each as it would run alone.

    Args:
        potential: energies and gradients, see :data:`Potential`.
        start: where the chains begin, [K, P]; of ladders [R * K, P], all first rungs before all second ones.
        step_size: tau > 0. With ``metropolis`` each row adapts its own during the burn-in, towards accepting 57 %, or
            65 % of paths of several leapfrog steps.
        steps: number of steps, the burn-in included, at one gradient each.
        burn_in: number of first steps that leave no samples, in [0, steps).
        thinning: each how many steps leave one sample: S = (steps - burn_in) // thinning.
        generators: one for each row of ``start``, on any device.
        temperature: T > 0; below 1 for a cold posterior, narrower than by Bayes' rule.
        metropolis: whether to correct for the finite step; ``potential`` must then not be an estimate.
        leapfrogs: steps of a path that is accepted or rejected as one; more than one need ``metropolis``. A path takes
            a time of about pi / 2 at most, after which draws from a standard normal distribution are independent.
        rungs: R, of each ladder; more than one need ``metropolis``. ``potential`` gives each row its rung's energy.

    Raises:
        UserError: an argument out of its range, no sample left, or a chain that diverged.
    """
    check_positive(step_size=step_size, temperature=temperature)
    check_shape("start", start, len(generators), None)
    count, chains = samples_per_chain(steps, burn_in, thinning), len(start) // rungs
    longest = math.inf if leapfrogs == 1 else (math.pi / 2 / leapfrogs) ** 2 / 2
    aim = ACCEPTANCE if leapfrogs == 1 else ACCEPTANCE_OF_PATHS
    points = _Points(start, *potential(start))
    tau = torch.full_like(points.energy, step_size).clamp_max(longest)
    samples, energies = start.new_empty(chains, count, start.shape[1]), tau.new_empty(chains, count)
    accepted, exchanges = [], ([], [])  # of the rungs' even and odd pairs
    for step in range(0, steps, leapfrogs):
        end = min(step + leapfrogs, steps)
        noise = torch.stack([torch.randn(start.shape[1:], generator=g, device=g.device) for g in generators]).to(start)
        time = (2 * tau).sqrt()
        if leapfrogs > 1:
            time = time * (1 + JITTER * (2 * _uniform(generators, tau) - 1))
        proposal, momentum = _path(potential, points, time, temperature**0.5 * noise, end - step)
        if metropolis:
            kinetic = (noise.square().sum(dim=1) - momentum.square().sum(dim=1) / temperature) / 2
            odds = ((points.energy - proposal.energy) / temperature + kinetic).nan_to_num(-math.inf)
            taken = _uniform(generators, odds).log() < odds
            points = _replaced(points, proposal, taken)
            if step < burn_in:
                rate = 1 / math.sqrt(step // leapfrogs + 1)
                tau = (tau * (rate * (odds.exp().clamp_max(1) - aim)).exp()).clamp_max(longest)
            else:
                accepted.append(taken)
        else:
            points = proposal
        if rungs > 1 and step // EXCHANGE_EVERY < end // EXCHANGE_EVERY:
            turn = end // EXCHANGE_EVERY % 2
            points, pairs = _exchanged(potential, points, temperature, rungs, turn, generators)
            if step >= burn_in:
                exchanges[turn].append(pairs)
        due = [max(0, min(when - burn_in, count * thinning)) // thinning for when in (step, end)]
        samples[:, slice(*due)], energies[:, slice(*due)] = points.theta[:chains, None], points.energy[:chains, None]
    if not samples.isfinite().all():
        raise UserError(f"a chain diverged: step_size {step_size:g} is too large for this posterior")
    acceptance = torch.stack(accepted).to(tau).mean(dim=0) if accepted else None
    return Chains(samples, energies, points.theta, tau, acceptance, _shares(exchanges, rungs) if rungs > 1 else None)


def _path(
    potential: Potential, points: _Points, time: Tensor, momentum: Tensor, leapfrogs: int
) -> tuple[_Points, Tensor]:
    """Follow Hamilton's equations for leapfrog steps of a time [K]; where that leads, and the momentum."""
    time = time.to(momentum)[:, None]
    for _ in range(leapfrogs):
        momentum = momentum - time / 2 * points.gradient
        theta = points.theta + time * momentum
        points = _Points(theta, *potential(theta))
        momentum = momentum - time / 2 * points.gradient
    return points, momentum


def _exchanged(
    potential: Potential,
    points: _Points,
    temperature: float,
    rungs: int,
    first: int,
    generators: Sequence[torch.Generator],
) -> tuple[_Points, Tensor]:
    """Let rungs first and first + 1, first + 2 and first + 3, ... exchange states; which pairs did, [pairs, K]."""
    rows = torch.arange(len(generators)).unflatten(0, (rungs, -1))
    lower, upper = rows[first:-1:2], rows[first + 1 :: 2]
    partner = (
        rows.flatten().index_put((lower.flatten(),), upper.flatten()).index_put((upper.flatten(),), lower.flatten())
    )
    partner = partner.to(points.theta.device)
    theta = points.theta[partner]
    there = _Points(theta, *potential(theta))
    gain = (points.energy - there.energy) / temperature
    odds = (gain[lower] + gain[upper]).nan_to_num(-math.inf)
    pairs = _uniform(generators, gain)[lower].log() < odds
    taken = torch.zeros_like(gain, dtype=torch.bool)
    taken[lower], taken[upper] = pairs, pairs
    return _replaced(points, there, taken), pairs


def _uniform(generators: Sequence[torch.Generator], like: Tensor) -> Tensor:
    return torch.stack([torch.rand((), generator=g, device=g.device) for g in generators]).to(like)


def _replaced(points: _Points, others: _Points, taken: Tensor) -> _Points:
    pairs = zip(others, points, strict=True)
    return _Points(*(torch.where(taken if new.ndim == 1 else taken[:, None], new, old) for new, old in pairs))


def _shares(exchanges: tuple[list[Tensor], list[Tensor]], rungs: int) -> Tensor:
    """Average over attempts, and put the pairs in the ladder's order; NaN for a pair that made none."""
    shares = torch.full((rungs - 1,), math.nan, dtype=torch.float64)
    for first, turns in enumerate(exchanges):
        if turns:
            shares[first::2] = torch.stack(turns).double().mean(dim=(0, 2)).cpu()
    return shares


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
