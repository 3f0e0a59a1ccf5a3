"""Systematic sampling: what is kept of a row of probabilities is its own expectation."""

import pytest
import torch

from hf_bkd.soft_labels.sampling import largest_classes, sample_classes


def rows(kind: str, count: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    scale = {"flat": 0.01, "usual": 2.0, "peaked": 9.0}[kind]
    return (scale * torch.randn(count, width, generator=generator)).softmax(dim=-1)


def expected(probs: torch.Tensor, k: int) -> torch.Tensor:
    """max(p, tau) of all classes, tau by bisection of sum_i min(1, p_i / tau) = k."""
    low, high = torch.zeros(len(probs), 1, dtype=torch.float64), probs.double().sum(dim=-1, keepdim=True)
    for _ in range(200):
        tau = (low + high) / 2
        too_small = (probs / tau).clamp_max(1).sum(dim=-1, keepdim=True) > k
        low, high = torch.where(too_small, tau, low), torch.where(too_small, high, tau)
    return torch.maximum(probs.double(), high)


@pytest.mark.parametrize("kind", ["flat", "usual", "peaked"])
@pytest.mark.parametrize(("width", "k"), [(97, 1), (97, 7), (256, 16), (1000, 16), (1000, 999), (8192, 16)])
def test_k_classes_are_kept_and_each_is_stored_as_the_larger_of_its_probability_and_tau(kind, width, k):
    probs = rows(kind, 40, width)
    uniform = torch.rand(40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    classes, stored = sample_classes(probs, k, uniform)
    assert classes.shape == stored.shape == (40, k)
    assert all(len(row.unique()) == k for row in classes)
    torch.testing.assert_close(stored.double(), expected(probs, k).gather(1, classes), rtol=2e-5, atol=1e-9)
    torch.testing.assert_close(stored.sum(dim=-1), torch.ones(40), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", ["flat", "usual", "peaked"])
def test_the_expectation_of_what_is_stored_is_the_row(kind):
    starts = 2000
    for probs in rows(kind, 2, 300):
        uniform = (torch.arange(starts, dtype=torch.float64) + 0.5) / starts
        classes, stored = sample_classes(probs.expand(starts, -1), 12, uniform)
        mean = torch.zeros(300, dtype=torch.float64).scatter_add(0, classes.flatten(), stored.double().flatten())
        tau = stored.min().item()
        # a class is kept for an interval of starts, whose two ends a grid knows to one start each
        torch.testing.assert_close(mean / starts, probs.double(), rtol=1e-4, atol=2 * tau / starts)


def test_a_row_with_fewer_classes_than_are_kept_is_stored_as_it_is():
    probs = torch.tensor([[0.0, 0.75, 0.0, 0.25, 0.0]])
    classes, stored = sample_classes(probs, 4, torch.tensor([0.9], dtype=torch.float64))
    assert len(classes[0].unique()) == 4
    assert torch.equal(torch.zeros(1, 5).scatter_add(1, classes, stored), probs)


def test_all_classes_of_a_row_are_the_row():
    probs = rows("usual", 5, 97)
    classes, stored = sample_classes(probs, 97, torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(torch.zeros(5, 97).scatter_add(1, classes, stored), probs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("start", [0.0, 0.5, 1 - 2.0**-53])
def test_equal_probabilities_and_starts_at_either_end_keep_no_class_twice(start):
    for width, k in ((64, 16), (49152, 16), (1000, 30)):
        probs = torch.full((2, width), 1 / width)
        classes, stored = sample_classes(probs, k, torch.full((2,), start, dtype=torch.float64))
        assert all(len(row.unique()) == k for row in classes)
        torch.testing.assert_close(stored, torch.full((2, k), 1 / k), rtol=1e-4, atol=0)


def test_a_row_that_one_class_all_but_fills_keeps_what_is_left_of_it():
    probs = torch.full((2000, 500), 1e-9)
    probs[:, 7] = 1 - 499e-9
    uniform = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    classes, stored = sample_classes(probs, 4, uniform)
    mean = torch.zeros(500, dtype=torch.float64).scatter_add(0, classes.flatten(), stored.double().flatten()) / 2000
    assert (classes[:, 0] == 7).all()
    torch.testing.assert_close(mean[mean < 0.5].sum().item(), 499e-9, rtol=1e-4, atol=0)


@pytest.mark.parametrize("width", [4096, 4100])
def test_the_largest_of_a_row_are_found_block_by_block(width):
    probs = rows("usual", 20, width)
    probs[0, :3] = 2.0  # in one block, and a tie
    probs[1, 63:67] = torch.tensor([5.0, 4.0, 3.0, 2.0])  # around the end of one
    values, classes = largest_classes(probs, 16)
    assert torch.equal(values, probs.topk(16, dim=-1).values) and torch.equal(probs.gather(1, classes), values)
    assert classes[1, :4].tolist() == [63, 64, 65, 66] and all(len(row.unique()) == 16 for row in classes)
