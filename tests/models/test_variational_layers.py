"""What variational layers put out in training and in evaluation."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from hf_bkd.models.variational_layers import VariationalConv2d, VariationalLinear, output_directions, spread_names
from hf_bkd.utils.errors import UserError
from tests.teachers.teacher_helpers import assert_equal_means, vary_spread

COUNT = 40_000
RANKS = pytest.mark.parametrize("rank", [0, 2])
BIAS = pytest.mark.parametrize("bias", [True, False])

CONVOLUTIONS = {
    "plain": {},
    "stride and padding": {"stride": (2, 1), "padding": 1},
    "groups": {"groups": 2},
    "dilation": {"dilation": 2, "padding": (2, 1)},
    "no bias": {"bias": False},
    "reflect": {"padding": 1, "padding_mode": "reflect"},
    "replicate": {"padding": (1, 2), "padding_mode": "replicate"},
    "circular, with stride and groups": {"padding": 2, "padding_mode": "circular", "stride": 2, "groups": 2},
    "same": {"padding": "same"},
}
EACH_CONVOLUTION = pytest.mark.parametrize("geometry", CONVOLUTIONS)


def linear(features: int = 4, classes: int = 3, **settings) -> VariationalLinear:
    """In float64, each standard deviation another."""
    return vary_spread(VariationalLinear(features, classes, **settings).double())


def convolution(geometry: str) -> VariationalConv2d:
    """In float64, from 4 to 2 channels, each standard deviation another."""
    kernel = (3, 3) if geometry == "same" else (2, 3)
    return vary_spread(VariationalConv2d(4, 2, kernel, **CONVOLUTIONS[geometry]).double())


def covariance(layer: VariationalLinear) -> Tensor:
    """Of all weights and then all biases, [P, P]."""
    own = [layer.weight_log_std] + ([] if layer.bias is None else [layer.bias_log_std])
    total = torch.cat([log_std.detach().flatten() for log_std in own]).exp().square().diag()
    if layer.weight_factor is not None:
        shared = [layer.weight_factor] + ([] if layer.bias is None else [layer.bias_factor])
        factor = torch.cat([part.detach().flatten(1) for part in shared], dim=1)
        total += sum(torch.outer(direction, direction) for direction in factor)
    return total


def output_covariance(layer: VariationalLinear, x: Tensor) -> Tensor:
    """Of one example's outputs, [C, C], by their derivatives with respect to all weights and biases."""
    classes = layer.out_features
    jacobian = torch.kron(torch.eye(classes).double(), x[None])
    if layer.bias is not None:
        jacobian = torch.cat([jacobian, torch.eye(classes).double()], dim=1)
    return jacobian @ covariance(layer) @ jacobian.T


