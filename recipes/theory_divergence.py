"""What does a student pay for not being its teacher, and what does that say of how it generalizes?

The claims of arXiv 2605.13143 (distillation divergence, gap bounds, sharpness), whose authors did no experiments, in a
linear Gaussian model where all of them can be computed. For the heads of real networks: `theory_heads.py`.

    python recipes/theory_divergence.py --output_dir runs/theory_divergence          a few seconds
"""

import math
from dataclasses import dataclass, field

import torch
from scipy.optimize import brentq
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from hf_bkd.reports.claims import Check, Claim, ClaimArguments, Figure, Panel, Series, main
from hf_bkd.theory.divergence import best_student, conjugate_posterior, distillation_divergence, label_divergence_bound
from hf_bkd.theory.gap_bounds import lower_gap_bound, sharpness_gap_bound, tightness_radius, upper_gap_bound

PAPER = "arXiv 2605.13143"
NOTE = (
    "Claims of *On the Generalization of Knowledge Distillation: An Information-Theoretic View* (arXiv 2605.13143). "
    "The paper is theory alone. Its full text could not be retrieved, only its statements and single lines of the "
    "proofs: the formulas here are derived from those, and the paper's own constants may differ. Divergences are in "
    "nats."
)
K, D, N, NOISE, PRIOR = 5, 8, 40, 0.7, 1.0  # outputs, features, examples, and the two standard deviations


@dataclass
class Arguments(ClaimArguments):
    draws: int = field(default=20_000, metadata={"help": "Draws from a student, for its divergence by Monte Carlo."})
    datasets: int = field(default=3_000, metadata={"help": "Data sets that the gaps are averaged over."})


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def linear_data(generator: torch.Generator, *sets: int) -> tuple[Tensor, Tensor, Tensor]:
    """True weights [k, d], and inputs [..., d, n] and labels [..., k, n] of some data sets."""
    truth, inputs = PRIOR * normal(generator, K, D), normal(generator, *sets, D, N)
    return truth, inputs, truth @ inputs + NOISE * normal(generator, *sets, K, N)


def decomposition(options: Arguments) -> Claim:
    generator = torch.Generator().manual_seed(options.seed)
    _, inputs, labels = linear_data(generator)
    mean, covariance = conjugate_posterior(inputs, labels, NOISE, PRIOR)
    best = {rank: best_student(mean, covariance, rank) for rank in range(1, K + 1)}
    means = {f"{rank}": (rank, best[rank]) for rank in (1, 2, 3, 5)}
    means["2*"] = 2, best[1] + best[3] - best[2]
    own = torch.eye(K, dtype=torch.float64)
    teacher = MultivariateNormal(mean.flatten(), torch.kron(own, covariance))
    divergences, drawn, checks = {}, [], []
    for name, (rank, best_mean) in means.items():
        divergences[name] = distillation_divergence(mean, covariance, 0.8 * best_mean, 4 * covariance, rank)
        student = MultivariateNormal(0.8 * best_mean.flatten(), torch.kron(own, 4 * covariance))
        draws = student.loc + normal(generator, options.draws, K * D) @ student.scale_tril.T
        drawn.append((student.log_prob(draws) - teacher.log_prob(draws)).mean().item())
        exact = kl_divergence(student, teacher).item()
        checks.append(Check(f"rank {name}: from draws", divergences[name].total, drawn[-1], 0.01))
        checks.append(Check(f"rank {name}: sum of parts", exact, divergences[name].total, 1e-8, "absolute"))
    bars = [
        Series(
            part,
            list(divergences),
            [getattr(each, part) for each in divergences.values()],
            style="stacked",
            color=i + 1,
        )
        for i, part in enumerate(("rank", "bias", "variance", "cross"))
    ]
    return Claim(
        "What a student pays: rank, bias and variance",
        f"A linear teacher of {K} outputs and {D} features is the exact posterior after {N} noisy examples. Students "
        "are Gaussians around means of lower rank, shrunk by a fifth, with four times the variance. Their divergence "
        "from the teacher is split into what the rank costs even the best student of that rank, what this student's "
        "mean costs on top (bias), and what its covariance costs (variance). *Rank 2\\** keeps the teacher's first "
        "and third direction instead of the first two: it pays a large bias, of which a cross term of "
        f"{divergences['2*'].cross:.3g} goes off again, for it has some of what the best student of rank 2 gives up. "
        "The others' cross terms are 0.",
        f"{PAPER}, linear Gaussian case; split derived here",
        checks,
        [
            Figure(
                "divergence_parts",
                "Bars: the closed form's parts, the negative cross term below zero. Points: the divergence, which is "
                "their sum, as the mean log-ratio of draws. 2\\*: a student that keeps the teacher's first and third "
                "direction.",
                [
                    Panel(
                        "Distillation divergence",
                        "rank of the student",
                        "nats",
                        [*bars, Series("draws", list(divergences), drawn, color=0)],
                    )
                ],
            )
        ],
        "The names of the parts are the paper's; what it does with the cross term could not be recovered.",
    )


