"""The target's equation, term by term, in float64."""

import pytest
import torch

from hf_bkd.targets import (
    PSEUDO_DRAWS,
    adaptive_lambda,
    entropy_weights,
    inverse_variance_weights,
    mix_teachers,
    mixed_target,
    mixture_energy,
    mixture_responsibilities,
    noise_ratio,
    temper,
)
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
def test_tempering_is_a_renormalized_power(logits, temperature):
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
    torch.testing.assert_close(mix_teachers(torch.stack(teachers, dim=-2)), sum(teachers) / 3)
    assert torch.equal(mix_teachers(teachers[0].unsqueeze(-2)), teachers[0])


def test_teachers_are_weighted_for_all_examples_or_for_each(logits):
    teachers = [(logits * k).softmax(dim=-1) for k in (0.5, 1.0)]
    stacked = torch.stack(teachers, dim=-2)
    fixed = mix_teachers(stacked, torch.tensor([0.2, 0.8], dtype=torch.float64))
    torch.testing.assert_close(fixed, 0.2 * teachers[0] + 0.8 * teachers[1])
    each = torch.rand(3, 4, 2, dtype=torch.float64)
    mixed = mix_teachers(stacked, each)
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


def random_teachers(teachers: int, classes: int, examples: int = 4, **how) -> torch.Tensor:
    return torch.randn(examples, teachers, classes, **how).mul(2).softmax(dim=-1)


def test_entropy_weights_are_the_released_codes_for_two_and_sum_to_one_for_more():
    probs = random_teachers(2, 5, dtype=torch.float64)
    entropies = torch.distributions.Categorical(probs).entropy()
    expected = entropies.flip(dims=[-1]) / entropies.sum(dim=-1, keepdim=True)  # w_1 = H_2 / (H_1 + H_2)
    torch.testing.assert_close(entropy_weights(probs), expected)
    several = entropy_weights(random_teachers(4, 5, dtype=torch.float64))
    torch.testing.assert_close(several.sum(dim=-1), torch.ones(4, dtype=torch.float64))
    entropies = torch.distributions.Categorical(probs := random_teachers(4, 5)).entropy()
    assert torch.equal(entropy_weights(probs).argsort(dim=-1), entropies.argsort(dim=-1, descending=True))
    assert torch.equal(entropy_weights(random_teachers(1, 5)), torch.ones(4, 1))
    certain = torch.eye(3)[None, :2]
    assert torch.equal(entropy_weights(certain), torch.full((1, 2), 0.5))
    torch.testing.assert_close(
        entropy_weights(torch.stack([certain[0, 0], torch.ones(3) / 3])), torch.tensor([1.0, 0])
    )


def test_inverse_variance_weights():
    variances = torch.tensor([[0.1, 0.2, 0.4], [1e-30, 1.0, 1.0], [0.0, 0.0, 1.0]])
    expected = torch.tensor([[4 / 7, 2 / 7, 1 / 7], [1, 0, 0], [0.5, 0.5, 0]])
    torch.testing.assert_close(inverse_variance_weights(variances), expected)


@pytest.mark.parametrize("strength", [0.5, 5.0, 100.0])
@pytest.mark.parametrize("weighted", [True, False])
def test_the_mixture_is_that_of_torchs_dirichlets_and_its_gradient_distils_towards_their_mean(strength, weighted):
    """arXiv 2605.27967's prior: -log sum_m w_m Dir(q; 1 + s p_m), and d/dz = s (q - sum_m r_m p_m)."""
    logits = torch.randn(4, 6, dtype=torch.float64)
    probs = random_teachers(3, 6, dtype=torch.float64)
    weights = torch.rand(4, 3, dtype=torch.float64).softmax(dim=-1) if weighted else None

    def energy(logits):
        return mixture_energy(logits.log_softmax(dim=-1), probs, weights, strength)

    q = logits.softmax(dim=-1)
    densities = torch.distributions.Dirichlet(1 + strength * probs).log_prob(q[:, None].expand_as(probs)).exp()
    each = (torch.full((4, 3), 1 / 3) if weights is None else weights) * densities
    torch.testing.assert_close(energy(logits), -each.sum(dim=-1).log())
    responsibilities = mixture_responsibilities(q.log(), probs, weights, strength)
    torch.testing.assert_close(responsibilities, each / each.sum(dim=-1, keepdim=True))
    expected = strength * (q - mix_teachers(probs, responsibilities))
    step = 1e-5
    for k in range(6):
        shift = torch.zeros(6, dtype=torch.float64)
        shift[k] = step
        slope = (energy(logits + shift) - energy(logits - shift)) / (2 * step)
        torch.testing.assert_close(slope, expected[:, k], rtol=1e-6, atol=1e-6)


def test_one_teacher_makes_the_mixture_plain_distillation_up_to_a_constant():
    probs, logits = random_teachers(1, 6, dtype=torch.float64), torch.randn(50, 4, 6, dtype=torch.float64)
    log_q = logits.log_softmax(dim=-1)
    distillation = -5.0 * (probs[:, 0] * log_q).sum(dim=-1)
    assert (mixture_energy(log_q, probs, None, 5.0) - distillation).std(dim=0).max() < 1e-12


def test_a_strong_mixture_of_many_classes_stays_finite_in_float32():
    logits = torch.randn(8, 1000) * 20
    probs = torch.cat([random_teachers(2, 1000, 8), torch.eye(1000)[:8, None]], dim=1)
    log_q = logits.log_softmax(dim=-1)
    found = mixture_responsibilities(log_q, probs, None, 100.0)
    exact = mixture_responsibilities(log_q.double(), probs.double(), None, 100.0)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-3)
    assert mixture_energy(log_q, probs, None, 100.0).isfinite().all()


def test_where_strong_teachers_disagree_the_winner_takes_all():
    probs = torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05]], dtype=torch.float64)
    weights = torch.tensor([0.6, 0.4], dtype=torch.float64)

    def settled(strength: float, start: list[float]) -> list[float]:
        logits = torch.tensor(start, dtype=torch.float64)
        for _ in range(400):
            responsibilities = mixture_responsibilities(logits.log_softmax(dim=-1), probs, weights, strength)
            logits = logits - 2 * (logits.softmax(dim=-1) - mix_teachers(probs, responsibilities))
        return logits.softmax(dim=-1).tolist()

    for start in ([3.0, 0, 0], [0, 3.0, 0]):  # what was measured when the identity was derived
        assert settled(1.0, start) == pytest.approx([0.75, 0.20, 0.05], abs=0.01)
    assert settled(5.0, [3.0, 0, 0]) == pytest.approx([0.9, 0.05, 0.05], abs=0.01)
    assert settled(5.0, [0, 3.0, 0]) == pytest.approx([0.05, 0.9, 0.05], abs=0.01)
