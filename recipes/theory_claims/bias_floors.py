"""What a teacher's bias does to the floor of SGD: the minimum moves, and what can't be followed stays as noise."""

from functools import cached_property, partial

import torch
from torch import Tensor

from hf_bkd.losses import kl_to_target
from hf_bkd.reports.claims import Check, Claim, Figure, Panel, Series
from hf_bkd.targets import mixed_target
from hf_bkd.theory import (
    best_lambda,
    dirichlet_draws,
    displacement_risk,
    excess_risk_floor,
    mean_pull,
    nearest_student,
    one_hot_covariance,
    parameter_covariance,
)

from .sgd_linear import Linear

RATE, BATCH, EVERY, SEEN = 0.1, 8, 119, 3000  # at EVERY steps, all places of what repeats are met alike
OPTIONS = {"optimizer": partial(torch.optim.SGD, lr=RATE), "batch_size": BATCH, "measured_on": SEEN, "every": EVERY}
TEMPERATURES, SHARES, WAVES = (0.67, 0.8, 0.95, 1.05, 1.25, 1.5), (0.01, 0.05, 0.1), (0.15, 0.3, 0.45)
MILD = ("T = 0.95", "T = 1.05", "wave 0.15", "wave 0.3", "wave 0.45")  # for the formula that is quadratic in the bias
CONCENTRATION, NOISY = 2.0, ("T = 0.8", "smoothing 0.05", "wave 0.45")
BIASED, LAMBDAS = 0.8, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def teachers(probs: Tensor, x: Tensor) -> dict[str, Tensor]:
    """What teachers of three kinds of bias say on average: a wrong temperature, label smoothing, waves over x."""
    u = torch.cos(3 * x[..., : probs.shape[-1]])
    wave = probs * (u - (probs * u).sum(dim=-1, keepdim=True))
    made = {f"T = {t:g}": (probs.log() / t).softmax(dim=-1) for t in TEMPERATURES}
    made |= {f"smoothing {s:g}": (1 - s) * probs + s / probs.shape[-1] for s in SHARES}
    return made | {f"wave {s:g}": probs + s * wave for s in WAVES}


class Predictions:
    """The exact student of a world, the risk's Hessian there, and where it settles under biased and noisy targets."""

    def __init__(self, world: Linear, examples: int | None = None):
        self.student, self.x, self.probs = world.student, world.points[:examples], world.probs[:examples]

    @cached_property
    def hessian(self) -> Tensor:
        return self.covariance(one_hot_covariance(self.probs))

    def covariance(self, between_logits: Tensor) -> Tensor:
        return parameter_covariance(self.student, self.x, between_logits)

    def quadratic(self, mean: Tensor) -> float:
        """The cost of a bias by what is known of the exact student alone."""
        return displacement_risk(self.hessian, mean_pull(self.student, self.x, mean - self.probs))

    def moved(self, mean: Tensor) -> tuple[float, Tensor]:
        """The excess risk of the moved minimum, and q there."""
        with torch.no_grad():
            logits = nearest_student(self.student, self.x, mean)(self.x)
        risk = kl_to_target(self.probs[:SEEN], logits[:SEEN]).mean().item()  # on what it is measured on
        return risk, logits.softmax(dim=-1)

    def noise(self, mean: Tensor, q: Tensor, covariance: Tensor | float = 0.0) -> Tensor:
        """The covariance of gradients at q: of the targets' noise, and of what of their mean q can't follow."""
        rest = mean - q
        return self.covariance(rest[:, :, None] * rest[:, None] + covariance)


