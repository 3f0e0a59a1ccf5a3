"""The Monte Carlo dropout teacher: each pass with dropout on is a draw (Gal and Ghahramani 2016)."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from ..likelihoods import Likelihood
from ..models.calling import Inputs, call_network, evaluation_mode, logits_of, split
from ..models.taking import taking
from ..models.variational_layers import GaussianWeights
from ..utils.checks import check_count
from ..utils.errors import UserError
from ..utils.random import ExampleGenerator
from ..utils.seeding import drawn_seed, seeded
from .base import Teacher
from .deterministic import with_noise
from .examples import likelihood_by
from .specification import FitContext, TeacherSpec, option


class MCDropoutTeacher(Teacher):
    """A network that was trained with dropout, asked S times with its dropout on.

    All that acts in training mode only is on, be it a module or a function: dropout of units and stochastic depth.
    Norms use their running statistics, and variational layers the means of their weights.

    Args:
        network: that was trained with dropout.
        filter_rate: share in [0, 1) of the channels that :func:`dropping_filters` drops besides, in each pass.

    Raises:
        UserError: a ``filter_rate`` out of its range, or of a network without inner convolutions; in ``predict``: the
            network has no dropout, so that all draws are the same.
    """

    method = "mc_dropout"

    def __init__(
        self,
        network: nn.Module,
        temperature: float = 1.0,
        tempering: str = "per_sample",
        likelihood: Likelihood | str | None = None,
        filter_rate: float = 0.0,
    ):
        super().__init__(network, temperature, tempering, likelihood)
        if filter_rate:
            _check_rate(filter_rate=filter_rate)
            _inner_convolutions(network)
        self.filter_rate = filter_rate

    def get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        settings, tensors = super().get_state()
        return settings | ({"filter_rate": self.filter_rate} if self.filter_rate else {}), tensors

    def draw_logits(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Tensor:
        filters = dropping_filters(self.network, self.filter_rate) if self.filter_rate else nullcontext()
        with evaluation_mode(self.network), seeded(_seed(generator), self.device), filters:
            self.network.train()
            for module in self.network.modules():
                if isinstance(module, (_NormBase, GaussianWeights)):
                    module.eval()
            before = self._generator_state()
            draws = torch.stack([logits_of(call_network(self.network, inputs)) for _ in range(num_samples)])
            random = not torch.equal(before, self._generator_state())
        # equal draws alone are no proof: a few examples may happen to lose no unit
        if num_samples > 1 and not random and (draws == draws[0]).all():
            raise UserError(
                "all draws are the same, so this network has no dropout: train it with some (drop_rate= of timm's "
                "models, *_dropout of transformers' configurations, lora_dropout of adapters), or take another teacher"
            )
        return draws

    def _generator_state(self) -> Tensor:
        return torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else torch.get_rng_state()


def _seed(generator: torch.Generator | None) -> int:
    """Draw the seed of the masks, which are the batch's and not each example's own."""
    if isinstance(generator, ExampleGenerator):
        return generator.batch_seed()
    return drawn_seed(generator)


@contextmanager
def dropping_filters(network: nn.Module, rate: float) -> Iterator[None]:
    """Have each convolution but the first read only some channels, in training mode.

    Of each example's feature maps [channels, ...] whole channels are zero with probability ``rate``, and the others
    are scaled by 1 / (1 - rate): dropout at every layer and of filters, as in the MC dropout of uncertainty-baselines
    that is as good as an ensemble.

    Args:
        network: in which hooks do this, as long as the context lasts.
        rate: in (0, 1).

    Raises:
        UserError: no convolution but the first.
    """
    handles = [layer.register_forward_pre_hook(partial(_drop, rate)) for layer in _inner_convolutions(network)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _drop(rate: float, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.feature_dropout(each, rate, layer.training) for each in inputs[:1]) + inputs[1:]


def _inner_convolutions(network: nn.Module) -> list[nn.Module]:
    """List all convolutions but the first, which reads the channels of the inputs themselves."""
    inner = [module for module in network.modules() if isinstance(module, _ConvNd)][1:]
    if not inner:
        raise UserError(
            "filters are dropped between convolutions, and this network has no two of them: drop units, without "
            "filter_wise"
        )
    return inner


def _check_rate(**rates: float) -> None:
    for name, rate in rates.items():
        if not 0 < rate < 1:
            raise UserError(f"{name} must be between 0 and 1, and it is {rate}")


@dataclass(frozen=True)
class MCDropout(TeacherSpec):
    """A network that is trained with dropout, and asked with it.

    Args:
        drop_rate: in (0, 1), of a timm network that is trained for it; whatever the network has if not given.
        filter_wise: drop whole channels before every convolution but the first, in place of the units at the end.
        masks: of each example in each step of the training, which takes as many passes; see ``dropout_masks`` of
            :class:`~hf_bkd.DistillationTrainingArguments`.

    Raises:
        UserError: an argument out of its range, or ``filter_wise`` without a rate.
    """

    kind = method = "mc_dropout"

    drop_rate: float | None = option(
        None, "dropout of an architecture trained from scratch, or of new adapters", from_scratch=0.1
    )
    filter_wise: bool = option(False, "drop channels before each convolution, not units at the end")
    masks: int = option(1, "of each example in a step of the training, at the cost of a pass each")

    def __post_init__(self):
        super().__post_init__()
        if self.drop_rate is not None:
            _check_rate(drop_rate=self.drop_rate)
        elif self.filter_wise:
            raise UserError("filter_wise drops a share of the channels, and nobody says which: pass drop_rate=0.1")
        check_count(masks=self.masks)

    @property
    def kept(self) -> bool:
        """A network of which ``trained`` knows nothing is kept here."""
        return self.filter_wise or self.masks > 1

    def fit(self, context: FitContext) -> Teacher:
        settings = {} if self.drop_rate is None or self.filter_wise else {"drop_rate": self.drop_rate}
        rate = self.drop_rate if self.filter_wise else 0.0
        inputs, _ = split(next(iter(context.validation_batches())))
        few = {name: value[:8] for name, value in inputs.items()} if isinstance(inputs, dict) else inputs[:8]
        untrained = context.network(**settings)
        likelihood = likelihood_by(untrained, context.validation_batches(), context.problem_type)
        with taking(untrained, few):  # refused before training for nothing
            MCDropoutTeacher(untrained, likelihood=likelihood, filter_rate=rate).predict(few, 2)
        if not self.kept:
            network = context.trained(**settings).network
            return MCDropoutTeacher(network, likelihood=with_noise(likelihood, network, context.validation_batches()))
        network = context.network(**settings)
        with dropping_filters(network, rate) if rate else nullcontext():
            context.train(network, masks=self.masks)
        likelihood = with_noise(likelihood, network, context.validation_batches())
        return MCDropoutTeacher(network, likelihood=likelihood, filter_rate=rate)
