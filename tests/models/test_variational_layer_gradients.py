"""The divergence of variational layers, and the gradients that train them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal, Normal
from torch.distributions import kl_divergence as reference_kl
from torch.func import functional_call

from hf_bkd.models.variational_layers import GaussianWeights, VariationalConv2d, VariationalLinear, gaussian_kl
from tests.teachers.teacher_helpers import assert_equal_means, vary_spread

LAYERS = {
    "linear": lambda: VariationalLinear(3, 2, prior_std=0.3),
    "linear without bias": lambda: VariationalLinear(3, 2, prior_std=0.3, bias=False),
    "low rank": lambda: VariationalLinear(3, 2, prior_std=0.3, rank=2),
    "low rank without bias": lambda: VariationalLinear(3, 2, prior_std=0.3, rank=2, bias=False),
    "convolution": lambda: VariationalConv2d(2, 2, 2, padding=1, stride=2, prior_std=0.3),
    "convolution without bias": lambda: VariationalConv2d(2, 2, 2, groups=2, bias=False, prior_std=0.3),
}
EACH = pytest.mark.parametrize("name", LAYERS)


def layer_of(name: str) -> GaussianWeights:
    """In float64, each standard deviation another."""
    return vary_spread(LAYERS[name]().double())


def inputs_of(layer: GaussianWeights, examples: int = 2) -> Tensor:
    shape = (3,) if isinstance(layer, nn.Linear) else (2, 3, 3)
    return torch.randn(examples, *shape).double()


def joint(layer: GaussianWeights, names: str) -> Tensor:
    """Parameters of weight and bias, flat and one after the other; factors [R, P]."""
    parts = [getattr(layer, f"{kind}{names}") for kind in (("weight",) if layer.bias is None else ("weight", "bias"))]
    return torch.cat([part.flatten(1 if names == "_factor" else 0) for part in parts], dim=-1)


def references(layer: GaussianWeights) -> list[Tensor]:
    """KL divergences from torch.distributions, by every class that can express the posterior."""
    mean, std = joint(layer, ""), joint(layer, "_log_std").exp()
    zero, prior_std = torch.zeros_like(mean), torch.full_like(mean, layer.prior_std)
    wide = MultivariateNormal(zero, prior_std.square().diag())
    if getattr(layer, "weight_factor", None) is None:
        independent = reference_kl(Normal(mean, std), Normal(zero, prior_std)).sum()
        return [independent, reference_kl(MultivariateNormal(mean, std.square().diag()), wide)]
    factor = joint(layer, "_factor")
    low_rank = LowRankMultivariateNormal(mean, factor.T, std.square())
    whole = MultivariateNormal(mean, std.square().diag() + factor.T @ factor)
    return [reference_kl(low_rank, wide), reference_kl(whole, wide)]


@EACH
def test_the_divergence_and_its_gradients_are_those_of_torch_distributions(name):
    layer = layer_of(name)
    mine = torch.autograd.grad(layer.gaussian_kl(), layer.parameters())
    for expected in references(layer):
        torch.testing.assert_close(layer.gaussian_kl(), expected, rtol=1e-11, atol=0)
        theirs = torch.autograd.grad(expected, layer.parameters(), retain_graph=True)
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "make", [lambda **std: VariationalLinear(4, 3, **std), lambda **std: VariationalConv2d(2, 3, 2, **std)]
)
def test_the_divergence_vanishes_where_the_posterior_is_the_prior(make):
    layer = make(prior_std=0.7, initial_std=0.7).double()
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    assert layer.gaussian_kl().item() == pytest.approx(0, abs=1e-6)


def test_the_divergence_of_a_network_sums_its_layers_once_each():
    layers = [layer_of("linear"), layer_of("low rank"), layer_of("convolution")]
    network = nn.Sequential(layers[0], nn.ReLU(), nn.Sequential(nn.Linear(4, 4), layers[1]), layers[2], layers[0])
    torch.testing.assert_close(gaussian_kl(network), sum(layer.gaussian_kl() for layer in layers))
    assert gaussian_kl(nn.Linear(4, 3)) is None


# Gradients of one draw


@EACH
def test_gradients_of_a_draw_are_finite_differences_with_the_noise_held(name):
    layer = layer_of(name).train()
    names, values = zip(*layer.named_parameters(), strict=True)
    x = inputs_of(layer).requires_grad_()

    def outputs(x: Tensor, *values: Tensor) -> Tensor:
        torch.manual_seed(3)
        return functional_call(layer, dict(zip(names, values, strict=True)), x)

    assert torch.autograd.gradcheck(outputs, (x, *values))
    grads = torch.autograd.grad(outputs(x, *values).square().sum(), values)
    assert all((grad != 0).any() for grad in grads)


@pytest.mark.parametrize("name", ["linear", "convolution"])
def test_a_draw_without_spread_has_finite_gradients(name):
    layer = LAYERS[name]().train()
    layer(torch.zeros_like(inputs_of(layer)).float()).sum().backward()  # no input, and what is left is the bias'
    with torch.no_grad():
        layer.bias_log_std.fill_(-200)
    layer(torch.zeros_like(inputs_of(layer)).float()).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


# Gradients of the expected loss


CHUNKS, SIZE = 40, 500


def gradients(layer: GaussianWeights, losses: Tensor) -> Tensor:
    """Gradients of each loss, flat [len(losses), parameters]."""
    rows = [torch.autograd.grad(loss, layer.parameters(), retain_graph=True) for loss in losses]
    return torch.stack([torch.cat([grad.flatten() for grad in row]) for row in rows]).detach()


@pytest.mark.parametrize("bias", [True, False])
def test_gradient_of_an_expected_quadratic_loss_is_the_analytic_one(bias):
    # E |f - y|^2 = |mean - y|^2 + sum of variances, so that d/dW = 2 (mean - y) x^T and d/dlog(std) = 2 x^2 std^2
    layer = layer_of("linear" if bias else "linear without bias").train()
    x, y = torch.randn(3).double(), torch.randn(2).double()
    losses = (layer(x.expand(CHUNKS, SIZE, 3)) - y).square().sum(dim=-1).mean(dim=1)
    error = 2 * (F.linear(x, layer.weight, layer.bias) - y)
    analytic = {
        "weight": torch.outer(error, x),
        "bias": error,
        "weight_log_std": 2 * x.square() * (2 * layer.weight_log_std).exp(),
        "bias_log_std": 2 * (2 * layer.bias_log_std).exp() if bias else None,
    }
    expected = torch.cat([analytic[name].flatten() for name, _ in layer.named_parameters()]).detach()
    assert_equal_means(gradients(layer, losses), expected)


def explicit_weights(layer: GaussianWeights, count: int) -> tuple[Tensor, Tensor]:
    """Weights [count, *shape] and biases [count, C], drawn from the posterior one by one."""
    mean, std = joint(layer, ""), joint(layer, "_log_std").exp()
    draws = mean + std * torch.randn(count, len(mean)).double()
    if getattr(layer, "weight_factor", None) is not None:
        factor = joint(layer, "_factor")
        draws = draws + torch.randn(count, len(factor)).double() @ factor
    weights, biases = draws.split([layer.weight.numel(), len(mean) - layer.weight.numel()], dim=1)
    return weights.view(count, *layer.weight.shape), biases if layer.bias is not None else torch.zeros(count, 2)


@pytest.mark.parametrize("name", ["linear", "low rank", "low rank without bias"])
def test_gradient_of_the_expected_cross_entropy_is_that_of_explicit_weight_draws(name):
    layer = layer_of(name).train()
    x = inputs_of(layer)
    weights, biases = explicit_weights(layer, CHUNKS * SIZE)
    explicit = torch.einsum("scd,bd->sbc", weights, x) + biases[:, None]
    outputs = layer(x.expand(CHUNKS * SIZE, 2, 3))

    def losses(logits: Tensor) -> Tensor:
        log_probs = logits.log_softmax(dim=-1)
        return -(log_probs[:, 0, 0] + log_probs[:, 1, 1]).view(CHUNKS, SIZE).mean(dim=1)

    difference = gradients(layer, losses(outputs)) - gradients(layer, losses(explicit))
    assert_equal_means(difference, torch.zeros_like(difference[0]))


def test_gradient_of_an_expected_loss_of_each_position_is_that_of_explicit_filters():
    layer = layer_of("convolution").train()
    x = inputs_of(layer, 1)
    outputs = layer(x.expand(CHUNKS * SIZE, -1, -1, -1))
    weights, biases = explicit_weights(layer, CHUNKS * SIZE)
    explicit = F.conv2d(x, weights.flatten(0, 1), biases.flatten(), stride=2, padding=1).view(outputs.shape)

    def losses(maps: Tensor) -> Tensor:
        return -maps.log_softmax(dim=1)[:, 0].reshape(CHUNKS, -1).mean(dim=1)

    difference = gradients(layer, losses(outputs)) - gradients(layer, losses(explicit))
    assert_equal_means(difference, torch.zeros_like(difference[0]))


# Half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["low rank", "convolution"])
@pytest.mark.parametrize(("size", "std"), [(1.0, 0.1), (300.0, 0.1), (1.0, 1e-4)])
def test_autocast_keeps_the_spread_and_the_gradients_finite(name, dtype, size, std):
    """300^2 is beyond float16's range, and 1e-4^2 below it."""
    layer = LAYERS[name]().train()
    with torch.no_grad():
        layer.weight_log_std.fill_(std).log_()
        layer.bias_log_std.fill_(std).log_()
    x = size * inputs_of(layer).float()
    expected = layer.output_gaussian(x)[1]
    with torch.autocast("cpu", dtype):
        variance = layer.output_gaussian(x.to(dtype))[1].float()
        outputs = layer(x)
    torch.testing.assert_close(variance, expected, rtol=0.03, atol=0)
    outputs.float().sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad.isfinite().all() and (parameter.grad != 0).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_divergence_of_many_weights_is_summed_in_float32(dtype):
    """Their sums are beyond float16's range, whether its weights or the region is in half precision."""
    layer = VariationalLinear(1024, 100, rank=2)
    expected = layer.double().gaussian_kl().item()
    with torch.autocast("cpu", dtype):
        assert layer.float().gaussian_kl().item() == pytest.approx(expected, rel=1e-5)
    rounded = layer.to(dtype)
    assert rounded.gaussian_kl().item() == pytest.approx(expected, rel=0.02)
    rounded.gaussian_kl().backward()
    assert rounded.weight_factor.grad.isfinite().all()


