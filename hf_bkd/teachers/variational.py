"""The variational teacher: a Gaussian over the weights, trained together with the network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..likelihoods import Likelihood
from ..models.adapters import by_one_name
from ..models.calling import Inputs, call_arguments, evaluation_mode, logits_of, split, to_network
from ..models.heads import classification_head, head_features, head_parameters
from ..models.variational_layers import GaussianWeights, VariationalConv2d, VariationalLinear, output_directions
from ..utils.checks import check_choice, check_count
from ..utils.errors import UserError
from ..utils.random import example_normal, standard_normal
from .base import Teacher
from .examples import likelihood_by
from .specification import FitContext, TeacherSpec, option

POSTERIORS = ("head", "full")


def make_variational(
    network: nn.Module,
    posterior: str = "head",
    prior_std: float | None = None,
    initial_std: float | None = None,
    rank: int = 0,
    inputs: Inputs | None = None,
) -> nn.Module:
    """Give ``network``, in place, a Gaussian posterior over weights, to be trained as any other network.

    The trainer recognizes variational layers and adds their KL divergence, divided by the size of the training set.
    (The alternative, :class:`~hf_bkd.IVON`, is an optimizer and leaves the network as it is.)

    Args:
        network: any module with logits and a linear head; its weights become the posterior's means.
        posterior: ``"head"``: over the last layer; ``"full"``: over every ``nn.Linear`` and ``nn.Conv2d``
            (subclasses of them, frozen layers, norms and embeddings keep single weights).
        prior_std: standard deviation > 0 of the weights' prior; 1/sqrt(inputs of an output) if not given.
        initial_std: posterior standard deviation > 0 that training starts from; a tenth of the prior's if not given.
        rank: of the head's covariance beside its diagonal, see
            :class:`~hf_bkd.models.variational_layers.VariationalLinear`.
        inputs: of a few examples, by which the head is found where the network has several layers that might be it.

    Returns:
        The network.

    Raises:
        UserError: unknown posterior, a standard deviation that is not above 0 and finite, a negative rank, no linear
            head, or nothing but one; the network stays unchanged.
    """
    check_choice(POSTERIORS, posterior=posterior)
    if inputs is not None:
        with torch.no_grad(), evaluation_mode(network):
            head_features(network, to_network(inputs, network))
    _, head = classification_head(network)
    if head is network:
        raise UserError("a linear layer cannot be replaced in itself: pass it in a network, as nn.Sequential(layer)")
    spread = {"prior_std": prior_std, "initial_std": initial_std}
    replacement: dict[nn.Module, nn.Module] = {head: VariationalLinear.like(head, rank=rank, **spread)}
    if posterior == "full":
        plain = {nn.Linear: VariationalLinear, nn.Conv2d: VariationalConv2d}
        for layer in network.modules():
            if type(layer) in plain and layer.weight.requires_grad and layer is not head:
                replacement[layer] = plain[type(layer)].like(layer, **spread)
    for name, layer in list(network.named_modules(remove_duplicate=False)):  # one may stand in several places
        if layer in replacement:
            network.set_submodule(name, replacement[layer])
    return network


class VariationalTeacher(Teacher):
    """A network with a trained Gaussian posterior over its weights.

    If only the last layer's weights vary, S draws cost one pass through the backbone and are each example's own;
    otherwise each draw of the weights costs one pass and is the same for the whole batch.

    Args:
        network: a trained network whose weights are the means.
        std: name -> standard deviations > 0, shaped as that parameter of the network, such as
            :meth:`~hf_bkd.IVON.posterior_std`; parameters without one are fixed. If not given, they are read from the
            layers that :func:`make_variational` made, once.
        factors: name -> R directions [R, *shape] in which parameters vary together, beside ``std``; read with it.

    Raises:
        UserError: there are no standard deviations, or some don't fit the network's parameters or are not above 0 and
            finite.
    """

    method = "variational"

    def __init__(
        self,
        network: nn.Module,
        std: Mapping[str, Tensor] | None = None,
        factors: Mapping[str, Tensor] | None = None,
        temperature: float = 1.0,
        tempering: str = "per_sample",
        likelihood: Likelihood | str | None = None,
    ):
        super().__init__(network, temperature, tempering, likelihood)
        if std is None:
            if factors is not None:
                raise UserError("factors were given without std: pass both, or neither to read them from the network")
            std, factors = _trained_posterior(network)
        means, factors = dict(network.named_parameters()), factors or {}
        _check_posterior(std, factors, means)
        self.std, self.factors = (  # in the network's order, however they were stored: the draws depend on it
            {n: given[n].detach().to(mean, copy=True).contiguous() for n, mean in means.items() if n in given}
            for given in (std, factors)
        )

    def draw_logits(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Tensor:
        self.network.eval()
        head_name, _ = classification_head(self.network)
        weight, bias = head_parameters(head_name)
        with_factors = weight in self.factors or not self.factors
        if weight in self.std and set(self.std) <= {weight, bias} and with_factors:
            return self._draw_outputs(inputs, head_name, num_samples, generator)
        args, kwargs = call_arguments(self.network, inputs)
        draws = [functional_call(self.network, self.draw_weights(generator), args, kwargs) for _ in range(num_samples)]
        return torch.stack([logits_of(outputs) for outputs in draws])

    def _draw_outputs(
        self, inputs: Inputs, head_name: str, num_samples: int, generator: torch.Generator | None
    ) -> Tensor:
        """Draw logits [S, B, C] from the Gaussian over outputs that follows, each example its own."""
        features, mean = (seen.float() for seen in head_features(self.network, inputs))
        watched, _ = classification_head(self.network)
        if watched != head_name:
            raise UserError(
                f"the posterior is over the weights of {head_name!r}, and the logits come from {watched!r}: make it "
                "with make_variational(network, inputs=a few examples' inputs) before the training"
            )
        weight, bias = head_parameters(head_name)
        variances = {name: std.to(mean).square() for name, std in self.std.items()}
        variance = nn.functional.linear(features.square(), variances[weight], variances.get(bias))
        draws = mean + variance.sqrt() * example_normal((num_samples, *mean.shape), mean, generator)
        if weight not in self.factors:
            return draws
        factors = {name: factor.to(mean) for name, factor in self.factors.items()}
        directions = output_directions(features, factors[weight], factors.get(bias))
        along = example_normal((num_samples, *directions.shape[:-1]), mean, generator)
        return draws + torch.einsum("s...r,...rc->s...c", along, directions)

    def draw_weights(self, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Draw the weights that vary, by their names in the network."""
        means, drawn = dict(self.network.named_parameters()), {}
        rank = len(next(iter(self.factors.values()), ()))
        along = standard_normal((rank,), next(iter(means.values())), generator)
        for name, std in self.std.items():
            mean = means[name]
            drawn[name] = torch.addcmul(mean, std.to(mean), standard_normal(std.shape, mean, generator))
            if name in self.factors:
                drawn[name] += torch.tensordot(along, self.factors[name].to(mean), dims=1)
        return drawn

    def to(self, device: torch.device | str) -> Self:
        for posterior in (self.std, self.factors):
            posterior.update({name: value.to(device) for name, value in posterior.items()})
        return super().to(device)

    def get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        std, factors = (by_one_name(self.network, each) for each in (self.std, self.factors))
        named = {f"std.{name}": value for name, value in std.items()}
        return {}, named | {f"factor.{name}": value for name, value in factors.items()}

    @classmethod
    def from_state(cls, network: nn.Module, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        return cls(network, named(tensors, "std."), named(tensors, "factor."), **settings)


def named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _check_posterior(std: Mapping[str, Tensor], factors: Mapping[str, Tensor], means: Mapping[str, Tensor]) -> None:
    if not std:
        raise UserError(
            "this network has no posterior: pass it through make_variational and train it, or train it with IVON "
            "and pass std=optimizer.posterior_std(network)"
        )
    for given, leading in ((std, 0), (factors, 1)):
        for name, value in given.items():
            if name not in std or name not in means or value.shape[leading:] != means[name].shape:
                raise UserError(f"the posterior's {name} of shape {list(value.shape)} is not of this network")
            if not (value.isfinite().all() and (leading or (value > 0).all())):
                raise UserError(
                    "a posterior's standard deviations must be above 0, and all of it finite: something in "
                    f"{name} is not; the training may have diverged"
                )
    if len({factor.shape[0] for factor in factors.values()}) > 1:
        raise UserError("a posterior's factors must have as many directions for each parameter")


def _trained_posterior(network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Read standard deviations and factors from a network's variational layers, by the name of the weight."""
    std, factors = {}, {}
    layers = [(prefix, layer) for prefix, layer in network.named_modules() if isinstance(layer, GaussianWeights)]
    for prefix, layer in layers:
        for name, parameter in layer.named_parameters(prefix, recurse=False):
            if name.endswith("_log_std"):
                std[name.removesuffix("_log_std")] = parameter.exp()
            elif name.endswith("_factor"):
                factors[name.removesuffix("_factor")] = parameter
    return std, factors


@dataclass(frozen=True)
class Variational(TeacherSpec):
    """A network with a Gaussian over its head or over all layers, trained together; see :func:`make_variational`."""

    kind = method = "variational"

    posterior: str = option("head", "over the head or the full network", POSTERIORS)
    rank: int = option(0, "of the head's covariance beside its diagonal")
    prior_std: float | None = None
    initial_std: float | None = None

    def __post_init__(self):
        super().__post_init__()
        check_count(0, rank=self.rank)

    def facts(self) -> dict[str, Any]:
        return {"posterior": self.posterior}

    def fit(self, context: FitContext) -> Teacher:
        inputs, _ = split(next(iter(context.validation_batches())))
        few = {name: value[:2] for name, value in inputs.items()} if isinstance(inputs, Mapping) else inputs[:2]
        spread = {"prior_std": self.prior_std, "initial_std": self.initial_std, "rank": self.rank}
        network = context.network()
        likelihood = likelihood_by(network, context.validation_batches(), context.problem_type)
        likelihood.nats(1)  # refused before it is trained
        network = make_variational(network, self.posterior, inputs=few, **spread)
        return VariationalTeacher(context.train(network), likelihood=likelihood)
