"""How the Laplace teacher's prior precision is chosen, and what its record says of it."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_bkd.metrics import classification_metrics
from hf_bkd.models.heads import HeadData, head_data
from hf_bkd.teachers import LaplaceTeacher
from hf_bkd.teachers import laplace_precision as precision_module
from tests.teachers.laplace_reference import BIAS, EACH, bridge, gauss_newton, library_fit, logit_covariance
from tests.teachers.teacher_helpers import SmallNetwork, in_batches, points


@EACH
@BIAS
def test_the_evidence_is_greatest_where_laplace_torch_finds_it(structure, bias):
    network, (x, labels) = SmallNetwork(bias=bias, scale=3).eval(), points(200)
    library = library_fit(network, x, labels, structure)
    grid = np.geomspace(1e-4, 1e6, 401)
    values = [library.log_marginal_likelihood(torch.tensor([precision])).item() for precision in grid]
    assert max(values) > max(values[0], values[-1]) + 1, "the best precision must lie inside"
    teacher = LaplaceTeacher.fit(
        network, in_batches(x, labels), structure=structure, prior_precision="marginal_likelihood"
    )
    assert teacher.prior_precision == pytest.approx(grid[np.argmax(values)], rel=0.06)
    assert teacher.record == {"examples": 200, "prior precision chosen by": "marginal likelihood"}


@EACH
@BIAS
def test_the_criterion_is_the_evidence_of_laplace_torch_up_to_a_constant(structure, bias, monkeypatch):
    network, (x, labels) = SmallNetwork(bias=bias, scale=3).eval(), points(60)
    costs = []
    monkeypatch.setattr(precision_module, "least", lambda cost, bounds: costs.append(cost) or 1.0)
    LaplaceTeacher.fit(network, [(x, labels)], structure=structure, prior_precision="marginal_likelihood")
    library = library_fit(network, x, labels, structure)
    grid = np.geomspace(1e-3, 1e4, 15)
    mine = np.array([-len(x) / 2 * costs[0](precision) for precision in grid])
    theirs = np.array([library.log_marginal_likelihood(torch.tensor([precision])).item() for precision in grid])
    differences = mine - theirs
    assert np.ptp(theirs) > 20
    np.testing.assert_allclose(differences, differences.mean(), atol=1e-4 * np.abs(theirs).max())


def overconfident(link: str, structure: str = "kron", factor: float = 1.5) -> tuple[SmallNetwork, dict, HeadData]:
    """A network whose logits are ``factor`` times too large for the labels, arguments of fit, and validation data."""
    network, (x, _) = SmallNetwork(scale=8).eval(), points(230)
    logits = network(x).detach()
    labels = torch.multinomial(torch.softmax(logits / factor, dim=-1), 1)[:, 0]
    train, validation = in_batches(x[:30], labels[:30]), in_batches(x[30:], labels[30:])
    settings = {"train": train, "validation": validation, "link": link, "structure": structure}
    return network, settings, head_data(network, validation)


def validation_nll(link: str, hessian: Tensor, data: HeadData, precision: float, draws: Tensor | None = None) -> float:
    """In float64, by the dense covariance, for mc averaged over R means of S normal ``draws`` [R, S, N, C]."""
    covariance, logits = logit_covariance(hessian, data.features, 3, True, precision), data.logits.double()
    if link == "bridge":
        probs = bridge(logits, covariance)
    elif link == "probit":
        spread = (1 + math.pi / 8 * covariance.diagonal(dim1=1, dim2=2)).sqrt()
        probs = torch.softmax(logits / spread, dim=-1)
    else:
        drawn = logits + torch.einsum("nij,rsnj->rsni", torch.linalg.cholesky(covariance), draws)
        probs = torch.softmax(drawn, dim=-1).mean(dim=1)
    return -probs[..., torch.arange(len(logits)), data.labels].log().mean().item()


@EACH
@pytest.mark.parametrize("link", ["probit", "bridge"])
def test_the_precision_in_closed_form_is_the_best_of_a_fine_grid(link, structure):
    network, settings, data = overconfident(link, structure)
    seen = head_data(network, settings["train"])
    hessian = gauss_newton(seen.features, seen.logits, structure, True)
    values = [validation_nll(link, hessian, data, precision) for precision in np.geomspace(1e-4, 1e6, 60)]
    assert min(values) < min(values[0], values[-1]) - 0.0002, "the best precision must lie inside"
    teacher = LaplaceTeacher.fit(network, **settings)
    chosen = validation_nll(link, hessian, data, teacher.prior_precision)
    assert chosen <= min(values) + 1e-5
    assert teacher.record["validation"]["nll"] == pytest.approx(chosen, rel=1e-4)
    assert teacher.record["prior precision chosen by"] == "validation NLL"


@pytest.mark.parametrize(("structure", "num_samples"), [("kron", 1), ("diag", 10), ("full", 10)])
def test_the_mc_precision_is_nearly_the_best_for_means_of_as_many_other_draws(structure, num_samples):
    network, settings, data = overconfident("mc", structure)
    seen = head_data(network, settings["train"])
    hessian = gauss_newton(seen.features, seen.logits, structure, True)
    draws = torch.randn(400 // num_samples, num_samples, *data.logits.shape, dtype=torch.float64)
    grid = np.geomspace(1e-4, 1e6, 21)
    values = [validation_nll("mc", hessian, data, precision, draws) for precision in grid]
    assert max(values) > min(values) + 0.01, "the choice must matter"
    teacher = LaplaceTeacher.fit(network, **settings, num_samples=num_samples)
    assert validation_nll("mc", hessian, data, teacher.prior_precision, draws) <= min(values) + 0.003
    assert teacher.best_precision(data, num_samples) == teacher.prior_precision  # the draws are always the same


def test_the_fewer_draws_the_narrower_is_the_posterior_chosen():
    network, settings, _ = overconfident("mc")
    chosen = [LaplaceTeacher.fit(network, **settings, num_samples=count).prior_precision for count in (1, 10, 100)]
    assert chosen[0] > 3 * chosen[1] and chosen[1] > 1.5 * chosen[2]


@EACH
@pytest.mark.parametrize("link", ["mc", "probit"])  # the bridge's mean hardly depends on the covariance's size
def test_where_the_network_is_too_modest_a_narrow_posterior_is_chosen(link, structure):
    network, settings, data = overconfident(link, structure)
    teacher = LaplaceTeacher.fit(network, **settings)
    modest = HeadData(data.features, data.logits * 0.01, (data.logits * 0.01).argmax(dim=-1))
    assert teacher.prior_precision < 10 and teacher.best_precision(modest) > 100


def test_the_search_stays_within_its_range_and_finds_its_ends():
    assert precision_module.least(lambda delta: delta) == pytest.approx(1e-4, rel=1e-3)
    assert precision_module.least(lambda delta: -delta) == pytest.approx(1e6, rel=1e-3)
    asked = []
    actual = precision_module.least(lambda delta: asked.append(delta) or math.log(delta / 3) ** 2)
    assert 1e-4 * (1 - 1e-12) <= min(asked) < 1.01e-4 and 0.99e6 < max(asked) <= 1e6 * (1 + 1e-12)
    assert actual == pytest.approx(3, rel=1e-3)


def test_a_given_precision_is_kept_and_the_defaults_are_those_of_the_paper():
    network, settings, _ = overconfident("mc")
    teacher = LaplaceTeacher.fit(network, settings["train"], prior_precision=3.0)
    assert teacher.prior_precision == 3.0
    assert (teacher.link, teacher.tempering, teacher.curvature.structure) == ("probit", "post_average", "kron")
    assert teacher.record == {"examples": 30, "prior precision chosen by": "given"}


@EACH
@pytest.mark.parametrize("link", ["probit", "bridge"])
@pytest.mark.parametrize("rule", [2.0, "marginal_likelihood", None])
def test_the_record_has_the_metrics_of_the_validation_batches(link, structure, rule):
    network, settings, data = overconfident(link, structure)
    teacher = LaplaceTeacher.fit(network, **settings, prior_precision=rule)
    x, labels = (torch.cat(parts) for parts in zip(*settings["train"], strict=True))
    library = library_fit(network, x, labels, structure, teacher.prior_precision)
    held_out = torch.cat([inputs for inputs, _ in settings["validation"]])
    expected = classification_metrics(library(held_out, link_approx=link), data.labels)
    assert teacher.record["validation"] == pytest.approx(expected, rel=1e-3)
    words = {2.0: "given", "marginal_likelihood": "marginal likelihood", None: "validation NLL"}
    assert teacher.record["prior precision chosen by"] == words[rule]
    assert teacher.record["examples"] == 30


@EACH
@pytest.mark.parametrize("num_samples", [1, 10, 200])
def test_the_record_has_the_metrics_of_one_mean_of_as_many_draws(structure, num_samples):
    network, settings, data = overconfident("mc", structure)
    teacher = LaplaceTeacher.fit(network, **settings, prior_precision=0.3, num_samples=num_samples)
    seen = head_data(network, settings["train"])
    hessian = gauss_newton(seen.features, seen.logits, structure, True)
    root = torch.linalg.cholesky(logit_covariance(hessian, data.features, 3, True, 0.3))
    smooth, others = ("accuracy", "nll", "brier"), []  # the calibration error jumps with the examples' bins
    for _ in range(12):
        noise = torch.randn(num_samples, *data.logits.shape, dtype=torch.float64)
        drawn = data.logits + torch.einsum("nij,snj->sni", root, noise)
        metrics = classification_metrics(torch.softmax(drawn, dim=-1).mean(dim=0), data.labels)
        others.append(torch.tensor([metrics[name] for name in smooth], dtype=torch.float64))
    actual, others = teacher.record["validation"], torch.stack(others)
    assert list(actual) == ["accuracy", "nll", "ece", "brier"]
    deviation = torch.tensor([actual[name] for name in smooth], dtype=torch.float64) - others.mean(dim=0)
    assert (deviation.abs() < 5 * others.std(dim=0) + 1e-4).all()


def test_the_record_of_few_draws_is_worse_than_that_of_many():
    network, settings, _ = overconfident("mc")
    settings["prior_precision"] = 0.3
    nlls = [
        LaplaceTeacher.fit(network, **settings, num_samples=count).record["validation"]["nll"] for count in (1, 10)
    ]
    many = LaplaceTeacher.fit(network, **settings, num_samples=200)
    assert nlls[0] > nlls[1] + 0.1 and nlls[1] > many.record["validation"]["nll"] + 0.005


@pytest.mark.parametrize(("link", "structure"), [("mc", "kron"), ("probit", "diag"), ("bridge", "full")])
def test_the_choice_does_not_depend_on_how_many_examples_are_held_at_a_time(link, structure, monkeypatch):
    network, settings, _ = overconfident(link, structure)
    settings["validation"] = settings["validation"][:2]  # 32 examples
    expected = LaplaceTeacher.fit(network, **settings)
    held = []
    linked = precision_module.linked

    def watched(link, logits, covariance, noise, likelihood):
        held.append((len(logits), 0 if noise is None else noise.numel()))
        return linked(link, logits, covariance, noise, likelihood)

    monkeypatch.setattr(precision_module, "linked", watched)
    for chunk, most in ((2000, range(2, 30)), (1, [1])):
        held.clear()
        monkeypatch.setattr(precision_module, "CHUNK", chunk)
        actual = LaplaceTeacher.fit(network, **settings)
        examples, numbers = (max(column) for column in zip(*held, strict=True))
        assert examples in most and (numbers <= chunk or examples == 1)
        assert sum(count for count, _ in held) % 32 == 0, "no example may be lost"
        assert abs(math.log10(actual.prior_precision / expected.prior_precision)) < (1 if link == "mc" else 0.05)
        again = LaplaceTeacher.fit(network, **settings, prior_precision=expected.prior_precision)
        if link == "mc":  # other draws
            assert again.record["validation"]["nll"] == pytest.approx(expected.record["validation"]["nll"], abs=0.1)
        else:
            assert again.record["validation"] == pytest.approx(expected.record["validation"], abs=1e-6)
