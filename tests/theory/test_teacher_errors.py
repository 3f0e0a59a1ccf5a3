"""Errors of a teacher: parameters' covariances by hand, moved minima by scipy, floors by Lyapunov's equations."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import solve_discrete_lyapunov
from scipy.optimize import minimize
from torch import nn

from hf_bkd.theory import (
    GaussianMixture,
    covariance_of_mean,
    displacement,
    displacement_risk,
    excess_risk_floor,
    gradient_noise,
    kept_draw_risk,
    mean_pull,
    nearest_student,
    one_hot_covariance,
    parameter_covariance,
    score_gram,
    teacher_errors,
)
from hf_bkd.utils.errors import UserError

N, C, D = 70, 3, 2


class Named(nn.Module):
    """Takes a dict, and has a frozen bias."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(D, 4), nn.Linear(4, C)
        self.head.bias.requires_grad_(False)

    def forward(self, inputs):
        return self.head(torch.tanh(self.body(inputs["x"])))


@pytest.fixture
def world():
    """An exact linear student, points and their probabilities."""
    generator = torch.Generator().manual_seed(4)
    task = GaussianMixture(torch.randn(C, D, generator=generator), torch.eye(D))
    x, _ = task.sample(N, generator)
    student = nn.Linear(D, C).double()
    student.weight.data, student.bias.data = task.linear_student()
    return student, x, task.posterior(x)


def jacobians(network, inputs, logits) -> torch.Tensor:
    """d logits / d theta [N, C, p] by one backward pass for each number."""
    trained = [p for p in network.parameters() if p.requires_grad]
    rows = [torch.autograd.grad(value, trained, retain_graph=True) for value in logits.flatten()]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]).unflatten(0, logits.shape)


def risk(student, x, probs) -> float:
    with torch.no_grad():
        return F.kl_div(student(x).log_softmax(dim=-1), probs, reduction="batchmean").item()


def test_covariances_and_pulls_are_those_of_jacobians_by_autograd():
    network = Named().double()
    inputs = {"x": torch.randn(N, D, dtype=torch.float64)}
    by_hand = jacobians(network, inputs, network(inputs))
    root = torch.randn(N, C, C, dtype=torch.float64)
    covariance, errors = root @ root.mT, torch.randn(2, N, C, dtype=torch.float64)
    expected = torch.einsum("nkp,nkl,nlq->pq", by_hand, covariance, by_hand) / N
    torch.testing.assert_close(parameter_covariance(network, inputs, covariance), expected)
    pulls = torch.einsum("nkp,snk->sp", by_hand, errors) / N
    torch.testing.assert_close(mean_pull(network, inputs, errors), pulls)
    torch.testing.assert_close(mean_pull(network, inputs, errors[0]), pulls[0])
    assert all(p.grad is None for p in network.parameters())


def test_the_trace_of_the_labels_covariance_is_the_noise_of_per_example_gradients(world):
    student, x, probs = world
    covariance = one_hot_covariance(probs)
    noise = parameter_covariance(student, x, covariance).trace().item()
    assert noise == pytest.approx(gradient_noise(score_gram(student, x), covariance), rel=1e-10)


def test_the_hessian_of_a_linear_student_is_autograds(world):
    student, x, probs = world
    off = (probs + 0.3).log().softmax(dim=-1)  # for a linear student the target does not matter

    def loss(theta):
        weight, bias = theta[: C * D].view(C, D), theta[C * D :]
        return F.cross_entropy(x @ weight.T + bias, off)

    theta = torch.cat([student.weight.flatten(), student.bias]).detach()
    hessian = torch.autograd.functional.hessian(loss, theta)
    torch.testing.assert_close(parameter_covariance(student, x, one_hot_covariance(probs)), hessian)


