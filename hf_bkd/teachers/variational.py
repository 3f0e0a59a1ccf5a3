"""A Gaussian over the weights, trained together with the network."""

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..backbones import classification_head, head_features
from ..errors import UserError
from ..layers import VariationalLinear
from .base import Teacher
from .network import Inputs, save_network

POSTERIORS = ("head",)
SPREAD = ("weight_log_std", "bias_log_std")


def make_variational(
    network: nn.Module, posterior: str = "head", prior_std: float | None = None, initial_std: float = 1e-2
) -> nn.Module:
    """Give ``network``, in place, a posterior to be trained: then train it like any other with the trainer.

    The trainer sees the variational layers and adds their KL divergence over the size of the training set.

    Args:
        network: any module with logits and a linear head.
        posterior: ``"head"``: an independent Gaussian over each weight of the last layer.
        prior_std: standard deviation > 0 of the weights' prior; 1/sqrt(d) if not given (arXiv 2601.01484's code).
        initial_std: posterior standard deviation > 0 that training starts from.

    Returns:
        The network, its head replaced by a :class:`~hf_bkd.layers.VariationalLinear` whose means are the old weights.

    Raises:
        UserError: unknown posterior, a standard deviation that is not above 0, or no linear head.
    """
    if posterior not in POSTERIORS:
        raise UserError(f"posterior is {posterior!r}; it must be one of {', '.join(POSTERIORS)}")
    name, head = classification_head(network)
    with_bias = head.bias is not None
    layer = VariationalLinear(head.in_features, head.out_features, prior_std, initial_std, with_bias).to(head.weight)
    with torch.no_grad():
        layer.weight.copy_(head.weight)
        if with_bias:
            layer.bias.copy_(head.bias)
    network.set_submodule(name, layer.train(head.training))
    return network


class VariationalTeacher(Teacher):
    """Draws from a trained variational posterior: S draws cost one pass through the backbone.

    Args:
        network: a trained network that went through :func:`make_variational`.

    Raises:
        UserError: the network has no variational head.
    """

    method = "variational"

    def __init__(self, network: nn.Module, temperature: float = 1.0, tempering: str = "per_sample"):
        super().__init__(network, temperature, tempering)
        if not isinstance(self.head, VariationalLinear):
            raise UserError("this network has no variational head: pass it through make_variational, then train it")

    @property
    def head(self) -> VariationalLinear:
        return classification_head(self.network)[1]

    def draw_logits(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Tensor:
        self.network.eval()
        features, _ = head_features(self.network, inputs)
        mean, variance = (moment.float() for moment in self.head.output_gaussian(features))
        return mean + variance.sqrt() * standard_normal((num_samples, *mean.shape), mean, generator)

    def _save_networks(self, folder: Path) -> None:
        save_network(self.network, folder / "network", without=SPREAD)

    def get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        spread = {name: value for name, value in self.head.named_parameters() if name in SPREAD}
        return {"prior_std": self.head.prior_std}, spread

    @classmethod
    def from_state(cls, network: nn.Module, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        settings = dict(settings)
        network = make_variational(network, prior_std=settings.pop("prior_std"))
        head = classification_head(network)[1]
        weights = head.state_dict()
        head.load_state_dict(weights | {name: tensors[name] for name in SPREAD if name in weights})
        return cls(network.eval(), **settings)


def standard_normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """N(0, 1) noise drawn where the generator lives (so a CPU generator gives the same draws to every device)."""
    device = like.device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=device).to(like)
