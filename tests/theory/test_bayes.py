"""Exact class probabilities against scipy's densities, and noise around them against its stated moments."""

import numpy as np
import pytest
import torch
from scipy import stats

from hf_bkd.theory import GaussianMixture, additive_draws, dirichlet_draws, one_hot_covariance, sample_labels
from hf_bkd.utils.random import ExampleGenerator

MEANS = torch.tensor([[0.0, 1.0, -1.0], [1.0, 0.5, 0.0], [-1.0, 0.0, 2.0], [0.3, 0.3, 0.3]], dtype=torch.float64)
PRIORS = torch.tensor([0.1, 0.2, 0.3, 0.4])


def covariances(number: int) -> torch.Tensor:
    roots = torch.randn(number, 3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return roots @ roots.mT + 0.5 * torch.eye(3)


SHARED, PER_CLASS = covariances(1)[0], covariances(4)


@pytest.mark.parametrize("covariance", [SHARED, PER_CLASS])
@pytest.mark.parametrize("priors", [None, PRIORS])
def test_probabilities_are_bayes_rule_of_scipys_densities(covariance, priors):
    task = GaussianMixture(MEANS, covariance, priors)
    x, _ = task.sample(50, torch.Generator().manual_seed(0))
    each = covariance.expand(4, 3, 3).numpy()
    weights = np.full(4, 0.25) if priors is None else priors.numpy()
    joint = np.stack(
        [w * stats.multivariate_normal(m, c).pdf(x) for w, m, c in zip(weights, MEANS, each, strict=True)], 1
    )
    np.testing.assert_allclose(task.posterior(x), joint / joint.sum(axis=1, keepdims=True), rtol=1e-6)
    assert task.posterior(x.float()).dtype == torch.float32


@pytest.mark.parametrize("covariance", [SHARED, PER_CLASS])
def test_samples_have_the_stated_moments_and_labels(covariance):
    task = GaussianMixture(MEANS, covariance, PRIORS)
    x, y = task.sample(60_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.bincount(y) / len(y), PRIORS, rtol=0, atol=5e-3)
    for label, (mean, cov) in enumerate(zip(MEANS, covariance.expand(4, 3, 3), strict=True)):
        torch.testing.assert_close(x[y == label].mean(dim=0), mean, rtol=0, atol=0.08)
        torch.testing.assert_close(x[y == label].T.cov(), cov, rtol=0.05, atol=0.08)
    picked = task.posterior(x)  # calibrated: among points of class probability p, a share p has the class
    for label in range(4):
        assert picked[:, label].mean().item() == pytest.approx((y == label).double().mean().item(), abs=5e-3)


def test_the_linear_student_is_exact_and_there_is_none_for_different_covariances():
    task = GaussianMixture(MEANS, SHARED, PRIORS)
    x = torch.randn(30, 3, dtype=torch.float64) * 3
    weight, bias = task.linear_student()
    torch.testing.assert_close((x @ weight.T + bias).softmax(dim=-1), task.posterior(x), rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="exact linear student"):
        GaussianMixture(MEANS, PER_CLASS).linear_student()


def test_labels_are_drawn_from_their_probabilities():
    probs = torch.tensor([[[0.5, 0.3, 0.2], [0.0, 1.0, 0.0]]]).expand(50_000, 2, 3)
    labels = sample_labels(probs, torch.Generator().manual_seed(0))
    assert labels.shape == (50_000, 2)
    shares = torch.nn.functional.one_hot(labels).double().mean(dim=0)
    torch.testing.assert_close(shares, probs[0].double(), rtol=0, atol=0.01)


@pytest.mark.parametrize("concentration", [0.5, 5.0, 50.0])
def test_dirichlet_draws_have_mean_p_and_covariance_over_a_plus_1(concentration):
    probs = torch.tensor([[0.6, 0.3, 0.08, 0.02], [1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    draws = dirichlet_draws(probs, concentration, 40_000, torch.Generator().manual_seed(0))
    assert (draws >= 0).all()
    torch.testing.assert_close(draws.sum(dim=-1), torch.ones(40_000, 2, dtype=torch.float64))
    torch.testing.assert_close(draws.mean(dim=0), probs, rtol=0, atol=8e-3)
    expected = one_hot_covariance(probs[0]) / (concentration + 1)
    torch.testing.assert_close(draws[:, 0].T.cov(), expected, rtol=0.05, atol=5e-4)
    first = draws[::4, 0, 0].numpy()
    assert stats.kstest(first, stats.beta(concentration * 0.6, concentration * 0.4).cdf).pvalue > 0.01


def test_additive_draws_are_independent_normals_around_p():
    probs = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64)
    draws = additive_draws(probs, 0.04, 100_000, torch.Generator().manual_seed(0))[:, 0]
    torch.testing.assert_close(draws.mean(dim=0), probs[0], rtol=0, atol=3e-3)
    torch.testing.assert_close(draws.T.cov(), 0.04 * torch.eye(3, dtype=torch.float64), rtol=0.03, atol=6e-4)


@pytest.mark.parametrize("draw", [dirichlet_draws, additive_draws])
def test_an_examples_draws_are_its_own_in_whatever_batch(draw):
    ids, probs = torch.arange(6), torch.rand(6, 3).softmax(dim=-1)
    whole = draw(probs, 2.0, 4, ExampleGenerator(ids, seed=5))
    some = torch.tensor([4, 1])
    torch.testing.assert_close(draw(probs[some], 2.0, 4, ExampleGenerator(ids[some], seed=5)), whole[:, some])
    assert not torch.allclose(draw(probs, 2.0, 4, ExampleGenerator(ids, seed=6)), whole)


P = torch.tensor([[0.5, 0.5]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GaussianMixture(MEANS[0], SHARED), r"means must have the shape \[any, any\], and it has \[3\]"),
        (lambda: GaussianMixture(MEANS, SHARED[:2, :2]), r"covariance must have the shape \[3, 3\]"),
        (lambda: GaussianMixture(MEANS, PER_CLASS[:3]), r"covariance must have the shape \[4, 3, 3\]"),
        (
            lambda: GaussianMixture(MEANS, -SHARED),
            "covariance must be positive definite, and its least eigenvalue is -",
        ),
        (lambda: GaussianMixture(MEANS, SHARED.triu()), "covariance must be symmetric"),
        (
            lambda: GaussianMixture(MEANS, SHARED, PRIORS * 2),
            "priors must sum to one over the classes, and one row sums to 2",
        ),
        (lambda: GaussianMixture(MEANS, SHARED, PRIORS[:2]), r"priors must have the shape \[4\]"),
        (lambda: GaussianMixture(MEANS, SHARED).sample(0), "count must be a whole number of at least 1, and it is 0"),
        (lambda: sample_labels(2 * P), "probs must sum to one .* sums to 2"),
        (lambda: sample_labels(torch.tensor([[1.5, -0.5]])), "probs must be at least 0 everywhere, .* -0.5"),
        (lambda: dirichlet_draws(P, 0.0, 1), "concentration must be above 0 and finite, and it is 0"),
        (lambda: dirichlet_draws(P, 1.0, 0), "num_samples must be a whole number of at least 1, and it is 0"),
        (lambda: dirichlet_draws(P * float("nan"), 1.0, 1), "probs must be at least 0 everywhere, .* nan"),
        (lambda: additive_draws(P, -0.1, 1), "variance must be above 0 and finite, and it is -0.1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
