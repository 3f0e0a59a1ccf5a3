"""Regressing students of scikit-learn's diabetes data: least squares, whose noise has a formula, and networks."""

import torch
from scipy.stats import chi2
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from hf_bkd.reports.claims import Check, Claim, Figure, Panel, Series
from hf_bkd.theory.propagation import (
    average_responses,
    inter_student_variance,
    inverse_variance_combine,
    leverage,
    ols_student_variance,
    ols_students,
    oracle_combine,
)
from hf_bkd.theory.sweeps import distill_many, noisy_responses

NOISE = 0.5  # variance of one response of the teacher, in units of the target's
KS = (1, 2, 5, 10, 20, 50)
CHECKED = (1, 5, 50)
NOISES = (0.1, 0.5, 1.0, 2.0)
WEIGHT_NOISES = (0.05, 0.1, 0.2, 0.4)
TOLERANCE = 0.03


class Diabetes:
    """353 patients to learn from and 89 for the test, all standardized, and a linear teacher of them."""

    def __init__(self):
        inputs, targets = load_diabetes(return_X_y=True)
        targets = (targets - targets.mean()) / targets.std()
        parts = train_test_split(StandardScaler().fit_transform(inputs), targets, test_size=0.2, random_state=42)
        self.inputs, self.test_inputs, self.targets, self.test_targets = map(torch.from_numpy, parts)
        self.design, self.test_design = (
            torch.cat([torch.ones(len(x), 1, dtype=x.dtype), x], dim=1) for x in (self.inputs, self.test_inputs)
        )
        teacher = ols_students(self.design, self.targets[None])[0]
        self.mean, self.test_mean = self.design @ teacher, self.test_design @ teacher

    def predictions(self, responses: Tensor) -> Tensor:
        """What least squares on each row of ``responses`` predicts for the test."""
        return ols_students(self.design, responses) @ self.test_design.mT

    def variance(self, responses: Tensor) -> float:
        return inter_student_variance(self.predictions(responses)).mean().item()

    def predicted_variance(self, noise: float, k: int = 1) -> float:
        return ols_student_variance(self.design, self.test_design, noise, k).mean().item()

    def error(self, predictions: Tensor) -> Tensor:
        return (predictions - self.test_targets).square().mean(dim=-1)


def averaging_claim(data: Diabetes, count: int, generator: torch.Generator) -> Claim:
    means, teacher = data.mean.expand(count, -1), data.error(data.test_mean).item()
    predictions = [data.predictions(noisy_responses(means, NOISE, k, generator)) for k in KS]
    predicted = [data.predicted_variance(NOISE, k) for k in KS]
    measured = [inter_student_variance(p).mean().item() for p in predictions]
    errors = torch.stack([data.error(p) for p in predictions])
    error, within = errors.mean(dim=1).tolist(), (3 * errors.std(dim=1) / count**0.5).tolist()
    checks = []
    for i in map(KS.index, CHECKED):
        checks.append(Check(f"variance over students, k = {KS[i]}", predicted[i], measured[i], TOLERANCE))
        checks.append(Check(f"test error, k = {KS[i]}", teacher + predicted[i], error[i], within[i], "absolute"))
    curve = range(1, KS[-1] + 1)
    variance_series = [Series("predicted", KS, predicted, style="dashed"), Series("measured", KS, measured, color=0)]
    error_series = [
        Series("predicted", curve, [teacher + predicted[0] / k for k in curve], style="dashed"),
        Series("measured", KS, error, within, color=0),
        Series("noise-free teacher", KS, [teacher] * len(KS), style="line", color=4),
    ]
    panels = [
        Panel("How much students differ", "responses averaged, k", "variance over students", variance_series, "xy"),
        Panel("How much they err", "responses averaged, k", "mean squared test error", error_series, "x"),
    ]
    return Claim(
        "Averaging k responses divides the noise that students inherit by k",
        f"A linear teacher of the diabetes data answers with noise of variance {NOISE}; {count:,} students are fitted "
        "by least squares, each to averages of k answers of its own. Where the design has leverage h(x), their "
        "predictions at x vary by h(x) noise / k, and their expected test error exceeds the noise-free teacher's, "
        f"{teacher:.4f}, by the mean of that. The mean leverage of the {len(data.test_design)} patients of the test "
        f"is {leverage(data.design, data.test_design).mean():.5f}.",
        "arXiv 2601.18909, averaging of responses; the formulas are those of least squares",
        checks,
        [Figure("averaging", "Error bars are three standard errors of the mean over students.", panels)],
        "A test error may be off by three of its standard errors; 3 % of it would let the noise pass unseen.",
    )


