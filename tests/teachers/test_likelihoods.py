"""Teachers of labels that are each there or not, and of numbers: what they answer, and how they are kept."""

import json
import math

import datasets
import numpy as np
import pytest
import torch
from torch import nn

from hf_bkd import (
    IVON,
    DeterministicTeacher,
    EnsembleTeacher,
    LangevinTeacher,
    LaplaceTeacher,
    MCDropoutTeacher,
    MultiTeacher,
    OracleTeacher,
    Teacher,
    UserError,
    VariationalTeacher,
    make_variational,
)
from hf_bkd.likelihoods import Bernoulli, Gaussian
from hf_bkd.teachers import Deterministic, Ensemble, FitContext, IVONVariational, Laplace, MCDropout, Variational
from hf_bkd.teachers.examples import likelihood_by, predict_all
from hf_bkd.teachers.multi import ClassMap
from hf_bkd.teachers.predictive import Draws, predictive_of

from .teacher_helpers import SmallNetwork, assert_equal_means, in_batches, points, seeded, small_bert, vary_spread

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

    def energy(temperature):  # with the prior's of T, whose logarithm is standard normal
        return labels.numel() * bce(temperature) + math.log(temperature) ** 2 / 2

    assert energy(teacher.temperature) < min(energy(teacher.temperature * 1.05), energy(teacher.temperature / 1.05))
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


def test_a_variational_head_draws_probabilities_of_each_label():
    torch.manual_seed(0)
    net = vary_spread(make_variational(network(), "head")).eval()
    teacher = VariationalTeacher(net, likelihood=MULTI)
    head, features = net.head, net.backbone(X).detach()
    variance = features.square() @ (2 * head.weight_log_std).exp().T + (2 * head.bias_log_std).exp()
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    nodes, weights = torch.tensor(nodes)[:, None, None], torch.tensor(weights / weights.sum())
    drawn = (network()(X) + variance.sqrt() * nodes).sigmoid().detach()
    answer = teacher.predict(X, 20_000, seeded(), return_samples=True)
    assert_equal_means(answer.samples, torch.einsum("k,knc->nc", weights, drawn))


class Context(FitContext):
    """Networks that count their trainings, and examples of 20 rows."""

    num_samples, learning_rate, seed, num_train = 3, 0.01, 0, 20

    def __init__(self, labels, outputs=3, problem_type=None):
        self.labels, self.outputs, self.problem_type, self.trainings = labels, outputs, problem_type, 0

    def network(self, **settings):
        return network(self.outputs)

    def train(self, network, optimizer=None):
        self.trainings += 1
        if optimizer is not None:
            with optimizer.draw():
                network(X[:20]).sum().backward()
            optimizer.step()
        return network

    def trained(self, **settings):
        net = self.train(self.network())
        return DeterministicTeacher(net, likelihood=likelihood_by(net, self.validation_batches(), self.problem_type))

    def fitted(self, spec):
        return spec.fit(self)

    def members(self, number):
        return [self] * (number or 2)

    def train_batches(self):
        return iter(in_batches(X[:20], self.labels[:20]))

    def validation_batches(self):
        return iter(in_batches(X[20:], self.labels[20:]))


