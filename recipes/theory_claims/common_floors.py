"""Errors that a teacher's examples have in common: no batch averages them out, and a stored draw is a bias."""

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from hf_bkd.losses import kl_to_target
from hf_bkd.reports.claims import Check, Claim, Figure, Panel, Series
from hf_bkd.theory import (
    BatchedStudents,
    covariance_of_mean,
    displacement,
    displacement_risk,
    excess_risk_floor,
    kept_draw_risk,
    mean_pull,
    one_hot_covariance,
    train_students,
)

from .bias_floors import EVERY, SEEN, Predictions
from .sgd_linear import CHUNK, CLASSES, WIDTH, Linear, at_rest

SIZE, LENGTHS, LENGTH, DRAWS = 0.35, (0.5, 2.0, 8.0), 2.0, 400
FRESH_RATE, BATCHES = 0.05, (4, 12, 36)
RATE, BATCH, KEPT, STORED, AVERAGED = 0.2, 16, (1, 10, 50, 200, 1000, math.inf), (250, 700, 2000), 4
TEXT = (
    f"One draw of the teacher's weights disturbs all examples together: p (u - p·u) is added to p, where u_k(x) = "
    f"{SIZE:g} √2 cos(ω_k·x / ℓ + φ_k) has random ω and φ, so that two examples' u have the covariance {SIZE:g}² "
    "exp(-|x - x'|² / (2 ℓ²)). It stays on the simplex, has the mean 0, and a linear student can follow it in part."
)


class Disturbances:
    """Draws of the teacher's error, one for each place of ``shape``, as functions of examples [*shape, B, d]."""

    def __init__(self, length: float, shape: tuple[int, ...], generator: torch.Generator):
        self.frequencies = torch.randn(*shape, CLASSES, WIDTH, generator=generator, dtype=torch.float64) / length
        self.phases = 2 * math.pi * torch.rand(*shape, 1, CLASSES, generator=generator, dtype=torch.float64)

    def __call__(self, x: Tensor, probs: Tensor) -> Tensor:
        return on_simplex(probs, x @ self.frequencies.mT + self.phases)


def on_simplex(probs: Tensor, angles: Tensor) -> Tensor:
    u = SIZE * 2**0.5 * angles.cos()
    return probs * (u - (probs * u).sum(dim=-1, keepdim=True))


class Common(Predictions):
    """What one example's errors, C, and their common part, Γ, are for a teacher of disturbances."""

    def __init__(self, world: Linear):
        super().__init__(world, SEEN)
        self.generator = world.generator
        spread = one_hot_covariance(self.probs)
        self.own = self.covariance(SIZE**2 * spread @ spread)

    def pulls(self, length: float) -> tuple[Tensor, Tensor]:
        """Errors of draws at all examples [S, N, C], and their pulls [S, p]."""
        draws = (Disturbances(length, (), self.generator)(self.x, self.probs) for _ in range(DRAWS))
        errors = torch.stack(list(draws))
        return errors, mean_pull(self.student, self.x, errors)

    def common(self, pulls: Tensor) -> Tensor:
        """Γ of the draws' pulls, without what the finite number of examples adds."""
        return (pulls.T @ pulls / len(pulls) - self.own / SEEN) / (1 - 1 / SEEN)


