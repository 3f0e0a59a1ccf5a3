"""The Laplace teacher against laplace-torch, against dense posteriors and against the formulas, in float64."""

import numpy as np
import pytest
import torch
from laplace import Laplace
from teacher_helpers import ConvolutionalHead, SmallNetwork, assert_equal_means, in_batches, points, small_cnn
from torch import Tensor, nn
from torch.distributions import MultivariateNormal
from torch.utils.data import DataLoader, TensorDataset
from transformers import BatchEncoding

from hf_bkd.errors import UserError
from hf_bkd.teachers import LaplaceTeacher
from hf_bkd.teachers.laplace import KroneckerFactors
from hf_bkd.teachers.network import HeadData, head_data

BIAS = pytest.mark.parametrize("bias", [True, False])


def semidefinite(size: int, rank: int | None = None) -> Tensor:
    root = torch.randn(size, rank or size, dtype=torch.float64)
    return root @ root.T


def random_factors(classes: int = 3, features: int = 4, bias: bool = True, rank: int | None = None):
    """Factors in float64, and the matrices G [C, C], A [d, d] and B [C, C] or None that they decompose."""
    class_matrix, feature_matrix = semidefinite(classes), semidefinite(features, rank)
    bias_matrix = semidefinite(classes) if bias else None
    parts = []
    for matrix in (class_matrix, feature_matrix, bias_matrix):
        if matrix is None:
            parts += [torch.zeros(0, dtype=torch.float64)] * 2
        else:
            values, vectors = torch.linalg.eigh(matrix)
            parts += [vectors, values.clamp_min(0)]
    return KroneckerFactors(*parts), class_matrix, feature_matrix, bias_matrix


def dense_covariance(
    x: Tensor, class_matrix: Tensor, feature_matrix: Tensor, bias_matrix: Tensor | None, precision: float
) -> Tensor:
    """J P^-1 J^T [B, C, C] for features x [B, d], with P = kron(G, A) + delta I, and B + delta I for the bias."""
    classes = len(class_matrix)
    posterior = torch.kron(class_matrix, feature_matrix)
    if bias_matrix is not None:
        posterior = torch.block_diag(posterior, bias_matrix)
    inverse = torch.linalg.inv(posterior + precision * torch.eye(len(posterior), dtype=x.dtype))
    identity = torch.eye(classes, dtype=x.dtype)
    jacobians = [torch.kron(identity, row[None]) for row in x]  # weights row by row, as nn.Linear keeps them
    if bias_matrix is not None:
        jacobians = [torch.cat([jacobian, identity], dim=1) for jacobian in jacobians]
    return torch.stack([jacobian @ inverse @ jacobian.T for jacobian in jacobians])


@BIAS
@pytest.mark.parametrize("precision", [0.03, 1.0, 70.0])
@pytest.mark.parametrize("rank", [None, 2])
def test_logit_covariance_is_that_of_the_dense_posterior(bias, precision, rank):
    factors, *matrices = random_factors(bias=bias, rank=rank)
    x = torch.randn(5, 4, dtype=torch.float64)
    expected = dense_covariance(x, *matrices, precision)
    torch.testing.assert_close(factors.logit_covariance(x, precision), expected, rtol=1e-9, atol=1e-10)
    variance = factors.logit_variance(x, precision)
    torch.testing.assert_close(variance, expected.diagonal(dim1=1, dim2=2), rtol=1e-9, atol=1e-10)


@BIAS
def test_logit_noise_turns_unit_noise_into_a_root_of_the_covariance(bias):
    factors, *matrices = random_factors(bias=bias)
    x = torch.randn(2, 4, dtype=torch.float64)
    units = torch.eye(6, dtype=torch.float64).view(6, 2, 1, 3).expand(6, 2, 2, 3)  # each of the 2 C noises alone
    root = factors.logit_noise(units, x, 0.4)
    covariance = torch.einsum("sbi,sbj->bij", root, root)
    torch.testing.assert_close(covariance, dense_covariance(x, *matrices, 0.4), rtol=1e-9, atol=1e-10)
    noise = torch.randn(7, 2, 2, 3, dtype=torch.float64)
    combined = torch.einsum("sk,kbi->sbi", noise[:, :, 0].reshape(7, 6), root)[:, 0]
    torch.testing.assert_close(factors.logit_noise(noise, x, 0.4)[:, 0], combined)


