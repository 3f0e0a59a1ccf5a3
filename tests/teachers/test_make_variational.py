"""Which layers of a network get a posterior, and what stays."""

import pytest
import torch
from timm.layers import ScaledStdConv2d, StdConv2d
from torch import Tensor, nn

from hf_bkd.models.variational_layers import GaussianWeights, VariationalConv2d, VariationalLinear, gaussian_kl
from hf_bkd.teachers import make_variational
from hf_bkd.utils.errors import UserError
from tests.teachers.teacher_helpers import ConvolutionalHead, SmallNetwork, points, small_bert, small_cnn

BIAS = pytest.mark.parametrize("bias", [True, False])
WORDS = torch.randint(20, (5, 6), generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
NETWORKS = {"plain": (SmallNetwork, points(6)[0]), "timm": (small_cnn, IMAGES), "bert": (small_bert, WORDS)}
EACH_NETWORK = pytest.mark.parametrize("name", NETWORKS)


class EveryKind(nn.Module):
    """Images [B, 2, 6, 6] through all sorts of layers to logits [B, 3]."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, groups=2),
            StdConv2d(4, 4, 1),
            ScaledStdConv2d(4, 4, 1),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False, padding_mode="reflect"),
        )
        self.places = nn.Embedding(9, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mix = nn.Conv1d(9, 9, 1)
        self.norm = nn.LayerNorm(8)
        self.deep = nn.ModuleDict({"a": nn.ModuleList([nn.Linear(8, 8), nn.Bilinear(8, 8, 8)])})
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.convolutions(x).flatten(2).mT + self.places.weight
        tokens = self.mix(self.norm(self.attention(tokens, tokens, tokens)[0]))
        tokens = self.deep["a"][1](tokens, self.deep["a"][0](tokens))
        return self.head(tokens.mean(dim=1))


def kinds(network: nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in network.named_modules()}


def logits_of(network: nn.Module, inputs: Tensor) -> Tensor:
    outputs = network(inputs)
    return outputs if isinstance(outputs, Tensor) else outputs.logits


# The head


@BIAS
def test_the_head_keeps_the_function_of_its_means(bias):
    network, (x, _) = SmallNetwork(bias=bias).eval(), points(6)
    weight, expected, before = network.head.weight.clone(), network(x), kinds(network)
    assert make_variational(network, prior_std=0.5, initial_std=0.1, rank=2) is network
    assert kinds(network) == before | {"head": VariationalLinear}
    assert torch.equal(network.head.weight, weight) and (network.head.bias is not None) == bias
    assert torch.equal(network(x), expected)  # a network in evaluation mode stays in it
    assert network.head.prior_std == 0.5 and network.head.weight_factor.shape == (2, 3, 5)
    for name, parameter in network.head.named_parameters():
        assert parameter.requires_grad
        if name.endswith("log_std"):
            torch.testing.assert_close(parameter.exp(), torch.full_like(parameter, 0.1))
    network.train()
    assert not torch.equal(network.head(torch.ones(1, 5)), network.head(torch.ones(1, 5)))


@EACH_NETWORK
def test_the_heads_of_all_networks_are_found(name):
    network = make_variational(NETWORKS[name][0]())
    layers = [module for module in network.modules() if isinstance(module, GaussianWeights)]
    assert len(layers) == 1 and layers[0].out_features in (3, 4)
    assert torch.equal(gaussian_kl(network), layers[0].gaussian_kl())


def test_the_head_of_a_frozen_network_is_trained():
    network = make_variational(SmallNetwork().requires_grad_(False))
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == {f"head.{kind}" for kind in ("weight", "bias", "weight_log_std", "bias_log_std")}


# The full network


@EACH_NETWORK
@pytest.mark.parametrize("training", [True, False])
def test_a_full_posterior_is_over_every_linear_layer_and_convolution(name, training):
    make, inputs = NETWORKS[name]
    network = make().train(training)
    before, expected = kinds(network), logits_of(network.eval(), inputs)
    modes = {module: module.training for module in network.train(training).modules()}
    assert make_variational(network, "full", rank=2, prior_std=0.5, initial_std=0.1) is network
    replaced = {nn.Linear: VariationalLinear, nn.Conv2d: VariationalConv2d}
    assert kinds(network) == {name: replaced.get(kind, kind) for name, kind in before.items()}
    assert set(replaced.values()) & set(kinds(network).values())
    assert {module.training for module in network.modules()} == set(modes.values())
    assert torch.equal(logits_of(network.eval(), inputs), expected)
    layers = [module for module in network.modules() if isinstance(module, GaussianWeights)]
    assert {layer.prior_std for layer in layers} == {0.5}
    assert all((layer.weight_log_std.exp() - 0.1).abs().max() < 1e-6 for layer in layers)
    ranks = [len(layer.weight_factor) for layer in layers if getattr(layer, "weight_factor", None) is not None]
    assert ranks == [2] and layers[-1].weight_factor is not None  # the head's
    network.train()
    assert not torch.equal(logits_of(network, inputs), logits_of(network, inputs))


def test_layers_of_any_other_kind_keep_single_weights():
    network, images = EveryKind().eval(), torch.randn(2, 2, 6, 6)
    before, expected = kinds(network), network(images)
    make_variational(network, "full")
    convolution, linear = VariationalConv2d, VariationalLinear
    changed = {
        "convolutions.0": convolution, "convolutions.4": convolution, "deep.a.0": linear, "head": linear
    }  # fmt: skip
    assert kinds(network) == before | changed
    assert network.attention.out_proj.__class__ is not nn.Linear  # a subclass, whose weight attention reads itself
    assert torch.equal(network(images), expected)
    network.train()(images).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_frozen_layers_keep_single_weights():
    network = SmallNetwork()
    network.backbone.requires_grad_(False)
    make_variational(network, "full")
    assert type(network.backbone[0]) is nn.Linear and type(network.head) is VariationalLinear
    assert not any(parameter.requires_grad for parameter in network.backbone.parameters())


def test_a_layer_that_stands_in_two_places_stays_one():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.again = nn.Sequential(nn.Tanh(), self.first)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.again(self.first(x)))

    network = make_variational(Twice(), "full")
    assert network.again[1] is network.first and type(network.first) is VariationalLinear
    torch.testing.assert_close(
        gaussian_kl(network), network.first.gaussian_kl() + network.head.gaussian_kl()
    )  # counted once


def test_a_head_posterior_can_become_a_full_one():
    network = make_variational(SmallNetwork().eval(), rank=1)
    weight = network.head.weight.clone()
    make_variational(network, "full")
    assert type(network.backbone[0]) is type(network.head) is VariationalLinear
    assert torch.equal(network.head.weight, weight) and network.head.weight_factor is None
    first = network.backbone[0]
    assert make_variational(network, "full").backbone[0] is first


@pytest.mark.parametrize("posterior", ["head", "full"])
def test_type_and_device_are_kept(posterior):
    network = make_variational(SmallNetwork().to(torch.float64), posterior, rank=1)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}
    network = make_variational(SmallNetwork().to("meta"), posterior, rank=1)
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}


# What a user can get wrong


@pytest.mark.parametrize("posterior", ["head", "full"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"posterior": "all"}, "posterior is 'all'; it must be one of head, full"),
        ({"prior_std": 0.0}, "prior_std must be above 0"),
        ({"initial_std": -1.0}, "initial_std must be above 0"),
        ({"rank": -1}, "rank must be a whole number of at least 0"),
    ],
)
def test_bad_arguments_are_refused_and_the_network_left_as_it_was(posterior, arguments, words):
    network = SmallNetwork()
    before = kinds(network)
    with pytest.raises(UserError, match=words):
        make_variational(network, **{"posterior": posterior} | arguments)
    assert kinds(network) == before


@pytest.mark.parametrize("posterior", ["head", "full"])
def test_a_network_without_a_linear_head_is_refused_and_left_as_it_was(posterior):
    network = ConvolutionalHead()
    with pytest.raises(UserError, match="no linear layer"):
        make_variational(network, posterior)
    assert type(network.convolution) is nn.Conv2d


def test_a_bare_layer_is_refused_and_one_in_a_network_taken():
    with pytest.raises(UserError, match=r"cannot be replaced in itself.*nn.Sequential\(layer\)"):
        make_variational(nn.Linear(4, 3))
    assert type(make_variational(nn.Sequential(nn.Linear(4, 3)))[0]) is VariationalLinear