def label_channel(options: Arguments) -> Claim:
    generator = torch.Generator().manual_seed(options.seed)
    truth, inputs, labels = linear_data(generator)
    mean, covariance = conjugate_posterior(inputs, labels, NOISE, PRIOR)
    counts, exact, bounds = (5, 10, 20, 40, 80, 160), [], []
    inputs = normal(generator, D, counts[-1])
    for n in counts:
        new, noise = inputs[:, :n], NOISE**2 * torch.eye(n, dtype=torch.float64)
        taught = MultivariateNormal(mean @ new, new.T @ covariance @ new + noise)  # each output's labels
        exact.append(kl_divergence(taught, MultivariateNormal(truth @ new, noise)).sum().item())
        bounds.append(label_divergence_bound(new, mean, covariance, truth, NOISE))
    curves = [
        Series("bound", counts, [each.total for each in bounds], style="line"),
        Series("its bias part", counts, [each.bias for each in bounds], style="dashed"),
        Series("exact", counts, exact, color=0),
    ]
    return Claim(
        "The teacher's labels are off by no more than its bias and its variance",
        "A student sees labels of n new inputs, with weights drawn from the teacher's posterior and the data's noise. "
        "Their divergence from true labels is at most a bias part, from the teacher's mean, and a variance part, from "
        "its spread, because divergences are convex. For Gaussians the exact one is known beside it.",
        f"{PAPER}, linear label channel; derived here from the recovered step",
        [
            Check(f"labels of {n} inputs", bound.total, value, 0, "at most")
            for n, bound, value in zip(counts, bounds, exact, strict=True)
        ],
        [
            Figure(
                "divergence_labels",
                "Points: exact divergence of the teacher's labels from true ones. Lines: its bound.",
                [Panel("Divergence of the teacher's labels", "inputs n", "nats", curves, log="xy")],
            )
        ],
        "The bound stays loose: it charges the teacher's uncertainty for every input anew, as if its labels did not "
        "all come from the same weights.",
    )


