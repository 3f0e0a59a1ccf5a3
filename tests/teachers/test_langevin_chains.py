"""Langevin chains against posteriors that are known exactly."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from hf_bkd import UserError
from hf_bkd.teachers.langevin_dynamics import langevin, largest_curvature


def generators(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + i) for i in range(count)]


def by_autograd(energy):
    """A potential whose gradient autograd finds."""

    def potential(theta: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            theta = theta.detach().requires_grad_()
            value = energy(theta)
            return value.detach(), torch.autograd.grad(value.sum(), theta)[0]

    return potential


def regression():
    """A Bayesian linear regression's potential, and its posterior's mean [3] and covariance [3, 3]."""
    torch.manual_seed(1)
    x = torch.randn(40, 3, dtype=torch.float64)
    y = x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + 0.7 * torch.randn(40, dtype=torch.float64)
    covariance = torch.linalg.inv(x.T @ x / 0.49 + 2 * torch.eye(3, dtype=torch.float64))

    def energy(theta):
        return (theta @ x.T - y).square().sum(dim=1) / 0.98 + theta.square().sum(dim=1)

    return by_autograd(energy), covariance @ x.T @ y / 0.49, covariance


def coin(heads: int = 3, tails: int = 9):
    """The potential of a coin's log odds under the posterior Beta(1 + heads, 1 + tails)."""
    return by_autograd(lambda theta: (heads + tails + 2) * softplus(theta[:, 0]) - (heads + 1) * theta[:, 0])


def independent(potential, copies: int):
    """The potential of as many copies side by side, [K, copies * P]."""

    def together(theta: Tensor) -> tuple[Tensor, Tensor]:
        energy, gradient = potential(theta.reshape(len(theta) * copies, -1))
        return energy.view(len(theta), copies).sum(dim=1), gradient.view_as(theta)

    return together


def quadrature(potential, temperature):
    """Mean [1] and variance [1, 1] of a posterior in one dimension."""
    grid = torch.linspace(-15, 10, 200_001, dtype=torch.float64)
    weights = torch.softmax(-potential(grid[:, None])[0] / temperature, dim=0)
    mean = (weights * grid).sum()
    return mean[None], ((grid - mean).square() * weights).sum()[None, None]


@pytest.mark.parametrize(
    ("problem", "metropolis", "temperature", "leapfrogs"),
    [
        ("normal", False, 1.0, 1),
        ("normal", True, 0.25, 1),
        ("Bernoulli", False, 0.25, 1),
        ("Bernoulli", True, 1.0, 1),
        ("normal", True, 0.25, 5),
        ("Bernoulli", True, 1.0, 3),
    ],
)
def test_mean_and_covariance_are_those_of_the_conjugate_posterior(problem, metropolis, temperature, leapfrogs):
    if problem == "Bernoulli":
        potential = coin()
        mean, covariance = quadrature(potential, temperature)
    else:
        potential, mean, covariance = regression()
        covariance = temperature * covariance
    chains, copies, share = (100, 1, 0.8) if metropolis else (4, 500, 0.05)
    samples = langevin(
        independent(potential, copies),
        mean.repeat(copies).expand(chains, -1),
        share / largest_curvature(potential, mean[None]),
        steps=400,
        burn_in=100,
        thinning=5,
        generators=generators(chains),
        temperature=temperature,
        metropolis=metropolis,
        leapfrogs=leapfrogs,
    ).samples.reshape(-1, len(mean))
    spread = covariance.diagonal().sqrt()
    torch.testing.assert_close(samples.var(dim=0), covariance.diagonal(), rtol=0.05, atol=0)
    assert ((samples.mean(dim=0) - mean).abs() < 0.05 * spread).all()
    correlation = torch.cov(samples.T).reshape(covariance.shape) / torch.outer(spread, spread)
    torch.testing.assert_close(correlation, covariance / torch.outer(spread, spread), rtol=0, atol=0.05)


def test_metropolis_removes_the_bias_of_a_large_step_and_plain_steps_have_the_one_foretold():
    def potential(theta):
        return theta.square().sum(dim=1) / 2, theta

    start, variance = torch.zeros(200, 1, dtype=torch.float64), {}
    for metropolis in (False, True):
        options = {
            "steps": 240,
            "burn_in": 40,
            "thinning": 10,
            "generators": generators(200),
            "metropolis": metropolis,
        }
        chains = langevin(potential, start, 0.5, **options)
        variance[metropolis] = chains.samples.var().item()
    assert variance[False] == pytest.approx(1 / (1 - 0.5 / 2), rel=0.05)
    assert variance[True] == pytest.approx(1, rel=0.05)
    assert 0.5 < chains.acceptance.mean() < 0.65 and chains.step_size.std() > 0  # each chain adapts its own