def fresh_claim(world: Linear, steps: int) -> Claim:
    at = Common(world)
    common = {length: at.common(at.pulls(length)[1]) for length in LENGTHS}
    checks, lines = [], {}
    options = {"optimizer": partial(torch.optim.SGD, lr=FRESH_RATE), "measured_on": SEEN, "every": EVERY}
    for size in BATCHES:

        def targets(probs: Tensor, labels: Tensor, x: Tensor, size: int = size) -> dict[str, Tensor]:
            x, probs = (each.view(-1, min(size, len(each)), each.shape[-1]) for each in (x, probs))
            draws = {length: Disturbances(length, (len(x),), world.generator) for length in LENGTHS}
            made = {f"ℓ = {length:g}": probs + draw(x, probs) for length, draw in draws.items()}
            angles = 2 * math.pi * torch.rand(probs.shape, generator=world.generator, dtype=torch.float64)
            made["a draw for each"] = probs + on_simplex(probs, angles)
            return {name: each.reshape(-1, CLASSES) for name, each in made.items()}

        measured = world.settled(targets, steps, batch_size=size, **options)
        expected = {f"ℓ = {length:g}": covariance_of_mean(at.own, common[length], size) for length in LENGTHS}
        expected["a draw for each"] = at.own / size
        for name, (value, error) in measured.items():
            floor = excess_risk_floor(expected[name].trace().item(), FRESH_RATE)
            checks.append(Check(f"{name}, B = {size}: excess risk, nats", floor, value, 0.1))
            lines.setdefault(name, []).append((floor, value, error))
    series = []
    for color, (name, rows) in enumerate(lines.items()):
        floors, values, errors = zip(*rows, strict=True)
        series += [
            Series("predicted", BATCHES, floors, style="dashed"),
            Series(name, BATCHES, values, errors, color=color),
        ]
    return Claim(
        "No batch averages out what its examples have wrong in common",
        f"{TEXT}\n\nA fresh draw for each batch, as variational teachers are drawn in the paper's released code. The "
        "floor is α tr(C / B + (1 - 1/B) Γ) / 4, with the covariance C of one example's gradient and Γ of the mean "
        "over all under one draw; a draw for each example has C / B alone. Γ is read off the draws of another sample "
        "of teachers, as it could be of a real one.",
        "derived here; arXiv 2601.01484 assumes noise that is uncorrelated",
        checks,
        [
            Figure(
                "common_fresh",
                "Excess risk against the batch: the longer a disturbance's length ℓ, the less a larger batch helps. "
                f"{world.replicates} students each (± standard error).",
                [Panel("", "batch B", "excess risk, nats", series, log="xy")],
            )
        ],
    )


