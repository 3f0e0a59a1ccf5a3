"""What a run found, in words and tables: `report.md` with its plots, and a summary for the terminal.

Rules of the page: accuracy is the final epoch's; arms are compared by paired differences over shared seeds; what was
not measured is a dash, never a zero; what the numbers do not decide is said to be undecided.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..utils.files import write_text
from .pages import page_of, verdict
from .plots import write_plots
from .results import COSTS, DASH, SETTINGS, by_condition, compares_teachers, difference_text
from .uncertainty_page import HOW_TO_READ, has_posteriors, uncertainty_cells


def write_report(results: dict, output_dir: str | os.PathLike) -> Path:
    """Write `report.md` and its plots into `output_dir` (made if missing) and return the path of `report.md`.

    `results` is the content of a recipe's `results.json`. Arms may lack seeds or metrics; histories and reliability
    bins are drawn where all runs have them.
    Each file appears under its final name only when complete. UserError when `results` has no list "arms".
    """
    folder = Path(output_dir)
    pictures = write_plots(results, folder)
    sections = [*_introduction(results, folder), *_result_sections(results)]
    sections.append(page_of(results).how_to_read)
    if has_posteriors(results):
        sections += ["## What the students do not know", HOW_TO_READ, *_uncertainty_sections(results)]
    if pictures:
        sections.append("## Plots\n")
    sections += [f"![{Path(name).stem}]({name})\n\n*{caption}*\n" for name, caption in pictures.items()]
    sections += ["## Settings\n", _settings(results), "## Environment\n"]
    sections.append("".join(f"- {name}: {value}\n" for name, value in (results.get("environment") or {}).items()))
    write_text(folder / "report.md", "\n".join(sections))
    return folder / "report.md"


def print_summary(results: dict, console: Console | None = None) -> None:
    """Print each condition's table, and the sentence that it supports, to the terminal (or to `console`)."""
    console = console or Console(width=None if sys.stdout.isatty() else 1000)  # nothing is wrapped in a file
    page = page_of(results)
    for number, condition in enumerate(by_condition(results)):
        rows = page.rows(results, condition)
        header, *body = _table(rows, page.terminal_columns)
        table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
        for i, heading in enumerate(header):
            table.add_column(Text(heading), justify="right" if i else "left", no_wrap=i > 0)
        for cells in body:
            table.add_row(*map(Text, cells))
        seeds = _values(rows, "seeds")
        title = f"{condition or results.get('recipe', 'Results')}, {seeds} {'seed' if seeds == '1' else 'seeds'}"
        console.print(Text(f"\n{title}" if number else title, style="bold"))
        console.print(table)
        console.print(Text(verdict(rows)))


def _introduction(results: dict, folder: Path) -> Iterator[str]:
    yield f"# {results.get('recipe', 'Results')}" + (f" on {results['dataset']}\n" if results.get("dataset") else "\n")
    records, groups = results["arms"], by_condition(results)
    seeds = sorted({record["seed"] for record in records})
    conditions = f" under {len(groups)} conditions" if len(groups) > 1 else ""
    missing = len(seeds) * sum(map(len, groups.values())) - len(records)
    subject = "network" if compares_teachers(results) else "student"
    if records:
        yield (
            f"{len(records)} runs of {len({record['arm'] for record in records})} arms{conditions}, with seeds "
            f"{', '.join(map(str, seeds))}; the {subject} is {_values(records, subject)}"
            f"{f'; {missing} runs are missing so far' if missing else ''}.\n"
        )
    else:
        yield "No run has finished yet.\n"
    if results.get("note"):
        yield f"{results['note']}\n"
    if (folder / "results.json").is_file():
        yield "All numbers: [results.json](results.json).\n"
    if (folder / "students").is_dir():
        yield "The students, ready for `from_pretrained`: [`students/CONDITION/seed-S/ARM`](students).\n"


def _result_sections(results: dict) -> Iterator[str]:
    yield "## Results\n"
    groups, page = by_condition(results), page_of(results)
    for condition in groups:
        rows = page.rows(results, condition)
        if len(groups) > 1:
            yield f"### {condition or 'no condition named'}\n"
        yield _markdown(_table(rows, page.columns))
        yield verdict(rows) + "\n"


def _uncertainty_sections(results: dict) -> Iterator[str]:
    groups = by_condition(results)
    for condition in groups:
        if len(groups) > 1:
            yield f"### {condition}\n"
        yield _markdown(uncertainty_cells(results, condition))


def _table(rows: list[dict], columns: dict[str, Callable[[dict], str]]) -> list[list[str]]:
    """Header and body of one condition's table; without differences where the reference arm is missing."""
    if not any(row["is_reference"] for row in rows):
        columns = {heading: show for heading, show in columns.items() if show is not difference_text}
    return [list(columns), *([show(row) for show in columns.values()] for row in rows)]


def _settings(results: dict) -> str:
    groups, records = by_condition(results), results["arms"]
    settings = {key: name for key, name in (SETTINGS | COSTS).items() if any(record.get(key) for record in records)}
    cells = [["condition", "arm", "teacher", *settings.values(), "seconds a run"]]
    for condition, arms in groups.items():
        for arm, runs in arms.items():
            values = [_values(runs.values(), key) or DASH for key in ("teacher", *settings)]
            seconds = [record["seconds"] for record in runs.values() if record.get("seconds") is not None]
            cells.append([condition, arm, *values, f"{np.mean(seconds):.0f}" if seconds else DASH])
    return _markdown(cells if len(groups) > 1 else [row[1:] for row in cells])


def _values(records: Iterable[dict], key: str) -> str:
    """The different values of a field, such as `4` or `1, 2, 4`; empty where there is none."""
    values = sorted({record[key] for record in records if record.get(key) is not None})
    return ", ".join(dict.fromkeys(value if isinstance(value, str) else f"{value:.4g}" for value in values))


def _markdown(cells: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
    return "\n".join([lines[0], "| --- " * len(cells[0]) + "|", *lines[1:]]) + "\n"
