"""The Laplace teacher against laplace-torch and against the formulas in float64."""

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal
from torch.utils.data import DataLoader, TensorDataset
from transformers import BatchEncoding

from hf_bkd.models.heads import head_data
from hf_bkd.teachers import LaplaceTeacher
from hf_bkd.teachers.curvature import Curvature, KroneckerCurvature
from hf_bkd.utils.errors import UserError
from tests.teachers.laplace_reference import BIAS, EACH, LINK, bridge, library_fit
from tests.teachers.teacher_helpers import (
    ConvolutionalHead,
    SmallNetwork,
    assert_equal_means,
    in_batches,
    points,
    small_cnn,
)


def fitted(bias: bool = True, precision: float = 0.7, classes: int = 3, **settings):
    """A teacher and the 50 points that it was fitted on."""
    network, (x, labels) = SmallNetwork(bias=bias, scale=3, classes=classes).eval(), points(50, classes)
    settings = {"link": "mc", "prior_precision": precision} | settings
    return LaplaceTeacher.fit(network, in_batches(x, labels), **settings), x, labels


def same_curvature(actual: Curvature, expected: Curvature) -> bool:
    actual, expected = actual.tensors(), expected.tensors()
    return all(torch.equal(actual[name], expected[name]) for name in expected)


@EACH
@BIAS
def test_drawn_logits_have_the_mean_and_covariance_of_laplace_torch(structure, bias):
    teacher, x, labels = fitted(bias, structure=structure)
    mean, covariance = library_fit(teacher.network, x, labels, structure)._glm_predictive_distribution(x[:3])
    draws = teacher.draw_logits(x[:3], 20_000, torch.Generator().manual_seed(1)).detach()
    assert draws.shape == (20_000, 3, 3)
    assert_equal_means(draws, mean)
    centered = draws - mean
    assert_equal_means(torch.einsum("sbi,sbj->sbij", centered, centered), covariance)
    assert_equal_means(centered[:, 0] * centered[:, 1], torch.zeros(3))  # examples are drawn apart


@EACH
@BIAS
def test_the_mc_prediction_is_that_of_laplace_torch(structure, bias):
    teacher, x, labels = fitted(bias, structure=structure)
    library = library_fit(teacher.network, x, labels, structure)
    theirs = library(x[:4], link_approx="mc", n_samples=50_000)
    actual = teacher.predict(x[:4], 50_000, torch.Generator().manual_seed(1), return_samples=True)
    assert_equal_means(actual.samples, theirs, 7)  # theirs has as large an error
    torch.testing.assert_close(actual.mean, actual.samples.mean(dim=0))
    mean, covariance = library._glm_predictive_distribution(x[:4])
    draws = MultivariateNormal(mean.double(), covariance.double()).sample((20_000,)).softmax(dim=-1)
    torch.testing.assert_close(actual.variance.double(), draws.var(dim=0), rtol=0.1, atol=1e-4)


@EACH
@BIAS
@pytest.mark.parametrize("link", ["probit", "bridge"])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_links_in_closed_form_are_those_of_laplace_torch(structure, bias, link, classes):
    teacher, x, labels = fitted(bias, structure=structure, link=link, classes=classes)
    expected = library_fit(teacher.network, x, labels, structure)(x, link_approx=link)
    actual = teacher.predict(x, 10, return_samples=True)
    torch.testing.assert_close(actual.mean, expected, rtol=1e-4, atol=1e-6)
    assert actual.variance is None and actual.samples.shape == (1, 50, classes)
    plain = torch.softmax(teacher.network(x), dim=-1)
    if (link, classes) != ("bridge", 2):  # whose variances cancel
        assert (actual.mean - plain).abs().max() > 0.01, "the link must matter"


@pytest.mark.parametrize("classes", [2, 1000])
@pytest.mark.parametrize("precision", [1e-4, 1.0])
def test_the_bridge_neither_overflows_nor_drowns_in_float32(classes, precision):
    network = nn.Linear(3, classes)
    values, vectors = torch.linalg.eigh(torch.eye(classes) - 1 / classes)  # as of a softmax: nothing along 1
    curvature = KroneckerCurvature(True, vectors, 1e4 * values.clamp_min(0), torch.eye(3), torch.ones(3))
    x = torch.randn(4, 3)
    with torch.no_grad():
        network.weight.mul_(100 / network(x).abs().max())
        network.bias.mul_(0)
        network.weight.mul_(100 / network(x).abs().max())
        logits = network(x)
    assert logits.abs().max() > 99
    covariance = vectors.double() * (1 / (1e4 * values.clamp_min(0).double() + precision)) @ vectors.T.double()
    covariance = covariance * (1 + x.double().square().sum(dim=1))[:, None, None]
    actual = LaplaceTeacher(network, curvature, precision, "bridge").predict(x).mean
    expected = bridge(logits.double(), covariance)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=1e-6)


@LINK
def test_features_of_zero_without_a_bias_leave_every_class_as_probable(link):
    network = nn.Linear(5, 3, bias=False)
    teacher = LaplaceTeacher.fit(network, [(torch.rand(9, 5), torch.arange(9) % 3)], prior_precision=1.0, link=link)
    torch.testing.assert_close(teacher.predict(torch.zeros(2, 5)).mean, torch.full((2, 3), 1 / 3))


