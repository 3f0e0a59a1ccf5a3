"""Layers with a distribution over their weights, and the divergence that training them costs."""

import math

import torch
from torch import Tensor, nn

from .errors import UserError


class VariationalLinear(nn.Linear):
    """A linear layer with an independent Gaussian over each weight and bias (Blundell et al. 2015).

    ``weight`` and ``bias`` are the means, so that the layer is an ordinary linear one to whoever reads only those. In
    training each example gets its own draw by the local reparameterisation (Kingma, Salimans and Welling 2015); in
    evaluation the means are used, and draws are had from :meth:`output_gaussian`.

    Args:
        in_features, out_features: d and C.
        prior_std: standard deviation of the zero-mean Gaussian prior of every weight, > 0; 1/sqrt(d) if not given.
        initial_std: posterior standard deviation to start from, > 0.
        bias: whether there is one; without, ``bias`` and ``bias_log_std`` are ``None``.

    Raises:
        UserError: a standard deviation that is not above 0.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        prior_std: float | None = None,
        initial_std: float = 1e-2,
        bias: bool = True,
    ):
        super().__init__(in_features, out_features, bias)
        self.prior_std = in_features**-0.5 if prior_std is None else prior_std
        for name, std in (("prior_std", self.prior_std), ("initial_std", initial_std)):
            if not std > 0:
                raise UserError(f"{name} must be above 0, and it is {std}")
        self.weight_log_std = nn.Parameter(torch.full_like(self.weight, math.log(initial_std)))
        self.bias_log_std = nn.Parameter(torch.full_like(self.bias, math.log(initial_std))) if bias else None

    def output_gaussian(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance, each [..., C], of the outputs for features [..., d]: exact, outputs are independent."""
        mean = super().forward(features)
        bias_variance = None if self.bias is None else (2 * self.bias_log_std).exp()
        return mean, nn.functional.linear(features.square(), (2 * self.weight_log_std).exp(), bias_variance)

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return super().forward(features)
        mean, variance = self.output_gaussian(features)
        return mean + variance.clamp_min(1e-20).sqrt() * torch.randn_like(mean)  # sqrt has no slope at 0

    def kl_divergence(self) -> Tensor:
        """KL(posterior || prior), summed over all weights and biases, in nats."""
        total = self._kl_divergence(self.weight, self.weight_log_std)
        return total if self.bias is None else total + self._kl_divergence(self.bias, self.bias_log_std)

    def _kl_divergence(self, mean: Tensor, log_std: Tensor) -> Tensor:
        log_ratio = log_std - math.log(self.prior_std)
        return ((2 * log_ratio).exp() + (mean / self.prior_std).square() - 1 - 2 * log_ratio).sum() / 2


def kl_divergence(model: nn.Module) -> Tensor | None:
    """Summed KL(posterior || prior) of a network's variational layers, in nats; ``None`` if it has none."""
    terms = [module.kl_divergence() for module in model.modules() if isinstance(module, VariationalLinear)]
    return sum(terms) if terms else None
