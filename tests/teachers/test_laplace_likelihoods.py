"""The Laplace teacher of numbers, which is Bayesian linear regression, and of labels that are each there or not."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import BayesianRidge
from torch import nn

from hf_bkd import (
    DeterministicTeacher,
    EnsembleTeacher,
    LaplaceTeacher,
    MultiTeacher,
    Teacher,
    UserError,
    VariationalTeacher,
    make_variational,
)
from hf_bkd.likelihoods import Bernoulli, Gaussian
from hf_bkd.models.heads import head_data
from hf_bkd.teachers.laplace_precision import calibrated_noise
from hf_bkd.utils.random import ExampleGenerator
from tests.teachers.laplace_reference import BIAS, EACH
from tests.teachers.teacher_helpers import SmallNetwork, assert_equal_means, in_batches, seeded, vary_spread

MULTI, NUMBERS = Bernoulli.problem_type, Gaussian.problem_type
EXACT = pytest.mark.parametrize("structure", ["kron", "full"])
NOISE = (0.3, 2.0)


def network(outputs=2, bias=True):
    torch.manual_seed(0)
    return SmallNetwork(classes=outputs, bias=bias, scale=3.0).eval()


def design(net, x):
    """Features and, for a bias, 1: float64 [N, D]."""
    features = net.backbone(x).detach().double()
    return torch.cat([features, torch.ones(len(x), 1)], dim=1) if net.head.bias is not None else features


def put(net, weights):
    """Make rows [C, D] the head's weights."""
    size = net.head.in_features
    with torch.no_grad():
        net.head.weight.copy_(weights[:, :size])
        if net.head.bias is not None:
            net.head.bias.copy_(weights[:, size])
    return net


def head_weights(net):
    return torch.cat([each.detach().reshape(net.head.out_features, -1) for each in net.head.parameters()], dim=1)


def numbers(count, outputs=2, seed=1):
    x = torch.randn(count, 4, generator=seeded(seed))
    scale = torch.tensor(NOISE[:outputs]).sqrt()
    wanted = network(outputs)(x).detach()
    return x, wanted + scale * torch.randn(count, outputs, generator=seeded(seed + 1))


