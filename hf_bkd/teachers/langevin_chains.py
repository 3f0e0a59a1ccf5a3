"""Markov chains of a student's weights: how to run them on its energy, and a record of whether they mix."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..utils.checks import check_choice, check_count, check_positive
from ..utils.errors import UserError
from ..utils.random import random_bits
from .langevin_dynamics import Chains, Potential, langevin, largest_curvature, samples_per_chain
from .langevin_energy import HeadEnergy, NetworkEnergy, Whitening
from .mcmc_diagnostics import FEWEST, MIXED, apart, summarize

SAMPLERS = ("hmc", "mala", "sgld")
LEAPFROGS = 5  # of a path of "hmc"
SGLD_STEP = 0.1  # relative to the inverse of the largest curvature: no variance is more than about 5 % too large
DISPERSION = 4.0  # temperature of the starts: twice the posterior's width
RUNGS = 8
SOFTEST = 0.5  # prior strength of the last rung
TUNINGS = 3  # of the rungs' distances
Energy = HeadEnergy | NetworkEnergy


@dataclass
class ChainSettings:
    """How the Langevin teacher's chains are run.

    Args:
        sampler: ``"hmc"``: paths of five steps on all examples, accepted or rejected, so that a step's size adds no
            bias; a head's chains are preconditioned by the curvature of U. ``"mala"``: likewise, and each step is a
            path of its own. ``"sgld"``: the paper's plain steps.
        chains: number of chains, each with random numbers of its own.
        steps, burn_in, thinning: see :func:`hf_bkd.teachers.langevin_dynamics.langevin`; at least 8 samples must
            remain of each chain. A quarter of the burn-in disperses the chains.
        step_size: tau > 0. HMC and MALA adapt it during the burn-in. SGLD's, if not given, is a tenth of the inverse
            of U's largest curvature at the start, which makes no variance more than about 5 % too large, minibatches
            apart.
        batch_size: examples of an SGLD step, drawn for each chain with replacement; if not given, all of them.
        posterior_temperature: T > 0; below 1 for a cold posterior.
        rungs: R >= 1, energies that each chain climbs between the modes of several teachers' mixture prior, at R times
            the cost (see :func:`sample_weights`). If not given, 8 unless the chains meet within half of the burn-in.
        seed: of all random numbers.

    Raises:
        UserError: an argument out of its range.
    """

    sampler: str = "hmc"
    chains: int = 4
    steps: int = 3_000
    burn_in: int = 1_000
    thinning: int = 10
    step_size: float | None = None
    batch_size: int | None = None
    posterior_temperature: float = 1.0
    rungs: int | None = None
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
        if self.rungs is not None:
            check_count(rungs=self.rungs)
            if self.rungs > 1 and self.sampler == "sgld":
                raise UserError(
                    f"rungs is {self.rungs}, and sampler is 'sgld': states are exchanged by 'hmc' or 'mala'"
                )


def sample_weights(energy: Energy, settings: ChainSettings) -> tuple[Tensor, dict[str, Any]]:
    """Run chains from dispersed starts.

    From the network's own weights each chain first samples at four times the temperature, and under a mixture prior
    with one of the teachers alone, so that chains begin around different modes. Where they have not met after half of
    the burn-in, each becomes a ladder of R chains whose priors are ever softer
    (:meth:`~hf_bkd.teachers.langevin_energy.MixturePrior.softened`), and neighbors exchange their states.

    Returns:
        Samples [K, S, P], and a record for JSON: ``tau``, the mean step size of the chains (if preconditioned,
        relative to the inverse curvature); ``acceptance``, the share of accepted proposals; what
        :func:`~hf_bkd.teachers.mcmc_diagnostics.summarize` says of the weights, U and the teachers' shares; for a head
        ``width``, the samples' standard deviation (root mean square over all directions) relative to that of the
        Gaussian with U's curvature at the chains' ends, which is 1 for a Gaussian posterior at T = 1; and ``rungs``.
        Of a mixture prior ``shares``, the teachers' mean responsibilities; of ladders ``exchanges``, the shares of
        accepted exchanges between neighboring rungs, none of which should be near 0 (``None`` of those not tried).

    Raises:
        UserError: the energy at the start is not finite, or a chain diverged.

    Warns:
        UserWarning: the chains ended in different places.
    """
    start, prior = energy.start(), energy.mixture
    if not energy(start[None])[0].isfinite().all():
        raise UserError(
            "the student's loss on its training set is not finite: there are NaN in its weights or its inputs"
        )
    rungs = settings.rungs or RUNGS
    if prior is None or settings.sampler == "sgld":
        rungs = 1
    numbers = random_bits(torch.arange(settings.chains * rungs), seed=settings.seed, view=0, stream=0) & (2**63 - 1)
    run = _Sampler(settings, [torch.Generator().manual_seed(number) for number in numbers.tolist()], energy)
    states, quarter = start.expand(settings.chains, -1), settings.burn_in // 4
    if quarter:
        teachers = range(0 if prior is None else min(prior.targets.shape[1], settings.chains))
        alone = [energy.with_teachers(prior.alone(teacher)) for teacher in teachers] or [energy]
        states = run(alone, states, DISPERSION, steps=quarter, burn_in=quarter - 1).ends
        chains = run([energy], states, steps=quarter, burn_in=quarter // 2, thinning=math.ceil(quarter / 20))
        states = chains.ends
        if rungs > 1 and settings.rungs is None and min(chains.samples.shape[:2]) > 1:
            rungs = RUNGS if apart(_shares(energy, chains.samples)) > 1 else 1
    spent = 2 * quarter
    states, ladder = torch.cat([states.roll(rung, dims=0) for rung in range(rungs)]), [energy]
    if rungs > 1:
        depths = torch.linspace(0, math.log(min(1.0, SOFTEST / prior.prior_strength)), rungs, dtype=torch.float64)
        ladder = _ladder(energy, depths)
        for _ in range(TUNINGS if quarter > 2 * TUNINGS else 0):
            lengths = {"steps": quarter // TUNINGS, "burn_in": 0}
            chains = run(ladder, states, **lengths, thinning=lengths["steps"], rungs=rungs)
            states, spent = chains.ends, spent + lengths["steps"]
            depths = _evenly(depths, chains.exchanges)
            ladder = _ladder(energy, depths)
    lengths = {"steps": settings.steps - spent, "burn_in": settings.burn_in - spent, "thinning": settings.thinning}
    chains = run(ladder, states, **lengths, rungs=rungs)
    return chains.samples, _record(energy, settings, chains, start, rungs)


def _ladder(energy: Energy, depths: Tensor) -> list[Energy]:
    """The energy, and beneath it those whose priors are softened to the shares exp(depths)."""
    return [energy, *(energy.with_teachers(energy.mixture.softened(share)) for share in depths.exp().tolist()[1:])]


def _evenly(depths: Tensor, exchanges: Tensor) -> Tensor:
    """Move rungs between the first and the last to where, interpolated, as many exchanges are rejected everywhere."""
    rejected = (1 - exchanges.nan_to_num(0.5)).clamp_min(0.02).cumsum(dim=0)
    rejected = torch.cat([rejected.new_zeros(1), rejected])
    even = np.linspace(0, rejected[-1].item(), len(depths))
    return torch.from_numpy(np.interp(even, rejected.numpy(), depths.numpy()))


def _record(energy: Energy, settings: ChainSettings, chains: Chains, start: Tensor, rungs: int) -> dict[str, Any]:
    samples, others = chains.samples, chains.energies[..., None]
    record = {"tau": chains.step_size[: settings.chains].mean().item(), "rungs": rungs}
    if chains.acceptance is not None:
        record["acceptance"] = chains.acceptance[: settings.chains].mean().item()
    if energy.mixture is not None:
        shares = _shares(energy, samples)
        others = torch.cat([others, shares.to(others)], dim=-1)
        record["shares"] = shares.mean(dim=(0, 1)).tolist()
    if chains.exchanges is not None:
        record["exchanges"] = [None if math.isnan(share) else share for share in chains.exchanges.tolist()]
    record |= summarize(samples, start, others)
    if isinstance(energy, HeadEnergy):
        pooled = samples.flatten(0, 1)
        whitened = energy.curvature(samples[:, -1]).power(pooled - pooled.mean(dim=0), 0.5)
        record["width"] = whitened.double().square().mean().sqrt().item()
    if (record["apart"] or 0) > 1:
        scale = record["rhat max"]
        warnings.warn(
            "the posterior's chains have not met, but ended in different places (largest R-hat "
            f"{math.inf if scale is None else scale:.3g}, and below {MIXED} where chains mix): don't rely on modes "
            f"and width, and take more steps{' or rungs' if rungs > 1 else ''}",
            stacklevel=4,
        )
    return record


def _shares(energy: Energy, samples: Tensor) -> Tensor:
    """The teachers' mean responsibilities [K, S, M] at samples [K, S, P], in float64 but without rounding errors."""
    with torch.no_grad():
        shares = [energy.mixture.shares(energy.logits(each)) for each in samples.unbind(dim=1)]
    return torch.stack(shares, dim=1).double().round(decimals=6)


