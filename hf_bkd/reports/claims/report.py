"""Claims on a page and in the terminal: predicted beside measured, with the caveat where the number stands."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ...utils.files import write_text
from .claim import Check, Claim, from_json
from .plots import write_figures


def write_report(results: dict[str, Any], output_dir: str | os.PathLike) -> Path:
    """Write ``report.md`` and its figures into ``output_dir`` from the content of a theory recipe's ``results.json``.

    Returns the path of ``report.md``. UserError when the results hold no claims.
    """
    folder, claims = Path(output_dir), from_json(results)
    write_figures(claims, folder)
    sections = [f"# {results['recipe']}\n", f"{results['note']}\n", f"**{verdict(claims)}**\n"]
    if (folder / "results.json").is_file():
        sections.append("All numbers: [results.json](results.json).\n")
    for claim in claims:
        sections += _section(claim)
    sections.append("## Environment\n")
    sections.append("".join(f"- {name}: {value}\n" for name, value in results["environment"].items()))
    write_text(folder / "report.md", "\n".join(sections))
    return folder / "report.md"


def print_summary(results: dict[str, Any], console: Console | None = None) -> None:
    """Print every check, and how many of them hold."""
    console = console or Console()
    claims = from_json(results)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if i else "left", overflow="fold")
    for claim in claims:
        for check in claim.checks:
            table.add_row(*_cells(check))
    console.print(table)
    console.print(verdict(claims))


def verdict(claims: Sequence[Claim]) -> str:
    """How many checks hold, and which do not."""
    checks = [check for claim in claims for check in claim.checks]
    failing = [check.name for check in checks if not check.holds]
    if not failing:
        return f"All {len(checks)} checks hold."
    return f"{len(checks) - len(failing)} of {len(checks)} checks hold; these do not: {'; '.join(failing)}."


def _section(claim: Claim) -> Iterator[str]:
    yield f"## {claim.title}\n"
    yield f"{claim.text}\n"
    yield f"*Source: {claim.source}.*\n"
    if claim.checks:
        lines = [HEADINGS, *map(_cells, claim.checks)]
        lines = [(*line[:-1], line[-1].replace("no", "**no**")) for line in lines]
        rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
        yield "\n".join([rows[0], "| --- " * len(HEADINGS) + "|", *rows[1:]]) + "\n"
    if claim.caveat:
        yield f"> **Caveat.** {claim.caveat}\n"
    for figure in claim.figures:
        yield f"![{claim.title}]({figure.name}.png)\n\n*{figure.caption}*\n"


HEADINGS = ("check", "predicted", "measured", "difference", "allowed", "holds")


def _cells(check: Check) -> tuple[str, ...]:
    difference = check.measured - check.predicted
    if check.compare == "relative" and check.predicted:
        shown, allowed = f"{100 * difference / abs(check.predicted):+.1f} %", f"{100 * check.tolerance:.3g} %"
    else:
        shown, allowed = f"{difference:+.2g}", f"{check.tolerance:.3g}"
    one_sided = {"at most": "≤ ", "at least": "≥ "}.get(check.compare, "")
    predicted, measured = (f"{value:.4g}" for value in (check.predicted, check.measured))
    return check.name, one_sided + predicted, measured, shown, allowed, "yes" if check.holds else "no"
