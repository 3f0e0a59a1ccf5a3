"""Temperature scaling of every kind of prediction, by held-out labels and never by those that are measured."""

import pytest
import torch

from hf_bkd.likelihoods import Bernoulli, Categorical, Gaussian, scaled_measures
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
