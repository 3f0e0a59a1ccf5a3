"""Each likelihood against torch's own losses and distributions."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import distributions

from hf_bkd.likelihoods import LIKELIHOODS, Bernoulli, Categorical, Gaussian, likelihood_from
from hf_bkd.losses import kl_to_target
from hf_bkd.utils.errors import UserError

S, B, C = 7, 5, 4
ALL = [Categorical(), Bernoulli(), Gaussian(), Gaussian(predicts_variance=True)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def outputs(likelihood, *leading):
    wide = 2 * C if getattr(likelihood, "predicts_variance", False) else C
    return torch.randn(*leading, wide, dtype=torch.float64) * 2


@pytest.mark.parametrize("likelihood", ALL)
def test_the_averaged_values_are_those_of_the_draws(likelihood):
    drawn = outputs(likelihood, S, B)
    weights = torch.rand(S, B, dtype=torch.float64)
    weights /= weights.sum(dim=0)
    expected = torch.stack([weights[s][:, None] * likelihood.values(drawn[s]) for s in range(S)]).sum(dim=0)
    torch.testing.assert_close(likelihood.averaged(drawn, weights), expected)
    torch.testing.assert_close(likelihood.averaged(drawn), likelihood.values(drawn).mean(dim=0))


@pytest.mark.parametrize("likelihood", [Categorical(), Bernoulli()])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_temperature_of_the_mean_is_one_of_its_logits(likelihood, temperature):
    drawn = outputs(likelihood, S, B)
    mean = likelihood.averaged(drawn)
    torch.testing.assert_close(likelihood.averaged(drawn, None, temperature), likelihood.temper(mean, temperature))
    torch.testing.assert_close(
        likelihood.temper(likelihood.values(drawn), temperature), likelihood.values(drawn, temperature)
    )


def test_distilling_towards_bernoullis_is_binary_cross_entropy_on_soft_targets():
    logits = torch.randn(B, C, dtype=torch.float64, requires_grad=True)
    target = torch.rand(B, C, dtype=torch.float64)
    target[0] = torch.tensor([0.0, 1.0, 0.5, 1.0])
    divergence = Bernoulli().divergence(target, logits).mean()
    bce = F.binary_cross_entropy_with_logits(logits, target)
    expected = distributions.kl_divergence(
        distributions.Bernoulli(probs=target), distributions.Bernoulli(logits=logits.detach())
    ).mean()
    torch.testing.assert_close(divergence.detach(), expected)
    (ours,), (theirs,) = (torch.autograd.grad(loss, logits) for loss in (divergence, bce))
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_the_divergence_of_gaussians_is_theirs():
    mean, variance = torch.randn(B, C).double(), torch.rand(B, C).double() + 0.1
    own = outputs(Gaussian(predicts_variance=True), B)
    target = torch.cat([mean, variance], dim=-1)
    normal = distributions.Normal(mean, variance.sqrt())
    expected = distributions.kl_divergence(normal, distributions.Normal(own[:, :C], (own[:, C:] / 2).exp()))
    found = Gaussian(predicts_variance=True).divergence(target, own)
    torch.testing.assert_close(found, expected.mean(dim=-1))
    same_variance = distributions.kl_divergence(normal, distributions.Normal(own[:, :C], variance.sqrt()))
    torch.testing.assert_close(Gaussian().divergence(target, own[:, :C]), same_variance.mean(dim=-1))
    torch.testing.assert_close(Gaussian().divergence(mean, own[:, :C]), (mean - own[:, :C]).square().mean(dim=-1))


def test_a_label_costs_what_torch_says():
    classes = torch.tensor([0, 3, -100, 1, 2])
    logits = torch.randn(B, C)
    smoothed = F.cross_entropy(logits, classes, reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(Categorical().label_loss(logits, classes, 0.1), smoothed)
    there = torch.tensor([True, True, False, True, True])
    hot = torch.randint(2, (B, C)).float()
    expected = F.binary_cross_entropy_with_logits(logits, hot, reduction="none").mean(dim=-1) * there
    hot[2] = torch.nan
    torch.testing.assert_close(Bernoulli().label_loss(logits, hot), expected)
    numbers = torch.randn(B, C)
    expected = F.mse_loss(logits, numbers, reduction="none").mean(dim=-1) * there
    both = torch.cat([logits, torch.randn(B, C)], dim=-1)
    normal = distributions.Normal(both[:, :C], (both[:, C:] / 2).exp())
    likely = -normal.log_prob(numbers).mean(dim=-1) * there
    constant = torch.log(torch.tensor(2 * torch.pi)) / 2 * there
    numbers[2] = torch.nan
    torch.testing.assert_close(Gaussian().label_loss(logits, numbers), expected)
    torch.testing.assert_close(Gaussian(predicts_variance=True).label_loss(both, numbers), likely - constant)


def test_what_has_no_label_costs_nothing_and_teaches_nothing():
    for likelihood, labels in (
        (Categorical(), torch.full((B,), -100)),
        (Bernoulli(), torch.full((B, C), torch.nan)),
        (Gaussian(), torch.full((B, C), torch.nan)),
    ):
        made = torch.randn(B, C, requires_grad=True)
        loss = likelihood.label_loss(made, labels).sum()
        loss.backward()
        assert not likelihood.labeled(labels).any() and loss == 0 and not made.grad.any()


def test_several_gaussians_are_mixed_by_their_moments():
    targets = torch.tensor([[[0.0, 1.0], [4.0, 2.0]]])  # N(0, 1) and N(4, 2)
    expected = torch.tensor([[3.0, 0.25 * 1 + 0.75 * 2 + 0.25 * 9 + 0.75 * 1]])
    torch.testing.assert_close(Gaussian().mixed(targets, torch.tensor([[0.25, 0.75]])), expected)


def test_the_variance_of_a_label():
    p = torch.tensor([[0.2, 0.3, 0.5]])
    torch.testing.assert_close(Categorical().label_variance(p), torch.tensor([1 - 0.04 - 0.09 - 0.25]))
    torch.testing.assert_close(Bernoulli().label_variance(p), torch.tensor([0.16 + 0.21 + 0.25]))
    torch.testing.assert_close(Gaussian().label_variance(torch.tensor([[5.0, 6.0, 0.1, 0.2]])), torch.tensor([0.3]))
    expected = distributions.Bernoulli(p).entropy().sum(dim=-1)
    torch.testing.assert_close(Bernoulli().entropy(p), expected)


def test_a_likelihood_comes_back_from_json():
    for likelihood in (*ALL, Gaussian((0.5, 2.0))):
        assert likelihood_from(json.loads(json.dumps(likelihood.as_json()))) == likelihood
    assert likelihood_from(None) == Categorical()
    assert [type(likelihood_from(name)) for name in LIKELIHOODS] == [Categorical, Bernoulli, Gaussian]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: likelihood_from("ranking"), "must be one of single_label_classification"),
        (lambda: Gaussian().values(torch.ones(1, 2), 2.0), "means nothing for regression"),
        (lambda: Gaussian().temper(torch.ones(1, 2), 2.0), "means nothing for regression"),
        (lambda: Gaussian().entropy(torch.ones(1, 2)), "inverse_variance"),
        (lambda: Gaussian((0.0,)), "above 0"),
        (lambda: Gaussian((1.0,), predicts_variance=True), "leave it out"),
        (lambda: Gaussian(predicts_variance=True).values(torch.ones(1, 3)), "even number"),
        (lambda: Gaussian().label_loss(torch.ones(1, 1), torch.ones(1, 1), 0.1), "label smoothing"),
    ],
)
def test_refusals(wrong, sentence):
    with pytest.raises(UserError, match=sentence):
        wrong()


def test_values_that_can_be_none_are_named():
    p = torch.tensor([[0.5, 0.5], [0.7, 0.7], [-0.1, 1.1], [torch.nan, 0.5], [1.2, 0.0]])
    named = {problem: where.tolist() for problem, where in Categorical().problems(p).items()}
    assert named["does not sum to one"] == [False, True, False, True, True]
    assert named["holds a negative probability"] == [False, False, True, False, False]
    named = {problem: where.tolist() for problem, where in Bernoulli().problems(p).items()}
    assert named["holds a probability above one"] == [False, False, True, False, True]
    assert Gaussian().problems(p)["holds a value that is not a finite number"].tolist() == [0, 0, 0, 1, 0]


def test_the_divergence_of_the_losses_is_the_categorical_one():
    target, logits = torch.rand(B, C).softmax(-1), torch.randn(B, C)
    assert torch.equal(kl_to_target(target, logits, 2.0), Categorical().divergence(target, logits, 2.0))