# What training finds


@pytest.mark.parametrize("rank", [0, 1])
def test_training_finds_the_posterior_of_a_gaussian_linear_model(rank):
    """y = w x + noise of variance 1: the exact posterior has the precision 1 / prior^2 + sum x x^T.

    One direction beside the diagonal can express it; independent Gaussians of least divergence keep its diagonal.
    """
    prior_std, x = 0.8, torch.tensor([[2.0, 1.0], [0.5, 1.0]]).double()
    y = torch.tensor([[1.0], [-2.0]]).double()
    layer = VariationalLinear(2, 1, prior_std, initial_std=0.1, bias=False, rank=rank).double().train()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for step in range(500):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / 500)
        loss = (layer(x.expand(500, 2, 2)) - y).square().sum(dim=(1, 2)).mean() / 2 + layer.gaussian_kl()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    precision = torch.eye(2).double() / prior_std**2 + x.T @ x
    covariance = layer.weight_log_std.exp().square()[0].diag()
    if rank:
        covariance = covariance + layer.weight_factor[0].T @ layer.weight_factor[0]
    expected = precision.inverse() if rank else precision.diag().reciprocal().diag()
    torch.testing.assert_close(covariance.detach(), expected, rtol=0.03, atol=0)
    torch.testing.assert_close(layer.weight.detach()[0], precision.inverse() @ (x.T @ y)[:, 0], rtol=0.03, atol=0.01)