def naive_convolution(layer: nn.Conv2d, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """A sum over each window of one image x [C, H, W], written out."""
    padding = [(size // 2, size // 2) for size in layer.kernel_size]
    if layer.padding != "same":
        padding = [(size, size) for size in layer.padding]
    mode = {"zeros": "constant", "replicate": "edge", "circular": "wrap"}.get(layer.padding_mode, layer.padding_mode)
    x = np.pad(x, [(0, 0), *padding], mode=mode)
    reach = [dilation * (size - 1) for dilation, size in zip(layer.dilation, layer.kernel_size, strict=True)]
    sizes = [(n - r - 1) // s + 1 for n, r, s in zip(x.shape[1:], reach, layer.stride, strict=True)]
    outputs = np.zeros((len(weight), *sizes))
    for out, row, column in itertools.product(*map(range, outputs.shape)):
        first = out // (len(weight) // layer.groups) * weight.shape[1]
        outputs[out, row, column] = 0 if bias is None else bias[out]
        for channel, i, j in itertools.product(*map(range, weight.shape[1:])):
            y = row * layer.stride[0] + i * layer.dilation[0]
            z = column * layer.stride[1] + j * layer.dilation[1]
            outputs[out, row, column] += weight[out, channel, i, j] * x[first + channel, y, z]
    return outputs


# What the outputs' Gaussian is


@RANKS
@BIAS
def test_a_linear_layers_outputs_have_the_covariance_that_its_weights_imply(rank, bias):
    layer, x = linear(rank=rank, bias=bias), torch.randn(4).double()
    mean, variance = layer.output_gaussian(x)
    torch.testing.assert_close(mean, F.linear(x, layer.weight, layer.bias))
    actual = variance.diag()
    if rank:
        directions = output_directions(x, layer.weight_factor, layer.bias_factor)
        assert directions.shape == (rank, 3)
        actual = actual + directions.T @ directions
    torch.testing.assert_close(actual, output_covariance(layer, x), rtol=1e-12, atol=1e-14)


@EACH_CONVOLUTION
def test_a_convolutions_output_gaussian_is_the_sum_over_each_window(geometry):
    layer, x = convolution(geometry), torch.randn(4, 5, 6).double()
    arrays = {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}
    variances = [np.exp(arrays["weight_log_std"]) ** 2, None]
    if layer.bias is not None:
        variances[1] = np.exp(arrays["bias_log_std"]) ** 2
    mean, variance = (moment[0].detach().numpy() for moment in layer.output_gaussian(x[None]))
    np.testing.assert_allclose(mean, naive_convolution(layer, x.numpy(), arrays["weight"], arrays.get("bias")))
    np.testing.assert_allclose(variance, naive_convolution(layer, x.numpy() ** 2, *variances), rtol=1e-10)


@pytest.mark.parametrize("geometry", ["stride and padding", "circular, with stride and groups", "no bias"])
def test_a_convolutions_output_gaussian_has_the_moments_of_explicit_weight_draws(geometry):
    layer, x = convolution(geometry).eval(), torch.randn(1, 4, 4, 4).double()
    mean, variance = (moment.detach() for moment in layer.output_gaussian(x))
    names = ["weight"] if layer.bias is None else ["weight", "bias"]
    with torch.no_grad():
        draws = torch.stack(
            [
                functional_call(
                    layer, {n: torch.normal(getattr(layer, n), getattr(layer, f"{n}_log_std").exp()) for n in names}, x
                )
                for _ in range(1000)
            ]
        )
    assert_equal_means(draws, mean)
    assert_equal_means((draws - mean).square(), variance)


@RANKS
def test_a_linear_layer_takes_any_leading_dimensions(rank):
    layer, x = linear(rank=rank), torch.randn(2, 3, 4).double()
    flat = layer.output_gaussian(x.view(6, 4))
    for whole, rows in zip(layer.output_gaussian(x), flat, strict=True):
        torch.testing.assert_close(whole.view(6, 3), rows)
    assert layer.train()(x).shape == (2, 3, 3) and layer(x[0, 0]).shape == (3,)


# Training and evaluation


@RANKS
@BIAS
def test_training_draws_each_example_anew_with_the_covariance_of_the_outputs(rank, bias):
    layer, x = linear(rank=rank, bias=bias).train(), torch.randn(2, 4).double()
    outputs = layer(x.repeat(COUNT, 1)).detach().view(COUNT, 2, 3)
    centered = outputs - F.linear(x, layer.weight, layer.bias).detach()
    assert_equal_means(centered, torch.zeros(2, 3))
    expected = torch.stack([output_covariance(layer, example) for example in x])
    assert_equal_means(centered[..., None] * centered[..., None, :], expected)
    assert_equal_means(centered[:, 0, :, None] * centered[:, 1, None, :], torch.zeros(3, 3))  # examples of one batch


def test_a_convolution_in_training_draws_examples_channels_and_positions_apart():
    layer, x = convolution("groups").train(), torch.randn(1, 4, 3, 4).double()
    outputs = layer(x.expand(COUNT, -1, -1, -1)).detach().flatten(1)
    mean, variance = (moment.detach().flatten() for moment in layer.output_gaussian(x))
    centered = outputs - mean
    assert_equal_means(outputs, mean)
    assert_equal_means(centered[:, :, None] * centered[:, None, :], variance.diag())
    assert_equal_means(centered[:-1] * centered[1:], torch.zeros_like(mean))


@pytest.mark.parametrize("make", [lambda: linear(rank=2), lambda: linear(bias=False)])
def test_evaluation_of_a_linear_layer_is_that_of_its_means_and_draws_nothing(make):
    layer, x = make().eval(), torch.randn(5, 4).double()
    state = torch.get_rng_state()
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert torch.equal(torch.get_rng_state(), state)


@EACH_CONVOLUTION
def test_evaluation_of_a_convolution_is_that_of_the_ordinary_one_with_its_means(geometry):
    layer, x = convolution(geometry).eval(), torch.randn(3, 4, 5, 6).double()
    ordinary = nn.Conv2d(4, 2, layer.kernel_size, **CONVOLUTIONS[geometry]).double()
    ordinary.load_state_dict({name: v for name, v in layer.state_dict().items() if name not in spread_names(layer)})
    state = torch.get_rng_state()
    assert torch.equal(layer(x), ordinary(x))
    assert torch.equal(torch.get_rng_state(), state)


# Made like another layer


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@EACH_CONVOLUTION
def test_a_convolution_like_another_has_its_geometry_means_type_and_mode(geometry, dtype, training):
    ordinary = nn.Conv2d(4, 2, (3, 3), **CONVOLUTIONS[geometry]).to(dtype).train(training)
    layer = VariationalConv2d.like(ordinary, initial_std=0.1)
    assert (layer.extra_repr(), layer.training) == (ordinary.extra_repr(), training)
    assert {parameter.dtype for parameter in layer.parameters()} == {dtype}
    x = torch.randn(2, 4, 6, 6).to(dtype)
    assert torch.equal(layer(x), ordinary(x)) != training
    assert torch.equal(layer.eval()(x), ordinary(x))


@BIAS
@pytest.mark.parametrize("training", [True, False])
def test_a_linear_layer_like_another_has_its_means_type_and_mode(bias, training):
    ordinary = nn.Linear(4, 3, bias=bias).to(torch.float16).train(training)
    layer = VariationalLinear.like(ordinary, rank=2, prior_std=0.5, initial_std=0.1)
    assert (layer.in_features, layer.out_features, layer.training) == (4, 3, training)
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.float16}
    assert layer.weight_factor.shape == (2, 3, 4) and (layer.bias_factor is not None) == bias
    x = torch.randn(2, 4).half()
    assert torch.equal(layer.eval()(x), ordinary(x)) and layer.prior_std == 0.5


@pytest.mark.parametrize("ordinary", [nn.Linear(4, 3), nn.Conv2d(4, 2, 3)])
def test_a_layer_like_another_is_on_its_device(ordinary):
    kind = VariationalLinear if isinstance(ordinary, nn.Linear) else VariationalConv2d
    layer = kind.like(ordinary.to("meta"))
    assert {parameter.device.type for parameter in layer.parameters()} == {"meta"}


def test_the_prior_is_one_over_the_root_of_the_inputs_and_training_starts_at_a_tenth_of_it():
    for layer, inputs in ((VariationalLinear(16, 3), 16), (VariationalConv2d(4, 6, (2, 3), groups=2), 12)):
        assert layer.prior_std == pytest.approx(inputs**-0.5)
        for log_std in (layer.weight_log_std, layer.bias_log_std):
            torch.testing.assert_close(log_std.exp(), torch.full_like(log_std, inputs**-0.5 / 10))
    factor = VariationalLinear(100, 50, initial_std=0.3, rank=3).weight_factor
    assert factor.std().item() == pytest.approx(0.3, rel=0.05) and abs(factor.mean().item()) < 0.02


def test_a_networks_spread_is_what_an_ordinary_network_lacks():
    def network(linear, convolution):
        return nn.Sequential(convolution(4, 2, 3), nn.Sequential(linear(4, 4), linear(4, 3)))

    variational = network(lambda *size: VariationalLinear(*size, rank=1), VariationalConv2d)
    ordinary = network(nn.Linear, nn.Conv2d)
    assert set(variational.state_dict()) == set(ordinary.state_dict()) | set(spread_names(variational))
    assert len(spread_names(variational)) == 10 and not spread_names(ordinary)
    assert spread_names(VariationalConv2d(4, 2, 3)) == ("weight_log_std", "bias_log_std")


# What a user can get wrong


@pytest.mark.parametrize("std", [0, -0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["prior_std", "initial_std"])
@pytest.mark.parametrize(
    "make", [lambda **std: VariationalLinear(4, 3, **std), lambda **std: VariationalConv2d(4, 2, 3, **std)]
)
def test_standard_deviations_must_be_positive_and_finite(make, name, std):
    with pytest.raises(UserError, match=f"{name} must be above 0 and finite, and it is {std}"):
        make(**{name: std})


@pytest.mark.parametrize("rank", [-1, 1.5])
def test_the_rank_is_a_number_of_directions(rank):
    with pytest.raises(UserError, match=f"rank must be a whole number of at least 0, and it is {rank}"):
        VariationalLinear(4, 3, rank=rank)
