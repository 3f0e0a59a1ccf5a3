"""Numbers read out of the content of `results.json`: spreads over seeds, and paired differences between arms.

What was not measured is omitted, and counted as omitted; it never becomes a zero.
"""

import math
from typing import Any, NamedTuple

from ..hub.cards import HEADLINES, METRICS
from ..utils.errors import UserError
from ..utils.markdown import capitalized
from .comparisons import Comparison, Difference, Spread, holm_comparisons, spread

KINDS = ("study", "teachers", "claims")
REFERENCE = "deterministic"  # the arm that all others are compared with, unless the results name another
DASH = "–"
SETTINGS = {
    "kd_lambda": "λ",
    "lambda_schedule": "λ schedule",
    "prior_strength": "prior strength",
    "teacher_weights": "teachers' weights",
    "combine": "combined by",
    "distance": "distance",
    "teacher_temperature": "T_t",
    "student_temperature": "T_s",
    "num_samples": "S",
    "views": "views",
    "folds": "folds",
    "prior_precision": "prior precision",
}

Runs = dict[int, dict]  # seed -> record
Arms = dict[str, Runs]


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
    "mean_average_precision": Measure("mAP", "mean_average_precision", "metrics", 100, 2, "points", 1),
    "rmse": Measure("RMSE", "rmse", "metrics", 1, 3, "units of the label", -1),
}
SCALED_NLL = Measure("NLL after temperature scaling", "nll", "scaled_metrics", 1, 3, "nats", -1)


def kind_of(results: Any) -> str:
    """Return what wrote these results: a ``"study"`` of students, one of ``"teachers"``, or a recipe of ``"claims"``.

    Files from before the kind was stored are recognized by their keys. UserError for any other JSON.
    """
    if isinstance(results, dict):
        if results.get("kind") in KINDS:
            return results["kind"]
        if "checks" in results:
            return "claims"
        if isinstance(results.get("arms"), list):
            scaled = any("scaled_metrics" in record for record in results["arms"] if isinstance(record, dict))
            return "teachers" if scaled else "study"
    raise UserError('these results have neither a list "arms" nor "checks"; pass the results.json of a recipe')


def measure_of(results: dict) -> Measure:
    """Return what the arms of these results are compared in."""
    return SCALED_NLL if kind_of(results) == "teachers" else MEASURES[results.get("measure", "accuracy")]


def headline_of(arms: Arms) -> Measure:
    """Return the measure that comes first in a table: that of several labels, of numbers, or of one class."""
    known = {name for runs in arms.values() for record in runs.values() for name in record.get("metrics") or ()}
    return next((MEASURES[name] for name in HEADLINES if name in known), MEASURES["accuracy"])


def axis_label(measure: Measure) -> str:
    """Return a measure with its unit, as an axis has it."""
    return f"{measure.name}, {'%' if measure.unit == 'points' else measure.unit}"


def reference_of(results: dict) -> str:
    """Return the name of the arm that the others are compared with."""
    return results.get("reference", REFERENCE)


def title_of(results: dict) -> str:
    """Return the study's name as a title, such as "Adaptive lambda"."""
    name = results.get("recipe", "results").replace("_", " ")
    return capitalized(name)


def by_condition(results: dict) -> dict[str, Arms]:
    """Return condition -> arm -> seed -> record, each in order of first appearance; UserError without "arms"."""
    if kind_of(results) == "claims":
        raise UserError('these results have no list "arms"; pass the results.json of a distillation recipe')
    groups: dict[str, Arms] = {}
    for record in results["arms"]:
        arms = groups.setdefault(record.get("condition") or "", {})
        arms.setdefault(record["arm"], {})[record["seed"]] = record
    return groups


def has_noisy_labels(condition: str, arms: Arms) -> bool:
    """Whether a condition's labels are noisy, so that ECE judges a student by what its labels got wrong.

    A record says so in ``label_noise``, the share of wrong labels. Where no record has the field, the name that the
    study gave to the condition decides: those of noisy labels contain the words "label noise".
    """
    shares = [record["label_noise"] for runs in arms.values() for record in runs.values() if "label_noise" in record]
    return any(shares) if shares else "label noise" in condition


def interval_text(difference: Difference, scale: int = 1, digits: int = 3) -> str:
    """Return a difference with its interval, such as `+1.07 [-5.79, +7.92]`; without an interval, `+1.07 [–]`."""
    mean, low, high = (f"{scale * value:+.{digits}f}" for value in difference[:3])
    return f"{mean} [{f'{low}, {high}' if difference.count > 1 else DASH}]"


def difference_text(row: dict) -> str:
    """Return the difference of a row of `summary_table` or `teacher_table` as a cell."""
    if row["is_reference"]:
        return "reference"
    difference, measure = row["difference"], row["measure"]
    if not difference or not difference.count:
        return DASH
    shared = "" if difference.count == row["seeds"] else f" ({difference.count} shared)"
    return interval_text(difference, measure.scale, measure.digits) + shared


