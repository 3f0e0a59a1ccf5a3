"""Where SGD comes to rest, by the noise of its supervision: predicted and measured (arXiv 2601.01484)."""

import torch
from torch import Tensor

from hf_bkd.reports.claims import Check, Claim, Figure, Panel, Series
from hf_bkd.targets import adaptive_lambda, mixed_target, noise_ratio
from hf_bkd.theory import (
    additive_draws,
    best_lambda,
    dirichlet_draws,
    excess_risk_floor,
    label_free_lambda,
    mixed_noise,
)

from .sgd_linear import CONCENTRATIONS, EVERY, LAMBDAS, NOISES, RATE, SAMPLES, Linear

PAPER = "arXiv 2601.01484"
GRIDS = {2: (0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1.0), 10: (0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 1.0)}


def floor_claim(world: Linear) -> Claim:
    floor = excess_risk_floor(world.label_noise, RATE)
    names = {f"Dirichlet {a:g}": 1 / (a + 1) for a in CONCENTRATIONS}
    checks, measured, errors = world.compared(names)
    one_hot = world.floors["one-hot"].mean()
    shown = ["one-hot", *names]
    return Claim(
        "Noise in the supervision sets how low SGD gets",
        "With a constant step SGD does not come to rest in the optimum but at a distance that the noise of its "
        "gradients keeps it at. Exact class probabilities have none: at the optimum every example's gradient is 0. "
        "The student starts there, sees one fresh example a step, and its excess risk E KL(p || q) settles. The noise "
        f"is computed from per-example gradients: σ_f* = {world.label_noise:.3f} for one-hot labels, a (a + 1)-th of "
        "that for probabilities drawn from Dirichlet(a p).",
        f"{PAPER}, lemma 1, proposition 3, theorems 1 to 4; the floor α σ* / (4 B), an equality, is derived here",
        [
            Check("one-hot: excess risk, nats", floor, one_hot, 0.1),
            Check("exact: excess risk, nats", 0, world.floors["exact"].mean(), 1e-12, "absolute"),
            *checks,
        ],
        [
            Figure(
                "floors",
                "Excess risk at which 64 linear students settle under four kinds of supervision: dots are measured "
                "(± standard error), bars predicted from per-example gradients at the optimum. Exact probabilities "
                "give 0.",
                [
                    Panel(
                        "",
                        "",
                        "excess risk E KL(p || q), nats",
                        [
                            Series("predicted", shown, [floor, *(floor * ratio for ratio in names.values())]),
                            Series(
                                "measured",
                                shown,
                                [one_hot, *(one_hot * value for value in measured)],
                                [one_hot * world.ratio("one-hot")[1], *(one_hot * error for error in errors)],
                                color=1,
                            ),
                        ],
                        log="y",
                    )
                ],
            )
        ],
        "The paper's theorems are upper bounds, with the constants of Gower et al.; what is asserted here is sharper: "
        "the balance of Hessian and noise near the optimum, exact to first order in the step.",
    )


