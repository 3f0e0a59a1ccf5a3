"""Students trained at once against students trained alone."""

import pytest
import torch

from hf_bkd.theory.batched_students import BatchedStudents


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9)])
@pytest.mark.parametrize("shared", [True, False])
def test_students_trained_at_once_are_those_trained_alone(optimizer, shared):
    students = BatchedStudents(3, (4, 5, 2), torch.Generator().manual_seed(1), dtype=torch.float64)
    singles = [students.alone(r) for r in range(3)]
    inputs = torch.randn(*(() if shared else (3,)), 6, 4, dtype=torch.float64)
    targets = torch.randn(3, 6, 2, dtype=torch.float64)
    optimizers = [optimizer(m.parameters(), lr=0.05) for m in (students, *singles)]
    for _ in range(20):
        losses = [(students(inputs) - targets).square().mean(dim=(1, 2)).sum()]
        losses += [(m(inputs if shared else inputs[r]) - targets[r]).square().mean() for r, m in enumerate(singles)]
        for each, loss in zip(optimizers, losses, strict=True):
            each.zero_grad()
            loss.backward()
            each.step()
    expected = torch.stack([m(inputs if shared else inputs[r]) for r, m in enumerate(singles)])
    torch.testing.assert_close(students(inputs), expected, rtol=1e-10, atol=1e-12)


def test_students_start_alike_or_not_within_the_bounds_of_a_linear_layer():
    alike = BatchedStudents(4, (9, 50), alike=True)
    assert (alike.weights[0] == alike.weights[0][0]).all()
    alike.weights[0].data[0] += 1  # not views of one
    assert not torch.equal(alike.weights[0][0], alike.weights[0][1])
    apart = BatchedStudents(400, (9, 5))
    assert not torch.equal(apart.weights[0][0], apart.weights[0][1])
    assert apart.weights[0].detach().abs().max() <= 1 / 3 + 1e-6
    assert apart.weights[0].detach().std().item() == pytest.approx(1 / 3 / 3**0.5, rel=0.02)


def test_bad_sizes_are_named():
    with pytest.raises(ValueError, match=r"count must be .* it is 0"):
        BatchedStudents(0, (2, 2))
    with pytest.raises(ValueError, match=r"sizes\[1\] must be .* it is 0"):
        BatchedStudents(1, (2, 0, 2))