def fitted(bias: bool = True, precision: float = 0.7, **settings) -> tuple[LaplaceTeacher, Tensor, Tensor]:
    network, (x, labels) = SmallNetwork(bias=bias, scale=3).eval(), points(50)
    return LaplaceTeacher.fit(network, in_batches(x, labels), prior_precision=precision, **settings), x, labels


def library_fit(network: nn.Module, x: Tensor, labels: Tensor, precision: float = 0.7):
    posterior = Laplace(
        network,
        "classification",
        subset_of_weights="last_layer",
        hessian_structure="kron",
        prior_precision=precision,
        last_layer_name="head",
    )
    posterior.fit(DataLoader(TensorDataset(x, labels), batch_size=20))
    return posterior


@BIAS
def test_the_fit_is_that_of_laplace_torch_through_the_backbone(bias):
    teacher, x, labels = fitted(bias)
    posterior = library_fit(teacher.network, x, labels)
    library = [torch.outer(*posterior.H.eigenvalues[0]).flatten()]
    library += [posterior.H.eigenvalues[1][0]] if bias else []
    factors = teacher.factors
    mine = [torch.outer(factors.class_values, factors.feature_values).flatten(), factors.bias_values]
    for own, theirs in zip(mine, library, strict=False):
        torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-5)
    assert len(factors.bias_values) == (3 if bias else 0)
    logits, covariance = posterior._glm_predictive_distribution(x[:8])
    features = teacher.network.backbone(x[:8])
    torch.testing.assert_close(factors.logit_covariance(features, 0.7), covariance, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(factors.logit_variance(features, 0.7), covariance.diagonal(dim1=1, dim2=2))
    torch.testing.assert_close(teacher.network(x[:8]), logits)


@BIAS
def test_the_fitted_curvature_is_the_gauss_newton_matrix_by_hand(bias):
    # G = sum_n (diag p - p p^T), A = mean_n phi phi^T; the bias' block is G (Ritter et al. 2018, exact expectation)
    teacher, x, _ = fitted(bias)
    features = teacher.network.backbone(x).detach().double()
    probs = torch.softmax(teacher.network(x).detach().double(), dim=-1)
    curvature = sum(torch.diag(p) - torch.outer(p, p) for p in probs)
    moments = features.T @ features / len(features)
    test_x = features[:4]
    expected = dense_covariance(test_x, curvature, moments, curvature if bias else None, 0.7)
    found = teacher.factors.logit_covariance(test_x.float(), 0.7)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-5)


@BIAS
def test_drawn_logits_have_the_mean_and_covariance_of_the_posterior(bias):
    teacher, x, _ = fitted(bias)
    count, x = 20_000, x[:3]
    with torch.no_grad():
        mean, features = teacher.network(x), teacher.network.backbone(x)
        draws = teacher.draw_logits(x, count, torch.Generator().manual_seed(1))
    covariance = teacher.factors.logit_covariance(features, 0.7)
    assert draws.shape == (count, 3, 3)
    assert_equal_means(draws, mean)
    centred = draws - mean
    assert_equal_means(torch.einsum("sbi,sbj->sbij", centred, centred), covariance)
    assert_equal_means(centred[:, 0] * centred[:, 1], torch.zeros(3))  # examples are drawn apart


