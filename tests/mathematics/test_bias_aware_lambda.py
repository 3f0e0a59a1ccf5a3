"""lambda by the errors of a teacher that has not seen the labels: by hand, and against the risk that it minimizes."""

import pytest
import torch
import torch.nn.functional as F

from hf_bkd import UserError
from hf_bkd.targets import ErrorByConfidence, bias_aware_lambda, error_by_confidence, mixed_target

N, C = 20_000, 5


def test_bins_are_written_out():
    """Four bins of 25 with 1, 2, 1 and 10 contradictions of 2 each, and Laplace's one of each kind; two are pooled."""
    claimed = torch.arange(100.0)
    squares = torch.zeros(100)
    for start, wrong in ((0, 1), (25, 2), (50, 1), (75, 10)):
        squares[start : start + wrong] = 2.0
    shuffled = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    error = error_by_confidence(claimed[shuffled], squares[shuffled], 2.0)
    assert error.bounds.tolist() == [24.5, 74.5]
    assert error.errors.tolist() == pytest.approx([4 / 27, (6 + 4) / 54, 22 / 27])
    found = bias_aware_lambda(torch.tensor([-1.0, 24.0, 25.0, 74.0, 75.0, 99.0]), error)
    assert found.tolist() == pytest.approx([1, 1, 0.8, 0.8, 4 / 22, 4 / 22])


def test_a_teacher_that_errs_alike_everywhere_is_followed():
    error = error_by_confidence(torch.rand(1000), torch.full((1000,), 0.4), 2.0)
    assert len(error.errors) == 1 and len(error.bounds) == 0
    assert torch.equal(bias_aware_lambda(torch.rand(7), error), torch.ones(7))


def test_equally_sure_answers_are_of_one_bin():
    claimed = torch.cat([torch.zeros(150), torch.full((150,), 0.5)])
    squares = torch.cat([torch.zeros(150), torch.full((150,), 1.0)])
    error = error_by_confidence(claimed, squares, 2.0)
    assert error.bounds.tolist() == [0.25] and error.errors.tolist() == pytest.approx([2 / 152, 1.0])


def test_fifty_labels_are_enough_and_fewer_are_not():
    assert len(error_by_confidence(torch.arange(50.0), torch.arange(50.0), 2.0).errors) == 2
    with pytest.raises(UserError, match="at least 50 labeled examples, and there are 49: pass a fixed lambda"):
        error_by_confidence(torch.arange(49.0), torch.arange(49.0), 2.0)


def drawn_labels(noise: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Exact probabilities, labels drawn from them, and a calibrated teacher that knows half of the examples.

    Of the others it knows nothing: its answer is the average of all.
    """
    generator = torch.Generator().manual_seed(1)
    true = torch.randint(C, (N,), generator=generator)
    exact = (1 - noise) * F.one_hot(true, C).double() + noise / C
    labels = torch.multinomial(exact, 1, generator=generator)[:, 0]
    known = torch.arange(N) < N // 2
    teacher = torch.where(known[:, None], exact, torch.full_like(exact, 1 / C))
    return exact, labels, teacher


@pytest.mark.parametrize("noise", [0.3, 0.6])
def test_it_minimizes_the_squared_error_to_the_exact_probabilities(noise):
    """By formula: where the teacher knows all, lambda = 1; where it knows nothing, lambda = u / (u + b^2)."""
    exact, labels, teacher = drawn_labels(noise)
    claimed, squares = 1 - teacher.square().sum(dim=1), (F.one_hot(labels, C) - teacher).square().sum(dim=1)
    found = bias_aware_lambda(claimed, error_by_confidence(claimed, squares, 2.0))
    u = 1 - exact[0].square().sum().item()
    b = (exact[-1] - teacher[-1]).square().sum().item()
    assert found[: N // 2].mean().item() == pytest.approx(1, abs=0.02)
    assert found[N // 2 :].mean().item() == pytest.approx(u / (u + b), rel=0.03)

    def risk(kd_lambda):
        return (mixed_target(labels, teacher, kd_lambda) - exact).square().sum(dim=1).mean().item()

    fixed = min(risk(k) for k in torch.linspace(0, 1, 41).tolist())
    ideal = torch.where(torch.arange(N) < N // 2, 1.0, u / (u + b))
    assert risk(found) < 0.98 * fixed and risk(found) < 1.01 * risk(ideal)


def test_a_calibrated_teacher_that_is_ignorant_of_clean_labels_is_not_followed():
    """What it claims, 1 - |p|^2, is the noise of labels that have none; the rule by that alone would follow it."""
    _, labels, teacher = drawn_labels(0.0)
    claimed, squares = 1 - teacher.square().sum(dim=1), (F.one_hot(labels, C) - teacher).square().sum(dim=1)
    found = bias_aware_lambda(claimed, error_by_confidence(claimed, squares, 2.0))
    assert claimed[N // 2 :].mean().item() == pytest.approx(0.8)
    assert found[: N // 2].min() == 1 and found[N // 2 :].max() < 0.01


def test_where_classes_overlap_an_exact_teacher_is_trusted_too_little_and_labels_alone_are_still_worse():
    """What the docstring warns of: the surest half has a label variance of 0, the other one of 0.8, as if ignorant."""
    generator = torch.Generator().manual_seed(1)
    exact = torch.full((N, C), 1 / C, dtype=torch.float64)
    exact[: N // 2] = F.one_hot(torch.randint(C, (N // 2,), generator=generator), C).double() * 0.98 + 0.02 / C
    labels = torch.multinomial(exact, 1, generator=generator)[:, 0]
    claimed, squares = 1 - exact.square().sum(dim=1), (F.one_hot(labels, C) - exact).square().sum(dim=1)
    found = bias_aware_lambda(claimed, error_by_confidence(claimed, squares, 2.0))
    assert found[: N // 2].min() == 1 and 0.02 < found[N // 2 :].max() < 0.08  # 0.0317 / 0.8
    risks = [(mixed_target(labels, exact, k) - exact).square().sum(dim=1).mean().item() for k in (found, 0.0)]
    assert 0 < risks[0] < risks[1]


def test_it_is_the_same_for_all_shapes_and_kept_in_the_dtype_of_the_claims():
    error = ErrorByConfidence(torch.tensor([0.5]), torch.tensor([0.1, 0.4]))
    found = bias_aware_lambda(torch.tensor([[0.2, 0.6], [0.5, 0.4]]), error)
    assert found.tolist() == [[1.0, 0.25], [0.25, 1.0]]