def bias_claim(world: Linear, steps: int) -> Claim:
    at = Predictions(world)

    def targets(probs: Tensor, labels: Tensor, x: Tensor) -> dict[str, Tensor]:
        means = teachers(probs, x)
        draws = {
            f"{name}, noisy": dirichlet_draws(means[name], CONCENTRATION, 1, world.generator)[0] for name in NOISY
        }
        return means | draws

    measured = world.settled(targets, steps, **OPTIONS)
    means = teachers(at.probs, at.x)
    quadratic, bias, rest, total = {}, {}, {}, {}
    for name, mean in means.items():
        quadratic[name] = at.quadratic(mean)
        bias[name], q = at.moved(mean)
        rest[name] = excess_risk_floor(at.noise(mean, q).trace().item(), RATE, BATCH)
        total[name] = bias[name] + rest[name]
        if name in NOISY:
            noise = at.noise(mean, q, one_hot_covariance(mean) / (CONCENTRATION + 1)).trace().item()
            total[f"{name}, noisy"] = bias[name] + excess_risk_floor(noise, RATE, BATCH)
    checks = [Check(f"{name}: excess risk, nats", total[name], measured[name][0], 0.1) for name in total]
    checks += [
        Check(f"{name}: by the formula quadratic in the bias", quadratic[name] + rest[name], measured[name][0], 0.1)
        for name in MILD
    ]
    off = ", ".join(
        f"{100 * ((quadratic[n] + rest[n]) / total[n] - 1):+.0f} % at {n}"
        for n in ("T = 0.67", "T = 0.8", "T = 1.25", "smoothing 0.01", "smoothing 0.1")
    )

    def series(prefix: str, numbers: tuple[float, ...]) -> list[Series]:
        names = [f"{prefix} {number:g}" for number in numbers]
        values, errors = zip(*(measured[name] for name in names), strict=True)
        return [
            Series("moved minimum, and noise of the rest", numbers, [total[name] for name in names], style="dashed"),
            Series("g' H⁻¹ g / 2 alone", numbers, [quadratic[name] for name in names], style="line", color=2),
            Series("measured", numbers, values, errors, color=1),
        ]

    return Claim(
        "A teacher's bias moves the minimum, and what the student can't follow of it stays as noise",
        "Targets p + b without noise: a teacher of the wrong temperature T, one with smoothed labels, and one whose "
        'errors are waves over x that a linear student can\'t follow. Targets that are "noisy" beside it are draws of '
        f"Dirichlet({CONCENTRATION:g} (p + b)). The student starts at p. The prediction is the exact excess risk of "
        "the moved minimum, by Newton's method, plus α tr(C) / (4 B) with the gradients' covariance C there, of the "
        "noise and of the residual p + b - q. No step lowers the first part. For waves most of it is the second "
        "part: a bias that is noise.\n\n"
        "The formula that is quadratic in the bias, g' H⁻¹ g / 2, needs no minimum. It is checked for mild biases, "
        f"and off where a bias bends logits far: {off}. Smoothing is far from mild, for it moves the least "
        "probabilities by many times themselves.",
        "derived here; arXiv 2601.01484 assumes noise of mean zero",
        checks,
        [
            Figure(
                "bias",
                "Excess risk at which SGD settles under a teacher of the wrong temperature, and under one whose "
                f"errors are waves over x; {world.replicates} students each (± standard error).",
                [
                    Panel("wrong temperature", "T", "excess risk, nats", series("T =", TEMPERATURES), log="y"),
                    Panel("waves", "size of the waves", "excess risk, nats", series("wave", WAVES), log="y"),
                ],
            )
        ],
        "The parts are added. A product of bias and noise is missing: SGD's fluctuation moves its own mean, by the "
        "third derivative of the risk, which counts where the gradient of the true risk is not 0.",
    )


def bias_lambda_claim(world: Linear, steps: int) -> Claim:
    at = Predictions(world)
    name = f"T = {BIASED:g}"
    mean = teachers(at.probs, at.x)[name]
    label, draw = one_hot_covariance(at.probs), one_hot_covariance(mean) / (CONCENTRATION + 1)
    label_noise, teacher_noise = (at.covariance(each).trace().item() for each in (label, draw))
    as_noise = at.quadratic(mean) / excess_risk_floor(1.0, RATE, BATCH)
    blind, best = best_lambda(label_noise, teacher_noise), best_lambda(label_noise, teacher_noise + as_noise)
    grid = sorted({*LAMBDAS, blind, best})
    predicted = []
    for kd_lambda in grid:
        mixed = (1 - kd_lambda) * at.probs + kd_lambda * mean
        bias, q = at.moved(mixed)
        noise = at.noise(mixed, q, (1 - kd_lambda) ** 2 * label + kd_lambda**2 * draw).trace().item()
        predicted.append(bias + excess_risk_floor(noise, RATE, BATCH))

    def targets(probs: Tensor, labels: Tensor, x: Tensor) -> dict[str, Tensor]:
        draws = dirichlet_draws(teachers(probs, x)[name], CONCENTRATION, 1, world.generator)[0]
        return {f"{kd_lambda:.3g}": mixed_target(labels, draws, kd_lambda) for kd_lambda in grid}

    measured = list(world.settled(targets, steps, **OPTIONS).values())
    floor = {kd_lambda: value for kd_lambda, (value, _) in zip(grid, measured, strict=True)}
    return Claim(
        "A bias counts as noise of 4 B β² / α in the best λ",
        f"λ mixes labels with draws of a teacher of temperature {name}. Its bias costs β² = {at.quadratic(mean):.4f} "
        "nats of its own, λ² β² of the mixture, and noise costs α σ / (4 B): both are least at λ* = σ_f / (σ_f + "
        f"σ_T + 4 B β² / α) = {best:.3f}. The λ that is blind to bias is {blind:.3f}. A smaller step trusts a biased "
        "teacher less, for labels' noise falls with the step and a bias does not.",
        "derived here",
        [
            *(
                Check(f"λ = {kd_lambda:.3g}: excess risk, nats", expected, floor[kd_lambda], 0.1)
                for kd_lambda, expected in zip(grid, predicted, strict=True)
            ),
            Check("λ*: over the best of the grid", 1.05, floor[best] / min(floor.values()), 0, "at most"),
            Check("λ blind to bias: over that of λ*", 1.05, floor[blind] / floor[best], 0, "at least"),
        ],
        [
            Figure(
                "bias_lambda",
                f"The floor against λ with a teacher of {name}, predicted and measured (± standard error).",
                [
                    Panel(
                        "",
                        "λ",
                        "excess risk, nats",
                        [
                            Series("predicted", grid, predicted, style="dashed"),
                            Series("measured", grid, *zip(*measured, strict=True), color=1),
                            Series("λ*", [best], [floor[best]], color=2),
                            Series("λ blind to bias", [blind], [floor[blind]], color=3),
                        ],
                    )
                ],
            )
        ],
        "λ* is by the formula that is quadratic in the bias, and the curve by the moved minimum of each λ.",
    )
