"""Checks of what a report reads, so that a damaged results.json ends in one sentence and not in a traceback."""

from collections.abc import Iterator
from typing import Any

from ..hub.cards import HEADLINES
from ..utils.errors import UserError
from .results import MEASURES, SETTINGS, by_condition, kind_of

NUMBER = (int, float)
TOP = {"recipe": str, "dataset": str, "note": str, "reference": str, "environment": dict}
REQUIRED = {"arm": str, "seed": int}
NUMBERS = ("metrics", "scaled_metrics", "teacher_metrics", "teacher_scaled_metrics")  # dicts of them
COLUMNS = {"history": ("epoch", *HEADLINES), "reliability": ("confidence", "accuracy", "count")}  # dicts of lists
OPTIONAL = (
    dict.fromkeys(("condition", "teacher", "student", "network", "lambda_schedule"), str)
    | dict.fromkeys((*NUMBERS, *COLUMNS, "uncertainty", "limits"), dict)
    | dict.fromkeys(("seconds", "label_bytes", "label_seconds", "relative_time", "megabytes", "label_noise"), NUMBER)
    | dict.fromkeys(SETTINGS, (str, *NUMBER))
    | {"noise_window": int}
)


def check_results(results: Any) -> None:
    """Check what pages and pictures read of a study's results; UserError names the first record that can't be read."""
    kind_of(results)
    check_types("results.json", results, TOP | {"measure": str})
    if results.get("measure", "accuracy") not in MEASURES:
        raise UserError(f"the measure {results['measure']!r} is unknown; it must be one of {', '.join(MEASURES)}")
    if not isinstance(results.get("arms"), list):
        raise UserError('these results have no list "arms"; pass the results.json of a distillation recipe')
    for number, record in enumerate(results["arms"]):
        _check_record(f"record {number} of results.json", record)
    for arms in by_condition(results).values():
        for arm, runs in arms.items():
            for name in (*COLUMNS, "credible_sets"):
                lengths = {len(column) for record in runs.values() for column in _columns(record, name)}
                if len(lengths) > 1:
                    raise UserError(
                        f"the {name.replace('_', ' ')} of the arm {arm!r} differ in length ({sorted(lengths)}); "
                        "remove the unfinished run from results.json, or run the recipe again"
                    )


def _check_record(place: str, record: Any) -> None:
    if not isinstance(record, dict):
        raise UserError(f"{place} is no object but {record!r}; run the recipe again")
    missing = [name for name in REQUIRED if name not in record]
    if missing:
        raise UserError(f"{place} has no {missing[0]!r}; run the recipe again")
    check_types(place, record, REQUIRED | OPTIONAL)
    for name in NUMBERS:
        values = record.get(name) or {}
        check_types(f"{name} of {place}", values, dict.fromkeys(values, NUMBER))
    for name, columns in COLUMNS.items():
        if record.get(name):
            check_types(f"{name} of {place}", dict.fromkeys(columns) | record[name], dict.fromkeys(columns, list))
            for column in columns:
                values = dict(enumerate(record[name].get(column) or ()))
                check_types(f"{column} in the {name} of {place}", values, dict.fromkeys(values, NUMBER))
    uncertainty = record.get("uncertainty") or {}
    check_types(f"uncertainty of {place}", uncertainty, {"credible_sets": list, "chains": dict, "auroc": dict})
    limits = record.get("limits") or {}
    check_types(f"limits of {place}", limits, {"sets": dict, "ood_auroc": dict, "entropy": dict})
    for each in uncertainty.get("credible_sets") or ():
        if not isinstance(each, dict) or {"level", "coverage", "size"} - each.keys():
            raise UserError(f"a credible set of {place} lacks its level, coverage or size; run the recipe again")


def _columns(record: dict, name: str) -> Iterator[list]:
    if name == "credible_sets":
        yield from ([sets] if (sets := (record.get("uncertainty") or {}).get(name)) is not None else [])
    elif record.get(name):
        there = [record[name][column] or [] for column in COLUMNS[name] if column in record[name]]
        needed = 2 if name == "history" else len(COLUMNS[name])
        yield from there if len(there) >= needed else [*there, []]


def check_types(place: str, values: dict, types: dict) -> None:
    """Check that each value that is there has its type; a truth value is no number."""
    for name, kind in types.items():
        value = values.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise UserError(f"{name!r} of {place} can't be {value!r}; run the recipe again")