@EXACT
@BIAS
def test_the_posterior_of_numbers_is_that_of_bayesian_linear_regression(structure, bias):
    net, (x, y) = network(bias=bias), numbers(40)
    phi, delta = design(net, x), 0.7
    inverses = [torch.linalg.inv(phi.T @ phi / var + delta * torch.eye(phi.shape[1])) for var in NOISE]
    means = [inverse @ phi.T @ y[:, c].double() / NOISE[c] for c, inverse in enumerate(inverses)]
    put(net, torch.stack(means))  # as trained to the mode
    teacher = LaplaceTeacher.fit(
        net, in_batches(x, y), prior_precision=delta, structure=structure, problem_type=Gaussian(NOISE)
    )
    new = torch.randn(9, 4, generator=seeded(4))
    answer, rows = teacher.predict(new), design(net, new)
    expected = torch.stack([torch.einsum("ni,ij,nj->n", rows, inverse, rows) for inverse in inverses], dim=1)
    torch.testing.assert_close(answer.variance.double(), expected, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(answer.mean.double(), rows @ torch.stack(means, dim=1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(answer.noise, torch.tensor(NOISE).expand(9, 2))
    torch.testing.assert_close(teacher.head_posterior()[1], torch.stack(inverses).mean(dim=0), rtol=1e-5, atol=1e-6)
    drawn = LaplaceTeacher(net, teacher.curvature, delta, "mc", likelihood=Gaussian(NOISE))
    samples = drawn.predict(new, 20_000, seeded(), return_samples=True)
    torch.testing.assert_close(samples.variance.double(), expected, rtol=0.06, atol=1e-6)
    assert_equal_means(samples.samples, answer.mean)


def test_scikit_learns_bayesian_ridge_has_the_same_posterior_and_evidence():
    net, (x, y) = network(1), numbers(60, 1)
    phi = design(net, x).numpy()
    tiny = dict.fromkeys(("alpha_1", "alpha_2", "lambda_1", "lambda_2"), 1e-12)
    ridge = BayesianRidge(fit_intercept=False, tol=1e-10, max_iter=5_000, compute_score=True, **tiny)
    ridge.fit(phi, y[:, 0].double().numpy())
    put(net, torch.tensor(ridge.coef_)[None])
    teacher = LaplaceTeacher.fit(
        net, [(x, y)], prior_precision="marginal_likelihood", problem_type=Gaussian((1 / ridge.alpha_,))
    )
    assert teacher.prior_precision == pytest.approx(ridge.lambda_, rel=1e-3)
    new = torch.randn(9, 4, generator=seeded(4))
    mean, std = ridge.predict(design(net, new).numpy(), return_std=True)
    answer = teacher.predict(new)
    np.testing.assert_allclose(answer.mean[:, 0], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose((answer.variance + answer.noise)[:, 0], std**2, rtol=1e-4)


def test_the_criterion_of_the_evidence_is_that_of_linear_regression(monkeypatch):
    net, (x, y) = network(1), numbers(40, 1)
    phi, delta, costs = design(net, x), 0.7, []
    identity = torch.eye(phi.shape[1], dtype=torch.float64)
    mode = torch.linalg.solve(phi.T @ phi / NOISE[0] + delta * identity, phi.T @ y.double() / NOISE[0])
    put(net, mode.T)
    monkeypatch.setattr("hf_bkd.teachers.laplace_precision.least", lambda cost, bounds: costs.append(cost) or 1.0)
    LaplaceTeacher.fit(net, [(x, y)], prior_precision="marginal_likelihood", problem_type=Gaussian(NOISE[:1]))
    covariance = NOISE[0] * torch.eye(40, dtype=torch.float64) + phi @ phi.T / delta
    normal = torch.distributions.MultivariateNormal(torch.zeros(40, dtype=torch.float64), covariance)
    errors = (y.double() - phi @ mode).square().sum() / NOISE[0] + 40 * math.log(2 * math.pi * NOISE[0])
    assert -(errors + 40 * costs[0](delta)) / 2 == pytest.approx(normal.log_prob(y[:, 0].double()).item(), rel=1e-5)


def labels_of(net, x, seed=2, factor=1.0):
    probs = (net(x).detach() / factor).sigmoid()
    return (torch.rand(probs.shape, generator=seeded(seed)) < probs).float()


def rows_of_hessian(net, x, labels):
    """The Hessian of the summed cross-entropy in each row of the head, by differentiation: float64 [C, D, D]."""
    phi = design(net, x)
    parameters = [net.head.weight] if net.head.bias is None else [net.head.weight, net.head.bias[:, None]]
    rows = torch.cat([each.detach() for each in parameters], dim=1).double()
    return torch.stack(
        [
            torch.autograd.functional.hessian(
                lambda row, c=c: F.binary_cross_entropy_with_logits(phi @ row, labels[:, c].double(), reduction="sum"),
                rows[c],
            )
            for c in range(len(rows))
        ]
    )


def structured(blocks, structure, net, x):
    if structure == "full":
        return blocks
    if structure == "diag":
        return torch.diag_embed(blocks.diagonal(dim1=1, dim2=2))
    probs, phi = net(x).detach().double().sigmoid(), design(net, x)
    return (probs * (1 - probs)).sum(dim=0)[:, None, None] * (phi.T @ phi / len(x))


def variance_of(net, blocks, delta, x):
    phi, identity = design(net, x), torch.eye(blocks.shape[1], dtype=torch.float64)
    return torch.einsum("ni,cij,nj->nc", phi, torch.linalg.inv(blocks + delta * identity), phi)


@EACH
@BIAS
def test_the_posterior_of_labels_is_that_of_logistic_regressions(structure, bias):
    net = network(3, bias)
    x = torch.randn(50, 4, generator=seeded(3))
    labels, delta, new = labels_of(net, x), 0.3, torch.randn(6, 4, generator=seeded(4))
    fit = {"prior_precision": delta, "structure": structure, "problem_type": MULTI}
    teacher = LaplaceTeacher.fit(net, in_batches(x, labels), **fit)
    blocks = structured(rows_of_hessian(net, x, labels), structure, net, x)
    variance, logits = variance_of(net, blocks, delta, new), net(new).detach().double()
    answer = teacher.predict(new)
    expected = (logits / (1 + math.pi / 8 * variance).sqrt()).sigmoid()
    torch.testing.assert_close(answer.mean.double(), expected, rtol=1e-5, atol=1e-6)
    assert answer.variance is None and (expected - logits.sigmoid()).abs().max() > 0.01, "the link must matter"
    torch.testing.assert_close(
        teacher.head_posterior()[1],
        torch.linalg.inv(blocks + delta * torch.eye(blocks.shape[1])).mean(dim=0),
        rtol=1e-4,
        atol=1e-5,
    )
    drawn = LaplaceTeacher.fit(net, in_batches(x, labels), link="mc", **fit).predict(new, 20_000, seeded(), True)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    nodes, weights = torch.tensor(nodes), torch.tensor(weights / weights.sum())
    integrated = torch.einsum("k,knc->nc", weights, (logits + variance.sqrt() * nodes[:, None, None]).sigmoid())
    assert_equal_means(drawn.samples, integrated)
    assert (answer.mean - integrated).abs().max() < 0.02  # MacKay's approximation


@EACH
def test_the_precision_of_labels_is_the_best_of_a_fine_grid(structure):
    net = network(3)
    with torch.no_grad():
        net.head.weight.mul_(2)
    x = torch.randn(230, 4, generator=seeded(3))
    labels = labels_of(net, x, factor=1.05)
    settings = {"structure": structure, "problem_type": MULTI}
    teacher = LaplaceTeacher.fit(net, [(x[:30], labels[:30])], [(x[30:], labels[30:])], **settings)
    blocks = structured(rows_of_hessian(net, x[:30], labels[:30]), structure, net, x[:30])
    logits = net(x[30:]).detach().double()

    def nll(delta):
        spread = (1 + math.pi / 8 * variance_of(net, blocks, delta, x[30:])).sqrt()
        return F.binary_cross_entropy_with_logits(logits / spread, labels[30:].double()).item()

    values = [nll(delta) for delta in np.geomspace(1e-4, 1e6, 60)]
    assert min(values) < min(values[0], values[-1]) - 0.0002, "the best precision must lie inside"
    assert nll(teacher.prior_precision) <= min(values) + 1e-6
    assert teacher.record["validation"]["nll"] == pytest.approx(nll(teacher.prior_precision), rel=1e-4)


def of_few(outputs=1, factor=1.0):
    """A head fitted to 12 numbers, arguments of fit and 200 held-out numbers."""
    net, (x, y) = network(outputs), numbers(212, outputs, seed=8)
    phi = design(net, x[:12])
    put(net, torch.linalg.lstsq(phi, y[:12].double()).solution.T * factor)
    return net, {"train": [(x[:12], y[:12])], "validation": in_batches(x[12:], y[12:])}


def gaussian_nll(net, settings, delta, noise):
    """The mean over all numbers, by dense matrices in float64, less log(2 pi) / 2."""
    (x, _), *_ = settings["train"]
    new, y = (torch.cat(parts) for parts in zip(*settings["validation"], strict=True))
    phi = design(net, x)
    blocks = torch.stack([phi.T @ phi / each for each in noise])
    total = variance_of(net, blocks, delta, new) + torch.as_tensor(noise, dtype=torch.float64)
    return ((y - net(new).detach()).double().square() / total + total.log()).mean().item() / 2


@EXACT
def test_precision_and_noise_of_numbers_are_those_of_least_nll_together(structure):
    net, settings = of_few()
    teacher = LaplaceTeacher.fit(net, **settings, structure=structure, problem_type=NUMBERS)
    (noise,) = teacher.likelihood.observation_variance
    chosen = gaussian_nll(net, settings, teacher.prior_precision, [noise])
    grid = [
        (gaussian_nll(net, settings, delta, [sigma]), delta, sigma)
        for delta in np.geomspace(1e-4, 1e6, 41)
        for sigma in np.geomspace(0.02, 3, 41)
    ]
    assert chosen <= min(grid)[0] + 1e-5
    assert 1e-3 < teacher.prior_precision < 1e5, "the best precision must lie inside"
    assert 0.5 * NOISE[0] < noise < 2 * NOISE[0]
    assert teacher.record["observation variance chosen by"] == "validation error"
    assert teacher.record["validation"]["nll"] == pytest.approx(chosen + math.log(2 * math.pi) / 2, rel=1e-4)


@EACH
@pytest.mark.parametrize("unit", [2.0**-30, 2.0**30])
def test_the_precision_is_looked_for_in_the_numbers_unit(structure, unit):
    net, settings = of_few()
    expected = LaplaceTeacher.fit(net, **settings, structure=structure, problem_type=NUMBERS)
    wanted = expected.predict(settings["validation"][0][0])
    settings = {name: [(x, unit * y) for x, y in batches] for name, batches in settings.items()}
    teacher = LaplaceTeacher.fit(
        put(net, unit * head_weights(net)), **settings, structure=structure, problem_type=NUMBERS
    )
    answer = teacher.predict(settings["validation"][0][0])
    assert teacher.prior_precision * unit**2 == pytest.approx(expected.prior_precision, rel=1e-2)
    torch.testing.assert_close(answer.variance / unit**2, wanted.variance, rtol=1e-2, atol=0)
    torch.testing.assert_close(answer.noise / unit**2, wanted.noise, rtol=1e-2, atol=0)


@pytest.mark.parametrize(("unit", "warned"), [(1.0, 0), (1e3, 1), (1e-3, 1)])
def test_numbers_of_unlike_units_are_warned_of(unit, warned, recwarn):
    net, settings = of_few(2)
    units = torch.tensor([1.0, unit])
    settings = {name: [(x, units * y) for x, y in batches] for name, batches in settings.items()}
    LaplaceTeacher.fit(put(net, units[:, None] * head_weights(net)), **settings, problem_type=NUMBERS)
    assert sum("divide each number by its own" in str(each.message) for each in recwarn) == warned


def test_squared_errors_are_on_average_what_is_predicted():
    net, settings = of_few(2)
    teacher = LaplaceTeacher.fit(net, **settings, prior_precision=0.5, problem_type=NUMBERS)
    new, y = (torch.cat(parts) for parts in zip(*settings["validation"], strict=True))
    answer = teacher.predict(new)
    ratios = (y - answer.mean).square() / (answer.variance + answer.noise)
    torch.testing.assert_close(ratios.mean(dim=0), torch.ones(2), rtol=1e-4, atol=0)
    assert (answer.noise[0] < (y - answer.mean).square().mean(dim=0)).all()
    data = head_data(net, settings["validation"], teacher.likelihood)
    again = calibrated_noise(teacher.curvature, teacher.curvature.project(data.features), data, 0.5)
    torch.testing.assert_close(again.float(), answer.noise[0], rtol=1e-4, atol=0)


def test_a_given_noise_is_kept_and_the_precision_is_the_best_of_a_fine_grid():
    net, settings = of_few(2)
    given = (0.6, 2.5)
    teacher = LaplaceTeacher.fit(net, **settings, problem_type=Gaussian(given))
    assert teacher.likelihood == Gaussian(given) and "observation variance chosen by" not in teacher.record
    values = [gaussian_nll(net, settings, delta, given) for delta in np.geomspace(1e-4, 1e6, 60)]
    assert min(values) < min(values[0], values[-1]) - 0.001, "the best precision must lie inside"
    assert gaussian_nll(net, settings, teacher.prior_precision, given) <= min(values) + 1e-5


@EACH
@pytest.mark.parametrize("link", ["mc", "probit"])
@pytest.mark.parametrize("problem_type", [MULTI, NUMBERS])
def test_a_saved_posterior_answers_the_same_again(structure, link, problem_type, tmp_path):
    net, settings = of_few(2)
    if problem_type == MULTI:
        settings = {name: [(x, (y > 0).float()) for x, y in part] for name, part in settings.items()}
    teacher = LaplaceTeacher.fit(net, **settings, structure=structure, link=link, problem_type=problem_type)
    teacher.save_pretrained(tmp_path / "t")
    again = Teacher.from_pretrained(tmp_path / "t", network=network())
    new = torch.randn(5, 4, generator=seeded(4))
    for ours, theirs in zip(*(each.predict(new, 3, seeded()) for each in (teacher, again)), strict=True):
        assert (ours is None and theirs is None) or torch.equal(ours, theirs)
    assert again.fingerprint() == teacher.fingerprint() and again.record == teacher.record


def test_a_regressions_posterior_within_others():
    net, settings = of_few(2)
    one = LaplaceTeacher.fit(net, **settings, prior_precision=0.5, problem_type=NUMBERS)
    two = LaplaceTeacher.fit(net, **settings, prior_precision=5.0, problem_type=NUMBERS)
    other = DeterministicTeacher.fit(network(), settings["validation"], problem_type=NUMBERS)
    x = torch.randn(5, 4, generator=seeded(4))
    answers = [each.predict(x) for each in (one, two, other)]
    alone = EnsembleTeacher([one]).predict(x)
    torch.testing.assert_close(alone.variance, answers[0].variance)
    joint = EnsembleTeacher([one, two, other]).predict(x)
    within = [answers[0].noise + answers[0].variance, answers[1].noise + answers[1].variance, answers[2].noise]
    torch.testing.assert_close(joint.noise, torch.stack(within).mean(dim=0))
    torch.testing.assert_close(joint.variance, torch.stack([each.mean for each in answers]).var(dim=0))
    variances = torch.stack([each.variance for each in answers[:2]])
    inverse = 1 / (variances / variances.mean(dim=0)).sum(dim=-1)  # numbers may have different units
    weights = (inverse / inverse.sum(dim=0))[..., None]
    weighed = MultiTeacher({"one": one, "two": two}, "inverse_variance").predict(x)
    torch.testing.assert_close(weighed.noise, (weights * torch.stack(within[:2])).sum(dim=0))


class Tokens(nn.Module):
    """x [B, L, 4] to an answer for each of L tokens."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x)


@pytest.mark.parametrize("link", ["mc", "probit", "bridge"])
def test_each_token_is_answered_as_an_example_of_its_own(link):
    net, x = Tokens(), torch.randn(4, 6, 4, generator=seeded(4))
    labels = torch.randint(3, (4, 6), generator=seeded(5))
    labels[:, 0] = labels[2, 3:] = -100
    teacher = LaplaceTeacher.fit(net, [(x, labels)], prior_precision=0.5, link=link)
    flat = LaplaceTeacher.fit(net, [(x[labels >= 0], labels[labels >= 0])], prior_precision=0.5, link=link)
    answer = teacher.predict(x, 3, seeded())
    assert answer.mean.shape == (4, 6, 3)
    expected = flat.predict(x.flatten(0, 1), 3, seeded())
    torch.testing.assert_close(answer.mean.flatten(0, 1), expected.mean)
    assert link != "mc" or torch.equal(answer.variance.flatten(0, 1), expected.variance)


def test_what_a_token_is_answered_does_not_depend_on_the_padding_behind_it():
    torch.manual_seed(0)
    net, x, ids = Tokens(), torch.randn(2, 6, 4, generator=seeded(4)), torch.tensor([7, 8])
    labels = torch.randint(3, (2, 6), generator=seeded(5))
    laplace = LaplaceTeacher.fit(net, [(x, labels)], prior_precision=0.5, link="mc")
    variational = VariationalTeacher(vary_spread(make_variational(Tokens(), "head", rank=2)))
    for teacher in (laplace, variational):
        answers = [
            teacher.predict(x[rows, :length], 4, ExampleGenerator(ids[rows], 3)).mean
            for rows, length in ((slice(0, 2), 6), (slice(1, 2), 4))
        ]
        assert answers[0].shape == (2, 6, 3)
        torch.testing.assert_close(answers[1][0], answers[0][1, :4])


Y = torch.randn(20, 2, generator=seeded(6))
HOT = (Y > 0).float()


@pytest.mark.parametrize(
    ("labels", "arguments", "words"),
    [
        (HOT, {"link": "bridge"}, "over classes, and the problem type is multi_label_classification: use link='prob"),
        (Y[:, :1], {"problem_type": NUMBERS}, "predicts its own variance, .*take an ensemble, dropout or a variat"),
        (Y, {"problem_type": NUMBERS}, "variance of the numbers .* is unknown: pass validation examples"),
        (Y, {"problem_type": NUMBERS, "prior_precision": "marginal_likelihood"}, "is unknown: pass validation exam"),
        (HOT, {"structure": "dense"}, "structure is 'dense'; it must be one of"),
    ],
)
def test_what_has_no_closed_form_is_refused(labels, arguments, words):
    x = torch.randn(20, 4)
    with pytest.raises(UserError, match=words):
        LaplaceTeacher.fit(network(), **{"train": [(x, labels)], "prior_precision": 1.0} | arguments)


def test_a_posterior_of_another_problem_is_refused():
    x = torch.randn(20, 4)
    labels = torch.arange(20) % 2
    curvature = LaplaceTeacher.fit(network(), [(x, labels)], prior_precision=1.0).curvature
    with pytest.raises(UserError, match="the posterior is not of the network's problem type, multi_label_classif"):
        LaplaceTeacher(network(), curvature, 1.0, likelihood=MULTI)


def test_a_full_posterior_of_many_weights_is_refused():
    net = nn.Sequential(nn.Linear(2_000, 40))
    with pytest.raises(UserError, match="40 rows of 2001 weights needs 160,160,040 numbers: use structure='kron'"):
        LaplaceTeacher.fit(
            net,
            [(torch.randn(3, 2_000), torch.ones(3, 40))],
            prior_precision=1.0,
            structure="full",
            problem_type=MULTI,
        )
