"""Teachers of labels that are each there or not, and of numbers: what they answer, and how they are kept."""

import json

import pytest
import torch
from torch import nn

from hf_bkd import DeterministicTeacher, EnsembleTeacher, MCDropoutTeacher, MultiTeacher, Teacher, UserError
from hf_bkd.likelihoods import Bernoulli, Gaussian
from hf_bkd.teachers.multi import ClassMap
from hf_bkd.teachers.predictive import Draws, predictive_of

from .teacher_helpers import SmallNetwork, in_batches, points, seeded, small_bert

MULTI, NUMBERS = Bernoulli.problem_type, Gaussian.problem_type
X = torch.randn(40, 4, generator=seeded(3))


def network(outputs=3, seed=0):
    torch.manual_seed(seed)
    return SmallNetwork(classes=outputs, scale=3.0).eval()


@pytest.mark.parametrize(("likelihood", "outputs"), [(Bernoulli(), 3), (Gaussian((0.5, 2.0, 1.0)), 3)])
def test_the_answer_of_draws_is_their_mean_and_variance(likelihood, outputs):
    draws = torch.randn(5, 7, outputs)
    values = draws.sigmoid() if likelihood == Bernoulli() else draws
    answer = predictive_of(Draws(draws), 1.0, "per_sample", True, likelihood)
    torch.testing.assert_close(answer.mean, values.mean(dim=0))
    torch.testing.assert_close(answer.variance, values.var(dim=0))
    assert torch.equal(answer.samples, values)
    if likelihood == Bernoulli():
        assert answer.noise is None
        tempered = predictive_of(Draws(draws), 2.0, "per_sample", False, likelihood)
        torch.testing.assert_close(tempered.mean, (draws / 2).sigmoid().mean(dim=0))
        averaged = predictive_of(Draws(draws), 2.0, "post_average", False, likelihood).mean
        torch.testing.assert_close(averaged, (values.mean(dim=0).logit() / 2).sigmoid())
    else:
        torch.testing.assert_close(answer.noise, torch.tensor([[0.5, 2.0, 1.0]]).expand(7, 3))


def test_the_noise_of_a_network_that_predicts_it_is_averaged_over_the_draws():
    draws = torch.randn(5, 7, 6)
    weights = torch.rand(5, 7).softmax(dim=0)
    answer = predictive_of(Draws(draws, weights), 1.0, "post_average", False, Gaussian(predicts_variance=True))
    torch.testing.assert_close(answer.mean, (weights[..., None] * draws[..., :3]).sum(dim=0))
    torch.testing.assert_close(answer.noise, (weights[..., None] * draws[..., 3:].exp()).sum(dim=0))
    assert answer.variance.shape == (7, 3)


def test_answers_for_each_token_have_their_own_weights():
    draws, weights = torch.randn(4, 2, 5, 3), torch.rand(4, 2, 5).softmax(dim=0)
    whole = predictive_of(Draws(draws, weights, (2, 2)), 1.0, "per_sample", False)
    token = predictive_of(Draws(draws[:, 1, 2:3], weights[:, 1, 2:3], (2, 2)), 1.0, "per_sample", False)
    torch.testing.assert_close(whole.mean[1, 2], token.mean[0])
    torch.testing.assert_close(whole.variance[1, 2], token.variance[0])


def test_dropout_teaches_several_labels():
    torch.manual_seed(0)
    teacher = MCDropoutTeacher(network(), likelihood=MULTI)
    answer = teacher.predict(X, 300, seeded(), return_samples=True)
    assert (answer.mean.sum(dim=1) - 1).abs().max() > 0.1  # probabilities of their own
    torch.testing.assert_close(answer.mean, answer.samples.mean(dim=0))
    assert ((answer.samples >= 0) & (answer.samples <= 1)).all() and (answer.variance > 0).any()