SPECIFICATIONS = [
    Deterministic(), Deterministic(scaled=True), MCDropout(), Laplace(), Laplace(link="mc"), Variational(),
    IVONVariational(), Ensemble(of=Laplace()),
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECIFICATIONS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("problem_type", [MULTI, NUMBERS])
def test_specifications_fit_teachers_of_each_problem(spec, problem_type):
    y = torch.randn(40, 3, generator=seeded(7))
    context = Context((y > 0).float() if problem_type == MULTI else y, 3 if problem_type == MULTI else 6, problem_type)
    if problem_type == NUMBERS and isinstance(spec, (Laplace, Ensemble)):
        context.outputs = 3
    teacher = spec.fit(context)
    answer = teacher.predict(X, 3, seeded())
    assert teacher.likelihood.problem_type == problem_type and answer.mean.shape == (40, 3)
    assert problem_type == MULTI or isinstance(spec, Deterministic) and not spec.scaled or answer.noise is not None


@pytest.mark.parametrize("spec", [Variational(), IVONVariational()])
def test_squared_errors_train_no_posterior(spec):
    context = Context(torch.randn(40, 3, generator=seeded(7)), 3, NUMBERS)
    with pytest.raises(UserError, match="as wide as their unit makes it: take a network with twice as many outputs"):
        spec.fit(context)
    assert context.trainings == 0


def test_ivon_counts_each_label_of_an_example(monkeypatch):
    sizes = []
    made = IVON.__init__
    monkeypatch.setattr(
        IVON, "__init__", lambda self, *given, ess, **named: sizes.append(ess) or made(self, *given, ess=ess, **named)
    )
    y = torch.randn(40, 3, generator=seeded(7))
    IVONVariational().fit(Context((y > 0).float(), 3, MULTI))
    IVONVariational().fit(Context(torch.arange(40) % 3))
    assert sizes == [60, 20]


def test_what_is_of_classes_alone_refuses_others_before_any_work():
    net = network()
    with pytest.raises(UserError, match="Langevin teacher is of classes .* is regression: take a Laplace"):
        LangevinTeacher.fit(net, [(X, torch.randn(40, 3))], problem_type=NUMBERS)
    assert net.passes == 0
    with pytest.raises(
        UserError, match="draws around exact probabilities are of classes, and the problem type is mul"
    ):
        OracleTeacher(net, concentration=3.0, likelihood=MULTI)


NAMES = ["nucleus", "membrane", "cytoplasm"]


def table(**columns):
    """40 rows of 4 features with labels."""
    return datasets.Dataset.from_dict({"x": X.tolist()}).add_column("label", columns["label"], feature=columns["of"])


def test_a_dataset_says_which_labels_are_there_by_name():
    net = network()
    net.label_names = ["Membrane", "Cytoplasm", "Nucleus"]
    probs = net(X).detach().sigmoid()
    hot = (torch.rand(40, 3, generator=seeded(5)) < probs).float()
    there = [[NAMES.index(net.label_names[c].lower()) for c in row.nonzero().flatten()] for row in hot]
    rows = table(label=there, of=datasets.List(datasets.ClassLabel(names=NAMES)))
    teacher = DeterministicTeacher.fit(net, rows)
    expected = DeterministicTeacher.fit(net, in_batches(X, hot), problem_type=MULTI)
    assert teacher.likelihood == Bernoulli() and teacher.class_names == net.label_names
    assert teacher.temperature == pytest.approx(expected.temperature, rel=1e-5)
    assert teacher.record == expected.record
    answers, labels = predict_all(teacher, rows)
    assert torch.equal(labels, hot) and torch.equal(answers, teacher.predict(X).mean)


def test_a_dataset_of_numbers_and_predictions_of_all_of_it():
    y = network(1)(X).detach() + torch.randn(40, 1, generator=seeded(5))
    rows = table(label=y[:, 0].tolist(), of=datasets.Value("float32"))
    teacher = LaplaceTeacher.fit(network(1), rows, rows)
    targets, labels = predict_all(teacher, rows)
    answer = teacher.predict(X)
    torch.testing.assert_close(labels, y)
    torch.testing.assert_close(targets, torch.cat([answer.mean, answer.variance + answer.noise], dim=1))
    measures = teacher.likelihood.measures(targets, labels)
    assert measures == pytest.approx(teacher.record["validation"], rel=1e-5) and "coverage" in measures
    two = table(label=y.expand(40, 2).tolist(), of=datasets.List(datasets.Value("float32")))
    with pytest.raises(UserError, match="an example has 2 labels, and the network predicts 1"):
        DeterministicTeacher.fit(network(1), two, problem_type=NUMBERS)
    whole = table(label=[2] * 40, of=datasets.Value("int64"))
    assert DeterministicTeacher.fit(network(1), whole, problem_type=NUMBERS).num_classes == 1


@pytest.mark.parametrize(
    ("label", "of", "outputs", "problem_type", "words"),
    [
        ([0.5] * 39 + [None], datasets.Value("float32"), 1, None, "row 39 of column label has no label"),
        ([0.5] * 39 + [float("inf")], datasets.Value("float32"), 1, None, "row 39 of column label has the label inf"),
        ([[0.0, 1.0, 3.0]] * 40, datasets.List(datasets.Value("float32")), 3, MULTI, "row 0 .* has the label 3"),
        ([[0, 7]] * 40, datasets.List(datasets.Value("int64")), 3, MULTI, "row 0 of column label has the label 7"),
        ([1] * 40, datasets.Value("int64"), 3, MULTI, "predicts labels that are each there or not, and column label"),
        (
            [[0, 1]] * 40,
            datasets.List(datasets.Value("int64")),
            3,
            "single_label_classification",
            "neither class numbers nor names but List",
        ),
    ],
)
def test_labels_of_a_dataset_that_dont_fit_are_refused_before_the_network_is_asked(
    label, of, outputs, problem_type, words
):
    net = network(outputs)
    with pytest.raises(UserError, match=words):
        DeterministicTeacher.fit(net, table(label=label, of=of), problem_type=problem_type)
    assert net.passes == 0
