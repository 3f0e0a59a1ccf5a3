"""The head's posterior as a matrix normal against the dense posterior covariance."""

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from hf_bkd import LaplaceTeacher
from hf_bkd.models.heads import head_data
from tests.teachers.laplace_reference import BIAS, EACH, gauss_newton
from tests.teachers.teacher_helpers import SmallNetwork, in_batches, points, small_bert, small_cnn


def by_class(hessian: Tensor, precision: float, classes: int, features: int, bias: bool) -> Tensor:
    """(H + delta I)^-1 [C, D, C, D], a class' bias after its weights; H has all biases after all weights."""
    inverse = torch.linalg.inv(hessian + precision * torch.eye(len(hessian), dtype=torch.float64))
    weights = torch.arange(classes * features).view(classes, features)
    places = torch.cat([weights, classes * features + torch.arange(classes)[:, None]], dim=1) if bias else weights
    return inverse[places.flatten()][:, places.flatten()].view(*places.shape, *places.shape)


@EACH
@BIAS
@pytest.mark.parametrize("precision", [0.05, 0.7, 20.0])
def test_the_covariance_is_the_mean_of_the_dense_posteriors_blocks(structure, bias, precision):
    network, (x, labels) = SmallNetwork(bias=bias, scale=3), points(50)
    batches = in_batches(x, labels)
    teacher = LaplaceTeacher.fit(network, batches, structure=structure, prior_precision=precision)
    data = head_data(network, batches)
    hessian = gauss_newton(data.features, data.logits, structure, bias)
    blocks = by_class(hessian, precision, 3, 5, bias)
    mean, covariance = teacher.head_posterior()
    expected = sum(blocks[c, :, c] for c in range(3)) / 3
    scale = expected.abs().max().item()
    torch.testing.assert_close(covariance, expected, rtol=1e-4, atol=1e-5 * scale)
    assert torch.equal(mean[:, :5], network.head.weight.double())
    assert mean.shape == (3, 5 + bias) and (not bias or torch.equal(mean[:, 5], network.head.bias.double()))
    assert mean.dtype == covariance.dtype == torch.float64
    assert not mean.requires_grad and not covariance.requires_grad


@EACH
def test_no_other_shared_covariance_is_nearer_to_the_posterior(structure):
    network, (x, labels) = SmallNetwork(scale=3), points(50)
    batches = in_batches(x, labels)
    teacher = LaplaceTeacher.fit(network, batches, structure=structure, prior_precision=0.7)
    data = head_data(network, batches)
    blocks = by_class(gauss_newton(data.features, data.logits, structure, True), 0.7, 3, 5, True)
    mean, covariance = teacher.head_posterior()
    exact = MultivariateNormal(mean.flatten(), blocks.reshape(18, 18))

    def distance(mean: Tensor, shared: Tensor) -> float:
        matrix_normal = MultivariateNormal(mean.flatten(), torch.kron(torch.eye(3, dtype=torch.float64), shared))
        return kl_divergence(exact, matrix_normal).item()

    least = distance(mean, covariance)
    for _ in range(20):
        step = 0.02 * torch.randn(6, 6, dtype=torch.float64)
        root = torch.linalg.cholesky(covariance) @ (torch.eye(6) + step)
        assert distance(mean, root @ root.T) > least
        assert distance(mean + 0.02 * torch.randn(3, 6), covariance) > least
    assert distance(mean, 1.03 * covariance) > least < distance(mean, covariance / 1.03)


@pytest.mark.parametrize("kind", ["timm", "transformers"])
def test_any_network_that_has_a_laplace_teacher_has_a_head_posterior(kind):
    if kind == "timm":
        network, batch = small_cnn(3), {"pixel_values": torch.randn(20, 1, 8, 8)}
    else:
        network, batch = small_bert(), {"input_ids": torch.randint(1, 20, (20, 6))}
    labels = torch.arange(20) % 3
    teacher = LaplaceTeacher.fit(network, [{**batch, "labels": labels}], prior_precision=2.0)
    mean, covariance = teacher.head_posterior()
    assert mean.shape[0] == 3 and covariance.shape == (mean.shape[1],) * 2
    torch.linalg.cholesky(covariance)
    assert covariance.diagonal().max() <= 0.5 + 1e-9  # the data only narrow the prior, of precision 2
