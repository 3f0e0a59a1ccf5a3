"""The Dirichlet against torch's own distribution, draw by draw, and against values computed by hand."""

import math

import pytest
import torch
from torch.distributions import Dirichlet, kl_divergence

from hf_bkd import UserError
from hf_bkd.dirichlet import (
    LEAST,
    check_log_probs,
    dirichlet_parts,
    dirichlet_variance,
    matched_log_probs,
    mean_log_probs,
    negative_log_likelihood,
    student_loss,
)
from hf_bkd.likelihoods import CATEGORICAL
from hf_bkd.losses import distillation_loss
from hf_bkd.uncertainty import entropy_parts

S, B, C = 6, 5, 4


@pytest.fixture
def logits():
    return torch.randn(B, C, dtype=torch.float64) * 2


@pytest.fixture
def draws():
    return (torch.randn(S, B, C, dtype=torch.float64) * 3).softmax(dim=-1)


def test_the_loss_is_the_mean_density_of_explicit_draws(logits, draws):
    expected = -Dirichlet(logits.exp()).log_prob(draws).mean(dim=0)
    assert negative_log_likelihood(draws.log().mean(dim=0), logits) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    single = student_loss(mean_log_probs(draws).float(), logits.float())
    assert single.dtype == torch.float32
    assert single == pytest.approx(expected, rel=1e-6, abs=1e-5)


def test_draws_that_weigh_differently(logits, draws):
    weights = torch.rand(S, B, dtype=torch.float64).softmax(dim=0)
    expected = -(weights * Dirichlet(logits.exp()).log_prob(draws)).sum(dim=0)
    assert negative_log_likelihood(mean_log_probs(draws, weights), logits) == pytest.approx(expected, rel=1e-9)


def test_its_gradient_vanishes_where_expected_logarithms_are_the_draws(logits):
    alpha = logits.exp()
    known = torch.digamma(alpha) - torch.digamma(alpha.sum(dim=-1, keepdim=True))
    z = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(negative_log_likelihood(known, z).sum(), z)
    assert gradient.abs().max() < 1e-9
    elsewhere = z.detach() + 0.3 * torch.randn(B, C, dtype=torch.float64)
    more = negative_log_likelihood(known, elsewhere) - negative_log_likelihood(known, logits)
    assert more == pytest.approx(kl_divergence(Dirichlet(alpha), Dirichlet(elsewhere.exp())), rel=1e-6)


def test_a_probability_of_zero_counts_as_the_least_one():
    certain = torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]]])
    expected = [[math.log(0.5) / 2, (math.log(LEAST) + math.log(0.5)) / 2]]
    assert mean_log_probs(certain) == pytest.approx(torch.tensor(expected))


def test_moments_by_hand():
    """Of Dir(2, 1, 1): mean (1/2, 1/4, 1/4), variances 1/20 and twice 3/80, sum 1/8; sum of m (1 - m) is 5/8."""
    mean, variance = torch.tensor([0.5, 0.25, 0.25]), torch.tensor(1 / 8)
    assert torch.digamma(torch.tensor(4.0)) == pytest.approx(11 / 6 - 0.5772157, abs=1e-6)
    expected = [1 - 11 / 6, -11 / 6, -11 / 6]  # digamma(2) = 1 - gamma, digamma(1) = -gamma
    matched = matched_log_probs(mean, variance, torch.tensor(5 / 8))
    assert matched == pytest.approx(torch.tensor(expected, dtype=torch.float64), abs=1e-5)


def test_moments_of_few_draws_have_no_bias():
    """Two draws of Dir(2, 1, 1) at a time: their mean's m (1 - m) is too small by a half of their variance."""
    torch.manual_seed(0)
    pairs = Dirichlet(torch.tensor([2.0, 1.0, 1.0])).sample((2, 200_000)).double()
    mean, variance = pairs.mean(dim=0), pairs.var(dim=0).sum(dim=-1)
    spread = CATEGORICAL.scattered_variance(mean, variance, 2)
    assert (spread.mean() / variance.mean() - 1).item() == pytest.approx(4, abs=0.05)


@pytest.mark.parametrize("variance", [0.0, 1.0])
def test_draws_that_agree_or_disagree_completely_have_finite_logarithms(variance):
    matched = matched_log_probs(torch.tensor([0.5, 0.5, 0.0]), torch.tensor(variance), torch.tensor(0.5))
    assert matched.isfinite().all()
    assert matched.min() >= math.log(LEAST)
    assert matched.max() <= 0


def test_parts_of_the_entropy_are_those_of_many_draws(logits):
    torch.manual_seed(1)
    drawn = entropy_parts(Dirichlet(logits.exp()).sample((100_000,)))
    for mine, theirs in zip(dirichlet_parts(logits), drawn, strict=True):
        assert mine == pytest.approx(theirs, abs=5e-3)
    parts = dirichlet_parts(logits)
    assert parts.total == pytest.approx(parts.aleatoric + parts.epistemic)


def test_a_flat_dirichlet_by_hand():
    """Of two classes: E H = digamma(3) - digamma(2) = 1/2, H of the mean log 2."""
    total, aleatoric, epistemic = dirichlet_parts(torch.zeros(2))
    assert (total.item(), aleatoric.item()) == pytest.approx((math.log(2), 0.5))
    assert epistemic.item() == pytest.approx(math.log(2) - 0.5)


def test_variance_is_torchs(logits):
    assert dirichlet_variance(logits) == pytest.approx(Dirichlet(logits.exp()).variance)


def test_the_label_term_is_the_cross_entropy_of_the_mean(logits, draws):
    labels, logs = torch.tensor([0, 1, 2, 3, -100]), mean_log_probs(draws)
    alpha = logits.exp()
    mean = alpha / alpha.sum(dim=-1, keepdim=True)
    own, density = -mean[torch.arange(4), labels[:4]].log(), negative_log_likelihood(logs, logits)
    expected = (0.3 * own.sum() + 0.7 * density[:4].sum() + density[4]) / B  # without a label: the draws alone
    loss = distillation_loss(logits, labels, logs, 0.7, distance=student_loss)
    assert loss.total.item() == pytest.approx(expected.item())


@pytest.mark.parametrize("row", [[0.1, -3.0], [-0.1, -0.2], [math.nan, -1.0], [-math.inf, 0.0]])
def test_what_are_no_mean_logarithms_is_refused(row):
    logs = torch.tensor([[math.log(0.3), math.log(0.6)], row])
    with pytest.raises(UserError, match="row 1 of column"):
        check_log_probs(logs, "column x")
