"""SWAG: a Gaussian over all weights, from what one training passes through (Maddox et al. 2019)."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from ..likelihoods import Likelihood
from ..models.calling import (
    Inputs,
    call_arguments,
    call_network,
    evaluation_mode,
    logits_of,
    split,
    to_network,
)
from ..utils.checks import check_count
from ..utils.errors import UserError
from ..utils.random import named_seed
from .base import Teacher
from .deterministic import DeterministicTeacher, with_noise
from .examples import likelihood_by
from .specification import FitContext, TeacherSpec, option
from .variational import VariationalTeacher, named

STATISTICS = ("running_mean", "running_var")
SMALLEST_STD = 1e-12  # of weights that never moved


class SWAGTeacher(VariationalTeacher):
    """A network at the mean of its snapshots, with a Gaussian of their variance and their last deviations.

        w = mean + sqrt(variance / 2) z1 + deviations^T z2 / sqrt(2 (K - 1))

    z1, z2 are standard normal (Maddox et al. 2019, equation 1). Batch norms need statistics of each draw's own: they
    are those of training examples, taken once, so that a network with batch norms has a fixed set of draws.

    Args:
        network: at the mean, with batch norms' statistics of that.
        std, factors: sqrt(variance / 2) and deviations / sqrt(2 (K - 1)) by the names of the weights.
        statistics: buffer -> its values [S, ...] for S fixed draws; empty for a network without batch norms.
        seed: of the fixed draws.

    Raises (in ``predict``):
        UserError: more draws asked for than there are statistics of.
    """

    method = "swag"

    def __init__(
        self,
        network: nn.Module,
        std: Mapping[str, Tensor],
        factors: Mapping[str, Tensor] | None = None,
        statistics: Mapping[str, Tensor] | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        tempering: str = "per_sample",
        likelihood: Likelihood | str | None = None,
    ):
        super().__init__(network, std, factors, temperature, tempering, likelihood)
        self.statistics, self.seed = dict(statistics or {}), seed

    @classmethod
    def fit(
        cls,
        network: nn.Module,
        moments: Any,
        train: Iterable[Any],
        *,
        draws: int = 30,
        batches: int = 50,
        seed: int = 0,
        likelihood: Likelihood | str | None = None,
    ) -> Self:
        """Make a teacher of a trained network and the moments of its snapshots.

        Args:
            network: that was trained; it is copied.
            moments: :meth:`~hf_bkd.teachers.snapshots.SnapshotCallback.moments` of that training.
            train: batches of training examples, not augmented, by which batch norms' statistics are taken.
            draws: S >= 1 fixed draws of a network with batch norms.
            batches: how many of ``train`` are read for each of them.
            seed: of the fixed draws.
            likelihood: of the network's outputs, where it doesn't say it.

        Raises:
            UserError: no training examples though the network has batch norms.
        """
        check_count(draws=draws, batches=batches)
        network = at_mean(network, moments.mean, train, batches)
        rank = len(next(iter(moments.deviations.values())))
        factors = (
            {name: each / (2 * (rank - 1)) ** 0.5 for name, each in moments.deviations.items()} if rank > 1 else {}
        )
        share = 2 if factors else 1  # the diagonal alone has the whole variance
        std = {name: (each / share).sqrt().clamp_min(SMALLEST_STD) for name, each in moments.variance.items()}
        teacher = cls(network, std, factors, seed=seed, likelihood=likelihood)
        if has_batch_norm(network):
            seen = list(islice(train, batches))
            taken = [statistics_at(network, teacher._fixed_weights(number), seen) for number in range(draws)]
            teacher.statistics = {name: torch.stack([each[name] for each in taken]) for name in taken[0]}
        teacher.record = {"snapshots": moments.count, "rank": rank if factors else 0}
        return teacher

    def draw_logits(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Tensor:
        if not self.statistics:
            return super().draw_logits(inputs, num_samples, generator)
        known = len(next(iter(self.statistics.values())))
        if num_samples > known:
            raise UserError(
                f"num_samples is {num_samples}, and the batch norms' statistics are of {known} draws: ask for at most "
                "that many, or fit the teacher with more draws"
            )
        self.network.eval()
        args, kwargs = call_arguments(self.network, inputs)
        outputs = []
        for number in range(num_samples):
            own = {name: values[number].to(self.device) for name, values in self.statistics.items()}
            outputs.append(functional_call(self.network, self._fixed_weights(number) | own, args, kwargs))
        return torch.stack([logits_of(each) for each in outputs])

    def _fixed_weights(self, number: int) -> dict[str, Tensor]:
        """Draw the weights of the fixed draw with this number, on whatever device the same."""
        return self.draw_weights(torch.Generator().manual_seed(named_seed(self.seed, f"draw {number}")))

    def get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        settings, tensors = super().get_state()
        return settings | {"seed": self.seed}, tensors | {
            f"statistics.{name}": values for name, values in self.statistics.items()
        }

    @classmethod
    def from_state(cls, network: nn.Module, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        parts = (named(tensors, prefix) for prefix in ("std.", "factor.", "statistics."))
        return cls(network, *parts, **settings)


def has_batch_norm(network: nn.Module) -> bool:
    """Whether a network has batch norms with statistics of their own."""
    return any(_keeps_statistics(module) for module in network.modules())


def _keeps_statistics(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.track_running_stats and module.running_mean is not None


def at_mean(network: nn.Module, mean: Mapping[str, Tensor], train: Iterable[Any], batches: int) -> nn.Module:
    """Return a copy of a network at the mean of its weights, with the batch norms' statistics of that.

    That alone is stochastic weight averaging (Izmailov et al. 2018).
    """
    network = deepcopy(network)
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name, value in mean.items():
            parameters[name].copy_(value)
    if has_batch_norm(network):
        buffers = dict(network.named_buffers())
        for name, value in statistics_at(network, {}, islice(train, batches)).items():
            buffers[name].copy_(value)
    return network


@torch.no_grad()
def statistics_at(network: nn.Module, weights: Mapping[str, Tensor], batches: Iterable[Any]) -> dict[str, Tensor]:
    """Take a network's batch-norm statistics, by the name of each buffer, at some weights.

    They are the averages over the batches of each batch's own mean and variance.

    Raises:
        UserError: there are no batches.
    """
    with _gathering_statistics(network):
        read = 0
        for batch in batches:
            inputs = to_network(split(batch)[0], network)
            args, kwargs = call_arguments(network, inputs)
            functional_call(network, dict(weights), args, kwargs) if weights else call_network(network, inputs)
            read += 1
        if not read:
            raise UserError("batch norms' statistics need batches of training examples, and there are none: pass some")
        return {
            f"{name}.{statistic}": getattr(module, statistic).clone()
            for name, module in network.named_modules()
            if _keeps_statistics(module)
            for statistic in STATISTICS
        }


@contextmanager
def _gathering_statistics(network: nn.Module) -> Iterator[None]:
    """Have the batch norms, and nothing else, in training mode, and put their statistics and settings back."""
    norms = [module for module in network.modules() if _keeps_statistics(module)]
    before = [(norm.momentum, deepcopy(dict(norm.named_buffers(recurse=False)))) for norm in norms]
    with evaluation_mode(network):
        try:
            for norm in norms:
                norm.train()
                norm.reset_running_stats()
                norm.momentum = None
            yield
        finally:
            for norm, (momentum, buffers) in zip(norms, before, strict=True):
                norm.momentum = momentum
                for name, value in buffers.items():
                    getattr(norm, name).copy_(value)


@dataclass(frozen=True)
class SWAG(TeacherSpec):
    """A Gaussian over all weights from the snapshots of one training (Maddox et al. 2019).

    Args:
        start, snapshots, rank, rate: see :class:`~hf_bkd.teachers.snapshots.SnapshotCallback`.
        draws: of a network with batch norms, whose statistics are taken for each.
        batches: of training examples that are read for each of them, one pass.
    """

    kind = method = "swag"

    start: float = option(0.75, "share of the training after which snapshots are taken")
    snapshots: int = option(40, "how many are taken")
    rank: int = option(20, "how many of the last make the covariance beside its diagonal")
    rate: float = option(0.5, "learning rate while they are taken, as a share of the training's highest")
    draws: int = option(30, "for which batch norms' statistics are taken")
    batches: int = option(50, "of training examples that are read for each draw's statistics")

    def __post_init__(self):
        super().__post_init__()
        self._callback()
        check_count(draws=self.draws, batches=self.batches)

    def _callback(self) -> Any:
        from .snapshots import SnapshotCallback  # the Trainer takes a second to import

        return SnapshotCallback(self.start, self.snapshots, self.rank, self.rate)

    def fit(self, context: FitContext) -> Teacher:
        callback = self._callback()
        network = context.train(context.network(), callbacks=[callback])
        moments, train = callback.moments(network), list(islice(context.train_batches(), self.batches))
        likelihood = likelihood_by(network, context.validation_batches(), context.problem_type)
        options = {"draws": self.draws, "batches": self.batches, "seed": context.seed, "likelihood": likelihood}
        teacher = SWAGTeacher.fit(network, moments, train, **options)
        teacher.likelihood = with_noise(likelihood, teacher.network, context.validation_batches())
        return teacher


@dataclass(frozen=True)
class SWA(TeacherSpec):
    """The mean of SWAG's snapshots alone, its baseline (Izmailov et al. 2018); see :class:`SWAG`.

    Args:
        start, snapshots, rate: see :class:`~hf_bkd.teachers.snapshots.SnapshotCallback`.
        of: a SWAG whose mean it is, instead of that of a training of its own; the others then are unused.
    """

    kind, method = "swa", "deterministic"

    start: float = option(0.75, "share of the training after which snapshots are taken")
    snapshots: int = option(40, "how many are taken")
    rate: float = option(0.5, "learning rate while they are taken, as a share of the training's highest")
    of: SWAG | None = None

    @property
    def parts(self) -> tuple[TeacherSpec, ...]:
        return () if self.of is None else (self.of,)

    def fit(self, context: FitContext) -> Teacher:
        if self.of is not None:
            swag = context.fitted(self.of)
            return DeterministicTeacher(swag.network, likelihood=swag.likelihood)
        callback = SWAG(self.start, self.snapshots, 0, self.rate)._callback()
        network = context.train(context.network(), callbacks=[callback])
        mean = at_mean(network, callback.moments(network).mean, context.train_batches(), 50)
        likelihood = likelihood_by(mean, context.validation_batches(), context.problem_type)
        return DeterministicTeacher(mean, likelihood=with_noise(likelihood, mean, context.validation_batches()))