def rules_claim(data: Diabetes, count: int, generator: torch.Generator) -> Claim:
    k, means = 5, data.mean.expand(count, -1)
    labels, others = (torch.stack([noisy_responses(means, NOISE, 1, generator) for _ in range(k)]) for _ in range(2))
    average, other = average_responses(labels, NOISE), average_responses(others, NOISE)

    def weighted(of_student: Tensor) -> Tensor:
        student = ols_students(data.design, of_student) @ data.design.mT
        variance = ols_student_variance(data.design, data.design, NOISE, k)
        return inverse_variance_combine([average.mean, student], [NOISE / k, variance])

    independent, same = weighted(other.mean), weighted(average.mean)
    targets = {
        "average of 5": average.mean,
        "weighted, same labels": same.mean,
        "weighted, independent": independent.mean,
        "average of 10": (average.mean + other.mean) / 2,
        "ORACLE of the code": oracle_combine(labels, means, NOISE),
    }
    measured = [data.variance(t) for t in targets.values()]
    predicted = _predicted_variances(data, k)
    checks = [Check(name, *both, TOLERANCE) for name, *both in zip(targets, predicted, measured, strict=True)]
    promised, of_targets = independent.variance.mean(), inter_student_variance(independent.mean).mean()
    checks.append(Check("the targets themselves, weighted, independent", promised, of_targets, TOLERANCE))
    no_gain = "weighted, same labels / average of 5: no gain"
    checks.append(Check(no_gain, predicted[1] / predicted[0], measured[1] / measured[0], 0.003))
    series = [Series("predicted", list(targets), predicted), Series("measured", list(targets), measured, color=0)]
    return Claim(
        "Inverse-variance weighting needs an independent estimate",
        "The targets are averages of 5 noisy labels, combined with what an earlier student predicts for the same "
        "patients, each weighted by the inverse of its known variance. If that student learned from labels of its "
        "own, the combined targets have the variance that the rule promises, and a student that learns from them "
        "gains a little. If it learned from *these* labels nothing is gained: least squares has used them already "
        "(Gauss-Markov). For the same reason the independent student, which cost five labels more, is worth less than "
        "an average of all ten.",
        "arXiv 2601.18909, inverse-variance weighting; predictions derived here from the linear map of the labels",
        checks,
        [
            Figure(
                "rules",
                "All targets but the average of 10 are made of five labels and, if weighted, of an earlier student.",
                [Panel("What the targets are made of", "", "variance over students", series)],
            )
        ],
        "The last rule is an ORACLE that nobody has: the regression experiments of the released code weight the "
        "labels with the teacher's noise-free mean, and by the variance of one label in place of their average's. It "
        "gains by knowing the answer; at k = 1 that variance is 0, and the rule is plain averaging.",
    )


def _predicted_variances(data: Diabetes, k: int) -> list[float]:
    """By rule: a student is linear in the labels, and varies by their noise times its map's squares."""
    inverse, leverages = torch.linalg.pinv(data.design), leverage(data.design, data.design)
    fit = data.test_design @ inverse
    kept, weighted = fit * leverages / (1 + leverages), fit / (1 + leverages)  # weights of labels and of the student
    through = weighted @ data.design @ inverse
    plain, same, of_labels, of_student = (
        NOISE / k * m.square().sum(dim=1).mean().item() for m in (fit, kept + through, kept, through)
    )
    oracle = plain * chi2(k - 1).expect(lambda spread: (1 + spread / k) ** -2)  # the mean square of the labels' weight
    return [plain, same, of_labels + of_student, plain / 2, oracle]


