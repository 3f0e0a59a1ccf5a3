"""Markov chains of a student's weights: how to run them on its energy, and a record of whether they mix."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..utils.checks import check_choice, check_count, check_positive
from ..utils.errors import UserError
from ..utils.random import random_bits
from .langevin_dynamics import Chains, Potential, langevin, largest_curvature, samples_per_chain
from .langevin_energy import HeadEnergy, NetworkEnergy, Whitening
from .mcmc_diagnostics import FEWEST, summarize

SAMPLERS = ("mala", "sgld")
SGLD_STEP = 0.1  # relative to the inverse of the largest curvature: no variance is more than about 5 % too large
Energy = HeadEnergy | NetworkEnergy


@dataclass
class ChainSettings:
    """How the Langevin teacher's chains are run.

    Args:
        sampler: ``"mala"``: each step sees all examples and is accepted or refused, so that its size adds no bias; a
            head's chains are preconditioned by the curvature of U. ``"sgld"``: the paper's plain steps.
        chains: number of chains, each with random numbers of its own.
        steps, burn_in, thinning: see :func:`hf_bkd.teachers.langevin_dynamics.langevin`; at least 8 samples must
            remain of each chain.
        step_size: tau > 0. MALA adapts it during the burn-in. SGLD's, if not given, is a tenth of the inverse of U's
            largest curvature at the start, which makes no variance more than about 5 % too large, minibatches apart.
        batch_size: examples of an SGLD step, drawn for each chain with replacement; if not given, all of them.
        posterior_temperature: T > 0; below 1 for a cold posterior.
        seed: of all random numbers.

    Raises:
        UserError: an argument out of its range.
    """

    sampler: str = "mala"
    chains: int = 4
    steps: int = 3_000
    burn_in: int = 1_000
    thinning: int = 10
    step_size: float | None = None
    batch_size: int | None = None
    posterior_temperature: float = 1.0
    seed: int = 0

    def __post_init__(self):
        check_choice(SAMPLERS, sampler=self.sampler)
        check_count(chains=self.chains)
        check_positive(posterior_temperature=self.posterior_temperature)
        if samples_per_chain(self.steps, self.burn_in, self.thinning) < FEWEST:
            raise UserError(
                f"thinning is {self.thinning}: fewer than {FEWEST} samples a chain would be kept of the "
                f"{self.steps - self.burn_in} steps after the burn-in, too few to judge it by"
            )
        if self.step_size is not None:
            check_positive(step_size=self.step_size)
        if self.batch_size is not None:
            check_count(batch_size=self.batch_size)
            if self.sampler != "sgld":
                raise UserError(f"batch_size is {self.batch_size}, and sampler is {self.sampler!r}: it must be 'sgld'")


def sample_weights(energy: Energy, settings: ChainSettings) -> tuple[Tensor, dict[str, Any]]:
    """Run chains that all begin at the network's own weights.

    Returns:
        Samples [K, S, P], and a record for JSON: ``tau``, the mean step size of the chains (if preconditioned,
        relative to the inverse curvature); ``acceptance``, the share of accepted steps; what
        :func:`~hf_bkd.teachers.mcmc_diagnostics.summarize` says; and for a head ``width``, the samples' standard
        deviation (root mean square over all directions) relative to that of the Gaussian with U's curvature at the
        chains' ends, which is 1 for a Gaussian posterior at T = 1.

    Raises:
        UserError: a chain diverged.
    """
    start = energy.start()
    numbers = random_bits(torch.arange(settings.chains), seed=settings.seed, view=0, stream=0) & (2**63 - 1)
    generators = [torch.Generator().manual_seed(number) for number in numbers.tolist()]
    run = _preconditioned if settings.sampler == "mala" and isinstance(energy, HeadEnergy) else _plain
    chains = run(energy, start, settings, generators)
    samples = chains.samples
    record = {"tau": chains.step_size.mean().item()}
    if chains.acceptance is not None:
        record["acceptance"] = chains.acceptance.mean().item()
    record |= summarize(samples, start)
    if isinstance(energy, HeadEnergy):
        pooled = samples.flatten(0, 1)
        whitened = energy.curvature(samples[:, -1]).power(pooled - pooled.mean(dim=0), 0.5)
        record["width"] = whitened.double().square().mean().sqrt().item()
    return samples, record


def _plain(energy: Energy, start: Tensor, settings: ChainSettings, generators: list[torch.Generator]) -> Chains:
    adjusted = settings.sampler == "mala"
    step_size, potential = settings.step_size, energy
    if step_size is None:
        step_size = (len(start) ** (-1 / 3) if adjusted else SGLD_STEP) / largest_curvature(energy, start[None])
    if settings.batch_size is not None:
        potential = _in_minibatches(energy, settings.batch_size, generators)
    lengths = {"steps": settings.steps, "burn_in": settings.burn_in, "thinning": settings.thinning}
    shared = {"temperature": settings.posterior_temperature, "metropolis": adjusted, "generators": generators}
    return langevin(potential, start.expand(settings.chains, -1), step_size, **lengths, **shared)


def _in_minibatches(energy: Energy, size: int, generators: list[torch.Generator]) -> Potential:
    def estimate(theta: Tensor) -> tuple[Tensor, Tensor]:
        rows = [torch.randint(energy.count, (size,), generator=generator) for generator in generators]
        return energy(theta, torch.stack(rows).to(theta.device))

    return estimate


def _preconditioned(
    energy: HeadEnergy, start: Tensor, settings: ChainSettings, generators: list[torch.Generator]
) -> Chains:
    """Run chains in whitened coordinates, by the curvature at the start and from half of the burn-in on by a new one.

    The second is needed as a student that is sure of its training set has far less curvature at the mode than around.
    """
    begin, half = start.expand(settings.chains, -1), settings.burn_in // 2
    step_size = settings.step_size or len(start) ** (-1 / 3)
    shared = {"temperature": settings.posterior_temperature, "metropolis": True, "generators": generators}

    def run(begin: Tensor, **lengths: int) -> Chains:
        whitening = energy.curvature(begin)
        potential = _whitened(energy, begin, whitening)
        chains = langevin(potential, torch.zeros_like(begin), step_size, **lengths, **shared)
        return chains._replace(samples=begin[:, None] + whitening.power(chains.samples, -0.5))

    if half:
        begin = run(begin, steps=half, burn_in=half - 1).samples[:, -1]
    return run(begin, steps=settings.steps - half, burn_in=settings.burn_in - half, thinning=settings.thinning)


def _whitened(energy: HeadEnergy, origin: Tensor, whitening: Whitening) -> Potential:
    def potential(phi: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = energy(origin + whitening.power(phi, -0.5))
        return value, whitening.power(gradient, -0.5)

    return potential
