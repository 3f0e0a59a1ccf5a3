"""The Monte Carlo dropout teacher: each pass with dropout on is a draw (Gal and Ghahramani 2016)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from ..models.calling import Inputs, call_network, evaluation_mode, logits_of, split
from ..models.taking import taking
from ..models.variational_layers import GaussianWeights
from ..utils.errors import UserError
from ..utils.random import ExampleGenerator
from ..utils.seeding import seeded
from .base import Teacher
from .deterministic import with_noise
from .examples import likelihood_by
from .specification import FitContext, TeacherSpec, option


class MCDropoutTeacher(Teacher):
    """A network that was trained with dropout, asked S times with its dropout on.

    All that acts in training mode only is on, be it a module or a function: dropout of units and stochastic depth.
    Norms use their running statistics, and variational layers the means of their weights.

    Raises (in ``predict``):
        UserError: the network has no dropout, so that all draws are the same.
    """

    method = "mc_dropout"

    def draw_logits(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Tensor:
        with evaluation_mode(self.network), seeded(_seed(generator), self.device):
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
                "models, *_dropout of transformers' configurations), or take another teacher"
            )
        return draws

    def _generator_state(self) -> Tensor:
        return torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else torch.get_rng_state()


def _seed(generator: torch.Generator | None) -> int:
    """Draw the seed of the masks, which are the batch's and not each example's own."""
    if isinstance(generator, ExampleGenerator):
        return generator.batch_seed()
    device = "cpu" if generator is None else generator.device
    return int(torch.empty((), dtype=torch.int64, device=device).random_(generator=generator))


@dataclass(frozen=True)
class MCDropout(TeacherSpec):
    """A network that is trained with dropout, and asked with it.

    Args:
        drop_rate: of a timm network that is trained for it, in (0, 1); whatever the network has if not given.
    """

    kind = method = "mc_dropout"
    kept = False

    drop_rate: float | None = option(None, "dropout of an architecture trained from scratch", from_scratch=0.1)

    def __post_init__(self):
        super().__post_init__()
        if self.drop_rate is not None and not 0 < self.drop_rate < 1:
            raise UserError(f"drop_rate must be between 0 and 1, and it is {self.drop_rate}")

    def fit(self, context: FitContext) -> Teacher:
        settings = {} if self.drop_rate is None else {"drop_rate": self.drop_rate}
        inputs, _ = split(next(iter(context.validation_batches())))
        few = {name: value[:8] for name, value in inputs.items()} if isinstance(inputs, dict) else inputs[:8]
        untrained = context.network(**settings)
        likelihood = likelihood_by(untrained, context.validation_batches(), context.problem_type)
        with taking(untrained, few):
            MCDropoutTeacher(untrained, likelihood=likelihood).predict(few, 2)  # refused before training for nothing
        network = context.trained(**settings).network
        likelihood = with_noise(likelihood, network, context.validation_batches())
        return MCDropoutTeacher(network, likelihood=likelihood)