def kept_claim(world: Linear, steps: int) -> Claim:
    at = Common(world)
    common = at.common(at.pulls(LENGTH)[1])
    drawn: dict[float, Disturbances] = {}
    done = 0

    def targets(probs: Tensor, labels: Tensor, x: Tensor) -> dict[str, Tensor]:
        nonlocal done
        if len(x) < CHUNK:  # asked for the names alone
            return {f"{kept:g}": probs for kept in KEPT}
        made = {}
        for kept in KEPT:
            inside = min(kept, CHUNK)  # one draw for these steps, or for the whole chunk of steps
            if kept <= CHUNK or kept not in drawn or (kept < math.inf and done % kept == 0):
                drawn[kept] = Disturbances(LENGTH, (CHUNK // inside, 1, world.replicates), world.generator)
            inputs, known = (each.view(-1, inside, world.replicates, BATCH, each.shape[-1]) for each in (x, probs))
            made[f"{kept:g}"] = (known + drawn[kept](inputs, known)).reshape(-1, CLASSES)
        done += CHUNK
        return made

    options = {
        "optimizer": partial(torch.optim.SGD, lr=RATE),
        "batch_size": BATCH,
        "measured_on": SEEN,
        "every": EVERY,
    }
    measured = world.settled(targets, steps, **options)
    within = excess_risk_floor((at.own - common).trace().item(), RATE, BATCH)
    predicted = [within + kept_draw_risk(at.hessian, common, RATE, kept) for kept in KEPT]
    shown = [min(kept, steps) for kept in KEPT]
    return Claim(
        "Between a fresh draw and a stored one lies the number of steps for which it is kept",
        f"The same teacher with ℓ = {LENGTH:g}, drawn anew after every n steps of SGD, or stored "
        f"once. Fresh, its common errors make a floor of {predicted[0]:.5f} nats, which a smaller step lowers; "
        f"stored, they cost {predicted[-1]:.5f}, {predicted[-1] / predicted[0]:.0f} times as much, which no step "
        "lowers.",
        "derived here",
        [
            Check(f"{_kept_for(kept)}: excess risk, nats", expected, measured[f"{kept:g}"][0], 0.1)
            for kept, expected in zip(KEPT, predicted, strict=True)
        ],
        [
            Figure(
                "common_kept",
                "Excess risk against the number of steps for which a draw of the teacher is kept; the last point is "
                f"kept for all steps. {world.replicates} students each (± standard error).",
                [
                    Panel(
                        "",
                        "steps for which a draw is kept",
                        "excess risk, nats",
                        [
                            Series("predicted", shown, predicted, style="dashed"),
                            Series("measured", shown, *zip(*measured.values(), strict=True), color=1),
                        ],
                        log="xy",
                    )
                ],
            )
        ],
    )


def _kept_for(steps: float) -> str:
    return f"kept for {steps:g} steps" if steps < math.inf else "stored once"


def stored_claim(world: Linear, steps: int) -> Claim:
    at = Common(world)
    errors, pulls = at.pulls(LENGTH)
    common = at.common(pulls)
    single = "one draw"
    averaged, apart = f"mean of {AVERAGED} draws", "a draw for each"
    rest = excess_risk_floor(_unfollowed(at, errors, pulls).trace().item(), RATE, BATCH)
    checks, lines = [], {}
    for count in STORED:
        together = displacement_risk(at.hessian, covariance_of_mean(at.own, common, count)) + rest
        alone = displacement_risk(at.hessian, at.own) / count
        alone += excess_risk_floor(at.own.trace().item(), RATE, BATCH)
        expected = {apart: alone, single: together, averaged: together / AVERAGED}
        for name, (value, error) in _train_on_stored(world, count, steps, (apart, single, averaged)).items():
            checks.append(Check(f"{name}, n = {count}: excess risk, nats", expected[name], value, 0.1))
            lines.setdefault(name, []).append((expected[name], value, error))
    series = []
    for color, (name, rows) in enumerate(lines.items()):
        floors, values, deviations = zip(*rows, strict=True)
        series.append(Series("predicted", STORED, floors, style="dashed"))
        series.append(Series(name, STORED, values, deviations, color=color))
    return Claim(
        "A stored draw is a bias, and more examples help against independent errors alone",
        f"n examples whose targets are drawn once and stored, ℓ = {LENGTH:g}. The student's minimum moves by what "
        "they have wrong together, tr(H⁻¹ (C / n + (1 - 1/n) Γ)) / 2 nats on average over teachers; independent "
        "errors, Γ = 0, fall as 1 / n, and common ones do not. The mean of S draws of the teacher has an S-th of "
        f"both. What the student can't follow adds its noise, α tr(C) / (4 B), with α = {RATE:g} and B = {BATCH}.",
        "derived here",
        checks,
        [
            Figure(
                "common_stored",
                "Excess risk of students of n stored targets, against n: errors of their own average out, errors in "
                f"common do not. {world.replicates} teachers each (± standard error).",
                [Panel("", "stored examples n", "excess risk, nats", series, log="xy")],
            )
        ],
        "H and C are those of all examples; of n of them they are off by about p / n, here 21 / n.",
    )


def _unfollowed(at: Common, errors: Tensor, pulls: Tensor) -> Tensor:
    """The covariance of gradients at the moved minima of draws, of what of their errors a student can't follow."""
    moved = displacement(at.hessian, pulls)
    weights, biases = moved[:, : CLASSES * WIDTH].view(-1, CLASSES, WIDTH), moved[:, None, CLASSES * WIDTH :]
    logits = at.x @ weights.mT + biases
    rest = errors - at.probs * (logits - (at.probs * logits).sum(dim=-1, keepdim=True))
    return at.covariance(torch.einsum("snk,snl->nkl", rest, rest) / len(rest))


def _train_on_stored(world: Linear, count: int, steps: int, names: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """Arm -> excess risk of students at rest, each with its own examples and teacher, and its standard error."""
    replicates, generator = world.replicates, world.generator
    x = world.task.sample(replicates * count, generator)[0].view(replicates, count, WIDTH)
    probs = world.task.posterior(x)
    draws = [Disturbances(LENGTH, (replicates,), generator)(x, probs) for _ in range(AVERAGED)]
    angles = 2 * math.pi * torch.rand(probs.shape, generator=generator, dtype=torch.float64)
    targets = probs + torch.stack([on_simplex(probs, angles), draws[0], sum(draws) / AVERAGED])
    students = BatchedStudents(len(names) * replicates, (WIDTH, CLASSES), dtype=torch.float64)
    weight, bias = world.task.linear_student()
    students.weights[0].data[:], students.biases[0].data[:] = weight.T, bias
    each = torch.arange(replicates)[:, None]

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(steps):
            rows = torch.randint(count, (replicates, BATCH), generator=generator)
            yield x[each, rows].repeat(len(names), 1, 1), targets[:, each, rows].flatten(0, 1)

    def measure(students: BatchedStudents) -> Tensor:
        logits = students(world.points[:SEEN])
        return kl_to_target(world.probs[:SEEN], logits).mean(dim=1).view(len(names), replicates)

    optimizer = partial(torch.optim.SGD, lr=RATE)
    return at_rest(names, train_students(students, batches(), optimizer, measure, EVERY))
