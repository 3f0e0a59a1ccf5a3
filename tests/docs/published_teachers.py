"""What docs/teachers.md says of teachers, made of their published comparison."""

import json
from statistics import mean

from hf_bkd.reports.pages import counted
from hf_bkd.reports.results import by_condition, difference_text, spread_text, teacher_table
from hf_bkd.utils.markdown import table

from .pages import ROOT

RESULTS = ROOT / "model_cards" / "teachers_comparison" / "results.json"
TEACHERS = {
    "a trained network, as it is": {"deterministic": 1, "Laplace": 1, "Laplace, marginal likelihood": 1},
    "one training, a pass a prediction": {"SWA": 1, "variational head": 1},
    "one training, a pass a draw": {
        "SWAG": 1,
        "MC dropout": 1,
        "MC dropout, filter-wise": 1,
        "variational, IVON": 1,
        "variational, whole network": 1,
    },
    "several trainings": {"ensemble": 3, "MultiSWAG": 3, "MC dropout, filter-wise, 4 masks": 4},
}
"""What one can afford -> the teachers that are to be had for it, and how many plain trainings they take."""
NUMBERS = {14: "fourteen", 15: "fifteen"}


def _rows() -> dict[str, dict[str, dict]]:
    """Return condition -> arm -> row of the published table."""
    results = json.loads(RESULTS.read_text())
    return {name: {row["arm"]: row for row in teacher_table(results, name)} for name in by_condition(results)}


def _passes(rows: dict[str, dict[str, dict]], arm: str) -> float:
    return mean(each[arm]["relative_time"].mean for each in rows.values() if arm in each)


def measured() -> str:
    """Return the table of all teachers that the page shows."""
    rows = _rows()
    cells = [["teacher", "trainings", "passes of a prediction", *(f"{name}: scaled NLL" for name in rows)]]
    for teachers in TEACHERS.values():
        for arm, trainings in teachers.items():
            if any(arm in each for each in rows.values()):
                shown = (_cell(each[arm]) if arm in each else "–" for each in rows.values())
                cells.append([arm, str(trainings), f"{_passes(rows, arm):.0f}", *shown])
    return f"\n{table(cells)}"


def _cell(row: dict) -> str:
    return spread_text(row["scaled_nll"], row["seeds"]) if row["is_reference"] else difference_text(row)


def by_cost() -> str:
    """Return the table of the teacher with the least scaled NLL of each cost and condition."""
    rows = _rows()
    cells = [["what it takes", "passes of a prediction", *rows]]
    for cost, teachers in TEACHERS.items():
        known = {name: [arm for arm in teachers if arm in each] for name, each in rows.items()}
        if any(known.values()):
            passes = [_passes(rows, arm) for arm in dict.fromkeys(arm for arms in known.values() for arm in arms)]
            ends = dict.fromkeys(f"{end(passes):.0f}" for end in (min, max))
            cells.append([cost, " to ".join(ends), *(_best(rows[name], arms) for name, arms in known.items())])
    return f"\n{table(cells)}"


def _best(rows: dict[str, dict], arms: list[str]) -> str:
    if not arms:
        return "–"
    row = min((rows[arm] for arm in arms), key=lambda row: row["scaled_nll"].mean)
    return row["arm"] if row["is_reference"] else f"{row['arm']}: {difference_text(row)}"


def verdicts() -> str:
    """Return which teachers the intervals of each condition call better or worse, and the largest AUROC."""
    return "\n".join(["", *(f"- {name}: {_verdict(each)}" for name, each in _rows().items()), ""])


def _verdict(rows: dict[str, dict]) -> str:
    reference = next(row for row in rows.values() if row["is_reference"])
    decided: dict[str, list[str]] = {"Better": [], "Worse": []}
    for row in rows.values():
        if row is not reference and not row["difference"].low <= 0 <= row["difference"].high:
            shown = f"{row['arm']} ({difference_text(row)})"
            decided["Better" if row["difference"].mean < 0 else "Worse"].append(shown)
    sentences = [f"{word} than deterministic: {'; '.join(arms)}." for word, arms in decided.items() if arms]
    others = counted(len(rows) - 1 - sum(map(len, decided.values())), "teacher")
    best = max((row for row in rows.values() if row["ood_auroc"].count), key=lambda row: row["ood_auroc"].mean)
    beside = "" if best is reference else f", of deterministic {reference['ood_auroc'].mean:.3f}"
    return (
        f"{' '.join(sentences)} Not distinguishable from deterministic: {others}. The largest AUROC of entropy for "
        f"out-of-distribution images is {best['ood_auroc'].mean:.3f} ({best['arm']}){beside}."
    ).strip()


def precision() -> str:
    """Return what the marginal likelihood in place of validation makes of a Laplace teacher's calibration."""
    eces = {
        name: [f"{each[arm]['ece'].mean:.3f}" for arm in ("Laplace, marginal likelihood", "Laplace")]
        for name, each in _rows().items()
        if "noise" not in name
    }
    return "; ".join(f"{name}: {by_marginal} in place of {chosen}" for name, (by_marginal, chosen) in eces.items())


def number() -> str:
    """Return how many teachers are compared, under how many conditions."""
    rows = _rows()
    teachers = len({arm for each in rows.values() for arm in each})
    return f"{NUMBERS.get(teachers, teachers)} teachers, {counted(len(rows), 'condition')}"


MADE = {
    "teachers by cost": by_cost,
    "teachers measured": measured,
    "teachers' verdicts": verdicts,
    "teachers' precision": precision,
    "number of teachers": number,
}
