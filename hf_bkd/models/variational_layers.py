"""Layers with a Gaussian distribution over their weights, and its KL divergence from the prior.

``weight`` and ``bias`` are the means of independent Gaussians, so that who reads only those sees an ordinary layer. In
training each example gets its own draw of the outputs by the local reparameterization (Kingma, Salimans and Welling
2015), whose gradients are less noisy than those of drawn weights; in evaluation the means are used.
"""

import math
from typing import Self

import torch
from torch import Tensor, nn

from ..utils.checks import check_count, check_positive

SPREAD = ("weight_log_std", "bias_log_std", "weight_factor", "bias_factor")


class GaussianWeights(nn.Module):
    """Mixin that puts independent Gaussians over the ``weight`` and ``bias`` of a layer.

    Every such layer has these arguments beside its own:
        prior_std: standard deviation of the zero-mean Gaussian prior of every weight, > 0; 1/sqrt(inputs of an
            output) if not given, as in the code of arXiv 2601.01484.
        initial_std: posterior standard deviation to start from, > 0; a tenth of the prior's if not given.

    Raises:
        UserError: a standard deviation that is not above 0 and finite.
    """

    def _spread_weights(self, prior_std: float | None, initial_std: float | None) -> None:
        self.prior_std = self.weight[0].numel() ** -0.5 if prior_std is None else prior_std
        initial_std = self.prior_std / 10 if initial_std is None else initial_std
        check_positive(prior_std=self.prior_std, initial_std=initial_std)
        self.weight_log_std = nn.Parameter(torch.full_like(self.weight, math.log(initial_std)))
        bias_log_std = None if self.bias is None else torch.full_like(self.bias, math.log(initial_std))
        self.bias_log_std = None if bias_log_std is None else nn.Parameter(bias_log_std)

    def _apply_weights(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Apply the layer's operation with weights other than its own."""
        raise NotImplementedError

    def output_gaussian(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mean and variance of each output under the independent Gaussians, shaped as the outputs."""
        bias_variance = None if self.bias is None else (2 * self.bias_log_std).exp()
        kind = inputs.device.type
        coarse = torch.get_autocast_dtype(kind) == torch.float16  # whose range squares soon leave, at either end
        with torch.autocast(kind, enabled=torch.is_autocast_enabled(kind) and not coarse):
            squares = inputs.to(self.weight.dtype).square()
            variance = self._apply_weights(squares, (2 * self.weight_log_std).exp(), bias_variance)
        return self._apply_weights(inputs, self.weight, self.bias), variance

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training:
            return self._apply_weights(inputs, self.weight, self.bias)
        mean, variance = self.output_gaussian(inputs)
        std = _wide(variance).clamp_min(1e-20).sqrt()  # sqrt has no slope at 0, and float16 no 1e-20
        return mean + std.to(mean.dtype) * torch.randn_like(mean)

    def gaussian_kl(self) -> Tensor:
        """Compute KL(posterior || prior), summed over all weights and biases, in nats."""
        total = self._kl(self.weight, self.weight_log_std)
        return total if self.bias is None else total + self._kl(self.bias, self.bias_log_std)

    def _kl(self, mean: Tensor, log_std: Tensor) -> Tensor:
        log_ratio = _wide(log_std) - math.log(self.prior_std)
        return ((2 * log_ratio).exp() + (_wide(mean) / self.prior_std).square() - 1 - 2 * log_ratio).sum() / 2

    def copy_means(self, layer: nn.Module) -> Self:
        """Copy another layer's weights, device, number format and mode, and return this layer."""
        self.to(layer.weight).train(layer.training)
        with torch.no_grad():
            self.weight.copy_(layer.weight)
            if self.bias is not None:
                self.bias.copy_(layer.bias)
        return self


class VariationalLinear(GaussianWeights, nn.Linear):
    """A linear layer with Gaussian weights (Blundell et al. 2015).

    Args:
        in_features, out_features, bias: d, C, and whether there is a bias.
        prior_std, initial_std: see :class:`GaussianWeights`.
        rank: R >= 0 directions in which weights and biases vary together, beside each on its own: their covariance is
            diag(std^2) + sum_r f_r f_r^T, with f in ``weight_factor`` [R, C, d] and ``bias_factor`` [R, C] (Ong, Nott
            and Smith 2018).

    Raises:
        UserError: a standard deviation that is not above 0 and finite, or a negative rank.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        prior_std: float | None = None,
        initial_std: float | None = None,
        bias: bool = True,
        rank: int = 0,
    ):
        super().__init__(in_features, out_features, bias)
        self._spread_weights(prior_std, initial_std)
        check_count(0, rank=rank)
        start = math.exp(self.weight_log_std[0, 0].item())
        self.weight_factor = nn.Parameter(start * torch.randn(rank, *self.weight.shape)) if rank else None
        self.bias_factor = nn.Parameter(start * torch.randn(rank, out_features)) if rank and bias else None

    @classmethod
    def like(cls, layer: nn.Linear, **posterior: float | int | None) -> Self:
        """Make a layer of the same shape and means; ``posterior`` are the arguments beside the shape."""
        return cls(layer.in_features, layer.out_features, bias=layer.bias is not None, **posterior).copy_means(layer)

    def _apply_weights(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return nn.functional.linear(inputs, weight, bias)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = super().forward(inputs)
        if self.weight_factor is None or not self.training:
            return outputs
        directions = output_directions(inputs, self.weight_factor, self.bias_factor)
        return outputs + (torch.randn_like(directions[..., :1]) * directions).sum(dim=-2)

    def gaussian_kl(self) -> Tensor:
        total = super().gaussian_kl()
        if self.weight_factor is None:
            return total
        pairs = [(self.weight_factor, self.weight_log_std), (self.bias_factor, self.bias_log_std)]
        shared = torch.eye(len(self.weight_factor), device=total.device, dtype=total.dtype)
        with torch.autocast(total.device.type, enabled=False):
            for factor, log_std in pairs if self.bias is not None else pairs[:1]:
                scaled = (_wide(factor) * _wide(-log_std).exp()).flatten(1)
                shared = shared + scaled @ scaled.T
                total = total + (_wide(factor) / self.prior_std).square().sum() / 2
            return total - torch.logdet(shared) / 2


class VariationalConv2d(GaussianWeights, nn.Conv2d):
    """A convolution with independent Gaussian weights, which draws the positions of its output independently.

    Args:
        prior_std, initial_std: see :class:`GaussianWeights`.
        args, kwargs: of ``nn.Conv2d``.
    """

    def __init__(self, *args: object, prior_std: float | None = None, initial_std: float | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self._spread_weights(prior_std, initial_std)

    @classmethod
    def like(cls, layer: nn.Conv2d, **posterior: float | None) -> Self:
        """Make a layer of the same shape and means; ``posterior`` are the arguments beside the shape."""
        geometry = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        shape = {name: getattr(layer, name) for name in geometry} | {"bias": layer.bias is not None}
        return cls(layer.in_channels, layer.out_channels, **shape, **posterior).copy_means(layer)

    def _apply_weights(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(inputs, weight, bias)


def output_directions(inputs: Tensor, weight_factor: Tensor, bias_factor: Tensor | None) -> Tensor:
    """Map R joint directions of a linear layer's weights [R, C, d] and biases [R, C] to its outputs, [..., R, C].

    Multiplied by standard normal numbers, one for each direction, they have the low-rank part of the outputs'
    covariance.
    """
    directions = torch.einsum("...d,rcd->...rc", inputs, weight_factor)
    return directions if bias_factor is None else directions + bias_factor


def spread_names(model: nn.Module) -> tuple[str, ...]:
    """List the parameters of variational layers beside their means; without these the network is an ordinary one."""
    layers = [(prefix, m) for prefix, m in model.named_modules() if isinstance(m, GaussianWeights)]
    return tuple(n for prefix, m in layers for n, _ in m.named_parameters(prefix, recurse=False) if n.endswith(SPREAD))


def gaussian_kl(model: nn.Module) -> Tensor | None:
    """Sum KL(posterior || prior) over a network's variational layers, in nats; ``None`` if it has none."""
    terms = [module.gaussian_kl() for module in model.modules() if isinstance(module, GaussianWeights)]
    return sum(terms) if terms else None


def _wide(tensor: Tensor) -> Tensor:
    """Convert to at least float32, where sums over many weights neither overflow nor lose their small terms."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