def test_the_prediction_is_the_softmax_averaged_over_the_gaussian_of_laplace_torch():
    teacher, x, labels = fitted()
    logits, covariance = library_fit(teacher.network, x, labels)._glm_predictive_distribution(x[:4])
    gaussian = MultivariateNormal(logits.double(), covariance.double())
    theirs = torch.softmax(gaussian.sample((20_000,)), dim=-1)
    found = teacher.predict(x[:4], 20_000, torch.Generator().manual_seed(1), return_samples=True)
    assert_equal_means(found.samples - theirs, torch.zeros(4, 3))
    torch.testing.assert_close(found.variance.double(), theirs.var(dim=0), rtol=0.1, atol=1e-4)


def test_probit_divides_the_logits_by_their_spread():
    teacher, x, labels = fitted(link="probit")
    moments = library_fit(teacher.network, x, labels)._glm_predictive_distribution(x)
    logits, covariance = (moment.double().numpy() for moment in moments)
    scaled = logits / np.sqrt(1 + np.pi / 8 * np.diagonal(covariance, axis1=1, axis2=2))
    expected = np.exp(scaled) / np.exp(scaled).sum(axis=-1, keepdims=True)
    found = teacher.predict(x, 10, return_samples=True)
    np.testing.assert_allclose(found.mean, expected, rtol=1e-4)
    assert found.variance is None and found.samples.shape == (1, 50, 3)


@pytest.mark.parametrize("link", ["mc", "probit"])
def test_an_infinite_precision_gives_the_trained_network_and_a_tiny_one_knows_nothing(link):
    teacher, x, _ = fitted(precision=1e12, link=link)
    trained = torch.softmax(teacher.network(x), dim=-1)
    torch.testing.assert_close(teacher.predict(x, 10).mean, trained, rtol=0, atol=1e-5)
    entropies = []
    for precision in (1e2, 1.0, 1e-2):
        probs = LaplaceTeacher(teacher.network, teacher.factors, precision, link).predict(x, 2000).mean
        entropies.append(-(probs * probs.log()).sum(dim=-1).mean().item())
    assert entropies == sorted(entropies) and entropies[-1] > entropies[0] + 0.02


def overconfident(link: str, factor: float = 2.0) -> tuple[LaplaceTeacher, HeadData]:
    """A teacher whose network's logits are ``factor`` times too large for the labels of its validation data."""
    network, (x, _) = SmallNetwork(scale=4).eval(), points(230)
    logits = network(x).detach()
    labels = torch.multinomial(torch.softmax(logits / factor, dim=-1), 1)[:, 0]
    teacher = LaplaceTeacher.fit(network, [(x[:30], labels[:30])], prior_precision=1.0, link=link)
    data = HeadData(network.backbone(x).detach()[30:], logits[30:], labels[30:])
    return teacher, data


def validation_nll(teacher: LaplaceTeacher, data: HeadData, precision: float, draws: Tensor | None = None) -> float:
    """In float64, by the dense covariance: probit, or over the standard normal ``draws`` [S, N, C]."""
    factors = KroneckerFactors(*(factor.double() for factor in teacher.factors))
    vectors = factors.class_vectors, factors.feature_vectors, factors.bias_vectors
    values = factors.class_values, factors.feature_values, factors.bias_values
    matrices = [q @ torch.diag(value) @ q.T for q, value in zip(vectors, values, strict=True)]
    covariance = dense_covariance(data.features.double(), *matrices, precision)
    logits = data.logits.double()
    if draws is None:
        logits = (logits / (1 + torch.pi / 8 * covariance.diagonal(dim1=1, dim2=2)).sqrt())[None]
    else:
        logits = logits + torch.einsum("nij,snj->sni", torch.linalg.cholesky(covariance), draws)
    probs = torch.softmax(logits, dim=-1).mean(dim=0)
    return -probs[torch.arange(len(probs)), data.labels].log().mean().item()


def test_the_probit_precision_is_the_best_of_a_fine_grid():
    teacher, data = overconfident("probit")
    grid = np.geomspace(1e-4, 1e6, 300)
    values = [validation_nll(teacher, data, precision) for precision in grid]
    best = grid[np.argmin(values)]
    assert min(values) < min(values[0], values[-1]) - 0.001, "the best precision must lie inside"
    chosen = teacher.best_precision(data)
    assert validation_nll(teacher, data, chosen) <= min(values) + 1e-5
    assert chosen == pytest.approx(best, rel=0.15)


