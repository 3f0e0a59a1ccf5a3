"""The table of teachers in docs/teachers.md, made of the published comparison; run as a module, it is written."""

import json
from statistics import mean

from hf_bkd.reports.results import by_condition, difference_text, spread_text, teacher_table
from hf_bkd.utils.markdown import table

from .pages import ROOT

PAGE = ROOT / "docs" / "teachers.md"
RESULTS = ROOT / "model_cards" / "teachers_comparison" / "results.json"
BEGIN, END = "<!-- made by tests/docs/teachers_table.py -->\n", "<!-- end -->"
TRAININGS = {
    "deterministic": "1",
    "ensemble": "3",
    "SWA": "1",
    "SWAG": "1",
    "MultiSWAG": "3",
    "Laplace": "1",
    "Laplace, marginal likelihood": "1",
    "MC dropout": "1",
    "MC dropout, filter-wise": "1",
    "MC dropout, filter-wise, 4 masks": "4",
    "variational head": "1",
    "variational, IVON": "1",
    "variational, whole network": "1",
}
"""Teachers that the page shows, and how many plain trainings they take."""


def made() -> str:
    """Return the table that the published results ask for."""
    results = json.loads(RESULTS.read_text())
    conditions = list(by_condition(results))
    header = ["teacher", "trainings", "passes of a prediction", *(f"{name}: scaled NLL" for name in conditions)]
    rows = {name: {row["arm"]: row for row in teacher_table(results, name)} for name in conditions}
    body = [
        [
            arm,
            trainings,
            f"{mean(rows[name][arm]['relative_time'].mean for name in conditions if arm in rows[name]):.0f}",
            *(_cell(rows[name].get(arm)) for name in conditions),
        ]
        for arm, trainings in TRAININGS.items()
        if any(arm in rows[name] for name in conditions)
    ]
    return table([header, *body])


def _cell(row: dict | None) -> str:
    if row is None:
        return "–"
    if row["is_reference"]:
        return spread_text(row["scaled_nll"], row["seeds"])
    return difference_text(row)


def page() -> str:
    """Return the page with the table in its place."""
    before, rest = PAGE.read_text().split(BEGIN)
    return before + BEGIN + made() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page())