class _Sampler:
    """Runs chains, rows split among energies, preconditioned if possible, starting with the last run's tau."""

    def __init__(self, settings: ChainSettings, generators: Sequence[torch.Generator], energy: Energy):
        self.settings, self.generators = settings, generators
        self.metropolis = settings.sampler != "sgld"
        self.preconditioned = self.metropolis and isinstance(energy, HeadEnergy)
        self.step_size = settings.step_size
        if self.step_size is None:
            start = energy.start()[None]
            self.step_size = start.shape[1] ** (-1 / 3) if self.metropolis else SGLD_STEP
            if not self.preconditioned:
                self.step_size /= largest_curvature(energy, start)

    def __call__(self, energies: list[Energy], begin: Tensor, heat: float = 1.0, **lengths: int) -> Chains:
        options = lengths | {"metropolis": self.metropolis, "generators": self.generators[: len(begin)]}
        options["temperature"] = heat * self.settings.posterior_temperature
        options["leapfrogs"] = LEAPFROGS if self.settings.sampler == "hmc" else 1
        potential = _split(energies)
        if self.preconditioned:
            whitening, origin = energies[0].curvature(begin), begin.mean(dim=0)
            potential, phi = _whitened(potential, origin, whitening), whitening.power(begin - origin, 0.5)
            chains = langevin(potential, phi, self.step_size, **options)
            theta = {name: origin + whitening.power(getattr(chains, name), -0.5) for name in ("samples", "ends")}
            chains = chains._replace(**theta)
        else:
            if self.settings.batch_size is not None:
                sizes = energies[0].count, self.settings.batch_size
                potential = _in_minibatches(potential, *sizes, options["generators"])
            chains = langevin(potential, begin, self.step_size, **options)
        if self.metropolis:
            self.step_size = chains.step_size.mean().item()
        return chains


def _split(energies: list[Energy]) -> Callable[..., tuple[Tensor, Tensor]]:
    """A potential of which each energy gives an equal share of the rows, in order."""

    def potential(theta: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        parts = theta.tensor_split(len(energies))
        picked = [None] * len(energies) if rows is None else rows.tensor_split(len(energies))
        results = [energy(*part) for energy, *part in zip(energies, parts, picked, strict=True)]
        return tuple(map(torch.cat, zip(*results, strict=True)))

    return potential


def _in_minibatches(
    potential: Callable[..., tuple[Tensor, Tensor]], count: int, size: int, generators: Sequence[torch.Generator]
) -> Potential:
    def estimate(theta: Tensor) -> tuple[Tensor, Tensor]:
        rows = [torch.randint(count, (size,), generator=generator) for generator in generators]
        return potential(theta, torch.stack(rows).to(theta.device))

    return estimate


def _whitened(potential: Potential, origin: Tensor, whitening: Whitening) -> Potential:
    def whitened(phi: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = potential(origin + whitening.power(phi, -0.5))
        return value, whitening.power(gradient, -0.5)

    return whitened