def test_the_temperature_of_several_labels_is_that_of_least_binary_cross_entropy():
    logits = network()(X).detach()
    labels = (torch.rand(40, 3, generator=seeded(5)) < (logits / 2).sigmoid()).float()
    teacher = DeterministicTeacher.fit(network(), in_batches(X, labels), problem_type=MULTI)

    def bce(temperature):
        return nn.functional.binary_cross_entropy_with_logits(logits / temperature, labels).item()

    assert bce(teacher.temperature) < min(bce(teacher.temperature * 1.05), bce(teacher.temperature / 1.05))
    torch.testing.assert_close(teacher.predict(X).mean, (logits / teacher.temperature).sigmoid())
    assert teacher.record["validation"]["nll"] == pytest.approx(bce(teacher.temperature), rel=1e-5)


def test_the_noise_of_a_regression_is_the_mean_squared_error_of_each_number():
    y = network()(X).detach() + torch.tensor([0.1, 1.0, 3.0]) * torch.randn(40, 3, generator=seeded(7))
    teacher = DeterministicTeacher.fit(network(), in_batches(X, y), problem_type=NUMBERS)
    expected = (y - network()(X).detach()).square().mean(dim=0)
    answer = teacher.predict(X)
    torch.testing.assert_close(answer.noise, expected.expand(40, 3))
    torch.testing.assert_close(answer.mean, network()(X).detach())
    assert answer.variance is None and teacher.temperature == 1
    known = Gaussian(observation_variance=(1.0, 2.0, 3.0))
    assert DeterministicTeacher.fit(network(), in_batches(X, y), problem_type=known).likelihood == known
    with pytest.raises(UserError, match="without any error, so that its noise is 0"):
        DeterministicTeacher.fit(network(), in_batches(X, network()(X).detach()), problem_type=NUMBERS)


def test_a_network_with_twice_as_many_outputs_predicts_its_noise():
    y = torch.randn(40, 1, generator=seeded(7))
    teacher = DeterministicTeacher.fit(network(2), in_batches(X, y), problem_type=NUMBERS)
    outputs = network(2)(X).detach()
    answer = teacher.predict(X)
    torch.testing.assert_close(answer.mean, outputs[:, :1])
    torch.testing.assert_close(answer.noise, outputs[:, 1:].exp())
    assert teacher.num_classes == 1 and teacher.class_names is None


@pytest.mark.parametrize("tempering", ["per_sample", "post_average"])
def test_a_regression_has_no_temperature(tempering):
    with pytest.raises(UserError, match="a temperature means nothing for regression, and it is 2"):
        DeterministicTeacher(network(), 2.0, tempering, NUMBERS)
    members = [DeterministicTeacher(network(), likelihood=NUMBERS)]
    for build in (EnsembleTeacher, lambda given, *rest: MultiTeacher({"a": given[0]}, "equal", *rest)):
        with pytest.raises(UserError, match="a temperature means nothing for regression"):
            build(members, 2.0, tempering)


def test_a_mixture_of_regressions_has_the_moments_of_its_members():
    members = [DeterministicTeacher(network(3, seed), likelihood=Gaussian((0.1 + seed,) * 3)) for seed in range(3)]
    means = torch.stack([member.predict(X).mean for member in members])
    answer = EnsembleTeacher(members).predict(X)
    torch.testing.assert_close(answer.mean, means.mean(dim=0))
    torch.testing.assert_close(answer.variance, means.var(dim=0))
    torch.testing.assert_close(answer.noise, torch.full((40, 3), 1.1))
    unknown = EnsembleTeacher([*members, DeterministicTeacher(network(3, 9), likelihood=NUMBERS)])
    assert unknown.predict(X).noise is None and unknown.num_classes == 3


