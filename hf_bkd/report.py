"""What a run found, in words and tables: `report.md` with its plots, and a summary for the terminal.

Rules of the page: accuracy is the final epoch's; arms are compared by paired differences over shared seeds; what was
not measured is a dash, never a zero; what the numbers do not decide is said to be undecided.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import fill

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .files import write_text
from .plots import write_plots
from .results import DASH, REFERENCE, SETTINGS, Runs, Spread, by_condition, difference_text, spread, summary_table

# key in a row of the summary table -> heading, scale, digits
COLUMNS = {
    "nll": ("NLL", 1, 3),
    "ece": ("ECE", 1, 3),
    "brier": ("Brier", 1, 3),
    "convergence_noise": ("convergence noise", 100, 2),
    "teacher_accuracy": ("teacher accuracy", 100, 2),
    "teacher_nll": ("teacher NLL", 1, 3),
    "agreement": ("agreement", 100, 2),
}
VERSUS = "vs deterministic (points, [95 % CI])"
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


def write_report(results: dict, output_dir: str | os.PathLike) -> Path:
    """Write `report.md` and its plots into `output_dir` (made if missing) and return the path of `report.md`.

    `results` is the content of a recipe's `results.json`; arms may lack seeds, metrics, histories or reliability bins.
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
        header, *body = _table(rows, terminal=True)
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        table.add_column(header[0])
        for heading in header[1:]:
            table.add_column(Text(heading), justify="right", no_wrap=True)
        for arm, *numbers in body:
            table.add_row(Text(fill(arm, NAME_WIDTH, subsequent_indent="  ")), *map(Text, numbers))
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
        yield _markdown(_table(rows))
        yield _verdict(rows) + "\n"


def _table(rows: list[dict], terminal: bool = False) -> list[list[str]]:
    """Header and body of one condition's table; without differences where the reference arm is missing."""
    compared = any(row["arm"] == REFERENCE for row in rows)
    if terminal:
        columns = {"nll": COLUMNS["nll"], "convergence_noise": ("conv.\nnoise", 100, 2)}
        header = ["arm", "accuracy", *[VERSUS.replace(" (", "\n(")] * compared]
    else:
        columns = COLUMNS
        header = ["arm", "seeds", "accuracy", *[VERSUS] * compared]
    cells = [header + [heading for heading, *_ in columns.values()]]
    for row in rows:
        seeds = row["seeds"]
        start = [row["arm"], *[str(seeds)] * (not terminal), _show(row["accuracy"], seeds, 100, 2)]
        numbers = [_show(row[key], seeds, scale, digits, not terminal) for key, (_, scale, digits) in columns.items()]
        cells.append([*start, *([difference_text(row)] if compared else []), *numbers])
    return cells


def _show(number: Spread, seeds: int, scale: int, digits: int, with_std: bool = True) -> str:
    if not number.count:
        return DASH
    std = f" ± {scale * number.std:.{digits}f}" if number.count > 1 and with_std else ""
    partial = "" if number.count == seeds else f" ({number.count} of {seeds} seeds)"
    return f"{scale * number.mean:.{digits}f}{std}{partial}"


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
    groups = by_condition(results)
    settings = {key: name for key, name in SETTINGS.items() if key != "folds" or _values(results["arms"], key) != "0"}
    cells = [["condition", "arm", "teacher", *settings.values(), "seconds a run"]]
    for condition, arms in groups.items():
        for arm, runs in arms.items():
            values = [_values(runs.values(), key) or DASH for key in ("teacher", *settings)]
            cells.append([condition, arm, *values, _mean_seconds(runs)])
    return _markdown(cells if len(groups) > 1 else [row[1:] for row in cells])


def _mean_seconds(runs: Runs) -> str:
    seconds = spread([record["seconds"] for record in runs.values() if record.get("seconds") is not None])
    return f"{seconds.mean:.0f}" if seconds.count else DASH


def _values(records: Iterable[dict], key: str) -> str:
    """The different values of a field, such as `4` or `1, 2, 4`; empty where there is none."""
    values = sorted({record[key] for record in records if record.get(key) is not None})
    return ", ".join(dict.fromkeys(value if isinstance(value, str) else f"{value:.3g}" for value in values))


def _markdown(cells: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
    return "\n".join([lines[0], "| --- " * len(cells[0]) + "|", *lines[1:]]) + "\n"