def spread_text(value: Spread, seeds: int, scale: int = 1, digits: int = 3, with_std: bool = True) -> str:
    """Return a spread as a cell: `91.47 ± 1.70`, and how many seeds it stands on if not all."""
    mean, std, count = value
    if not count:
        return DASH
    text = f"{scale * mean:.{digits}f}" + (f" ± {scale * std:.{digits}f}" if count > 1 and with_std else "")
    return text + ("" if count == seeds else f" ({count} of {seeds} seeds)")


def per_seed(runs: Runs, metric: str, source: str | None = "metrics") -> dict[int, float]:
    """Return seed -> value where it is finite; ``source`` names a dict in the record, None the record itself."""
    values = {seed: ((record.get(source) or {}) if source else record).get(metric) for seed, record in runs.items()}
    return {seed: value for seed, value in values.items() if value is not None and math.isfinite(value)}


def over_seeds(runs: Runs, metric: str, source: str | None = "metrics") -> Spread:
    """Return the spread of :func:`per_seed`."""
    return spread(list(per_seed(runs, metric, source).values()))


def teacher_table(results: dict, condition: str) -> list[dict]:
    """Return one row per teacher of a condition, in order of first appearance.

    Keys: those of :func:`_compared`, a `Spread` each for `accuracy`, `nll`, `ece`, `brier` and `ood_auroc` plain and,
    as `scaled_nll` and so on, after temperature scaling, and for `temperature`, `relative_time` and `megabytes`.
    """
    arms = by_condition(results)[condition]
    rows, compared = [], _compared(results, arms)
    for arm, runs in arms.items():
        row = compared[arm]
        for metric in ("accuracy", "nll", "ece", "brier", "ood_auroc"):
            row[metric] = over_seeds(runs, metric)
            row[f"scaled_{metric}"] = over_seeds(runs, metric, "scaled_metrics")
        row["temperature"] = over_seeds(runs, "temperature", "scaled_metrics")
        for cost in ("relative_time", "megabytes"):
            row[cost] = over_seeds(runs, cost, None)
        rows.append(row)
    return rows


def summary_table(results: dict, condition: str | None = None) -> list[dict]:
    """Return one row per arm, in order of first appearance; of all conditions, or of the one named.

    Keys: `condition`, those of :func:`_compared`, and a `Spread` each for the names of ``METRICS``, such as `accuracy`
    and `nll`, for the same of the teacher, such as `teacher_accuracy`, for `convergence_noise`, `agreement`,
    `scaled_nll`, `scaled_ece` and the `temperature` of scaling, and of the teacher `teacher_scaled_nll` and so on.
    Fractions, not percent. A metric that is None or not finite is omitted from its Spread, whose `count` then is below
    `seeds`. UserError for an unknown condition, or without a list "arms".
    """
    groups = by_condition(results)
    if condition is not None and condition not in groups:
        raise UserError(f"no condition {condition!r} in these results; there are {list(groups)}")
    chosen = groups if condition is None else {condition: groups[condition]}
    return [
        {"condition": name, **compared, **_spreads(arms[arm])}
        for name, arms in chosen.items()
        for arm, compared in _compared(results, arms).items()
    ]


def _compared(results: dict, arms: Arms) -> dict[str, dict]:
    """Return of each arm the keys `arm`, `seeds` (how many runs), `measure`, `is_reference`, and how it compares.

    That is a `Difference` to the reference arm of the same condition in that measure, `p_value` and `detectable`, as
    `holm_comparisons` makes them; None for the reference itself, and where it is missing.
    """
    measure, reference = measure_of(results), reference_of(results)
    values = {arm: per_seed(runs, measure.metric, measure.source) for arm, runs in arms.items()}
    base = values.pop(reference, None)
    comparisons = {} if base is None else holm_comparisons(values, base)
    rows = {}
    for arm, runs in arms.items():
        row = {"arm": arm, "seeds": len(runs), "measure": measure, "is_reference": arm == reference}
        compared = comparisons[arm]._asdict() if arm in comparisons else dict.fromkeys(Comparison._fields)
        rows[arm] = row | compared
    return rows


def _spreads(runs: Runs) -> dict[str, Spread]:
    spreads = {metric: over_seeds(runs, metric) for metric in (*METRICS, "convergence_noise", "agreement")}
    for of in ("", "teacher_"):
        source = f"{of}scaled_metrics"
        spreads |= {f"{of}scaled_{metric}": over_seeds(runs, metric, source) for metric in ("nll", "ece")}
        spreads[f"{of}temperature"] = over_seeds(runs, "temperature", source)
    return spreads | {f"teacher_{metric}": over_seeds(runs, metric, "teacher_metrics") for metric in METRICS}