@pytest.mark.parametrize("tau", [8e-8, 0.01])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_the_noise_has_the_deviation_root_two_tau(tau, temperature):
    chains = langevin(
        lambda theta: (theta.sum(dim=1) * 0, theta * 0),
        torch.zeros(4, 20_000, dtype=torch.float64),
        tau,
        steps=2,
        generators=generators(4),
        temperature=temperature,
    )
    moves = chains.samples.diff(dim=1, prepend=torch.zeros(4, 1, 20_000))
    assert moves.std().item() == pytest.approx(math.sqrt(2 * tau * temperature), rel=0.01)
    assert torch.corrcoef(moves.flatten(0, 1)).fill_diagonal_(0).abs().max() < 0.04  # of other chains, and steps


@pytest.mark.parametrize("metropolis", [False, True])
def test_chains_at_once_are_the_chains_one_after_the_other(metropolis):
    potential, mean, _ = regression()
    options = {"steps": 40, "burn_in": 10, "thinning": 3, "metropolis": metropolis}
    together = langevin(potential, mean.expand(5, -1), 2e-3, generators=generators(5), **options)
    for i in range(5):
        alone = langevin(potential, mean[None], 2e-3, generators=generators(1, i), **options)
        for ours, its in zip(together, alone, strict=True):
            assert ours is its is None or torch.allclose(ours[i], its[0], rtol=0, atol=1e-12)
    assert together.samples.std(dim=0).min() > 0


@pytest.mark.parametrize(("burn_in", "thinning"), [(0, 1), (7, 1), (0, 3), (4, 5), (19, 1), (5, 15)])
def test_the_samples_kept_are_those_that_burn_in_and_thinning_leave(burn_in, thinning):
    def counting(theta):  # a unit gradient and no noise to speak of: theta counts the steps
        return theta.sum(dim=1), -torch.ones_like(theta) / 1e-20

    chains = langevin(
        counting,
        torch.zeros(2, 1, dtype=torch.float64),
        1e-20,
        steps=20,
        burn_in=burn_in,
        thinning=thinning,
        generators=generators(2),
    )
    expected = [float(step) for step in range(burn_in + thinning, 21, thinning)]
    torch.testing.assert_close(chains.samples[0, :, 0], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


def test_the_largest_curvature_is_the_hessians():
    potential, mean, covariance = regression()
    assert largest_curvature(potential, mean[None]) == pytest.approx(1 / torch.linalg.eigvalsh(covariance)[0].item())


@pytest.mark.parametrize("metropolis", [False, True])
def test_a_step_that_is_far_too_large_is_named_or_made_smaller(metropolis):
    potential, mean, covariance = regression()
    options = {"steps": 600, "burn_in": 300, "generators": generators(30), "metropolis": metropolis}
    if not metropolis:
        with pytest.raises(UserError, match="a chain diverged: step_size 10 is too large"):
            langevin(potential, mean.expand(30, -1), 10.0, **options)
        return
    chains = langevin(potential, mean.expand(30, -1), 10.0, **options)
    torch.testing.assert_close(chains.samples.flatten(0, 1).var(dim=0), covariance.diagonal(), rtol=0.1, atol=0)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"step_size": 0}, "step_size must be above 0 and finite, and it is 0"),
        ({"step_size": math.nan}, "step_size must be above 0"),
        ({"temperature": -1.0}, "temperature must be above 0 and finite, and it is -1"),
        ({"steps": 0}, "steps must be a whole number of at least 1, and it is 0"),
        ({"thinning": 0}, "thinning must be a whole number of at least 1, and it is 0"),
        ({"burn_in": 10}, "burn_in must be at least 0 and below the number of steps, 10, and it is 10"),
        ({"burn_in": -1}, "burn_in must be at least 0 .* and it is -1"),
        ({"burn_in": 5, "thinning": 6}, "thinning is 6, and only 5 steps follow the burn-in"),
        ({"generators": generators(3)}, r"start must have the shape \[3, any\], and it has \[2, 3\]"),
        ({"generators": []}, r"start must have the shape \[0, any\]"),
    ],
)
def test_bad_arguments_are_refused_by_name(changed, words):
    potential, mean, _ = regression()
    arguments = {"step_size": 1e-3, "steps": 10, "generators": generators(2)} | changed
    with pytest.raises(UserError, match=words):
        langevin(potential, mean.expand(2, -1), **arguments)