def test_the_nearest_student_is_scipys_minimum(world):
    student, x, probs = world
    start = {name: value.clone() for name, value in student.state_dict().items()}
    targets = 0.5 * probs.roll(1, dims=-1) + 0.5 / C
    inputs, wanted = torch.cat([x, torch.ones(N, 1)], dim=1).numpy(), targets.numpy()

    def loss(theta):
        logits = inputs @ theta.reshape(D + 1, C)
        return -(wanted * (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))).sum(axis=1).mean()

    best = minimize(loss, np.zeros((D + 1) * C), tol=1e-12)
    nearest = nearest_student(student, x, targets)
    with torch.no_grad():
        actual = -(targets * nearest(x).log_softmax(dim=-1)).sum(dim=-1).mean().item()
        torch.testing.assert_close(
            nearest(x).softmax(dim=-1),
            torch.from_numpy(inputs @ best.x.reshape(D + 1, C)).softmax(dim=-1),
            atol=1e-4,
            rtol=0,
        )
    assert actual == pytest.approx(best.fun, abs=1e-9) and actual <= best.fun + 1e-12
    assert all(torch.equal(value, start[name]) for name, value in student.state_dict().items())


def test_a_step_that_is_no_number_ends_the_search(world, monkeypatch):
    student, x, probs = world
    monkeypatch.setattr(teacher_errors, "displacement", lambda hessian, pull: pull * torch.nan)
    with pytest.raises(UserError, match="no minimum was reached"):
        nearest_student(student, x, 0.9 * probs + 0.1 / C)


def test_a_student_in_single_precision_settles_at_the_same_place(world):
    student, x, probs = world
    targets = 0.9 * probs + 0.1 / C
    exact, x32 = nearest_student(student, x, targets), x.float()
    single = nearest_student(nn.Linear(D, C), x32, targets.float())
    torch.testing.assert_close(single(x32).softmax(dim=-1).double(), exact(x).softmax(dim=-1), atol=2e-3, rtol=0)
    hessian, pull = parameter_covariance(single, x32, one_hot_covariance(targets.float())), (targets - probs).float()
    cost = displacement_risk(hessian, mean_pull(single, x32, pull))
    double = parameter_covariance(exact, x, one_hot_covariance(targets))
    assert cost == pytest.approx(displacement_risk(double, mean_pull(exact, x, targets - probs)), rel=0.01)


def test_targets_that_only_infinite_weights_reach_have_no_nearest_student(world):
    student, x, probs = world
    certain = F.one_hot((x[:, 0] > 0).long(), C).double()
    with pytest.raises(ValueError, match="no minimum was reached in 15 steps"):
        nearest_student(student, x, certain, steps=15)


@pytest.mark.parametrize("size", [0.1, 0.01])
def test_a_bias_costs_its_square_in_the_metric_of_the_risk(world, size):
    student, x, probs = world
    u = torch.stack([x[:, 0].sin(), x[:, 1], x[:, 0] * x[:, 1]], dim=1)
    bias = size * probs * (u - (probs * u).sum(dim=1, keepdim=True)) / 4
    hessian = parameter_covariance(student, x, one_hot_covariance(probs))
    predicted = displacement_risk(hessian, mean_pull(student, x, bias))
    moved = nearest_student(student, x, probs + bias)
    assert predicted == pytest.approx(risk(moved, x, probs), rel=0.5 * size)  # a cubic term is what is missing


def test_a_bias_that_no_parameter_follows_moves_nothing_and_stays_as_noise(world):
    student, x, probs = world
    by_hand = jacobians(student, x, student(x))
    basis = by_hand.permute(1, 0, 2).reshape(C * N, -1)
    error = torch.randn(C * N, dtype=torch.float64)
    error -= basis @ torch.linalg.lstsq(basis, error, driver="gelsd").solution
    error = 1e-3 * error.view(C, N).T
    hessian = parameter_covariance(student, x, one_hot_covariance(probs))
    assert displacement_risk(hessian, mean_pull(student, x, error)) < 1e-20
    own = parameter_covariance(student, x, error[:, :, None] * error[:, None])
    assert own.trace().item() == pytest.approx(torch.einsum("nkp,nk->np", by_hand, error).square().sum().item() / N)


def test_second_moments_cost_the_mean_of_their_pulls():
    root = torch.randn(4, 4, dtype=torch.float64)
    hessian, pulls = root @ root.T, torch.randn(30, 4, dtype=torch.float64)
    singly = [displacement_risk(hessian, pull) for pull in pulls]
    assert displacement_risk(hessian, pulls.T @ pulls / 30) == pytest.approx(sum(singly) / 30)
    assert singly[0] == pytest.approx((pulls[0] @ torch.linalg.solve(hessian, pulls[0])).item() / 2)
    torch.testing.assert_close(displacement(hessian, pulls), torch.linalg.solve(hessian, pulls.T).T)