def convergence_claim(world: Linear) -> Claim:
    def targets(probs: Tensor, labels: Tensor, x: Tensor) -> dict[str, Tensor]:
        draws = dirichlet_draws(probs, 5.0, 1, world.generator)[0]
        return {"one-hot": mixed_target(labels, probs, 0.0), "Dirichlet 5": draws, "exact": probs}

    names, risks = world.risks(targets, world.steps, optimal_start=False)
    curves = dict(zip(names, risks.mean(dim=2).T, strict=True))
    steps = [EVERY * (i + 1) for i in range(len(risks))]
    floor = excess_risk_floor(world.label_noise, RATE)
    floors = {"one-hot": floor, "Dirichlet 5": floor / 6}
    colors = {"one-hot": 0, "exact": 1, "Dirichlet 5": 2}  # those of the protocol's figure
    lines = [Series(name, steps, curve, style="line", color=colors[name]) for name, curve in curves.items()]
    lines += [Series("predicted floor", steps, [value] * len(steps), style="dashed") for value in floors.values()]
    late = {name: curve[-len(curve) // 4 :].mean() for name, curve in curves.items()}
    return Claim(
        "Exact probabilities converge without a floor",
        "The same students from zero weights. One-hot labels stop at their floor; exact probabilities go on falling "
        "at the same step, geometrically in the directions that the data has.",
        f"{PAPER}, theorems 1 and 2",
        [
            Check("one-hot: excess risk in the last quarter, nats", floors["one-hot"], late["one-hot"], 0.15),
            Check(
                "exact: the last excess risk over the one-hot floor", 0.1, curves["exact"][-1] / floor, 0, "at most"
            ),
        ],
        [
            Figure(
                "convergence",
                "Excess risk from zero weights, mean of 64 students: noise in the supervision, not the data, is what "
                "stops a student.",
                [Panel("", "step", "excess risk E KL(p || q), nats", lines, log="y")],
            )
        ],
        "The admissible step, by the theorems twice as wide with exact probabilities, is a condition of the proof and "
        "is not checked.",
    )


def samples_claim(world: Linear) -> Claim:
    a = CONCENTRATIONS[0]
    names = {f"mean of {s}": 1 / (a + 1) / s for s in SAMPLES}
    checks, measured, errors = world.compared(names)
    return Claim(
        "The mean of S draws has an S-th of the noise",
        f"A teacher whose single draw is Dirichlet({a:g} p), nearly as noisy as a label, averaged over S draws. This "
        "is what a Bayesian teacher's averaged probabilities buy, as far as its draws scatter around the truth.",
        f"{PAPER}, section 5 (S ≥ 5 draws suffice); arXiv 2601.18909 (k responses, 1/k); the equality is derived here",
        checks,
        [
            Figure(
                "samples",
                "The floor falls as one over the number of draws.",
                [
                    Panel(
                        "",
                        "draws S",
                        "floor over the one-hot floor",
                        [
                            Series("predicted", SAMPLES, list(names.values()), style="dashed"),
                            Series("measured", SAMPLES, measured, errors, color=1),
                        ],
                        log="xy",
                    )
                ],
            )
        ],
        "Real posteriors' draws also have a bias in common, which no number of draws removes.",
    )


def lambda_claim(world: Linear) -> Claim:
    a = CONCENTRATIONS[0]
    teacher = world.label_noise / (a + 1)
    names = {f"λ = {k:g}": mixed_noise(world.label_noise, teacher, k) / world.label_noise for k in LAMBDAS}
    checks, measured, errors = world.compared(names)
    proxies = []
    for concentration in CONCENTRATIONS:
        draws = dirichlet_draws(world.probs, concentration, 2, world.generator)
        value = label_free_lambda(draws.mean(dim=0), draws.var(dim=0), 2)
        expected = best_lambda(world.label_noise, world.label_noise / (concentration + 1) / 2)
        proxies.append(Check(f"label-free λ, two draws of Dirichlet({concentration:g} p)", expected, value, 0.02))
    curve = [i / 50 for i in range(51)]
    predicted = [mixed_noise(world.label_noise, teacher, k) / world.label_noise for k in curve]
    ends = [world.ratio("one-hot"), world.ratio(f"Dirichlet {a:g}")]
    return Claim(
        "The best λ weighs teacher and label by their inverse noise",
        f"λ mixes one-hot labels with one draw of Dirichlet({a:g} p). The noise is (1 - λ)² σ_f* + λ² σ_T*, and least "
        f"at λ* = σ_f* / (σ_f* + σ_T*) = {best_lambda(world.label_noise, teacher):g}: lower than with either alone. "
        "The label-free λ is read off the draws' variance, without a label or a gradient.",
        f"an answer, derived here, to an open question of {PAPER}; the weighting is that of arXiv 2601.18909",
        [*checks, *proxies],
        [
            Figure(
                "best_lambda",
                "The floor against λ: measured (± standard error) on the predicted parabola, least at λ* = 0.6.",
                [
                    Panel(
                        "",
                        "λ",
                        "floor over the one-hot floor",
                        [
                            Series("predicted", curve, predicted, style="dashed"),
                            Series(
                                "measured",
                                [0, *LAMBDAS, 1],
                                [ends[0][0], *measured, ends[1][0]],
                                [ends[0][1], *errors, ends[1][1]],
                                color=1,
                            ),
                        ],
                    )
                ],
            )
        ],
        "The label-free λ sees the draws' scatter and not the teacher's bias: an upper bound for real teachers.",
    )


def break_even_claim(world: Linear) -> Claim:
    names = {f"{noise:g} ν*": noise for noise in NOISES}
    checks, measured, errors = world.compared(names)
    draws = additive_draws(world.probs, world.break_even, 1, world.generator)
    outside = (draws < 0).any(dim=-1).double().mean().item()
    return Claim(
        "A teacher helps as long as its noise is below break-even",
        "Targets p + ε with Var ε = ν for each class. Their noise is ν E Σ ‖J_k‖² / P_k², and equals that of one-hot "
        f"labels at ν* = {world.break_even:.4f}.",
        f"{PAPER}, proposition 3 and theorems 3 and 4",
        checks,
        [
            Figure(
                "break_even",
                "The floor in units of the one-hot floor, against the variance of additive noise in units of ν*.",
                [
                    Panel(
                        "",
                        "ν / ν*",
                        "floor over the one-hot floor",
                        [
                            Series("predicted", [0, 2], [0, 2], style="dashed"),
                            Series("one-hot", [0, 2], [1, 1], style="line", color=0),
                            Series("measured", NOISES, measured, errors, color=1),
                        ],
                    )
                ],
            )
        ],
        f"Additive noise leaves the simplex: at ν* {100 * outside:.0f} % of the targets have a negative entry. They "
        "are trained on as they are, by the gradient (Σ t) q - t; a stored soft label would have to be clipped.",
    )


def adaptive_claim(world: Linear) -> Claim:
    """Fixed lambdas of a grid beside the adaptive one, for teachers of three kinds."""
    noisy, mixed = "one noise for all", "noise that depends on x"
    kinds = {f"{noisy}, S = 2": 2, f"{noisy}, S = 10": 10, f"{mixed}, S = 2": 2}

    def draw(kind: str, probs: Tensor, x: Tensor) -> Tensor:
        draws = dirichlet_draws(probs, CONCENTRATIONS[0], kinds[kind], world.generator)
        if kind.startswith(noisy):
            return draws
        calmer = dirichlet_draws(probs, 20.0, kinds[kind], world.generator)
        return torch.where(x[:, :1] > 0, draws, calmer)

    samples = {kind: draw(kind, world.probs, world.points) for kind in kinds}
    ratios = {k: noise_ratio(s.mean(dim=0), s.var(dim=0), len(s)) for k, s in samples.items()}
    lambdas = {
        k: adaptive_lambda(s.mean(dim=0), s.var(dim=0), len(s), ratios[k]).mean().item() for k, s in samples.items()
    }

    def targets(probs: Tensor, labels: Tensor, x: Tensor) -> dict[str, Tensor]:
        made = {}
        for kind, s in kinds.items():
            draws = draw(kind, probs, x)
            mean = draws.mean(dim=0)
            made |= {f"{kind} {k:g}": mixed_target(labels, mean, k) for k in GRIDS[s]}
            by_example = adaptive_lambda(mean, draws.var(dim=0), s, ratios[kind])
            made[f"{kind} adaptive"] = mixed_target(labels, mean, by_example)
        return made

    names, risks = world.risks(targets, world.steps * 2 // 3)
    floors = dict(zip(names, risks[len(risks) // 2 :].mean(dim=(0, 2)).tolist(), strict=True))
    checks, panels = [], []
    for kind, s in kinds.items():
        grid = [floors[f"{kind} {k:g}"] for k in GRIDS[s]]
        adaptive = floors[f"{kind} adaptive"]
        checks.append(Check(f"{kind}: adaptive over the best of the grid", 1.05, adaptive / min(grid), 0, "at most"))
        fixed = Series("fixed λ", GRIDS[s], grid, style="line")
        panels.append(
            Panel(kind, "λ", "excess risk, nats", [fixed, Series("adaptive λ", [lambdas[kind]], [adaptive], color=1)])
        )
    return Claim(
        "λ set by example from the draws' variance needs no sweep",
        '`lambda_schedule="adaptive"`: λ(x) = 1 / (1 + r(x) / S), r the variance of a draw over that of a label, the '
        "example's own shrunk towards that of all. It sees no label, and is compared with the best fixed λ of a grid, "
        f"for Dirichlet({CONCENTRATIONS[0]:g} p) draws everywhere, and for ones that are that noisy where x_0 > 0 and "
        "Dirichlet(20 p) elsewhere.",
        "derived here, from λ* above",
        checks,
        [Figure("adaptive", "Excess risk against a fixed λ, and of the adaptive one at its mean λ.", panels)],
        "Without the shrinking a two-draw teacher's examples would count more the more their draws happen to agree, "
        "which biases the target: measured 30 % above the best λ. All of it rests on draws without a common bias.",
    )


FLOOR_CLAIMS = (floor_claim, convergence_claim, samples_claim, lambda_claim, break_even_claim, adaptive_claim)
