"""A task on which a linear softmax student is exact, and such students under every kind of supervision."""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial

import torch
from torch import Tensor

from hf_bkd.reports.claims import Check
from hf_bkd.targets import mixed_target
from hf_bkd.theory import (
    BatchedStudents,
    GaussianMixture,
    additive_draws,
    break_even_variance,
    dirichlet_draws,
    gradient_noise,
    one_hot_covariance,
    score_gram,
    train_students,
)

CLASSES, WIDTH, RATE, EVERY, CHUNK = 4, 6, 0.02, 40, 50
CONCENTRATIONS, SAMPLES, LAMBDAS, NOISES = (0.5, 5.0, 50.0), (1, 2, 5, 10), (0.25, 0.5, 0.6, 0.75), (0.25, 1.0, 2.0)

Optimizer = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]
SGD = partial(torch.optim.SGD, lr=RATE)

Targets = Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]  # p [N, C], labels [N], x [N, d] -> arm -> [N, C]


class Linear:
    """A shared-covariance Gaussian mixture, for which a linear softmax student is exact; what theory says of it."""

    def __init__(self, replicates: int, steps: int, seed: int):
        self.replicates, self.steps, self.generator = replicates, steps, torch.Generator().manual_seed(seed)
        means = 0.8 * torch.randn(CLASSES, WIDTH, generator=self.generator, dtype=torch.float64)
        self.task = GaussianMixture(means, torch.eye(WIDTH))
        x, _ = self.task.sample(20_000, self.generator)
        student = torch.nn.Linear(WIDTH, CLASSES, dtype=torch.float64)
        student.weight.data, student.bias.data = self.task.linear_student()
        self.student, self.points, self.probs = student, x, self.task.posterior(x)

    @cached_property
    def gram(self) -> Tensor:
        return score_gram(self.student, self.points)

    @cached_property
    def label_noise(self) -> float:
        return gradient_noise(self.gram, one_hot_covariance(self.probs))

    @cached_property
    def break_even(self) -> float:
        return break_even_variance(self.gram, self.probs)

    def risks(
        self,
        targets: Targets,
        steps: int,
        optimal_start: bool = True,
        optimizer: Optimizer = SGD,
        batch_size: int = 1,
        measured_on: int = 500,
        every: int = EVERY,
    ) -> tuple[list[str], Tensor]:
        """Names of the arms, and E KL(p || q) [measurements, arms, replicates] while their students are trained."""
        replicates = self.replicates
        names = list(targets(self.probs[:2], torch.zeros(2, dtype=torch.int64), self.points[:2]))
        students = BatchedStudents(len(names) * replicates, (WIDTH, CLASSES), dtype=torch.float64)
        weight, bias = self.task.linear_student()
        students.weights[0].data[:] = weight.T if optimal_start else 0
        students.biases[0].data[:] = bias if optimal_start else 0
        seen, probs = self.points[:measured_on], self.probs[:measured_on]
        entropy = -torch.xlogy(probs, probs).sum(dim=-1)

        def risk(students: BatchedStudents) -> Tensor:
            excess = -(probs * students(seen).log_softmax(dim=-1)).sum(dim=-1) - entropy
            return excess.mean(dim=-1).view(len(names), replicates)

        batches = self._batches(targets, len(names), steps, batch_size)
        return names, train_students(students, batches, optimizer, measure=risk, every=every)

    def settled(self, *args, **options) -> dict[str, tuple[float, float]]:
        """What :func:`at_rest` says of :meth:`risks`."""
        return at_rest(*self.risks(*args, **options))

    def _batches(self, targets: Targets, arms: int, steps: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Fresh examples for each replicate and step, the same for all arms."""
        for _ in range(0, steps, CHUNK):
            x, labels = self.task.sample(CHUNK * self.replicates * size, self.generator)
            made = torch.stack(list(targets(self.task.posterior(x), labels, x).values()))
            made = made.view(arms, CHUNK, -1, CLASSES).transpose(0, 1)
            for inputs, wanted in zip(x.view(CHUNK, -1, size, WIDTH), made, strict=True):
                yield inputs.repeat(arms, 1, 1), wanted.reshape(-1, size, CLASSES)

    @cached_property
    def floors(self) -> dict[str, Tensor]:
        """Arm -> stationary excess risk [replicates], the mean over the second half of the steps."""
        names, risks = self.risks(self.supervision, self.steps)
        return dict(zip(names, risks[len(risks) // 2 :].mean(dim=0), strict=True))

    def supervision(self, probs: Tensor, labels: Tensor, x: Tensor) -> dict[str, Tensor]:
        """All kinds of targets whose floor is predicted."""
        draws = {a: dirichlet_draws(probs, a, max(SAMPLES), self.generator) for a in CONCENTRATIONS[:1]}
        draws |= {a: dirichlet_draws(probs, a, 1, self.generator) for a in CONCENTRATIONS[1:]}
        noisiest = draws[CONCENTRATIONS[0]]
        additive = additive_draws(probs, self.break_even, 1, self.generator)[0] - probs
        return {
            "one-hot": mixed_target(labels, probs, 0.0),
            "exact": probs,
            **{f"Dirichlet {a:g}": each[0] for a, each in draws.items()},
            **{f"mean of {s}": noisiest[:s].mean(dim=0) for s in SAMPLES},
            **{f"λ = {kd_lambda:g}": mixed_target(labels, noisiest[0], kd_lambda) for kd_lambda in LAMBDAS},
            **{f"{noise:g} ν*": probs + noise**0.5 * additive for noise in NOISES},
        }

    def ratio(self, arm: str) -> tuple[float, float]:
        """An arm's floor over the one-hot floor, and its standard error."""
        one_hot, floor = self.floors["one-hot"].mean(), self.floors[arm]
        return (floor.mean() / one_hot).item(), (floor.std() / one_hot / len(floor) ** 0.5).item()

    def compared(self, names: dict[str, float]) -> tuple[list[Check], list[float], list[float]]:
        """Checks of the predicted ratios by arm, the measured ones and their standard errors."""
        measured, errors = zip(*map(self.ratio, names), strict=True)
        checks = [
            Check(f"{name}: floor over the one-hot floor", ratio, value, 0.1)
            for (name, ratio), value in zip(names.items(), measured, strict=True)
        ]
        return checks, list(measured), list(errors)


def at_rest(names: Iterable[str], risks: Tensor) -> dict[str, tuple[float, float]]:
    """Arm -> mean over the second half of risks [measurements, arms, replicates], and its standard error."""
    late = risks[len(risks) // 2 :].mean(dim=0)
    errors = late.std(dim=1) / late.shape[1] ** 0.5
    return dict(zip(names, zip(late.mean(dim=1).tolist(), errors.tolist(), strict=True), strict=True))
