"""The closed-form Gaussian over logits against dense posteriors in float64 and against laplace-torch."""

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hf_bkd.models.heads import HeadData, head_data
from hf_bkd.teachers import LaplaceTeacher
from hf_bkd.teachers import curvature as curvature_module
from hf_bkd.teachers.curvature import (
    STRUCTURES,
    Curvature,
    DiagonalCurvature,
    FullCurvature,
    KroneckerCurvature,
    LogitCovariance,
    curvature_of,
)
from hf_bkd.utils.errors import UserError
from tests.teachers.laplace_reference import BIAS, EACH, gauss_newton, jacobians, library_fit, logit_covariance
from tests.teachers.teacher_helpers import SmallNetwork, in_batches, points

CLASSES, FEATURES = 3, 4


def semidefinite(size: int, rank: int) -> Tensor:
    root = torch.randn(size, rank, dtype=torch.float64)
    return root @ root.T


def random_curvature(structure: str, bias: bool, lost: int = 1) -> tuple[Curvature, Tensor]:
    """A curvature in float64 whose matrices lack ``lost`` ranks, and H [P, P] that it stands for."""
    weights = CLASSES * FEATURES
    size = weights + bias * CLASSES
    if structure == "kron":
        matrices = semidefinite(CLASSES, CLASSES - lost), semidefinite(FEATURES, FEATURES - lost)
        (class_values, class_vectors), (feature_values, feature_vectors) = map(torch.linalg.eigh, matrices)
        parts = class_vectors, class_values.clamp_min(0), feature_vectors, feature_values.clamp_min(0)
        hessian = torch.kron(*matrices)
        return KroneckerCurvature(bias, *parts), torch.block_diag(hessian, matrices[0]) if bias else hessian
    if structure == "diag":
        values = torch.rand(size, dtype=torch.float64) * 5
        values[:lost] = 0
        parts = values[:weights].view(CLASSES, FEATURES), values[weights:]
        return DiagonalCurvature(bias, *parts), torch.diag(values)
    hessian = semidefinite(size, size - lost)
    values, vectors = torch.linalg.eigh(hessian)
    parts = vectors[:weights].view(CLASSES, FEATURES, size), vectors[weights:], values.clamp_min(0)
    return FullCurvature(bias, *parts), hessian


def dense(covariance: LogitCovariance) -> Tensor:
    """[B, C, C], from what ``correlate`` makes of each of the C unit noises."""
    count, classes = covariance.scales.shape
    units = torch.eye(classes, dtype=covariance.scales.dtype)[:, None].expand(classes, count, classes)
    root = covariance.correlate(units)
    return torch.einsum("kbi,kbj->bij", root, root)