def test_flat_directions_are_left_out():
    """One curvature of 2 and one of 0: g = (3, 5) costs 3^2 / 2 / 2."""
    hessian = torch.diag(torch.tensor([2.0, 0.0], dtype=torch.float64))
    assert displacement_risk(hessian, torch.tensor([3.0, 5.0], dtype=torch.float64)) == pytest.approx(2.25)


def test_the_mean_of_n_examples_under_one_draw_keeps_what_they_share():
    """All pairs of five examples whose errors are drawn together, with replacement."""
    root = torch.randn(5, 5, dtype=torch.float64)
    kernel, jacobian = root @ root.T, torch.randn(5, 3, dtype=torch.float64)
    own = torch.einsum("np,n,nq->pq", jacobian, kernel.diagonal(), jacobian) / 5
    common = jacobian.T @ kernel @ jacobian / 25
    pairs = torch.zeros(3, 3, dtype=torch.float64)
    for i in range(5):
        for j in range(5):
            together = jacobian[[i, j]] / 2
            pairs += together.T @ kernel[[i, j]][:, [i, j]] @ together / 25
    torch.testing.assert_close(covariance_of_mean(own, common, 2), pairs)
    torch.testing.assert_close(covariance_of_mean(own, common, 1), own)
    torch.testing.assert_close(covariance_of_mean(own, common, 10**9), common)


@pytest.fixture
def quadratic():
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    hessian = rotation @ torch.diag(torch.tensor([0.1, 0.7, 2.0], dtype=torch.float64)) @ rotation.T
    root = torch.randn(3, 3, dtype=torch.float64)
    return hessian, root @ root.T


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_kept_draw_costs_what_lyapunovs_equation_says(quadratic, steps):
    hessian, common = (each.numpy() for each in quadratic)
    rate, one = 0.2, np.eye(3)
    decay = one - rate * hessian

    def after(kept, covariance):  # theta = decay^kept theta_0 + H^-1 (1 - decay^kept) g
        power = np.linalg.matrix_power(decay, kept)
        moved = np.linalg.solve(hessian, one - power)
        return power @ covariance @ power.T + moved @ common @ moved.T

    power = np.linalg.matrix_power(decay, steps)
    moved = np.linalg.solve(hessian, one - power)
    start = solve_discrete_lyapunov(power, moved @ common @ moved.T)
    expected = np.mean([np.trace(hessian @ after(j, start)) / 2 for j in range(1, steps + 1)])
    assert kept_draw_risk(*quadratic, rate, steps) == pytest.approx(expected)


def test_kept_draws_lie_between_the_floor_and_the_bias(quadratic):
    hessian, common = quadratic
    floor, stored = excess_risk_floor(common.trace().item(), 1e-4), displacement_risk(hessian, common)
    assert kept_draw_risk(hessian, common, 1e-4, 1) == pytest.approx(floor, rel=1e-3)
    assert kept_draw_risk(hessian, common, 0.2, math.inf) == stored
    assert kept_draw_risk(hessian, common, 0.2, 100_000) == pytest.approx(stored, rel=1e-2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n, x, p: parameter_covariance(n, x, p), r"covariance must have the shape \[70, 3, 3\]"),
        (
            lambda n, x, p: parameter_covariance(n, x, torch.ones(N, 2, 2)),
            r"covariance must have the shape \[70, 3, 3\]",
        ),
        (lambda n, x, p: mean_pull(n, x, p[:5]), r"errors must have the shape \[any, 70, 3\]"),
        (lambda n, x, p: nearest_student(n, x, p + 0.1), "targets must sum to one"),
        (lambda n, x, p: covariance_of_mean(torch.eye(2), torch.eye(2), 0), "count must be a whole number"),
        (lambda n, x, p: kept_draw_risk(torch.eye(2), torch.eye(2), 0.1, 0), "steps must be a whole number"),
        (lambda n, x, p: kept_draw_risk(torch.eye(2), torch.eye(2), 2.5, 5), "learning_rate must be below 2, .* 2.5"),
    ],
)
def test_bad_input_is_named(world, call, message):
    with pytest.raises(ValueError, match=message):
        call(*world)
