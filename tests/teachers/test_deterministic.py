import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import Tensor

from hf_bkd.teachers import DeterministicTeacher
from hf_bkd.teachers.deterministic import best_temperature
from hf_bkd.utils.errors import UserError
from tests.teachers.teacher_helpers import ConvolutionalHead, SmallNetwork, in_batches, points, small_cnn


def nll(logits: Tensor, labels: Tensor, temperature: float) -> float:
    log_probs = log_softmax(logits.double().numpy() / temperature, axis=-1)
    return -log_probs[np.arange(len(labels)), labels.numpy()].mean()


def logits_and_labels(count: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits [count, 4] times ``scale``, and labels drawn from the softmax of the unscaled ones."""
    logits = 2 * torch.randn(count, 4)
    labels = torch.multinomial(torch.softmax(logits, dim=-1), 1)[:, 0]
    return scale * logits, labels


def test_the_prediction_is_the_tempered_softmax_of_the_networks_logits():
    network, (x, _) = SmallNetwork(scale=5).eval(), points(9)
    expected = np.exp(log_softmax(network(x).detach().double().numpy() / 1.7, axis=-1))
    prediction = DeterministicTeacher(network, temperature=1.7).predict(x, num_samples=10)
    np.testing.assert_allclose(prediction.mean, expected, rtol=1e-5)
    assert prediction.variance is None


@pytest.mark.parametrize("scale", [0.3, 1.0, 6.0])
def test_best_temperature_has_the_least_nll_of_a_fine_grid(scale):
    logits, labels = logits_and_labels(2000, scale)
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 3000))
    values = [nll(logits, labels, temperature) for temperature in grid]
    actual = best_temperature(logits, labels)
    assert nll(logits, labels, actual) <= min(values) + 1e-5
    assert actual == pytest.approx(grid[np.argmin(values)], rel=0.005)


def test_best_temperature_undoes_a_factor_of_calibrated_logits():
    logits, labels = logits_and_labels(20_000)
    calibrated = best_temperature(logits, labels)
    assert calibrated == pytest.approx(1, abs=0.04)
    for factor in (0.2, 5.0):
        assert best_temperature(factor * logits, labels) == pytest.approx(factor * calibrated, rel=1e-3)


@pytest.mark.filterwarnings("ignore:.*held-out labels alone")
def test_best_temperature_stays_within_its_range():
    logits = torch.eye(3)
    assert best_temperature(logits, torch.tensor([0, 1, 2])) > 0.05
    assert best_temperature(1000 * logits, torch.tensor([1, 2, 0])) == pytest.approx(20, rel=1e-3)


def test_fit_scales_by_the_temperature_of_the_networks_evaluation_logits():
    network, (x, labels) = SmallNetwork(scale=20), points(60)
    network.train()
    network.backbone[1].eval()  # a frozen norm inside a network that trains
    modes = [module.training for module in network.modules()]
    statistics = network.backbone[1].running_mean.clone()
    teacher = DeterministicTeacher.fit(network, in_batches(x, labels, 25))
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(network.backbone[1].running_mean, statistics)
    logits = network.eval()(x).detach()
    assert teacher.temperature == pytest.approx(best_temperature(logits, labels), rel=1e-4)
    assert nll(logits, labels, teacher.temperature) < nll(logits, labels, 1.0)


def test_fit_reads_dicts_and_transformers_outputs():
    network, images, labels = small_cnn(), torch.randn(30, 1, 8, 8), torch.randint(4, (30,))
    batches = [{"pixel_values": part, "labels": own} for part, own in in_batches(images, labels)]
    expected = best_temperature(network(pixel_values=images).logits.detach(), labels)
    assert DeterministicTeacher.fit(network, batches).temperature == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "batches are empty"),
        ([(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))], "batches are empty"),
        ([(torch.zeros(2, 4), torch.tensor([0, 3]))], "0 to 2.*from 0 to 3"),
        ([(torch.zeros(2, 4), torch.tensor([-100, 1]))], "1 of 2 labels are -100, which is none"),
        ([(torch.zeros(2, 4), torch.full((2, 3), 1 / 3))], "class indices.*float32 of shape \\[2, 3\\]"),
        ([{"x": torch.zeros(2, 4), "label": torch.tensor([0, 1])}], "a dict with x, label"),
    ],
)
def test_fit_refuses_what_cannot_be_fitted_on_and_leaves_the_network_as_it_was(batches, words):
    network = SmallNetwork().train()
    with pytest.raises(UserError, match=words):
        DeterministicTeacher.fit(network, batches)
    assert all(module.training for module in network.modules())


def test_fit_needs_a_linear_head():
    with pytest.raises(UserError, match="no linear layer"):
        DeterministicTeacher.fit(ConvolutionalHead(), [(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))])
