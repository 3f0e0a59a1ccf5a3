"""The energy of a student's weights against loops over examples, and its curvature against differences."""

import pytest
import torch
from teacher_helpers import SmallNetwork, in_batches, points

from hf_bkd.teachers.chains import ChainSettings, _in_minibatches, _whitened, sample_weights
from hf_bkd.teachers.energy import HeadEnergy, NetworkEnergy, WholeData, loss_terms
from hf_bkd.teachers.network import head_data

SHORT = {"steps": 60, "burn_in": 20, "thinning": 5, "chains": 3}
A, B, T, DELTA = 0.7, 1.9, 2.5, 0.3


def problem(parameters: str, bias: bool = True, targets: bool = True, temperature: float = T):
    """An energy of 30 examples in float64, its network, and x, labels and targets."""
    network = SmallNetwork(bias=bias).double().eval()
    x, labels = points(30)
    x, probs = x.double(), torch.randn(30, 3, dtype=torch.float64).softmax(dim=-1) if targets else None
    seen = head_data(network, in_batches(x, labels))
    seen = seen._replace(features=network.backbone(x).detach())
    data = seen if parameters == "head" else WholeData(x, seen.logits, labels)
    make = HeadEnergy if parameters == "head" else NetworkEnergy
    return make(network, data, loss_terms(data, probs, A, B, temperature), DELTA), network, x, labels, probs


def naive_energy(energy, network, x, labels, probs, theta, temperature=T):
    """U of one vector of weights, example by example."""
    named = {name: value[0] for name, value in energy.named(theta[None]).items()}
    total = DELTA / 2 * sum(value.square().sum().item() for value in named.values())
    logits = torch.func.functional_call(network, named, (x,))
    for z, label, p in zip(logits, labels, probs if probs is not None else x, strict=True):
        total -= A * z.log_softmax(dim=0)[label].item()
        if probs is not None:
            log_q = (z / temperature).log_softmax(dim=0)
            total -= B * sum(p[k].item() * log_q[k].item() for k in range(3))
    return total


CASES = [("head", True), ("head", False), ("all", True)]


@pytest.mark.parametrize(("parameters", "bias"), CASES)
@pytest.mark.parametrize("targets", [True, False])
@pytest.mark.parametrize("temperature", [1.0, T])
def test_the_energy_is_the_sum_over_examples_and_its_gradient_that_of_differences(
    parameters, bias, targets, temperature
):
    energy, *data = problem(parameters, bias, targets, temperature)
    theta = energy.start() + torch.randn(2, len(energy.start()), dtype=torch.float64) / 3
    found, gradient = energy(theta)
    for k in range(2):
        assert found[k].item() == pytest.approx(naive_energy(energy, *data, theta[k], temperature), rel=1e-6)
    direction = torch.randn_like(theta)
    above, below = (energy(theta + sign * 1e-5 * direction)[0] for sign in (1, -1))
    torch.testing.assert_close((gradient * direction).sum(dim=1), (above - below) / 2e-5, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parameters", ["head", "all"])
def test_the_chains_start_at_the_networks_own_weights(parameters):
    energy, network, *_ = problem(parameters)
    own = dict(network.named_parameters())
    named = energy.named(energy.start())
    assert named.keys() == ({"head.weight", "head.bias"} if parameters == "head" else own.keys())
    for name, value in named.items():
        torch.testing.assert_close(value, own[name], check_dtype=False)


@pytest.mark.parametrize("parameters", ["head", "all"])
def test_minibatch_gradients_are_unbiased_and_each_chains_own(parameters):
    energy, *_ = problem(parameters)
    theta = energy.start().expand(2, -1)
    estimate = _in_minibatches(energy, 4, [torch.Generator().manual_seed(i) for i in range(2)])
    drawn = [estimate(theta) for _ in range(800)]
    expected = energy(theta)
    for found, exact in zip(zip(*drawn, strict=True), expected, strict=True):
        draws = torch.stack(found)
        error = draws.std(dim=0) / len(draws) ** 0.5 + 1e-9
        assert ((draws.mean(dim=0) - exact) / error).abs().max() < 5
        assert not torch.equal(draws[0, 0], draws[0, 1])
    both = _in_minibatches(energy, 4, [torch.Generator().manual_seed(i) for i in range(2)])(theta)
    alone = _in_minibatches(energy, 4, [torch.Generator().manual_seed(1)])(theta[:1])
    torch.testing.assert_close([value[1:] for value in both], list(alone))
    one = energy(theta, torch.arange(30).expand(2, -1))  # all rows as a minibatch
    for found, exact in zip(one, expected, strict=True):
        torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("full", [True, False])
def test_the_curvature_is_the_energys_hessian_or_its_kronecker_approximation(bias, full, monkeypatch):
    monkeypatch.setattr("hf_bkd.teachers.energy.MOST_FULL_WEIGHTS", 1_000 if full else 1)
    energy, *_ = problem("head", bias)
    theta = energy.start() + torch.randn(2, len(energy.start()), dtype=torch.float64)
    size = theta.shape[1]
    hessian = torch.zeros(size, size, dtype=torch.float64)
    for i in range(size):
        step = 1e-5 * torch.eye(size, dtype=torch.float64)[i]
        hessian[i] = ((energy(theta + step)[1] - energy(theta - step)[1]) / 2e-5).mean(dim=0)
    whitening = energy.curvature(theta)
    found = whitening.power(torch.eye(size, dtype=torch.float64), 1.0)
    if not full:  # the mean of the classes' blocks, weighed by nothing, times the features' outer products
        q = [(energy.features @ theta.unflatten(1, (3, -1)).mT / t).softmax(dim=-1) for t in (1.0, T)]
        blocks = [torch.diag_embed(p) - p[..., :, None] * p[..., None, :] for p in q]
        classes = (A * blocks[0] + B / T**2 * blocks[1]).mean(dim=(0, 1))
        hessian = torch.kron(classes, energy.features.T @ energy.features) + DELTA * torch.eye(size)
    torch.testing.assert_close(found, hessian, rtol=1e-4, atol=1e-4)
    vectors = torch.randn(5, size, dtype=torch.float64)
    torch.testing.assert_close(whitening.power(whitening.power(vectors, 0.5), -0.5), vectors)
    torch.testing.assert_close(
        whitening.power(whitening.power(vectors, -0.5), -0.5) @ hessian, vectors, rtol=1e-3, atol=1e-3
    )
    # in whitened coordinates: the same energy, and the gradient of differences
    potential, phi = _whitened(energy, theta, whitening), torch.randn_like(theta)
    value, gradient = potential(phi)
    torch.testing.assert_close(value, energy(theta + whitening.power(phi, -0.5))[0])
    above, below = (potential(phi + sign * 1e-5)[0] for sign in (1, -1))
    torch.testing.assert_close(gradient.sum(dim=1), (above - below) / 2e-5, rtol=1e-5, atol=1e-6)


def test_the_width_is_that_of_the_samples_by_the_curvature_at_the_ends():
    energy, *_ = problem("head")
    samples, record = sample_weights(energy, ChainSettings(**SHORT))
    size = samples.shape[2]
    hessian = energy.curvature(samples[:, -1]).power(torch.eye(size, dtype=torch.float64), 1.0)
    away = (samples - samples.mean(dim=(0, 1))).flatten(0, 1)
    expected = sum((d @ hessian @ d).item() for d in away) / len(away) / size
    assert record["width"] == pytest.approx(expected**0.5)