@pytest.mark.parametrize("link", ["mc", "probit"])
def test_a_huge_precision_gives_the_trained_network_and_a_tiny_one_knows_nothing(link):
    teacher, x, _ = fitted(precision=1e12, link=link)
    trained = torch.softmax(teacher.network(x), dim=-1)
    torch.testing.assert_close(teacher.predict(x, 10).mean, trained, rtol=0, atol=1e-5)
    entropies = []
    for precision in (1e2, 1.0, 1e-2):
        probs = LaplaceTeacher(teacher.network, teacher.curvature, precision, link).predict(x, 2000).mean
        entropies.append(-(probs * probs.log()).sum(dim=-1).mean().item())
    assert entropies == sorted(entropies) and entropies[-1] > entropies[0] + 0.02


@EACH
@LINK
def test_what_is_drawn_does_not_depend_on_the_temperature(structure, link):
    teacher, x, _ = fitted(structure=structure, link=link)
    first = teacher.draw_logits(x, 4, torch.Generator().manual_seed(1))
    teacher.temperature = 5.0
    assert torch.equal(teacher.draw_logits(x, 4, torch.Generator().manual_seed(1)), first)


def test_the_curvature_does_not_depend_on_how_the_data_come():
    network, (x, labels) = SmallNetwork().eval(), points(50)
    loaders = [
        in_batches(x, labels, 50),
        DataLoader(TensorDataset(x, labels), batch_size=50),
        [{"x": x, "labels": labels}],
        [BatchEncoding({"x": x, "labels": labels})],
        iter([(x, labels.to(torch.int32))]),
    ]
    first, *others = (LaplaceTeacher.fit(network, loader, prior_precision=1.0).curvature for loader in loaders)
    assert all(same_curvature(curvature, first) for curvature in others)
    in_parts = LaplaceTeacher.fit(network, in_batches(x, labels, 7), prior_precision=1.0).curvature
    features = network.backbone(x).detach()
    variances = [each.covariance(each.project(features), 1.0).variance() for each in (in_parts, first)]
    torch.testing.assert_close(*variances)


@EACH
def test_fitting_a_network_in_train_mode_changes_nothing_in_it(structure):
    network, (x, labels) = SmallNetwork(), points(50)
    batches = in_batches(x, labels)
    expected = LaplaceTeacher.fit(network.eval(), batches, prior_precision=1.0, structure=structure).curvature
    network.train()
    network.backbone[1].eval()
    modes = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    teacher = LaplaceTeacher.fit(network, batches, batches, structure=structure)
    assert same_curvature(teacher.curvature, expected)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


@EACH
def test_fitting_works_where_gradients_are_off_and_leaves_none(structure):
    network, (x, labels) = SmallNetwork().eval(), points(50)
    expected = LaplaceTeacher.fit(network, [(x, labels)], prior_precision=1.0, structure=structure).curvature
    with torch.no_grad():
        actual = LaplaceTeacher.fit(network, [(x, labels)], prior_precision=1.0, structure=structure).curvature
        assert not torch.is_grad_enabled()
    assert same_curvature(actual, expected)
    remaining = (*expected.tensors().values(), *head_data(network, [(x, labels)])[:3])
    assert not any(part.requires_grad for part in remaining)


@LINK
def test_a_network_left_in_train_mode_is_asked_in_evaluation_mode(link):
    teacher, x, _ = fitted(link=link)
    expected = teacher.predict(x, 4, torch.Generator().manual_seed(1)).mean
    state = {name: value.clone() for name, value in teacher.network.state_dict().items()}
    teacher.network.train()
    assert torch.equal(teacher.predict(x, 4, torch.Generator().manual_seed(1)).mean, expected)
    assert all(torch.equal(value, state[name]) for name, value in teacher.network.state_dict().items())


def test_all_draws_cost_one_pass_through_the_network_and_a_fit_one_a_batch():
    teacher, x, labels = fitted()
    teacher.network.passes = 0
    teacher.predict(x, 10)
    assert teacher.network.passes == 1
    teacher.network.passes = 0
    LaplaceTeacher.fit(teacher.network, in_batches(x, labels, 10), in_batches(x, labels, 25))
    assert teacher.network.passes == 5 + 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@EACH
def test_networks_of_other_precisions_are_fitted_in_float32(dtype, structure):
    teacher, x, labels = fitted(structure=structure, link="probit")
    expected = teacher.predict(x).mean
    tolerance = 0.02 if dtype == torch.bfloat16 else 1e-4
    network = teacher.network.to(dtype)
    torch.testing.assert_close(teacher.predict(x).mean, expected, rtol=0, atol=tolerance)
    settings = {"structure": structure, "link": "probit"}
    other = LaplaceTeacher.fit(network, in_batches(x.to(dtype), labels), prior_precision=0.7, **settings)
    assert {tensor.dtype for tensor in other.curvature.tensors().values()} == {torch.float32}
    torch.testing.assert_close(other.predict(x).mean, expected, rtol=0, atol=tolerance)


