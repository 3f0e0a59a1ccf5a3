"""The target's equation, term by term, in float64."""

import pytest
import torch

from hf_bkd.targets import PSEUDO_DRAWS, adaptive_lambda, mix_teachers, mixed_target, noise_ratio, temper
from hf_bkd.theory import dirichlet_draws


@pytest.fixture
def logits():
    return torch.randn(3, 4, 6, dtype=torch.float64) * 4


@pytest.mark.parametrize("temperature", [0.25, 1.0, 1.5, 20.0])
def test_tempering_probabilities_is_softening_logits(logits, temperature):
    torch.testing.assert_close(
        temper(logits.softmax(dim=-1), temperature), (logits / temperature).softmax(dim=-1), rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_tempering_is_a_renormalised_power(logits, temperature):
    powers = logits.softmax(dim=-1).numpy() ** (1 / temperature)
    expected = powers / powers.sum(axis=-1, keepdims=True)
    torch.testing.assert_close(temper(logits.softmax(dim=-1), temperature), torch.from_numpy(expected))


def test_impossible_classes_stay_impossible():
    probs = torch.tensor([[0.0, 0.25, 0.75], [1.0, 0.0, 0.0]])
    for temperature in (0.5, 1.0, 8.0):
        tempered = temper(probs, temperature)
        assert torch.equal(tempered == 0, probs == 0)
        torch.testing.assert_close(tempered.sum(dim=-1), torch.ones(2))


def test_tempering_twice_is_tempering_by_the_product(logits):
    probs = logits.softmax(dim=-1)
    torch.testing.assert_close(temper(temper(probs, 2.0), 1.5), temper(probs, 3.0))


def test_teachers_are_averaged(logits):
    teachers = [(logits * k).softmax(dim=-1) for k in (0.5, 1.0, 2.0)]
    torch.testing.assert_close(mix_teachers(teachers), (teachers[0] + teachers[1] + teachers[2]) / 3)
    assert mix_teachers(teachers[:1]) is teachers[0]


def test_teachers_are_weighted_for_all_examples_or_for_each(logits):
    teachers = [(logits * k).softmax(dim=-1) for k in (0.5, 1.0)]
    fixed = mix_teachers(teachers, torch.tensor([0.2, 0.8], dtype=torch.float64))
    torch.testing.assert_close(fixed, 0.2 * teachers[0] + 0.8 * teachers[1])
    each = torch.rand(3, 4, 2, dtype=torch.float64)
    mixed = mix_teachers(teachers, each)
    for i in range(3):
        for j in range(4):
            expected = each[i, j, 0] * teachers[0][i, j] + each[i, j, 1] * teachers[1][i, j]
            torch.testing.assert_close(mixed[i, j], expected)


@pytest.mark.parametrize("shape", [(4,), (3, 4)])
def test_label_and_teacher_are_mixed_by_one_lambda_or_each_by_its_own(shape):
    teacher = torch.randn(*shape, 5, dtype=torch.float64).softmax(dim=-1)
    labels, each = torch.randint(5, shape), torch.rand(shape, dtype=torch.float64)
    for kd_lambda in (0.0, 0.3, 1.0, each):
        mixed = mixed_target(labels, teacher, kd_lambda)
        for place in torch.cartesian_prod(*(torch.arange(n) for n in shape)).reshape(-1, len(shape)).tolist():
            place = tuple(place)
            weight = float(kd_lambda[place]) if isinstance(kd_lambda, torch.Tensor) else kd_lambda
            for c in range(5):
                expected = (1 - weight) * (c == int(labels[place])) + weight * float(teacher[(*place, c)])
                assert float(mixed[(*place, c)]) == pytest.approx(expected, abs=1e-15)


def test_a_float32_teacher_gives_a_float32_target():
    mixed = mixed_target(torch.tensor([1]), torch.tensor([[0.5, 0.5]]), 0.5)
    assert mixed.dtype == torch.float32
    assert mixed.tolist() == [[0.25, 0.75]]


@pytest.fixture
def drawn():
    """Exact probabilities, and the mean and variance of S = 4 draws around them."""
    probs = torch.randn(3000, 5, dtype=torch.float64).mul(1.5).softmax(dim=-1)
    draws = dirichlet_draws(probs, 2.0, 4, torch.Generator().manual_seed(0))
    return probs, draws.mean(dim=0), draws.var(dim=0)


def test_the_variance_of_a_label_is_estimated_without_bias(drawn):
    """U and V, by their definitions from the exact probabilities: rho of Dirichlet(a p) draws is 1 / (a + 1)."""
    probs, mean, variance = drawn
    assert noise_ratio(mean, variance, 4) == pytest.approx(1 / 3, rel=0.02)
    assert noise_ratio(probs, variance, 10**9) == pytest.approx(1 / 3, rel=0.02)
    assert noise_ratio(mean, variance.sum(dim=-1), 4) == noise_ratio(mean, variance, 4)
    naive = (variance.sum() / (1 - mean.square().sum(dim=-1)).sum()).item()
    assert naive > 1.05 / 3


def test_lambda_by_example_is_written_out(drawn):
    _, mean, variance = drawn
    found = adaptive_lambda(mean, variance, 4, 0.25)
    for i in range(5):
        drawn_noise = sum(variance[i].tolist())
        label_noise = 1 - sum(p * p for p in mean[i].tolist()) + drawn_noise / 4
        ratio = (3 * drawn_noise / label_noise + PSEUDO_DRAWS * 0.25) / (3 + PSEUDO_DRAWS)
        assert found[i].item() == pytest.approx(1 / (1 + ratio / 4), rel=1e-12)
    assert torch.equal(adaptive_lambda(mean, variance.sum(dim=-1), 4, 0.25), found)


def test_lambda_by_example_stays_in_its_range_and_falls_with_the_spread():
    mean = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [1.0, 0.0]])
    variance = torch.tensor([0.0, 0.1, 9.0, 0.0])  # none, some, more than draws can have, and a teacher that is sure
    found = adaptive_lambda(mean, variance, 2, 0.5)
    assert (found >= 2 / 3).all() and (found <= 1).all()
    assert found[0] > found[1] > found[2]
    assert found[3] == pytest.approx(1 / (1 + 0.5 / 2))  # nothing of its own: the ratio of all
    assert adaptive_lambda(mean, variance, 10**6, 0.5).min() > 0.9999
    sure = torch.tensor([[1.0, 0.0]])
    assert noise_ratio(sure, torch.zeros(1), 5) == 0.0


def test_one_draw_has_no_variance():
    with pytest.raises(ValueError, match="num_samples must be at least 2, .* it is 1"):
        adaptive_lambda(torch.ones(1, 2) / 2, torch.zeros(1, 2), 1, 0.5)