def same(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    scale = expected.abs().max().item()
    torch.testing.assert_close(actual.to(expected), expected, rtol=tolerance, atol=tolerance * max(scale, 1))


@EACH
@BIAS
@pytest.mark.parametrize("precision", [0.03, 1.0, 70.0])
@pytest.mark.parametrize("lost", [0, 2])
def test_the_logit_covariance_is_that_of_the_dense_posterior(structure, bias, precision, lost):
    curvature, hessian = random_curvature(structure, bias, lost)
    x = torch.randn(5, FEATURES, dtype=torch.float64)
    expected = logit_covariance(hessian, x, CLASSES, bias, precision)
    actual = curvature.covariance(curvature.project(x), precision)
    same(dense(actual), expected)
    same(actual.variance(), expected.diagonal(dim1=1, dim2=2))
    same(actual.row_sums(), expected.sum(dim=-1))


@EACH
@BIAS
def test_correlate_is_linear_in_the_noise_and_keeps_examples_apart(structure, bias):
    curvature, _ = random_curvature(structure, bias)
    covariance = curvature.covariance(curvature.project(torch.randn(2, FEATURES, dtype=torch.float64)), 0.4)
    units = torch.eye(2 * CLASSES, dtype=torch.float64).view(-1, 2, CLASSES)
    roots = covariance.correlate(units)
    assert (roots[:CLASSES, 1] == 0).all() and (roots[CLASSES:, 0] == 0).all()
    noise = torch.randn(7, 2, CLASSES, dtype=torch.float64)
    same(covariance.correlate(noise), torch.einsum("sk,kbi->sbi", noise.flatten(1), roots))


@EACH
@BIAS
def test_the_eigenvalues_are_the_dense_matrix_spectrum(structure, bias):
    curvature, hessian = random_curvature(structure, bias)
    same(curvature.eigenvalues().sort().values, torch.linalg.eigvalsh(hessian))
    assert curvature.head_size == (FEATURES, CLASSES)


def fitted(structure: str, bias: bool = True, count: int = 50) -> tuple[Curvature, SmallNetwork, HeadData, Tensor]:
    network, (x, labels) = SmallNetwork(bias=bias, scale=3).eval(), points(count)
    data = head_data(network, in_batches(x, labels))
    return curvature_of(data, network.head, structure), network, data, x


@EACH
@pytest.mark.parametrize(("bias", "count"), [(True, 50), (False, 50), (True, 1500)])  # more than are held at a time
def test_the_fit_is_that_of_laplace_torch_through_the_backbone(structure, bias, count):
    curvature, network, data, x = fitted(structure, bias, count)
    assert type(curvature) is STRUCTURES[structure] and curvature.structure == structure
    posterior = library_fit(network, x, data.labels, structure, batch=20 if count == 50 else 600)
    logits, expected = posterior._glm_predictive_distribution(x[:8])
    covariance = curvature.covariance(curvature.project(data.features[:8]), 0.7)
    same(dense(covariance), expected, 1e-4)
    same(covariance.variance(), expected.diagonal(dim1=1, dim2=2), 1e-4)
    same(data.logits[:8], logits, 1e-5)
    values = curvature.eigenvalues()
    log_det = (values + 0.7).double().log().sum().item()
    assert log_det == pytest.approx(posterior.log_det_posterior_precision.item(), rel=1e-4)
    assert len(values) == 15 + 3 * bias


@EACH
@pytest.mark.parametrize(("bias", "count"), [(True, 50), (False, 50), (True, 1500)])
def test_the_fit_is_the_gauss_newton_matrix_by_hand(structure, bias, count):
    curvature, _, data, _ = fitted(structure, bias, count)
    hessian = gauss_newton(data.features, data.logits, structure, bias)
    same(curvature.eigenvalues().sort().values, torch.linalg.eigvalsh(hessian), 1e-4)
    for precision in (0.05, 0.7, 20.0):
        expected = logit_covariance(hessian, data.features[:4], CLASSES, bias, precision)
        same(dense(curvature.covariance(curvature.project(data.features[:4]), precision)), expected, 1e-4)


def test_the_kronecker_block_of_the_bias_is_that_of_the_weights_classes():
    # the closed form adds the bias' variance in the eigenvectors of the weights' classes
    network, (x, labels) = SmallNetwork(scale=3).eval(), points(50)
    kronecker = library_fit(network, x, labels).H
    (class_vectors, _), (bias_vectors,) = kronecker.eigenvectors
    (class_values, _), (bias_values,) = kronecker.eigenvalues
    same(bias_vectors * bias_values @ bias_vectors.T, class_vectors * class_values @ class_vectors.T, 1e-6)
    assert class_values.max() > 1


@EACH
def test_a_small_prior_precision_drowns_no_difference_between_logits(structure):
    # without curvature along what all logits share, their common variance is up to 1e9 times that of differences
    count, classes = 4_000, 10
    head, features = nn.Linear(4, classes), torch.randn(count, 4).relu() * 3
    logits = head(features).detach()
    data = HeadData(features, logits, torch.distributions.Categorical(logits=logits).sample())
    curvature = curvature_of(data, head, structure)
    exact = type(curvature)(True, **{name: value.double() for name, value in curvature.tensors().items()})
    x = features[:8]
    covariance = curvature.covariance(curvature.project(x), 1e-4).to(torch.float64)
    actual, expected = dense(covariance), dense(exact.covariance(exact.project(x.double()), 1e-4))
    center = torch.eye(classes, dtype=torch.float64) - 1 / classes
    same(center @ actual @ center / 1e-4, center @ expected @ center / 1e-4, 1e-4)


@pytest.mark.parametrize("precision", [1e-4, 1e-2, 1.0])
@EACH
def test_at_a_small_prior_precision_the_fit_is_that_of_float64(structure, precision):
    torch.manual_seed(0)
    head, features = nn.Linear(12, 5), torch.randn(200, 12)
    logits = head(features).detach()
    curvature = curvature_of(HeadData(features, logits, logits.argmax(dim=1)), head, structure).to("cpu")
    hessian = gauss_newton(features, logits, structure, True)
    expected = logit_covariance(hessian, features[:7], 5, True, precision).diagonal(dim1=1, dim2=2)
    actual = curvature.covariance(curvature.project(features[:7]), precision).variance().double()
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=0)


