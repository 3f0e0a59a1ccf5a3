"""Layers with a distribution over their weights, and the divergence that training them costs."""

import math

import torch
from torch import Tensor, nn


class VariationalLinear(nn.Linear):
    """A linear layer with an independent Gaussian over each weight and bias (Blundell et al. 2015).

    ``weight`` and ``bias`` are the means, so that the layer is an ordinary linear one to whoever reads only those. In
    training each example gets its own draw by the local reparameterisation (Kingma, Salimans and Welling 2015); in
    evaluation the means are used, and draws are had from :meth:`output_gaussian`.

    Args:
        in_features, out_features: d and C.
        prior_std: standard deviation of the zero-mean Gaussian prior of every weight, > 0; 1/sqrt(d) if not given.
        initial_std: posterior standard deviation to start from, > 0.
    """

    def __init__(self, in_features: int, out_features: int, prior_std: float | None = None, initial_std: float = 1e-2):
        super().__init__(in_features, out_features)
        self.prior_std = in_features**-0.5 if prior_std is None else prior_std
        self.weight_log_std = nn.Parameter(torch.full_like(self.weight, math.log(initial_std)))
        self.bias_log_std = nn.Parameter(torch.full_like(self.bias, math.log(initial_std)))

    def output_gaussian(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance, each [..., C], of the outputs for features [..., d]: exact, outputs are independent."""
        mean = super().forward(features)
        variance = nn.functional.linear(
            features.square(), (2 * self.weight_log_std).exp(), (2 * self.bias_log_std).exp()
        )
        return mean, variance

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return super().forward(features)
        mean, variance = self.output_gaussian(features)
        return mean + variance.sqrt() * torch.randn_like(mean)

    def kl_divergence(self) -> Tensor:
        """KL(posterior || prior), summed over all weights and biases, in nats."""
        total = 0.0
        for mean, log_std in ((self.weight, self.weight_log_std), (self.bias, self.bias_log_std)):
            log_ratio = log_std - math.log(self.prior_std)
            total = total + ((2 * log_ratio).exp() + (mean / self.prior_std).square() - 1 - 2 * log_ratio).sum() / 2
        return total


def kl_divergence(model: nn.Module) -> Tensor | None:
    """Summed KL(posterior || prior) of a network's variational layers, in nats; ``None`` if it has none."""
    terms = [module.kl_divergence() for module in model.modules() if isinstance(module, VariationalLinear)]
    return sum(terms) if terms else None
