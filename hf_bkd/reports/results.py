"""Reading numbers out of the content of `results.json`: spreads over seeds, and paired differences between arms.

What was not measured is left out, and counted as left out; it never becomes a zero.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student_t

from ..utils.errors import UserError

REFERENCE = "deterministic"  # the arm that all others are compared with, unless the results name another
DASH = "–"
SETTINGS = {
    "kd_lambda": "λ",
    "lambda_schedule": "λ schedule",
    "prior_strength": "prior strength",
    "teacher_weights": "teachers' weights",
    "combine": "combined by",
    "teacher_temperature": "T_t",
    "student_temperature": "T_s",
    "num_samples": "S",
    "views": "views",
    "folds": "folds",
    "prior_precision": "prior precision",
}
COSTS = {
    "label_bytes": "bytes of labels an example",
    "label_seconds": "seconds to label",
    "relative_time": "time, teacher's passes",
}

Runs = dict[int, dict]  # seed -> record
Arms = dict[str, Runs]


class Spread(NamedTuple):
    """Mean and standard deviation (ddof 1; NaN below two values) of `count` seeds' values."""

    mean: float
    std: float
    count: int


class Difference(NamedTuple):
    """Mean paired difference over `count` shared seeds and the two ends of its interval (NaN below two seeds)."""

    mean: float
    low: float
    high: float
    count: int


class Measure(NamedTuple):
    """What arms are compared in: a metric of a dict of the record, how it is shown, and whether more (1) is better."""

    name: str
    metric: str
    source: str
    scale: int
    digits: int
    unit: str
    sign: int


MEASURES = {
    "accuracy": Measure("accuracy", "accuracy", "metrics", 100, 2, "points", 1),
    "nll": Measure("NLL", "nll", "metrics", 1, 3, "nats", -1),
}
SCALED_NLL = Measure("NLL after temperature scaling", "nll", "scaled_metrics", 1, 3, "nats", -1)


def measure_of(results: dict) -> Measure:
    """What the arms of these results are compared in."""
    return SCALED_NLL if compares_teachers(results) else MEASURES[results.get("measure", "accuracy")]


def reference_of(results: dict) -> str:
    """The arm that they are compared with."""
    return results.get("reference", REFERENCE)