def test_the_mc_precision_is_nearly_the_best_over_other_draws():
    teacher, data = overconfident("mc", 1.5)
    draws = torch.randn(400, len(data.labels), 3, dtype=torch.float64)
    values = [validation_nll(teacher, data, precision, draws) for precision in np.geomspace(1e-4, 1e6, 60)]
    assert min(values) < values[-1] - 0.005, "the choice must matter"
    chosen = teacher.best_precision(data)
    assert validation_nll(teacher, data, chosen, draws) <= min(values) + 0.001
    assert teacher.best_precision(data) == chosen  # the search draws its noise once, from its own generator


@pytest.mark.parametrize("link", ["mc", "probit"])
def test_where_the_network_is_too_modest_the_narrowest_posterior_is_chosen(link):
    teacher, data = overconfident(link)
    modest = HeadData(data.features, data.logits * 0.01, (data.logits * 0.01).argmax(dim=-1))
    assert teacher.best_precision(modest) > 1e3
    assert teacher.best_precision(modest) <= 1e6 * (1 + 1e-9)


def test_fit_chooses_the_precision_on_the_validation_batches():
    teacher, data = overconfident("probit")
    x = points(230)[0]
    train, validation = [(x[:30], torch.randint(3, (30,)))], in_batches(x[30:], data.labels)
    found = LaplaceTeacher.fit(teacher.network, train, validation, link="probit")
    assert found.prior_precision == pytest.approx(teacher.best_precision(data), rel=1e-3)
    given = LaplaceTeacher.fit(teacher.network, train, validation, prior_precision=3.0)
    assert given.prior_precision == 3.0 and given.link == "mc" and given.tempering == "post_average"


def test_the_curvature_does_not_depend_on_how_the_data_come():
    network, (x, labels) = SmallNetwork().eval(), points(50)
    loaders = [
        in_batches(x, labels, 50),
        DataLoader(TensorDataset(x, labels), batch_size=50),
        [{"x": x, "labels": labels}],
        [BatchEncoding({"x": x, "labels": labels})],
        iter([(x, labels.to(torch.int32))]),
    ]
    first, *others = (LaplaceTeacher.fit(network, loader, prior_precision=1.0).factors for loader in loaders)
    for factors in others:
        assert all(torch.equal(*pair) for pair in zip(first, factors, strict=True))
    in_parts = LaplaceTeacher.fit(network, in_batches(x, labels, 7), prior_precision=1.0).factors
    features = network.backbone(x).detach()
    torch.testing.assert_close(in_parts.logit_covariance(features, 1.0), first.logit_covariance(features, 1.0))


def test_the_curvature_of_more_examples_than_one_batch_holds_is_that_of_all():
    network, (x, labels) = SmallNetwork().eval(), points(1500)
    factors = LaplaceTeacher.fit(network, [(x, labels)], prior_precision=1.0).factors
    features = network.backbone(x).detach()
    probs = torch.softmax(network(x).detach().double(), dim=-1)
    curvature = torch.diag(probs.sum(dim=0)) - probs.T @ probs
    moments = (features.T @ features / 1500).double()
    expected = dense_covariance(features[:4].double(), curvature, moments, curvature, 1.0)
    torch.testing.assert_close(factors.logit_covariance(features[:4], 1.0).double(), expected, rtol=1e-3, atol=1e-6)


