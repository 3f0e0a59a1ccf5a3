import pytest
import torch
import torch.nn.functional as F
from teacher_helpers import assert_equal_means
from torch import Tensor, nn
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_kl

from hf_bkd.errors import UserError
from hf_bkd.layers import VariationalLinear, kl_divergence


def layer_of(features: int = 4, classes: int = 3, bias: bool = True, prior_std: float | None = None):
    """A layer in float64, each standard deviation another."""
    layer = VariationalLinear(features, classes, prior_std, bias=bias).double()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.uniform_(-2, 0) if name.endswith("log_std") else parameter.normal_()
    return layer


def weight_draws(layer: VariationalLinear, count: int) -> tuple[Tensor, Tensor]:
    """Weights [count, C, d] and biases [count, C], drawn one by one from the posterior."""
    weights = Normal(layer.weight, layer.weight_log_std.exp()).rsample((count,))
    if layer.bias is None:
        return weights, torch.zeros(count, layer.out_features).double()
    return weights, Normal(layer.bias, layer.bias_log_std.exp()).rsample((count,))


@pytest.mark.parametrize("bias", [True, False])
def test_output_gaussian_has_the_moments_of_explicit_weight_draws(bias):
    layer = layer_of(bias=bias)
    x = torch.randn(2, 4).double()
    weights, biases = weight_draws(layer, 40_000)
    outputs = (torch.einsum("scd,bd->sbc", weights, x) + biases[:, None]).detach()
    mean, variance = (moment.detach() for moment in layer.output_gaussian(x))
    assert_equal_means(outputs, mean)
    assert_equal_means((outputs - mean).square(), variance)
    centred = outputs - mean
    assert_equal_means(centred[..., 0] * centred[..., 1], torch.zeros(2).double())


def test_output_gaussian_takes_any_leading_dimensions():
    layer = layer_of()
    x = torch.randn(2, 3, 4).double()
    flat = layer.output_gaussian(x.view(6, 4))
    for whole, rows in zip(layer.output_gaussian(x), flat, strict=True):
        torch.testing.assert_close(whole.view(6, 3), rows)


@pytest.mark.parametrize("bias", [True, False])
def test_kl_divergence_is_that_of_torch_distributions(bias):
    layer = layer_of(bias=bias, prior_std=0.3)
    pairs = [(layer.weight, layer.weight_log_std)]
    pairs += [(layer.bias, layer.bias_log_std)] if bias else []
    prior = Normal(torch.zeros(()).double(), torch.tensor(0.3, dtype=torch.float64))
    expected = sum(reference_kl(Normal(mean, log_std.exp()), prior).sum() for mean, log_std in pairs)
    torch.testing.assert_close(layer.kl_divergence(), expected, rtol=1e-12, atol=0)
    mine = torch.autograd.grad(layer.kl_divergence(), layer.parameters())
    torch.testing.assert_close(mine, torch.autograd.grad(expected, layer.parameters()), rtol=1e-10, atol=1e-12)


def test_kl_divergence_vanishes_where_the_posterior_is_the_prior():
    layer = VariationalLinear(4, 3, prior_std=0.7, initial_std=0.7).double()
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    assert layer.kl_divergence().item() == pytest.approx(0, abs=1e-6)


def test_kl_divergence_of_a_network_sums_its_layers():
    first, second = layer_of(4, 4), layer_of(4, 3)
    network = nn.Sequential(first, nn.ReLU(), nn.Sequential(nn.Linear(4, 4), second))
    torch.testing.assert_close(kl_divergence(network), first.kl_divergence() + second.kl_divergence())
    assert kl_divergence(nn.Linear(4, 3)) is None


def test_the_prior_is_one_over_the_square_root_of_the_features():
    layer = VariationalLinear(16, 3)
    with torch.no_grad():  # a posterior N(0, 1/16) has no divergence from the prior N(0, 1/16)
        for name, parameter in layer.named_parameters():
            parameter.fill_(torch.tensor(0.25).log() if name.endswith("log_std") else 0)
    assert layer.kl_divergence().item() == pytest.approx(0, abs=1e-5)


def test_evaluation_uses_the_means_and_draws_nothing():
    layer = layer_of().eval()
    x = torch.randn(5, 4).double()
    state = torch.get_rng_state()
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert torch.equal(torch.get_rng_state(), state)


def test_training_draws_each_example_anew_with_the_outputs_moments():
    layer = layer_of().train()
    x = torch.randn(2, 4).double()
    outputs = layer(x.repeat(40_000, 1)).detach().view(40_000, 2, 3)
    mean, variance = (moment.detach() for moment in layer.output_gaussian(x))
    assert_equal_means(outputs, mean)
    assert_equal_means((outputs - mean).square(), variance)
    centred = outputs - mean
    assert_equal_means(centred[:, 0] * centred[:, 1], torch.zeros(3).double())  # two examples of one batch


def gradients(layer: VariationalLinear, losses: Tensor) -> Tensor:
    """Gradients of each loss, flat [len(losses), parameters]."""
    rows = [torch.autograd.grad(loss, layer.parameters(), retain_graph=True) for loss in losses]
    return torch.stack([torch.cat([grad.flatten() for grad in row]) for row in rows]).detach()


@pytest.mark.parametrize("bias", [True, False])
def test_gradient_of_an_expected_quadratic_loss_is_the_analytic_one(bias):
    # E |f - y|^2 = |mean - y|^2 + sum of variances, so that d/dW = 2 (mean - y) x^T and d/dlog(std) = 2 x^2 std^2
    layer = layer_of(3, 2, bias=bias).train()
    x, y = torch.randn(3).double(), torch.randn(2).double()
    losses = (layer(x.expand(100, 2000, 3)) - y).square().sum(dim=-1).mean(dim=1)
    error = 2 * (F.linear(x, layer.weight, layer.bias) - y)
    analytic = {
        "weight": torch.outer(error, x),
        "bias": error,
        "weight_log_std": 2 * x.square() * (2 * layer.weight_log_std).exp(),
        "bias_log_std": 2 * (2 * layer.bias_log_std).exp() if bias else None,
    }
    expected = torch.cat([analytic[name].flatten() for name, _ in layer.named_parameters()]).detach()
    assert_equal_means(gradients(layer, losses), expected)


def test_gradient_of_the_expected_cross_entropy_is_that_of_explicit_weight_draws():
    layer = layer_of(3, 2).train()
    x, labels = torch.randn(2, 3).double(), torch.tensor([0, 1])
    chunks, size = 60, 2000
    outputs = layer(x.expand(chunks, size, 2, 3))
    weights, biases = weight_draws(layer, chunks * size)
    explicit = (torch.einsum("scd,bd->sbc", weights, x) + biases[:, None]).view(chunks, size, 2, 2)

    def losses(logits: Tensor) -> Tensor:
        log_probs = logits - logits.exp().sum(dim=-1, keepdim=True).log()
        return -(log_probs[..., 0, labels[0]] + log_probs[..., 1, labels[1]]).mean(dim=1)

    difference = gradients(layer, losses(outputs)) - gradients(layer, losses(explicit))
    assert_equal_means(difference, torch.zeros_like(difference[0]))


@pytest.mark.parametrize("std", [0, -0.1, float("nan")])
@pytest.mark.parametrize("name", ["prior_std", "initial_std"])
def test_standard_deviations_must_be_positive(name, std):
    with pytest.raises(UserError, match=f"{name} must be above 0"):
        VariationalLinear(4, 3, **{name: std})