def amplification_claim(data: Diabetes, count: int, networks: int, seed: int) -> Claim:
    inputs, test_inputs, generator = data.inputs.float(), data.test_inputs.float(), torch.Generator().manual_seed(seed)
    shape = {"sizes": (10, 16, 1), "loss": "squared error", "steps": 200}
    targets = data.targets.float()[:, None]
    teacher = distill_many(inputs, targets, vary="initialization", count=1, seed=seed, **shape)
    mean = teacher(inputs)[0]

    def variance(targets: Tensor, vary: str = "initialization", weight_noise: float | None = None) -> float:
        options = shape | {"weight_noise": weight_noise, "seed": seed + 1}
        students = distill_many(inputs, targets, vary=vary, count=networks, **options)
        return inter_student_variance(students(test_inputs)).mean().item()

    def answers(means: Tensor, noise: float, number: int) -> Tensor:
        return noisy_responses(means.expand(number, *means.shape), noise, 1, generator)

    drawn = [variance(answers(mean, noise, networks), "teacher") for noise in NOISES]
    linear = [data.variance(answers(data.mean, noise, count)) for noise in NOISES]
    predicted = [data.predicted_variance(noise) for noise in NOISES]
    perturbed, anew = [variance(mean, weight_noise=scale) for scale in WEIGHT_NOISES], variance(mean)
    checks = []
    for noise, theory, ols, network in zip(NOISES, predicted, linear, drawn, strict=True):
        checks.append(Check(f"least squares, noise {noise:g}", theory, ols, TOLERANCE))
        checks.append(Check(f"network / least squares, noise {noise:g}", 1, network / ols, 0, "at least"))
    checks.append(Check("network, weights drawn anew / noise 0.1", 1, anew / drawn[0], 0, "at most"))
    by_noise = [
        Series("predicted for least squares", NOISES, predicted, style="dashed"),
        Series("least squares", NOISES, linear, color=0),
        Series("network", NOISES, drawn, color=1),
    ]
    by_weights = [
        Series("network", WEIGHT_NOISES, perturbed, color=1),
        Series("network, weights drawn anew", WEIGHT_NOISES, [anew] * len(WEIGHT_NOISES), style="line", color=1),
        Series("network, teacher's noise 0.1", WEIGHT_NOISES, [drawn[0]] * len(WEIGHT_NOISES), style="line", color=2),
    ]
    panels = [
        Panel("By the teacher's noise", "variance of one response", "variance over students", by_noise, "xy"),
        Panel("By initial weights", "relative noise of the weights", "variance over students", by_weights),
    ]
    times = [f"{network / ols:.1f} times" for network, ols in zip(drawn, linear, strict=True)]
    return Claim(
        "Networks amplify the teacher's noise, and are robust to their own initial weights",
        "What least squares inherits is linear in the teacher's noise, by a factor that the design alone decides. "
        f"{networks} networks of 16 hidden units, which learn from one noisy answer of a teacher of their own kind to "
        f"each patient, inherit {', '.join(times)} as much at noise {', '.join(f'{n:g}' for n in NOISES)}. Of their "
        "initial weights they inherit less than of the least of these noises.",
        "arXiv 2601.18909, linear regression against networks, and initialization noise",
        checks,
        [
            Figure(
                "amplification", "Students on the diabetes data that learned from one answer to each patient.", panels
            )
        ],
        "The network has 193 parameters, least squares has 11, and there are 353 patients: its capacity to fit noise "
        "may be all of the amplification, and the comparison can't tell that from the non-linear optimization to "
        "which the paper attributes it.",
    )
