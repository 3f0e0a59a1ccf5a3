"""Two-layer students of two-layer truths: exact probabilities silence SGD where the student can represent them."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from scipy.stats import t as student_t
from torch import Tensor

from hf_bkd.losses import kl_to_target
from hf_bkd.reports.claims import Check, Claim, Figure, Panel, Series
from hf_bkd.targets import mixed_target
from hf_bkd.theory import (
    BatchedStudents,
    excess_risk_floor,
    gradient_noise,
    mean_pull,
    one_hot_covariance,
    sample_labels,
    score_gram,
    train_by_sgd,
)

INPUTS, CLASSES, TRUE_WIDTH, WIDTHS = 6, 4, 4, (1, 2, 4, 8, 16, 32)
RATE, BATCH, CHUNK, TEST, FLOOR_RATE, FLOOR_WIDTHS = 0.1, 16, 100, 1500, 0.02, (4, 16)
SILENT, LOUD = 0.01, 0.05  # limits of the noise over that of one-hot labels, chosen before the run that is published
SOURCES = {"exact": "p(y|x)", "one-hot": "labels"}
ARMS = tuple(SOURCES)


class Measured(NamedTuple):
    """Excess risk and gradient noise [arms, seeds] of one width, and the squared mean gradient under exact targets."""

    risk: Tensor
    noise: Tensor
    slope: Tensor


class Truths:
    """Networks of four hidden units, one for each seed, whose softmax is p(y|x); x is standard normal."""

    def __init__(self, seeds: int, seed: int):
        self.seeds, self.generator = seeds, torch.Generator().manual_seed(seed)
        self.networks = self.students(TRUE_WIDTH).requires_grad_(False)
        scales = (1.5 / INPUTS**0.5, 0.5, 1.5, 0.0)
        ordered = (*zip(self.networks.weights, self.networks.biases, strict=True),)
        for parameter, scale in zip((each for pair in ordered for each in pair), scales, strict=True):
            parameter.copy_(scale * self.normal(*parameter.shape))
        self.x = self.normal(TEST, INPUTS)
        self.probs = self.networks(self.x).softmax(dim=-1)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def students(self, width: int) -> BatchedStudents:
        return BatchedStudents(self.seeds, (INPUTS, width, CLASSES), self.generator, dtype=torch.float64)

    def in_both_arms(self, students: BatchedStudents) -> BatchedStudents:
        """The same start for exact and one-hot supervision."""
        for parameter in students.parameters():
            parameter.data = parameter.data.repeat(len(ARMS), 1, 1)
        return students

    def batches(self, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Fresh examples of each truth, the same for both arms."""
        for _ in range(0, steps, CHUNK):
            x = self.normal(self.seeds, CHUNK * BATCH, INPUTS)
            probs = self.networks(x).softmax(dim=-1)
            labels = sample_labels(probs, self.generator)
            targets = torch.stack([probs, mixed_target(labels, probs, 0.0)])
            for rows in range(0, CHUNK * BATCH, BATCH):
                batch = slice(rows, rows + BATCH)
                yield x[:, batch].repeat(len(ARMS), 1, 1), targets[:, :, batch].flatten(0, 1)

    def risk(self, students: BatchedStudents) -> Tensor:
        """E KL(p || q) [arms, seeds]."""
        logits = students(self.x).view(len(ARMS), self.seeds, TEST, CLASSES)
        return kl_to_target(self.probs.expand_as(logits), logits).mean(dim=-1)

    def trained(self, width: int, steps: int) -> Measured:
        students = self.in_both_arms(self.students(width))
        risks = train_by_sgd(students, self.batches(steps), RATE, measure=self.risk, every=steps // 20)
        noise, slope = torch.zeros(len(ARMS), self.seeds), torch.zeros(self.seeds)
        for arm, name in enumerate(ARMS):
            for seed in range(self.seeds):
                student = students.alone(arm * self.seeds + seed)
                with torch.no_grad():
                    rest = self.probs[seed] - student(self.x).softmax(dim=-1)
                moments = rest[:, :, None] * rest[:, None]
                if name == "one-hot":
                    moments += one_hot_covariance(self.probs[seed])
                noise[arm, seed] = gradient_noise(score_gram(student, self.x), moments)
                if name == "exact":
                    slope[seed] = mean_pull(student, self.x, rest).square().sum()
        return Measured(risks[-1], noise, slope)

    def floors(self, width: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """Excess risk of students that start at the truth: predicted of one-hot [seeds], and of both [arms, seeds]."""
        students = self.students(width)  # units beyond the truth's have no weight in the output
        students.weights[1].data[:, TRUE_WIDTH:] = 0
        for own, true in zip(students.weights, self.networks.weights, strict=True):
            own.data[:, : true.shape[1], : true.shape[2]] = true
        for own, true in zip(students.biases, self.networks.biases, strict=True):
            own.data[:, :, : true.shape[2]] = true
        grams = [score_gram(students.alone(seed), self.x) for seed in range(self.seeds)]
        label = [one_hot_covariance(probs) for probs in self.probs]
        noises = [gradient_noise(gram, each) for gram, each in zip(grams, label, strict=True)]
        predicted = torch.tensor([excess_risk_floor(noise, FLOOR_RATE, BATCH) for noise in noises])
        batches = self.batches(steps)
        risks = train_by_sgd(self.in_both_arms(students), batches, FLOOR_RATE, measure=self.risk, every=151)
        return predicted, *risks[len(risks) // 2 :].mean(dim=0)


def width_claim(seeds: int, steps: int, seed: int) -> Claim:
    truths = Truths(seeds, seed)
    measured = {width: truths.trained(width, steps) for width in WIDTHS}
    ratios = {width: each.noise[0] / each.noise[1] for width, each in measured.items()}
    intervals = {width: _interval(ratio) for width, ratio in ratios.items()}
    checks = []
    for width, (mean, half) in intervals.items():
        if 2 * width <= TRUE_WIDTH:
            checks.append(Check(f"width {width}: noise over one-hot's, lower end", LOUD, mean - half, 0, "at least"))
        if width >= 4 * TRUE_WIDTH:
            checks.append(Check(f"width {width}: noise over one-hot's, upper end", SILENT, mean + half, 0, "at most"))
    for width in FLOOR_WIDTHS:
        predicted, exact, one_hot = truths.floors(width, steps)
        name = f"width {width} from the truth"
        checks.append(Check(f"{name}: one-hot excess risk, nats", predicted.mean(), one_hot.mean(), 0.1))
        checks.append(Check(f"{name}: exact excess risk, nats", 0, exact.mean(), 1e-12, "absolute"))
    just = measured[TRUE_WIDTH]
    stuck = (just.risk[0] > 1e-3).sum().item()
    polyak = (just.slope / 2 / just.risk[0])[just.risk[0] > 1e-3]
    rows = "\n".join(
        f"| {width} | {each.risk[0].mean():.5f} | {each.risk[1].mean():.5f} | {each.noise[0].mean():.4f} "
        f"| {each.noise[1].mean():.2f} | {mean:.4f} ± {half:.4f} |"
        for (width, each), (mean, half) in zip(measured.items(), intervals.values(), strict=True)
    )
    least = f" (‖∇R‖² / (2 R) down to {polyak.min():.1e})" if len(polyak) else ""
    return Claim(
        "Without the PL condition too, exact probabilities silence the noise of students that can represent them",
        f"The truth is a ReLU network of {TRUE_WIDTH} hidden units; students of other widths start at random and see "
        f"a fresh batch of {BATCH} at every step, {steps} steps at α = {RATE:g}. The gradients' noise at the end is "
        "E ‖∇‖² of single examples. A student that is too narrow keeps a residual p - q, which pulls example by "
        f"example as a label's noise does. {seeds} seeds, each with its own truth, same start and examples for both "
        "kinds of targets; mean and 95 % interval of the ratio:\n\n"
        "| width | excess risk, exact | one-hot | noise, exact | one-hot | exact over one-hot |\n"
        f"| --- | --- | --- | --- | --- | --- |\n{rows}\n\n"
        "The landscape has no PL condition: a hidden unit that no example activates has no gradient, at any risk. Of "
        f"the students that are just wide enough {stuck} of {seeds} end above 0.001 nats although an exact one "
        f"exists{least}, and keep their noise. What silences it is thus not that the student can represent p but that "
        "SGD finds it, which takes some width to spare.\n\n"
        "Students that start at the truth come to rest at α σ* / (4 B) under one-hot labels, as linear ones do, also "
        f"with units to spare, whose incoming weights have no curvature there (α = {FLOOR_RATE:g}).",
        "derived here; arXiv 2601.01484 assumes strong quasi-convexity or PL",
        checks,
        [
            Figure(
                "width",
                "Gradient noise at the end of training against the student's width; one dot a seed, the line their "
                f"mean. The truth has {TRUE_WIDTH} hidden units.",
                [
                    Panel(
                        "",
                        "hidden units of the student",
                        "gradient noise E ‖∇‖²",
                        [
                            line
                            for arm, name in enumerate(ARMS)
                            for line in (
                                Series(
                                    "",
                                    [width for width in WIDTHS for _ in range(seeds)],
                                    torch.cat([each.noise[arm] for each in measured.values()]),
                                    color=1 - arm,
                                ),
                                Series(
                                    f"learns from {SOURCES[name]}",
                                    WIDTHS,
                                    [each.noise[arm].mean() for each in measured.values()],
                                    style="line",
                                    color=1 - arm,
                                ),
                            )
                        ],
                        log="xy",
                    )
                ],
            )
        ],
        "The residual of wide students still falls with time: they are measured after a number of steps, not at rest.",
    )


def _interval(values: Tensor) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's t."""
    half = student_t.ppf(0.975, len(values) - 1) * values.std().item() / len(values) ** 0.5
    return values.mean().item(), half
