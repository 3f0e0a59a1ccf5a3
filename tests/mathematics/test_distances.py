"""Distances against their papers written out one probability at a time, and against torchdistill's classes."""

import math

import pytest
import torch
from torchdistill.losses.mid_level import DISTLoss, LogitStdKDLoss

from hf_bkd import UserError
from hf_bkd.distances import DISTANCES, correlation, decoupled, distance_of, standardized
from hf_bkd.losses import distillation_loss, kl_to_target

B, C = 7, 5
PATHS = "student", "output", "teacher", "output"


@pytest.fixture
def logits():
    return torch.randn(B, C, dtype=torch.float64) * 3


@pytest.fixture
def teacher_logits():
    return torch.randn(B, C, dtype=torch.float64) * 3


@pytest.fixture
def labels():
    return torch.randint(C, (B,))


def theirs(module, logits, teacher_logits):
    return module({"student": {"output": logits}}, {"teacher": {"output": teacher_logits}}).item()


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (0.5, 2.0)])
def test_dkd_is_its_two_divergences_in_a_loop(logits, teacher_logits, labels, temperature, alpha, beta):
    target = (teacher_logits / temperature).softmax(dim=-1)
    found = decoupled(target, logits, labels, temperature, alpha, beta)
    for p, q, y, distance in zip(
        target.tolist(), (logits / temperature).softmax(-1).tolist(), labels.tolist(), found.tolist(), strict=True
    ):
        binary = kl([p[y], 1 - p[y]], [q[y], 1 - q[y]])
        others = [[each[c] / (1 - each[y]) for c in range(C) if c != y] for each in (p, q)]
        assert distance == pytest.approx(alpha * binary + beta * kl(*others), rel=1e-9)


def test_dkd_is_the_divergence_with_the_weight_that_it_has_there(logits, teacher_logits, labels):
    """KL = TCKD + (1 - p_y) NCKD, the paper's equation 6."""
    target = teacher_logits.softmax(dim=-1)
    rest = 1 - target.gather(-1, labels[:, None])[:, 0]
    parts = decoupled(target, logits, labels, 2.0, 1.0, 0.0) + rest * decoupled(target, logits, labels, 2.0, 0.0, 1.0)
    torch.testing.assert_close(parts, kl_to_target(target, logits, 2.0))


def test_dkd_without_a_label_is_the_divergence_and_certain_targets_have_finite_gradients(logits, labels):
    target = torch.eye(C, dtype=torch.float64)[labels]
    labels[2] = -100
    logits.requires_grad_()
    found = decoupled(target, logits, labels)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    torch.testing.assert_close(found[2], kl_to_target(target, logits)[2])
    torch.testing.assert_close(found, kl_to_target(target, logits))  # nothing is said about the other classes
    assert gradient.isfinite().all()


@pytest.mark.parametrize("tau", [1.0, 4.0])
@pytest.mark.parametrize(("beta", "gamma"), [(1.0, 1.0), (2.0, 0.0), (0.0, 3.0)])
def test_dist_is_torchdistills(logits, teacher_logits, tau, beta, gamma):
    module = DISTLoss(*PATHS, beta=beta, gamma=gamma, tau=tau)
    found = correlation((teacher_logits / tau).softmax(dim=-1), logits, None, tau, beta, gamma)
    assert tau**2 * found.mean().item() == pytest.approx(theirs(module, logits, teacher_logits), rel=1e-9)


def test_dist_leaves_out_positions_that_do_not_count(logits, teacher_logits):
    target = teacher_logits.softmax(dim=-1)
    expected = correlation(target[:5], logits[:5], None)
    target[5:] = 0
    torch.testing.assert_close(correlation(target, logits, None)[:5], expected)
    tokens = correlation(target.view(1, B, C), logits.view(1, B, C), None)
    torch.testing.assert_close(tokens[0, :5], expected)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_standardized_is_torchdistills_whatever_the_stored_temperature(logits, teacher_logits, temperature):
    module = LogitStdKDLoss(*PATHS, temperature=temperature, beta=9)
    expected = theirs(module, logits, teacher_logits)
    for stored_at in (1.0, 3.0):
        found = standardized((teacher_logits / stored_at).softmax(dim=-1), logits, None, temperature)
        assert found.mean().item() == pytest.approx(expected, rel=1e-5)  # its eps is not in logits' own units


def test_standardized_keeps_the_order_of_classes_of_probability_zero(logits):
    certain = torch.tensor([[1.0, 0, 0, 0, 0], [0.9, 0.1, 1e-12, 0, 0]], dtype=torch.float64)
    small = torch.tensor([[1.0, *(2.0**-25,) * 4], [0.9, 0.1, *(1e-12,) * 3]], dtype=torch.float64)
    torch.testing.assert_close(standardized(certain, logits[:2], None), standardized(small, logits[:2], None))


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("kd_lambda", [0.3, 1.0])
def test_takes_the_place_of_the_divergence(logits, teacher_logits, labels, name, kd_lambda):
    target, distance = teacher_logits.softmax(dim=-1), distance_of(name)
    each = kl_to_target(target, logits, 2.0) if distance is None else distance(target, logits, labels, 2.0)
    cross_entropy = torch.nn.functional.cross_entropy(logits, labels)
    found = distillation_loss(logits, labels, target, kd_lambda, 2.0, 4.0, distance=distance)
    torch.testing.assert_close(found.total, (1 - kd_lambda) * cross_entropy + kd_lambda * 4 * each.mean())
    same = distance_of(name) or (lambda target, logits, *_: kl_to_target(target, logits))
    low = same(target.half(), logits.half(), labels, 1.0)
    assert low.dtype == torch.float32 and low.isfinite().all()


@pytest.mark.parametrize("name", ["dkd", "dist", "standardized"])
def test_positions_that_do_not_count_cost_nothing(logits, teacher_logits, labels, name):
    target = teacher_logits.softmax(dim=-1)
    tokens, padded = (
        torch.cat([logits, torch.randn(2, C).double()])[None],
        torch.cat([target, torch.zeros(2, C)])[None],
    )
    positions = torch.cat([labels, torch.tensor([-100, -100])])[None]
    found = distillation_loss(tokens, positions, padded, 1.0, distance=distance_of(name)).total
    torch.testing.assert_close(found, distance_of(name)(target, logits, labels, 1.0).mean())


def test_an_unknown_distance_is_refused():
    with pytest.raises(UserError, match="distance is 'mse'; it must be one of kl, dkd, dist, standardized"):
        distance_of("mse")
