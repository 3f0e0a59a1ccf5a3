"""What a run found, in words and tables: `report.md` with its plots, and a summary for the terminal.

Rules of the page: accuracy is the final epoch's; arms are compared by paired differences over shared seeds; what was
not measured is a dash, never a zero; what the numbers do not decide is said to be undecided.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from textwrap import fill

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .files import write_text
from .plots import write_plots
from .results import DASH, REFERENCE, SETTINGS, by_condition, difference_text, summary_table

NAME_WIDTH = 26  # of an arm in the terminal, so that the table fits into 80 columns
HOW_TO_READ = """## How to read this

- Accuracy is the final epoch's on the test split; nothing is selected on test.
- Numbers are mean ± standard deviation (ddof 1) over seeds; accuracy, agreement and convergence noise in percent.
- "vs deterministic" is the paired difference in accuracy against the deterministic teacher's student over shared
  seeds, in percentage points, with its 95 % Student-t interval. It covers variation between seeds, not the choice of
  test examples, and each interval stands alone: of 20 arms that change nothing, about one would exclude zero.
- Convergence noise is the standard deviation (ddof 1) of test accuracy over the last {window} evaluations of a run.
- Agreement is the share of test examples on which student and teacher predict the same class.
"""


def _number(key: str, scale: int = 1, digits: int = 3, with_std: bool = True) -> Callable[[dict], str]:
    """Shows a `Spread` of a row: `91.47 ± 1.70`, and how many seeds it stands on if not all."""

    def show(row: dict) -> str:
        mean, std, count = row[key]
        if not count:
            return DASH
        text = f"{scale * mean:.{digits}f}" + (f" ± {scale * std:.{digits}f}" if count > 1 and with_std else "")
        return text + ("" if count == row["seeds"] else f" ({count} of {row['seeds']} seeds)")

    return show


# heading -> what it shows of a row of the summary table
PAGE_COLUMNS = {
    "arm": lambda row: row["arm"],
    "seeds": lambda row: str(row["seeds"]),
    "accuracy": _number("accuracy", 100, 2),
    "vs deterministic (points, [95 % CI])": difference_text,
    "NLL": _number("nll"),
    "ECE": _number("ece"),
    "Brier": _number("brier"),
    "convergence noise": _number("convergence_noise", 100, 2),
    "teacher accuracy": _number("teacher_accuracy", 100, 2),
    "teacher NLL": _number("teacher_nll"),
    "agreement": _number("agreement", 100, 2),
}
TERMINAL_COLUMNS = {
    "arm": lambda row: fill(row["arm"], NAME_WIDTH, subsequent_indent="  "),
    "accuracy": _number("accuracy", 100, 2),
    "vs deterministic\n(points, [95 % CI])": difference_text,
    "NLL": _number("nll", with_std=False),
    "conv.\nnoise": _number("convergence_noise", 100, 2, with_std=False),
}


def write_report(results: dict, output_dir: str | os.PathLike) -> Path:
    """Write `report.md` and its plots into `output_dir` (made if missing) and return the path of `report.md`.

    `results` is the content of a recipe's `results.json`. Arms may lack seeds or metrics; histories and reliability
    bins are drawn where all runs have them.
    Each file appears under its final name only when complete. UserError when `results` has no list "arms".
    """
    folder = Path(output_dir)
    pictures = write_plots(results, folder)
    sections = [*_introduction(results, folder), *_result_sections(results)]
    sections.append(HOW_TO_READ.format(window=_values(results["arms"], "noise_window") or "few"))
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
    for number, condition in enumerate(by_condition(results)):
        rows = summary_table(results, condition)
        header, *body = _table(rows, TERMINAL_COLUMNS)
        table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
        for i, heading in enumerate(header):
            table.add_column(Text(heading), justify="right" if i else "left", no_wrap=i > 0)
        for cells in body:
            table.add_row(*map(Text, cells))
        seeds = _values(rows, "seeds")
        title = f"{condition or results.get('recipe', 'Results')}, {seeds} {'seed' if seeds == '1' else 'seeds'}"
        console.print(Text(f"\n{title}" if number else title, style="bold"))
        console.print(table)
        console.print(Text(_verdict(rows)))


def _introduction(results: dict, folder: Path) -> Iterator[str]:
    yield f"# {results.get('recipe', 'Results')}" + (f" on {results['dataset']}\n" if results.get("dataset") else "\n")
    records, groups = results["arms"], by_condition(results)
    seeds = sorted({record["seed"] for record in records})
    conditions = f" under {len(groups)} conditions" if len(groups) > 1 else ""
    missing = len(seeds) * sum(map(len, groups.values())) - len(records)
    if records:
        yield (
            f"{len(records)} runs of {len({record['arm'] for record in records})} arms{conditions}, with seeds "
            f"{', '.join(map(str, seeds))}; the student is {_values(records, 'student')}"
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
    groups = by_condition(results)
    for condition in groups:
        rows = summary_table(results, condition)
        if len(groups) > 1:
            yield f"### {condition or 'no condition named'}\n"
        yield _markdown(_table(rows, PAGE_COLUMNS))
        yield _verdict(rows) + "\n"


def _table(rows: list[dict], columns: dict[str, Callable[[dict], str]]) -> list[list[str]]:
    """Header and body of one condition's table; without differences where the reference arm is missing."""
    if not any(row["arm"] == REFERENCE for row in rows):
        columns = {heading: show for heading, show in columns.items() if show is not difference_text}
    return [list(columns), *([show(row) for show in columns.values()] for row in rows)]


def _verdict(rows: list[dict]) -> str:
    """What the intervals say, in words: the one conclusion of the page, made from its numbers."""
    if not any(row["arm"] == REFERENCE for row in rows):
        return "No deterministic teacher is among these runs, so no differences are given."
    found: dict[str, list[str]] = {"better": [], "worse": [], "same": [], "open": []}
    for row in (row for row in rows if row["difference"]):
        mean, low, high, count = row["difference"]
        kind = "open" if count < 2 else "better" if low > 0 else "worse" if high < 0 else "same"
        found[kind].append(row["arm"] if kind in ("same", "open") else f"{row['arm']} ({100 * mean:+.2f} points)")
    heads = {
        "better": "Better than the deterministic teacher beyond seed noise",
        "worse": "Worse than the deterministic teacher beyond seed noise",
        "same": "Not distinguishable from it",
        "open": "Undecided, with fewer than two shared seeds",
    }
    sentences = [f"{heads[kind]}: {'; '.join(names)}." for kind, names in found.items() if names]
    if found["same"] and not found["better"] and not found["worse"]:
        sentences[0] = "No arm differs from the deterministic teacher beyond seed noise."
    return " ".join(sentences) or "There is no other arm yet to compare with the deterministic teacher."


def _settings(results: dict) -> str:
    groups, folds = by_condition(results), any(record.get("folds") for record in results["arms"])
    settings = {key: name for key, name in SETTINGS.items() if key != "folds" or folds}
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