def test_draws_of_a_full_covariance_do_not_depend_on_the_batch():
    curvature, _, data, _ = fitted("full", count=400)
    noise = torch.randn(3, 400, CLASSES)
    whole = curvature.covariance(curvature.project(data.features), 0.1).correlate(noise)
    for i in range(0, 400, 40):
        one = curvature.covariance(curvature.project(data.features[i : i + 1]), 0.1).correlate(noise[:, i : i + 1])
        torch.testing.assert_close(one, whole[:, i : i + 1], rtol=1e-4, atol=1e-5)


def test_a_full_covariance_is_the_same_however_many_examples_are_held_at_a_time(monkeypatch):
    curvature, _, data, _ = fitted("full")
    expected = dense(curvature.covariance(curvature.project(data.features), 0.7))
    held = []
    einsum = torch.einsum

    def watched(equation: str, *operands: Tensor) -> Tensor:
        result = einsum(equation, *operands)
        held.append(result.numel())
        return result

    monkeypatch.setattr(curvature_module, "AT_ONCE", 500)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "einsum", watched)
        covariance = curvature.covariance(curvature.project(data.features), 0.7)
    assert max(held) <= 500 and sum(held) == 50 * 3 * 18
    same(dense(covariance), expected, 1e-5)


@pytest.mark.parametrize(("classes", "most"), [(3, 1024), (256, 1024), (1000, 67), (20_000, 1)])
def test_the_fit_holds_fewer_examples_the_more_classes_there_are(classes, most, monkeypatch):
    sizes = []

    class Stop(Exception):
        pass

    def watched(data, batch_size: int):
        sizes.append(batch_size)
        raise Stop

    monkeypatch.setattr(curvature_module, "DataLoader", watched)
    data = HeadData(torch.randn(2, 1), torch.randn(2, classes), torch.tensor([0, 1]))
    with pytest.raises(Stop):
        curvature_of(data, nn.Linear(1, classes), "kron")
    assert sizes == [most]


@EACH
@BIAS
def test_moved_curvature_is_float32_and_contiguous_with_the_same_numbers(structure, bias):
    curvature, _ = random_curvature(structure, bias)
    moved = curvature.to("cpu")
    assert type(moved) is type(curvature) and moved.has_bias == bias and moved.device.type == "cpu"
    for name, value in moved.tensors().items():
        assert value.dtype == torch.float32 and value.is_contiguous()
        assert torch.equal(value, curvature.tensors()[name].float())
    assert curvature.to("meta").device.type == "meta"


def test_a_full_posterior_of_many_weights_is_refused_with_their_number():
    data = HeadData(torch.randn(2, 50), torch.randn(2, 80), torch.tensor([0, 1]))
    with pytest.raises(UserError, match="a full posterior of 4080 weights .* structure='kron', .* at most 4000"):
        curvature_of(data, nn.Linear(50, 80), "full")
    assert curvature_of(data, nn.Linear(50, 80), "diag").head_size == (50, 80)


def test_a_full_posterior_of_as_many_weights_as_allowed_is_fitted(monkeypatch):
    monkeypatch.setattr(curvature_module, "MOST_FULL_WEIGHTS", 18)
    assert fitted("full")[0].values.shape == (18,)
    monkeypatch.setattr(curvature_module, "MOST_FULL_WEIGHTS", 17)
    with pytest.raises(UserError, match="18 weights"):
        fitted("full")


def test_an_unknown_structure_is_refused():
    with pytest.raises(UserError, match="structure is 'lowrank'; it must be one of kron, diag, full"):
        fitted("lowrank")


def test_the_posterior_of_a_resnet50_for_a_hundred_classes_takes_less_than_25_megabytes(tmp_path):
    curvature = KroneckerCurvature(True, torch.eye(100), torch.ones(100), torch.eye(2048), torch.ones(2048))
    settings, tensors = LaplaceTeacher(nn.Linear(2048, 100), curvature, 1.0).get_state()
    save_file(tensors, tmp_path / "posterior.safetensors")
    assert settings["structure"] == "kron"
    assert (tmp_path / "posterior.safetensors").stat().st_size < 25e6


def test_the_reference_jacobians_are_autograd_s():
    head = nn.Linear(FEATURES, CLASSES).double()
    x = torch.randn(2, FEATURES, dtype=torch.float64)
    actual = torch.func.jacrev(lambda weights: torch.func.functional_call(head, weights, (x,)))(
        dict(head.named_parameters())
    )
    same(jacobians(x, CLASSES, True), torch.cat([actual["weight"].flatten(2), actual["bias"]], dim=2))