def test_members_of_several_labels_are_averaged_and_weighed_by_their_own_entropy():
    members = {f"m{seed}": DeterministicTeacher(network(3, seed), likelihood=MULTI) for seed in range(2)}
    probs = torch.stack([member.predict(X).mean for member in members.values()])
    torch.testing.assert_close(EnsembleTeacher(list(members.values())).predict(X).mean, probs.mean(dim=0))
    entropies = torch.distributions.Bernoulli(probs=probs).entropy().sum(dim=-1)
    weights = 1 - entropies / entropies.sum(dim=0)
    answer = MultiTeacher(members, "entropy").predict(X)
    torch.testing.assert_close(answer.mean, (weights[..., None] * probs).sum(dim=0))
    tempered = DeterministicTeacher(network(), 3.0, "post_average", MULTI)
    torch.testing.assert_close(EnsembleTeacher([tempered]).predict(X).mean, tempered.predict(X).mean)


def test_members_that_predict_different_things_are_refused():
    one, other = DeterministicTeacher(network()), DeterministicTeacher(network(), likelihood=MULTI)
    with pytest.raises(UserError, match="problem types are multi_label_classification, single_label_classification"):
        EnsembleTeacher([one, other])
    with pytest.raises(UserError, match="weights by entropy mean nothing for regression"):
        MultiTeacher({"a": DeterministicTeacher(network(), likelihood=NUMBERS)}, "entropy")
    with pytest.raises(UserError, match="this teacher's problem type is multi_label_classification"):
        ClassMap(other, [0, 1, 2], 3)


NOISE = Gaussian(observation_variance=(0.5, 1.0, 2.0))


@pytest.mark.parametrize("likelihood", [Bernoulli(), Gaussian(), NOISE, Gaussian(predicts_variance=True)])
@pytest.mark.parametrize(
    "build",
    [DeterministicTeacher, lambda *given, **named: EnsembleTeacher([DeterministicTeacher(*given, **named)] * 2)],
)
def test_a_saved_teacher_says_the_same_again(likelihood, build, tmp_path):
    outputs = 6 if likelihood == Gaussian(predicts_variance=True) else 3
    teacher = build(network(outputs), likelihood=likelihood)
    teacher.save_pretrained(tmp_path / "t")
    again = Teacher.from_pretrained(tmp_path / "t", network=network(outputs, 1))
    assert again.likelihood == teacher.likelihood and again.fingerprint() == teacher.fingerprint()
    for ours, theirs in zip(teacher.predict(X), again.predict(X), strict=True):
        assert (ours is None and theirs is None) or torch.equal(ours, theirs)
    assert teacher.describe()["problem_type"] == likelihood.problem_type
    assert json.loads((tmp_path / "t" / "teacher.json").read_text())["likelihood"] == teacher.likelihood.as_json()


def test_a_teacher_of_classes_is_described_as_before(tmp_path):
    teacher = DeterministicTeacher(small_bert())
    teacher.save_pretrained(tmp_path / "t")
    assert "likelihood" not in json.loads((tmp_path / "t" / "teacher.json").read_text())
    assert "problem_type" not in teacher.describe()


def test_a_teacher_of_ones_own_needs_no_argument_for_its_likelihood(tmp_path):
    class Own(Teacher):
        method = "own"

        def __init__(self, network, temperature=1.0, tempering="post_average"):
            super().__init__(network, temperature, tempering)

        def draw_logits(self, inputs, num_samples, generator):
            return self.network(**inputs).logits[None]

    plain = small_bert()
    plain.config.problem_type = MULTI
    teacher = Own(plain)
    teacher.save_pretrained(tmp_path / "t")
    again = Own.from_pretrained(tmp_path / "t")
    assert again.likelihood == Bernoulli()
    ids = torch.randint(1, 20, (3, 6))
    torch.testing.assert_close(again.predict({"input_ids": ids}).mean, plain(ids).logits.sigmoid())


def test_a_fingerprint_knows_the_noise():
    prints = {DeterministicTeacher(network(), likelihood=each).fingerprint() for each in (None, MULTI, NUMBERS, NOISE)}
    assert len(prints) == 4


def test_a_plain_network_of_one_output_is_refused_when_it_is_asked():
    with pytest.raises(UserError, match="one output can't tell classes apart: pass problem_type"):
        DeterministicTeacher(network(1)).predict(points(3)[0])
