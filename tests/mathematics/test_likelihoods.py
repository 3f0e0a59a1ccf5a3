"""Each likelihood against torch's own losses and distributions."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import distributions

from hf_bkd.likelihoods import LIKELIHOODS, Bernoulli, Categorical, Gaussian, likelihood_from
from hf_bkd.losses import kl_to_target
from hf_bkd.targets import adaptive_lambda, noise_ratio
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


def test_the_target_of_an_answer_holds_the_variance_of_a_label():
    mean, variance, noise = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.25]]), torch.tensor([[1.0, 1.0]])
    assert Gaussian().target(mean, variance, noise).tolist() == [[1, 2, 1.5, 1.25]]
    assert Gaussian().target(mean, variance).tolist() == [[1, 2, 0.5, 0.25]]
    assert Gaussian().target(mean).tolist() == mean.tolist()
    assert Bernoulli().target(mean, variance).tolist() == mean.tolist()


def test_a_student_of_twice_as_many_outputs_predicts_its_variance():
    assert Gaussian((0.5,)).of_student(2, 1) == Gaussian(predicts_variance=True)
    assert Gaussian((0.5,)).of_student(1, 1) == Gaussian().of_student(4, None) == Gaussian()
    assert Gaussian(predicts_variance=True).of_student(4, None) == Gaussian(predicts_variance=True)
    assert Bernoulli().of_student(4, 4) == Bernoulli()
    with pytest.raises(UserError, match="3 numbers an example to predict, and the student has 2 outputs"):
        Gaussian().of_student(2, 3)
    with pytest.raises(UserError, match="the student predicts a variance, and the teacher's answers say none"):
        Gaussian(predicts_variance=True).divergence(torch.ones(1, 2), torch.ones(1, 4))


def test_measures_are_of_the_labeled_positions_alone():
    p = torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.5, 0.5]]])
    labels = torch.tensor([[0, 0], [1, -100]])
    assert Categorical().measures(p, labels)["accuracy"] == pytest.approx(1 / 3)
    assert Categorical().measures(p, torch.full_like(labels, -100)) == {}
    hot = torch.tensor([[1.0, 0.0], [torch.nan, torch.nan]])
    assert Bernoulli().measures(p[0], hot)["accuracy"] == 1
    both = Gaussian(predicts_variance=True)
    outputs = torch.tensor([[1.0, 0.0], [2.0, torch.log(torch.tensor(4.0))]])
    measures = both.measures(both.prediction(outputs), torch.tensor([[2.0], [torch.nan]]))
    assert measures["rmse"] == 1 and measures["nll"] == pytest.approx(0.5 + 0.9189385)
    assert set(Gaussian().measures(Gaussian().prediction(outputs[:, :1]), torch.ones(2, 1))) == {"rmse", "mae"}


def test_the_adaptive_lambda_of_bernoullis_is_that_of_two_classes():
    """Two classes are one Bernoulli: both variances are doubled by the second class, and their ratio is not."""
    drawn = torch.rand(6, 50, 1, dtype=torch.float64)
    classes = torch.cat([drawn, 1 - drawn], dim=-1)
    ratios = []
    for likelihood, draws in ((Bernoulli(), drawn), (Categorical(), classes)):
        mean, variance = draws.mean(dim=0), draws.var(dim=0)
        summed = variance.sum(dim=-1)
        label = likelihood.scattered_variance(mean, summed, 6)
        ratios.append((noise_ratio(mean, variance, 6, label), adaptive_lambda(mean, variance, 6, 0.3, label)))
    assert ratios[0][0] == pytest.approx(ratios[1][0])
    torch.testing.assert_close(ratios[0][1], ratios[1][1])
    means = drawn.mean(dim=0)
    label = Gaussian().scattered_variance(Gaussian().target(means, drawn.var(dim=0), torch.ones_like(means)), means, 6)
    torch.testing.assert_close(label, drawn.var(dim=0).sum(dim=-1) + 1)


def test_the_unit_of_a_number_decides_nothing_between_teachers():
    variances = torch.tensor([[[100.0, 1e-6], [1.0, 3e-6]]])  # of two teachers and two numbers
    expected = torch.tensor([[100 / 50.5 + 1 / 2, 1 / 50.5 + 3 / 2]])
    torch.testing.assert_close(Gaussian().summed_variances(variances), expected)
    torch.testing.assert_close(Gaussian().summed_variances(variances * torch.tensor([1.0, 1e6])), expected)
    torch.testing.assert_close(Bernoulli().summed_variances(variances), variances.sum(dim=-1))


@pytest.mark.parametrize("label", [0.0, 1.0, 0.6])
@pytest.mark.parametrize("prob", [0.1, 0.3, 0.35, 0.5, 0.65, 0.9])
def test_a_label_that_is_subtracted_from_a_bernoulli_has_a_bound_or_none(label, prob):
    """The loss along both directions of the output, far out, where it is linear."""
    outputs = torch.tensor([[-2000.0], [-1000.0], [1000.0], [2000.0]], dtype=torch.float64)
    labels, target = torch.full((4, 1), label).double(), torch.full((4, 1), prob).double()
    loss = -0.5 * Bernoulli().label_loss(outputs, labels) + 1.5 * Bernoulli().divergence(target, outputs)
    falls = bool(loss[0] < loss[1] or loss[3] < loss[2])
    assert Bernoulli().unbounded(target, labels, 1.5).tolist() == [falls] * 4


@pytest.mark.parametrize("variance", [0.1, 0.49, 0.51, 2.0])
def test_a_number_that_is_subtracted_has_no_bound_where_the_student_can_be_too_sure(variance):
    """(lambda - 1) (label - mean)^2 is 0.5: at the best mean, -0.5 for label 1 and mean 0, the variance goes to 0."""
    labels, target = torch.ones(2, 1).double(), torch.tensor([[0.0, variance]] * 2).double()
    outputs = torch.tensor([[-0.5, -20.0], [-0.5, -10.0]]).double()
    predicting, fixed = Gaussian(predicts_variance=True), Gaussian()
    loss = -0.5 * predicting.label_loss(outputs, labels) + 1.5 * predicting.divergence(target, outputs)
    assert predicting.unbounded(target, labels, 1.5).tolist() == [bool(loss[0] < loss[1])] * 2 == [variance < 0.5] * 2
    assert fixed.unbounded(target, labels, 1.5).tolist() == [False, False]
    means = torch.tensor([[-0.5], [-3.0]]).double()
    squares = -0.5 * fixed.label_loss(means, labels, target=target) + 1.5 * fixed.divergence(target, means)
    assert (squares[1] - squares[0]).item() == pytest.approx(2.5**2 / (2 * variance))  # a parabola around -0.5