def gap(weights: Tensor, truth: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    """Population minus empirical squared error [...] of weights [..., k, d], for inputs from N(0, I)."""
    population = (weights - truth).square().sum(dim=(-2, -1)) + K * NOISE**2
    return population - (labels - weights @ inputs).square().sum(dim=-2).mean(dim=-1)


def drawn_weights(mean: Tensor, covariance: Tensor, generator: torch.Generator) -> Tensor:
    """One draw [..., k, d] for each data set."""
    return mean + normal(generator, *mean.shape) @ torch.linalg.cholesky(covariance).mT


def gaps(options: Arguments) -> list[Claim]:
    """Of the bounds on a student's gap by its divergence, and by its distance."""
    generator = torch.Generator().manual_seed(options.seed)
    data = linear_data(generator, options.datasets)
    mean, covariance = conjugate_posterior(*data[1:], NOISE, PRIOR)
    weights = drawn_weights(mean, covariance, generator)
    teacher = gap(weights, *data)
    level, proxy = teacher.mean().item(), teacher.var().item()
    c, eta = 0.5, level / proxy
    condition = (-eta * teacher).exp().mean().log()
    checks = [Check("the lower bound's condition", -c * eta * level, condition, 0, "at most")]
    divergences, means, errors = [], [], []
    for rank, shrink in ((5, 1.0), (5, 0.95), (5, 0.9), (4, 0.95), (3, 1.0)):
        student_mean = shrink * best_student(mean, covariance, rank)
        divergences.append(distillation_divergence(mean, covariance, student_mean, covariance, rank).total)
        student_weights = drawn_weights(student_mean, covariance, generator)
        student = gap(student_weights, *data)
        means.append(student.mean().item())
        errors.append(student.std().item() / math.sqrt(len(student)))
        upper = upper_gap_bound(level, proxy, divergences[-1])
        lower = lower_gap_bound(level, divergences[-1], eta, c)
        name = f"rank {rank}, K = {abs(divergences[-1]):.2f}"
        checks.append(Check(f"{name}: below the upper", upper, means[-1], 4 * errors[-1], "at most"))
        checks.append(Check(f"{name}: above the lower", lower, means[-1], 4 * errors[-1], "at least"))
    grid = [i / 200 * max(divergences) for i in range(211)]
    curves = [
        Series("upper bound", grid, [upper_gap_bound(level, proxy, k) for k in grid], style="line"),
        Series("lower bound", grid, [lower_gap_bound(level, k, eta, c) for k in grid], style="dashed"),
        Series("students", divergences, means, [2 * error for error in errors], color=0),
    ]
    bounds = Claim(
        "A student's generalization gap is bounded by its teacher's and the divergence",
        f"The gap is population minus empirical loss, a squared error. Over {options.datasets:,} data sets, with one "
        f"draw of the weights for each, the teacher's is {level:.3g} on average. Students at a divergence K must stay "
        "below gap + sqrt(2 R^2 K) and above c gap - K / eta.",
        f"{PAPER}, upper and lower bound; constants derived here",
        checks,
        [
            Figure(
                "divergence_gaps",
                "Points: the mean gaps of students, with two standard errors. Lines: the two bounds.",
                [Panel("Generalization gap", "divergence K (nats)", "gap", curves)],
            )
        ],
        "R^2 is the variance of the teacher's gap, a Gaussian proxy: that of a squared error is not sub-Gaussian, so "
        "this is an empirical and not a proven bound. In the lower bound c = 1/2 and eta = gap / R^2, for which a "
        "Gaussian gap meets the central condition; that this one does is checked. Four standard errors are allowed. "
        "Both bounds are loose for large K.",
    )
    return [bounds, flatness(data, weights, student_weights, proxy, divergences[-1])]


def flatness(
    data: tuple[Tensor, Tensor, Tensor], weights: Tensor, student_weights: Tensor, proxy: float, divergence: float
) -> Claim:
    """Of the sharpness-aware bound, for a teacher's and a student's weights on many data sets."""
    truth, inputs, labels = data
    teacher, student = gap(weights, *data), gap(student_weights, *data)
    gradient = 2 * (weights - truth) + 2 * (labels - weights @ inputs) @ inputs.mT / N
    hessian = 2 * (torch.eye(D) - inputs @ inputs.mT / N)  # of each output's weights
    slopes, largest = gradient.norm(dim=(-2, -1)), torch.linalg.eigvalsh(hessian)[:, -1]
    distances = (student_weights - weights).norm(dim=(-2, -1))
    numbers = zip(*(each.tolist() for each in (teacher, slopes, largest, distances)), strict=True)
    room = torch.tensor([sharpness_gap_bound(*each) for each in numbers], dtype=torch.float64) - student
    checks = [Check("least room below the sharpness bound", 0, room.min(), 1e-9, "at least")]
    level, slope = teacher.mean().item(), slopes.mean().item()
    upper = upper_gap_bound(level, proxy, divergence)
    sharp = {f"{factor:g} x sharpness": factor * largest.mean().item() for factor in (4, 1, 0.25)}
    crossings = []
    for name, eigenvalue in sharp.items():
        crossings.append(brentq(lambda r, e=eigenvalue: sharpness_gap_bound(level, slope, e, r) - upper, 0, 1e3))
        predicted = tightness_radius(slope, eigenvalue, proxy, divergence)
        checks.append(Check(f"tightness radius at {name}", predicted, crossings[-1], 1e-6))
    grid = [i / 100 * 1.2 * max(crossings) for i in range(101)]
    curves = [
        Series(name, grid, [sharpness_gap_bound(level, slope, e, r) for r in grid], style="line", color=i + 1)
        for i, (name, e) in enumerate(sharp.items())
    ]
    flat = Series("divergence bound", grid, [upper] * len(grid), style="dashed")
    wide = [10 ** (i / 20) * largest.mean().item() / 10 for i in range(41)]
    formula = Series("formula", wide, [tightness_radius(slope, e, proxy, divergence) for e in wide], style="line")
    left = [*curves, flat, Series("crossings", crossings, [upper] * len(crossings), color=0)]
    right = [formula, Series("crossings", list(sharp.values()), crossings, color=0)]
    return Claim(
        "Around a flat teacher, sharpness says more than the divergence",
        "Whatever the divergence, a student at the distance rho from the teacher's weights has a gap of at most the "
        "teacher's + g rho + lambda rho^2 / 2; g is the norm of the gap's gradient and lambda its largest curvature. "
        f"In each of the {len(teacher):,} data sets this must hold for the student of K = {divergence:.3g}. It is the "
        "tighter bound below a radius rho_0, found here by bisection beside the formula: at the mean g and three "
        "lambda, all else equal. The flatter, the larger.",
        f"{PAPER}, sharpness-aware bound and tightness radius rho_0; formulas derived here",
        checks,
        [
            Figure(
                "divergence_tightness",
                "Left: the sharpness bound around sharper and flatter teachers, and where it crosses the divergence "
                "bound. Right: the same crossings beside the formula of the radius.",
                [
                    Panel("Two bounds on the gap", "distance rho from the teacher", "bound", left),
                    Panel("The tightness radius", "largest curvature lambda", "rho_0", right, log="x"),
                ],
            )
        ],
        "Exact because g and lambda are those of the gap itself, which is quadratic here. The paper speaks of the "
        "loss' sharpness; the constants with which it comes from there to the gap could not be recovered.",
    )


def claims(options: Arguments) -> list[Claim]:
    return [decomposition(options), label_channel(options), *gaps(options)]


if __name__ == "__main__":
    main("theory_divergence", NOTE, claims, Arguments)
