"""A student that was taught how much its teacher's draws disagree, as a teacher: a Dirichlet in one pass."""

from typing import Any

import torch
from torch import Tensor, nn

from ..dirichlet import dirichlet_parts, dirichlet_variance
from ..likelihoods import CATEGORICAL, Likelihood
from ..models.calling import Inputs, call_network, evaluation_mode, logits_of, to_network
from ..uncertainty import EntropyParts
from ..utils.errors import UserError
from ..utils.random import log_gamma_draws
from .base import Teacher
from .predictive import Draws


class DirichletStudent(Teacher):
    """A network whose exp(logits) are the concentrations of a Dirichlet distribution over class probabilities.

    One that ``DistillationTrainer`` taught with ``distance="dirichlet"`` says so in its config, and is loaded as such
    by ``hf-bkd``; its folder is that of any network of its kind. The mean of its predictions is exact, and they cost
    one pass whatever the number of draws.

    Args:
        network, temperature, tempering, likelihood: see :class:`~hf_bkd.Teacher`.

    Raises:
        UserError: a network of something else than one of C classes, or what every teacher refuses.
    """

    method = "dirichlet"

    def __init__(
        self,
        network: nn.Module,
        temperature: float = 1.0,
        tempering: str = "post_average",
        likelihood: Likelihood | str | None = None,
    ):
        super().__init__(network, temperature, tempering, likelihood)
        if self.likelihood != CATEGORICAL:
            raise UserError(
                "a Dirichlet is a distribution over the probabilities of one of C classes, and the network's "
                f"problem_type is {self.likelihood.problem_type!r}: take DeterministicTeacher"
            )

    def draw_logits(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Tensor:
        return self._draws_of(logits_of(call_network(self.network, inputs)), num_samples, generator)

    def draws(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Draws:
        logits = logits_of(call_network(self.network, inputs))
        drawn = Draws(self._draws_of(logits, num_samples, generator))
        if not self.is_exact:
            return drawn
        return drawn._replace(variance=dirichlet_variance(logits).float(), mean=logits.float().softmax(dim=-1))

    @property
    def is_exact(self) -> bool:
        """Whether mean and variance are handed out in closed form, which those of tempered draws don't have."""
        return self.tempering != "per_sample" or self.temperature == 1

    def describe(self) -> dict[str, Any]:
        """Describe the teacher as JSON, and say that its moments are exact, if they are."""
        return super().describe() | ({"exact_moments": True} if self.is_exact else {})

    def _draws_of(self, logits: Tensor, num_samples: int, generator: torch.Generator | None) -> Tensor:
        gammas = log_gamma_draws(logits.double().exp(), num_samples, generator)
        return gammas.log_softmax(dim=-1).to(torch.promote_types(logits.dtype, torch.float32))

    @torch.no_grad()
    def uncertainty(
        self, inputs: Inputs, num_samples: int = 10, generator: torch.Generator | None = None
    ) -> EntropyParts:
        """Split the entropy of each prediction in closed form; draws are not needed."""
        with evaluation_mode(self.network):
            return dirichlet_parts(logits_of(call_network(self.network, to_network(inputs, self.network))))