def test_a_transformers_network_of_images_is_fitted_and_asked():
    network, images, labels = small_cnn(), torch.randn(30, 1, 8, 8), torch.randint(4, (30,))
    batches = [{"pixel_values": part, "labels": own} for part, own in in_batches(images, labels)]
    teacher = LaplaceTeacher.fit(network, batches, batches)
    actual = teacher.predict({"pixel_values": images}, 5)
    assert actual.mean.shape == (30, 4) and teacher.num_classes == 4
    torch.testing.assert_close(actual.mean.sum(dim=-1), torch.ones(30))


@EACH
@LINK
def test_the_posterior_follows_the_network_to_another_device(structure, link):
    teacher, x, _ = fitted(structure=structure, link=link)
    teacher.network.to("meta")
    assert teacher.predict(x, 4).mean.device.type == "meta"
    assert teacher.curvature.device.type == "meta"
    assert teacher.to("meta") is teacher and teacher.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@EACH
@pytest.mark.parametrize("link", ["probit", "bridge"])
def test_a_gpu_gives_the_prediction_of_the_cpu(structure, link):
    teacher, x, _ = fitted(structure=structure, link=link)
    expected = teacher.predict(x).mean
    actual = teacher.to("cuda").predict(x).mean
    assert actual.device.type == teacher.curvature.device.type == "cuda"
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prior_precision": None}, "pass validation batches .* or prior_precision"),
        ({"prior_precision": 0}, "prior_precision must be above 0 and finite, and it is 0"),
        ({"prior_precision": -2.0}, "prior_precision must be above 0"),
        ({"prior_precision": float("nan")}, "prior_precision must be above 0 and finite, and it is nan"),
        ({"prior_precision": float("inf")}, "prior_precision must be above 0 and finite, and it is inf"),
        ({"prior_precision": "evidence"}, "prior_precision is 'evidence'; it must be a number or 'marginal_likelih"),
        ({"link": "logit"}, "link is 'logit'; it must be one of mc, probit, bridge"),
        ({"structure": "dense"}, "structure is 'dense'; it must be one of kron, diag, full"),
        ({"train": []}, "batches are empty"),
        ({"train": [(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))]}, "batches are empty"),
        ({"validation": []}, "batches are empty"),
        ({"validation": [], "prior_precision": None}, "batches are empty"),
        ({"validation": [(torch.zeros(2, 4), torch.tensor([0, 3]))]}, "0 to 2.*from 0 to 3"),
        ({"train": [(torch.zeros(2, 4), torch.tensor([5, 1]))]}, "0 to 2.*from 1 to 5"),
        ({"train": [(torch.zeros(2, 4), torch.tensor([-1, 1]))]}, "1 of 2 labels are -1, which is none"),
        ({"train": [(torch.zeros(2, 4), torch.full((2, 3), 1 / 3))]}, "labels must be class indices"),
        ({"train": [torch.zeros(2, 4)]}, "batches must be .inputs, labels. pairs or dicts"),
        ({"network": ConvolutionalHead()}, "no linear layer"),
    ],
)
def test_fit_refuses_bad_input(arguments, words):
    arguments = {"network": SmallNetwork(), "train": in_batches(*points(20)), "prior_precision": 1.0} | arguments
    with pytest.raises(UserError, match=words):
        LaplaceTeacher.fit(**arguments)


def test_a_misspelt_rule_for_the_precision_is_refused_before_the_pass_over_the_data():
    network = SmallNetwork()
    with pytest.raises(UserError, match="'marglik'"):
        LaplaceTeacher.fit(network, in_batches(*points(20)), prior_precision="marglik")
    assert network.passes == 0


@pytest.mark.parametrize("count", [0, -1])
def test_fewer_than_one_draw_are_refused(count):
    teacher, x, labels = fitted()
    with pytest.raises(UserError, match=f"num_samples must be a whole number of at least 1, and it is {count}"):
        teacher.predict(x, count)
    with pytest.raises(UserError, match=f"num_samples must be a whole number of at least 1, and it is {count}"):
        LaplaceTeacher.fit(teacher.network, [(x, labels)], prior_precision=1.0, num_samples=count)
    with pytest.raises(UserError, match=f"num_samples must be a whole number of at least 1, and it is {count}"):
        teacher.best_precision(head_data(teacher.network, [(x, labels)]), count)


@EACH
@pytest.mark.parametrize(
    ("network", "words"),
    [
        (SmallNetwork(features=6), "5 features, 3 classes and bias: True; the network's has 6, 3 and True"),
        (SmallNetwork(classes=4), "5 features, 3 classes and bias: True; the network's has 5, 4 and True"),
        (SmallNetwork(bias=False), "5 features, 3 classes and bias: True; the network's has 5, 3 and False"),
    ],
)
def test_a_posterior_of_another_head_is_refused(structure, network, words):
    curvature = fitted(structure=structure)[0].curvature
    with pytest.raises(UserError, match=words):
        LaplaceTeacher(network, curvature, 1.0)
