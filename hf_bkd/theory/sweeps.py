"""Many students of one teacher that differ in a single source of randomness (arXiv 2601.18909)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..losses import kl_to_target
from ..utils.checks import (
    check_choice,
    check_count,
    check_not_negative,
    check_positive,
    check_probabilities,
    check_shape,
    check_share,
)
from ..utils.deprecation import renamed_arguments
from ..utils.errors import UserError
from ..utils.random import categories, standard_normal
from .batched_students import BatchedStudents

SOURCES = ("initialization", "data", "teacher")
RESPONSES = ("argmax", "sampled", "soft")
LOSSES = {  # from outputs and targets to each example's loss, [R, N]
    "squared error": lambda outputs, targets: (outputs - targets).square().mean(dim=-1),
    "divergence": lambda outputs, targets: kl_to_target(targets, outputs),
}


@renamed_arguments(how="kind")
def sample_responses(probs: Tensor, kind: str, k: int = 1, generator: torch.Generator | None = None) -> Tensor:
    """Turn a classifying teacher's probabilities into targets, distributions of the same shape.

    Args:
        probs: the teacher's probabilities [..., K]; ``probs.expand(R, N, K)`` draws for each of R students.
        kind: ``"argmax"``: the most probable class, one-hot; ``"sampled"``: the mean of k one-hot labels drawn from
            ``probs``; ``"soft"``: ``probs`` unchanged.
        k: number of labels drawn; without effect on the other two, which have no randomness.
        generator: of the labels.

    Raises:
        UserError: ``probs`` that are not distributions, an unknown ``kind``, k below 1.
    """
    check_probabilities(probs=probs)
    check_count(k=k)
    check_choice(RESPONSES, kind=kind)
    if kind == "soft":
        return probs
    rows = probs.reshape(-1, probs.shape[-1])
    labels = rows.argmax(dim=-1, keepdim=True) if kind == "argmax" else categories(rows, k, generator)
    return _counts(labels, rows.shape[1], probs.dtype).reshape(probs.shape) / labels.shape[1]


def noisy_responses(mean: Tensor, variance: float, k: int = 1, generator: torch.Generator | None = None) -> Tensor:
    """Average k draws of a regressing teacher's responses N(mean, variance), of the shape of ``mean``."""
    check_not_negative(variance=variance)
    check_count(k=k)
    noise = torch.zeros_like(mean)
    for _ in range(k):
        noise += standard_normal(mean.shape, mean, generator, mean.dtype)
    return mean + variance**0.5 / k * noise


def distill_many(
    inputs: Tensor,
    targets: Tensor,
    *,
    vary: str,
    count: int,
    sizes: Sequence[int],
    loss: str,
    steps: int = 300,
    learning_rate: float = 0.01,
    seed: int = 0,
    fraction: float = 1.0,
    weight_noise: float | None = None,
) -> BatchedStudents:
    """Train R students together, by full-batch Adam on the sum of their losses.

    They share all but the source of randomness that ``vary`` names:

    | ``vary``           | initial weights | examples         | targets                         |
    | ------------------ | --------------- | ---------------- | ------------------------------- |
    | ``initialization`` | each its own    | all of them      | the same, [N, K]                |
    | ``data``           | the same        | bootstrap sample | the same, [N, K]                |
    | ``teacher``        | the same        | all of them      | draws of the teacher, [R, N, K] |

    Args:
        inputs: [N, d].
        targets: that the students learn, values or, for ``"divergence"``, class probabilities.
        vary: the source of randomness.
        count: R >= 1.
        sizes: of the students' layers, d and K included; two sizes make a (logistic) regression.
        loss: ``"squared error"``, or ``"divergence"``, KL(target || softmax(output)), whose gradient is that of the
            cross-entropy.
        steps: of Adam.
        learning_rate: constant.
        seed: of the initial weights and the bootstrap samples, which have a generator each.
        fraction: of N, in (0, 1], that each bootstrap sample draws with replacement; for ``"data"``.
        weight_noise: s >= 0: instead of weights of their own all students start from the same ones, each weight and
            bias times 1 + N(0, s^2); for ``"initialization"``.

    Returns:
        The trained students, whose parameters require no gradients.

    Raises:
        UserError: an unknown source or loss, an argument of the wrong shape or out of its range.
    """
    check_choice(SOURCES, vary=vary)
    check_choice(LOSSES, loss=loss)
    check_count(count=count, steps=steps)
    if len(sizes) < 2:
        raise UserError(f"sizes must be those of at least two layers, and it is {tuple(sizes)}")
    check_shape("inputs", inputs, None, sizes[0])
    check_shape("targets", targets, *([count] if vary == "teacher" else []), len(inputs), sizes[-1])
    if loss == "divergence":
        check_probabilities(targets=targets)
    check_positive(learning_rate=learning_rate, fraction=fraction)
    check_share(fraction=fraction)
    if fraction < 1 and vary != "data":
        raise UserError(f"fraction is {fraction:g}, and vary is {vary!r}: it must be 'data'")
    if weight_noise is not None:
        check_not_negative(weight_noise=weight_noise)
        if vary != "initialization":
            raise UserError(f"weight_noise is {weight_noise:g}, and vary is {vary!r}: it must be 'initialization'")
    initial, drawn = (torch.Generator().manual_seed(2 * seed + i) for i in range(2))
    alike = vary != "initialization" or weight_noise is not None
    students = BatchedStudents(count, sizes, initial, alike, inputs.dtype)
    if weight_noise is not None:
        _perturb(students, weight_noise, initial)
    students = students.to(inputs.device)
    weights = inputs.new_full((1, len(inputs)), 1 / len(inputs))
    if vary == "data":
        weights = bootstrap_weights(count, len(inputs), fraction, drawn).to(inputs)
    optimizer = torch.optim.Adam(students.parameters(), learning_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        (weights * LOSSES[loss](students(inputs), targets)).sum().backward()
        optimizer.step()
    return students.requires_grad_(False)


def bootstrap_weights(count: int, examples: int, fraction: float, generator: torch.Generator | None = None) -> Tensor:
    """Draw each example's share in ``count`` samples with replacement, [count, examples]; rows sum to one."""
    draws = max(1, round(fraction * examples))
    place = "cpu" if generator is None else generator.device
    drawn = torch.randint(examples, (count, draws), generator=generator, device=place)
    return _counts(drawn, examples, torch.float64) / draws


def _counts(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Count each class in each row of labels [B, k], [B, classes]."""
    ones = torch.ones(labels.shape, dtype=dtype, device=labels.device)
    return ones.new_zeros(len(labels), classes).scatter_add_(1, labels, ones)


@torch.no_grad()
def _perturb(students: BatchedStudents, scale: float, generator: torch.Generator) -> None:
    for parameter in students.parameters():
        parameter *= 1 + scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
