"""Chains of a student's weights: from its energy and where it stands to samples, and a record of whether they mix."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..utils.checks import check_count, check_positive
from ..utils.errors import UserError
from ..utils.random import random_bits
from .langevin_dynamics import Chains, Potential, langevin, largest_curvature, num_kept
from .langevin_energy import HeadEnergy, NetworkEnergy, Whitening
from .mcmc_diagnostics import FEWEST, summarize

SAMPLERS = ("mala", "sgld")
SGLD_STEP = 0.1  # times the inverse of the largest curvature: no variance is more than about 5 % too large
Energy = HeadEnergy | NetworkEnergy


@dataclass
class ChainSettings:
    """How to sample; see :meth:`hf_bkd.LangevinTeacher.fit`."""

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
        if self.sampler not in SAMPLERS:
            raise UserError(f"sampler is {self.sampler!r}; it must be one of {', '.join(SAMPLERS)}")
        check_count(chains=self.chains)
        check_positive(posterior_temperature=self.posterior_temperature)
        if num_kept(self.steps, self.burn_in, self.thinning) < FEWEST:
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
    """Run chains that all begin at the weights the network has.

    Returns:
        Samples [K, S, P], and what JSON can hold: ``tau``, the step size (a mean over chains; of a preconditioned
        one relative to the inverse curvature); ``acceptance``, the share of accepted steps;
        :func:`~hf_bkd.teachers.mcmc_diagnostics.summarize`; and of a head its ``width``: the samples' standard
        deviation in units of that of the Gaussian with U's curvature at the chains' ends, the root of its mean square
        over all directions.
        It is 1 for a Gaussian posterior at T = 1.

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
    begin = start.expand(settings.chains, -1)
    how = {"temperature": settings.posterior_temperature, "metropolis": adjusted, "generators": generators}
    kept = {"steps": settings.steps, "burn_in": settings.burn_in, "thinning": settings.thinning}
    return langevin(potential, begin, step_size, **kept, **how)


def _in_minibatches(energy: Energy, size: int, generators: list[torch.Generator]) -> Potential:
    def estimate(theta: Tensor) -> tuple[Tensor, Tensor]:
        rows = [torch.randint(energy.count, (size,), generator=generator) for generator in generators]
        return energy(theta, torch.stack(rows).to(theta.device))

    return estimate


def _preconditioned(
    energy: HeadEnergy, start: Tensor, settings: ChainSettings, generators: list[torch.Generator]
) -> Chains:
    """The first half of the burn-in in the coordinates that the curvature at the start makes round, then the rest.

    A student that is sure of its training set has hardly any curvature at the mode and much more around it.
    """
    begin, half = start.expand(settings.chains, -1), settings.burn_in // 2
    step_size = settings.step_size or len(start) ** (-1 / 3)
    how = {"temperature": settings.posterior_temperature, "metropolis": True, "generators": generators}

    def run(begin: Tensor, **kept: int) -> Chains:
        whitening = energy.curvature(begin)
        potential = _whitened(energy, begin, whitening)
        chains = langevin(potential, torch.zeros_like(begin), step_size, **kept, **how)
        return chains._replace(samples=begin[:, None] + whitening.power(chains.samples, -0.5))

    if half:
        begin = run(begin, steps=half, burn_in=half - 1).samples[:, -1]
    return run(begin, steps=settings.steps - half, burn_in=settings.burn_in - half, thinning=settings.thinning)


def _whitened(energy: HeadEnergy, origin: Tensor, whitening: Whitening) -> Potential:
    def potential(phi: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = energy(origin + whitening.power(phi, -0.5))
        return value, whitening.power(gradient, -0.5)

    return potential
