"""The oracle teacher: exact class probabilities, with a noise that is known too."""

from typing import Any

import torch
from torch import Tensor, nn

from ..likelihoods import Likelihood
from ..models.calling import Inputs, call_network, logits_of
from ..theory.bayes import additive_draws, dirichlet_draws
from ..utils.checks import check_positive
from ..utils.errors import UserError
from .base import Teacher

TINY = 1e-30  # least probability whose logarithm is taken


class OracleTeacher(Teacher):
    """A teacher that answers with p(y|x), or S draws around it (arXiv 2601.01484, section 3 and its Figure 1).

    Args:
        network: its softmax is p(y|x), and it has ``num_classes``, as a :class:`hf_bkd.theory.GaussianMixture`.
        concentration: a > 0 of draws from Dirichlet(a p).
        variance: nu > 0 of draws p + N(0, nu), which are set to 0 where negative and renormalized. This adds a bias
            that the theory of additive noise does not have and that vanishes with nu (`theory.additive_draws` are the
            raw draws).

    Raises:
        UserError: both noises, or one out of range.
    """

    method = "oracle"

    def __init__(
        self,
        network: nn.Module,
        concentration: float | None = None,
        variance: float | None = None,
        temperature: float = 1.0,
        tempering: str = "post_average",
        likelihood: Likelihood | str | None = None,
    ):
        super().__init__(network, temperature, tempering, likelihood)
        noises = {"concentration": concentration, "variance": variance}
        if None not in noises.values():
            raise UserError("pass either concentration, of Dirichlet noise, or variance, of additive noise")
        if self.likelihood.independent and any(noise is not None for noise in noises.values()):
            raise UserError(
                "draws around exact probabilities are of classes, and the problem type is "
                f"{self.likelihood.problem_type}: leave concentration and variance out"
            )
        check_positive(**{name: value for name, value in noises.items() if value is not None})
        self.noises = noises

    @property
    def num_classes(self) -> int:
        return self.network.num_classes

    def num_draws(self, num_samples: int) -> int:
        return num_samples if any(noise is not None for noise in self.noises.values()) else 1

    def draw_logits(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Tensor:
        logits = logits_of(call_network(self.network, inputs))
        probs = logits.double().softmax(dim=-1)
        concentration, variance = self.noises.values()
        if concentration is not None:
            return dirichlet_draws(probs, concentration, num_samples, generator).clamp_min(TINY).log()
        if variance is not None:
            return additive_draws(probs, variance, num_samples, generator).clamp_min(TINY).log()
        return logits[None]

    def get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return dict(self.noises), {}