def paired_difference(a: dict[int, float], b: dict[int, float], level: float = 0.95) -> Difference:
    """Mean of `a - b` over the seeds that both hold, with its Student-t interval.

    `a`, `b`: seed -> value, in any one unit; the result is in that unit. Its ends are NaN when fewer than two seeds
    are shared, and its mean when none is. ValueError unless 0 < level < 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    mean, std, count = spread([a[seed] - b[seed] for seed in a if seed in b])
    half = float(student_t.ppf((1 + level) / 2, count - 1)) * std / math.sqrt(count) if count > 1 else math.nan
    return Difference(mean, mean - half, mean + half, count)


def difference_text(row: dict) -> str:
    """The difference of a row of `summary_table` or `teacher_table`, such as `+1.07 [-5.79, +7.92]` in points."""
    if row["is_reference"]:
        return "reference"
    *numbers, count = row["difference"]
    if not count:
        return DASH
    measure = row["measure"]
    mean, low, high = (f"{measure.scale * value:+.{measure.digits}f}" for value in numbers)
    shared = "" if count == row["seeds"] else f" ({count} shared)"
    return f"{mean} [{f'{low}, {high}' if count > 1 else DASH}]" + shared


def spread_text(value: Spread, seeds: int, scale: int = 1, digits: int = 3, with_std: bool = True) -> str:
    """A spread as a cell: `91.47 ± 1.70`, and how many seeds it stands on if not all."""
    mean, std, count = value
    if not count:
        return DASH
    text = f"{scale * mean:.{digits}f}" + (f" ± {scale * std:.{digits}f}" if count > 1 and with_std else "")
    return text + ("" if count == seeds else f" ({count} of {seeds} seeds)")


def spread(values: list[float]) -> Spread:
    mean = float(np.mean(values)) if values else math.nan
    return Spread(mean, float(np.std(values, ddof=1)) if len(values) > 1 else math.nan, len(values))


def per_seed(runs: Runs, metric: str, source: str | None = "metrics") -> dict[int, float]:
    """Seed -> value, of the seeds for which there is a finite one; ``source`` is a dict in the record, or itself."""
    values = {seed: ((record.get(source) or {}) if source else record).get(metric) for seed, record in runs.items()}
    return {seed: value for seed, value in values.items() if value is not None and math.isfinite(value)}


def over_seeds(runs: Runs, metric: str, source: str | None = "metrics") -> Spread:
    return spread(list(per_seed(runs, metric, source).values()))


def compares_teachers(results: dict) -> bool:
    """Whether the arms are teachers themselves and not students."""
    return any("scaled_metrics" in record for record in results["arms"])


def teacher_table(results: dict, condition: str) -> list[dict]:
    """One row per teacher of a condition, in order of first appearance.

    Keys: those of :func:`_compared`, a `Spread` each for `accuracy`, `nll`, `ece`, `brier` and `ood_auroc` plain and,
    as `scaled_nll` and so on, after temperature scaling, and for `temperature`, `relative_time` and `megabytes`.
    """
    arms = by_condition(results)[condition]
    rows = []
    for arm, runs in arms.items():
        row = _compared(results, arm, arms)
        for metric in ("accuracy", "nll", "ece", "brier", "ood_auroc"):
            row[metric] = over_seeds(runs, metric)
            row[f"scaled_{metric}"] = over_seeds(runs, metric, "scaled_metrics")
        row["temperature"] = over_seeds(runs, "temperature", "scaled_metrics")
        for cost in ("relative_time", "megabytes"):
            row[cost] = over_seeds(runs, cost, None)
        rows.append(row)
    return rows


def _compared(results: dict, arm: str, arms: Arms) -> dict:
    """A row's keys `arm`, `seeds` (how many runs), `measure`, `is_reference`, and `difference` in that measure.

    That is a `Difference` to the reference arm of the same condition; None for itself, and where it is missing.
    """
    measure, reference = measure_of(results), reference_of(results)
    row = {"arm": arm, "seeds": len(arms[arm]), "measure": measure, "is_reference": arm == reference}
    row["difference"] = None
    if reference in arms and arm != reference:
        mine, theirs = (per_seed(arms[each], measure.metric, measure.source) for each in (arm, reference))
        row["difference"] = paired_difference(mine, theirs)
    return row


def by_condition(results: dict) -> dict[str, Arms]:
    """Condition -> arm -> seed -> record, each in order of first appearance; UserError without a list "arms"."""
    if not isinstance(results.get("arms"), list):
        raise UserError('these results have no list "arms"; pass the results.json of a distillation recipe')
    groups: dict[str, Arms] = {}
    for record in results["arms"]:
        arms = groups.setdefault(record.get("condition") or "", {})
        arms.setdefault(record["arm"], {})[record["seed"]] = record
    return groups


def summary_table(results: dict, condition: str | None = None) -> list[dict]:
    """One row per arm, in order of first appearance; of all conditions, or of the one named.

    Keys: `condition`, those of :func:`_compared`, and a `Spread` each for `accuracy`, `nll`, `ece`, `brier`,
    `convergence_noise`, `agreement`, `teacher_accuracy`, `teacher_nll`. Fractions, not percent. A metric that is None
    or not finite is left out of its Spread, whose `count` then is below `seeds`. UserError for an unknown condition,
    or results without a list "arms".
    """
    groups = by_condition(results)
    if condition is not None and condition not in groups:
        raise UserError(f"no condition {condition!r} in these results; there are {list(groups)}")
    chosen = groups if condition is None else {condition: groups[condition]}
    return [
        {"condition": name, **_compared(results, arm, arms), **_spreads(runs)}
        for name, arms in chosen.items()
        for arm, runs in arms.items()
    ]


def _spreads(runs: Runs) -> dict[str, Spread]:
    own = ("accuracy", "nll", "ece", "brier", "convergence_noise", "agreement")
    spreads = {metric: over_seeds(runs, metric) for metric in own}
    return spreads | {f"teacher_{m}": over_seeds(runs, m, "teacher_metrics") for m in ("accuracy", "nll")}
