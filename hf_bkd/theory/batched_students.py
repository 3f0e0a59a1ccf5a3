"""Many small students in one module, by which all students of a sweep are trained at once."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..utils.checks import check_count


class BatchedStudents(nn.Module):
    """R multilayer perceptrons with ReLU between their layers, whose parameters have a leading dimension R.

    The gradient of the *sum* of the students' losses is each student's own, so any element-wise optimizer of torch
    trains them as if each were alone.

    Args:
        count: R >= 1.
        sizes: of the layers, input and output included; two sizes make linear students.
        generator: of the initial weights, U(-1/sqrt(inputs), 1/sqrt(inputs)) as in `torch.nn.Linear`.
        alike: whether all students start from the same weights.
        dtype: of the weights.

    Raises:
        UserError: a count or size below 1.
    """

    def __init__(
        self,
        count: int,
        sizes: Sequence[int],
        generator: torch.Generator | None = None,
        alike: bool = False,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        check_count(count=count, **{f"sizes[{i}]": size for i, size in enumerate(sizes)})
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in zip(sizes, sizes[1:], strict=False):
            for parameters, rows in ((self.weights, inputs), (self.biases, 1)):
                shape = (1 if alike else count, rows, outputs)
                uniform = 2 * torch.rand(shape, generator=generator, dtype=dtype) - 1
                start = (uniform / math.sqrt(inputs)).expand(count, rows, outputs).clone()
                parameters.append(nn.Parameter(start))

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute outputs [R, N, outputs] of inputs [N, d], shared by all students, or [R, N, d]."""
        hidden = inputs if inputs.ndim == 3 else inputs.expand(len(self.biases[0]), *inputs.shape)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden.relu() if layer else hidden, weight)
        return hidden

    def alone(self, number: int) -> nn.Sequential:
        """Copy one student, 0 <= number < R, as an ordinary network."""
        layers = []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            linear = nn.Linear(*weight.shape[1:], dtype=weight.dtype, device=weight.device)
            linear.weight.data, linear.bias.data = weight[number].detach().T.clone(), bias[number, 0].detach().clone()
            layers += [linear, nn.ReLU()]
        return nn.Sequential(*layers[:-1])


def train_students(
    students: BatchedStudents,
    batches: Iterable[tuple[Tensor, Tensor]],
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    measure: Callable[[BatchedStudents], Tensor] | None = None,
    every: int = 1,
) -> Tensor:
    """Train all students on cross-entropy to targets that may be any numbers, one step for each batch.

    Args:
        students: R of them.
        batches: inputs [R, B, d] or [B, d], and targets [R, B, C].
        optimizer: makes one from the parameters; element-wise, as SGD and Adam.
        measure: called on the students after every ``every`` steps.
        every: number of steps.

    Returns:
        What ``measure`` returned, stacked.
    """
    made = optimizer(students.parameters())
    measured = []
    for step, (inputs, targets) in enumerate(batches, start=1):
        loss = -(targets * students(inputs).log_softmax(dim=-1)).sum(dim=-1).mean(dim=-1).sum()
        made.zero_grad()
        loss.backward()
        made.step()
        if measure is not None and step % every == 0:
            with torch.no_grad():
                measured.append(measure(students))
    return torch.stack(measured) if measured else torch.empty(0)


def train_by_sgd(
    students: BatchedStudents,
    batches: Iterable[tuple[Tensor, Tensor]],
    learning_rate: float,
    momentum: float = 0.0,
    measure: Callable[[BatchedStudents], Tensor] | None = None,
    every: int = 1,
) -> Tensor:
    """Train all students by SGD with a constant step; see :func:`train_students`."""
    optimizer = partial(torch.optim.SGD, lr=learning_rate, momentum=momentum)
    return train_students(students, batches, optimizer, measure, every)