def test_fitting_a_network_in_train_mode_changes_nothing_in_it():
    network, (x, labels) = SmallNetwork(), points(50)
    expected = LaplaceTeacher.fit(network.eval(), in_batches(x, labels), prior_precision=1.0).factors
    network.train()
    network.backbone[3].eval()
    modes = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    teacher = LaplaceTeacher.fit(network, in_batches(x, labels), in_batches(x, labels))
    assert all(torch.equal(*pair) for pair in zip(teacher.factors, expected, strict=True))
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_fitting_works_where_gradients_are_off_and_leaves_none():
    network, (x, labels) = SmallNetwork().eval(), points(50)
    expected = LaplaceTeacher.fit(network, [(x, labels)], prior_precision=1.0).factors
    with torch.no_grad():
        found = LaplaceTeacher.fit(network, [(x, labels)], prior_precision=1.0).factors
        assert not torch.is_grad_enabled()
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert not any(part.requires_grad for part in (*expected, *head_data(network, [(x, labels)])))


def test_all_draws_cost_one_pass_through_the_network():
    teacher, x, _ = fitted()
    teacher.network.passes = 0
    teacher.predict(x, 50)
    assert teacher.network.passes == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_networks_of_other_precisions_are_fitted_in_float32(dtype):
    teacher, x, labels = fitted()
    network = teacher.network.to(dtype)
    other = LaplaceTeacher.fit(network, in_batches(x.to(dtype), labels), prior_precision=0.7)
    assert {factor.dtype for factor in other.factors} == {torch.float32}
    features = network.backbone(x.to(dtype)).detach().float()
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(
        other.factors.logit_variance(features, 0.7),
        teacher.factors.logit_variance(features, 0.7),
        rtol=tolerance,
        atol=0,
    )


def test_a_transformers_network_of_images_is_fitted_and_asked():
    network, images, labels = small_cnn(), torch.randn(30, 1, 8, 8), torch.randint(4, (30,))
    batches = [{"pixel_values": part, "labels": own} for part, own in in_batches(images, labels)]
    teacher = LaplaceTeacher.fit(network, batches, batches)
    found = teacher.predict({"pixel_values": images}, 5)
    assert found.mean.shape == (30, 4) and teacher.num_classes == 4
    torch.testing.assert_close(found.mean.sum(dim=-1), torch.ones(30))


def test_to_moves_network_and_posterior():
    teacher, _, _ = fitted()
    assert teacher.to("meta") is teacher and teacher.device.type == "meta"
    assert {factor.device.type for factor in teacher.factors} == {"meta"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "pass validation batches .* or prior_precision"),
        ({"prior_precision": 0}, "prior_precision must be above 0, and it is 0"),
        ({"prior_precision": -2.0}, "prior_precision must be above 0"),
        ({"prior_precision": float("nan")}, "prior_precision must be above 0"),
        ({"prior_precision": 1.0, "link": "bridge"}, "link is 'bridge'; it must be one of mc, probit"),
        ({"train": [], "prior_precision": 1.0}, "batches are empty"),
        ({"validation": []}, "batches are empty"),
        ({"validation": [(torch.zeros(2, 4), torch.tensor([0, 3]))]}, "0 to 2.*from 0 to 3"),
        ({"train": [(torch.zeros(2, 4), torch.tensor([5, 1]))], "prior_precision": 1.0}, "0 to 2.*from 1 to 5"),
        ({"network": ConvolutionalHead(), "prior_precision": 1.0}, "no linear layer"),
    ],
)
def test_fit_refuses_bad_input(arguments, words):
    arguments = {"network": SmallNetwork(), "train": in_batches(*points(20))} | arguments
    with pytest.raises(UserError, match=words):
        LaplaceTeacher.fit(**arguments)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (SmallNetwork(features=6), "5 features, 3 classes and 3 biases, the network's has 6, 3 and 3"),
        (SmallNetwork(classes=4), "5 features, 3 classes and 3 biases, the network's has 5, 4 and 4"),
        (SmallNetwork(bias=False), "5 features, 3 classes and 3 biases, the network's has 5, 3 and 0"),
    ],
)
def test_a_posterior_of_another_head_is_refused(network, words):
    factors = fitted()[0].factors
    with pytest.raises(UserError, match=words):
        LaplaceTeacher(network, factors, 1.0)
