"""Temperature scaling of every kind of prediction, by held-out labels and never by those that are measured."""

import math

import pytest
import torch

from hf_bkd.likelihoods import Bernoulli, Categorical, Gaussian, best_temperature, scaled_measures
from hf_bkd.metrics import classification_metrics


def drawn(kind: str, seed: int, factor: float = 3.0, number: int = 4000):
    """Outputs that are a factor too sure of labels which were drawn from the calibrated ones."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(number, 3, generator=generator)
    if kind == "classes":
        labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    else:
        labels = torch.bernoulli(logits.sigmoid(), generator=generator)
    return factor * logits, labels


@pytest.mark.parametrize(("kind", "likelihood"), [("classes", Categorical()), ("labels", Bernoulli())])
def test_the_factor_is_found_and_undone(kind, likelihood):
    held_out, tested = drawn(kind, 0), drawn(kind, 1)
    scaled = scaled_measures(likelihood, held_out, tested)
    assert scaled.temperature == pytest.approx(3, rel=0.1)
    plain = likelihood.measures(likelihood.prediction(tested[0].double()), tested[1])
    right = likelihood.measures(likelihood.prediction(tested[0].double() / 3), tested[1])
    assert scaled.metrics["nll"] == pytest.approx(right["nll"], abs=2e-3) and plain["nll"] > right["nll"] + 0.1
    assert scaled.metrics["ece"] < 0.03 < plain["ece"]


def test_labels_that_are_measured_choose_nothing():
    held_out, (outputs, labels) = drawn("classes", 0), drawn("classes", 1)
    first, second = (scaled_measures(Categorical(), held_out, (outputs, each)) for each in (labels, labels.flip(0)))
    assert first.temperature == second.temperature
    expected = classification_metrics((outputs.double() / first.temperature).softmax(dim=1), labels)
    assert first.metrics == pytest.approx(expected)


def test_examples_without_a_label_count_in_neither_part():
    held_out, tested = drawn("classes", 0), drawn("classes", 1)
    unlabeled = torch.full((500,), -100)
    padded = [
        (torch.cat([outputs, 9 * outputs[:500]]), torch.cat([labels, unlabeled]))
        for outputs, labels in (held_out, tested)
    ]
    expected, actual = scaled_measures(Categorical(), held_out, tested), scaled_measures(Categorical(), *padded)
    assert actual.temperature == pytest.approx(expected.temperature, rel=1e-4)
    assert actual.metrics["nll"] == pytest.approx(expected.metrics["nll"], rel=1e-4)


def test_nothing_to_scale():
    numbers = torch.randn(20, 2), torch.randn(20, 2)
    assert scaled_measures(Gaussian(), numbers, numbers) is None
    outputs, labels = drawn("classes", 0)
    assert scaled_measures(Categorical(), (outputs, torch.full_like(labels, -100)), (outputs, labels)) is None


def two_classes(margins: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of examples of class 0, by how much that is the more likely one."""
    logits = torch.zeros(len(margins), 2)
    logits[:, 0] = torch.tensor(margins)
    return logits, torch.zeros(len(margins), dtype=torch.long)


def test_the_temperature_of_ten_examples_that_are_all_right():
    """10 log(1 + e^-x) + log(T)^2 / 2 with x = m / T is least where 10 x / (1 + e^x) = -log T: x = 5, T = 0.7156."""
    temperature = math.exp(-50 / (1 + math.exp(5)))
    assert temperature == pytest.approx(0.7156, abs=1e-4)
    with pytest.warns(
        UserWarning, match="10 held-out labels alone would choose a temperature of 0.05 or less, as whe"
    ):
        actual = best_temperature(*two_classes(10 * [5 * temperature]))
    assert actual == pytest.approx(temperature, rel=1e-4)


def test_the_temperature_of_an_example_that_is_wrong():
    """log(1 + e^x) + log(T)^2 / 2 is least where x / (1 + e^-x) = log T: x = 1, T = 2.077."""
    temperature = math.exp(1 / (1 + math.exp(-1)))
    with pytest.warns(UserWarning, match="1 held-out labels alone would choose a temperature of 20 or more"):
        assert best_temperature(*two_classes([-temperature])) == pytest.approx(temperature, rel=1e-4)


def test_each_of_several_labels_counts_as_much_as_a_class():
    (logits, _), labels = two_classes([2.0, 1.0, -0.5, 3.0]), torch.ones(4)
    of_classes = best_temperature(logits, torch.zeros(4, dtype=torch.long))
    of_labels = best_temperature(logits[:, :1].reshape(2, 2), labels.reshape(2, 2), Bernoulli())
    assert of_labels == pytest.approx(of_classes, rel=1e-5)
    with pytest.warns(UserWarning, match="4 held-out labels alone"):
        best_temperature(logits[:, :1].reshape(2, 2).abs(), labels.reshape(2, 2), Bernoulli())


def test_labels_that_are_as_likely_at_any_temperature_leave_it_at_1():
    with pytest.warns(UserWarning, match="are as likely at any temperature: T = 1.00"):
        assert best_temperature(torch.zeros(5, 3), torch.zeros(5, dtype=torch.long)) == pytest.approx(1, abs=1e-5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_prior_leaves_a_temperature_of_hundreds_of_examples_as_it_is(factor):
    logits, labels = drawn("classes", 0, factor, 500)
    temperature = best_temperature(logits, labels)
    grid = torch.linspace(math.log(temperature) - 0.02, math.log(temperature) + 0.02, 401).exp().tolist()
    alone = min(grid, key=lambda each: torch.nn.functional.cross_entropy(logits / each, labels).item())
    assert temperature == pytest.approx(alone, rel=0.01)


def test_one_wrong_answer_by_a_hair_does_not_make_all_others_certain():
    assert best_temperature(*two_classes(100 * [8.0] + [-0.01])) > 0.5
