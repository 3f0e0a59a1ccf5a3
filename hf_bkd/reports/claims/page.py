"""Claims on a page and in the terminal: predicted beside measured, with the caveat where the number stands."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ...utils.files import write_text
from ...utils.markdown import escaped, folded, table
from ..pages import counted
from ..records import TOP, check_types
from ..results import title_of
from .claim import Check, Claim, from_json
from .plots import write_figures

HEADINGS = ("check", "predicted", "measured", "difference (allowed)", "holds")


def write_page(results: dict[str, Any], output_dir: str | os.PathLike) -> Path:
    """Write ``report.md`` and its figures into ``output_dir`` from the content of a theory recipe's ``results.json``.

    Returns the path of ``report.md``. UserError when the results hold no claims.
    """
    check_types("results.json", results, TOP)
    folder, claims = Path(output_dir), from_json(results)
    write_figures(claims, folder)
    number = sum(len(claim.checks) for claim in claims)
    bullets = [
        f"- **Finding.** {escaped(verdict(claims))}",
        f"- **Size.** {counted(len(claims), 'claim').capitalize()} with {counted(number, 'check')}.",
        f"- **Setting and limits.** {escaped(results.get('note', ''), markup=True)}",
    ]
    sections = [f"# {escaped(title_of(results))}\n", "\n".join(bullets) + "\n"]
    if (folder / "results.json").is_file():
        sections.append("All numbers: [results.json](results.json).\n")
    for claim in claims:
        sections += _section(claim)
    environment = (results.get("environment") or {}).items()
    lines = "".join(f"- {escaped(name)}: {escaped(value)}\n" for name, value in environment)
    write_text(folder / "report.md", "\n".join([*sections, folded("Environment", lines)]))
    return folder / "report.md"


def _block(text: str) -> str:
    """Return a paragraph as one line, or a table, whose lines all begin with |, cell by cell."""
    lines = text.strip().splitlines()
    if not all(line.startswith("|") for line in lines):
        return escaped(text, markup=True)
    rows = ([each.strip() for each in line.strip().strip("|").split("|")] for line in lines)
    shown = ((each if set(each) == {"-"} else escaped(each, markup=True) for each in row) for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in shown)


def print_claims(results: dict[str, Any], console: Console | None = None) -> None:
    """Print every check, and how many of them hold."""
    console = console or Console()
    claims = from_json(results)
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, heading in enumerate(HEADINGS):
        shown.add_column(heading, justify="right" if i else "left", overflow="fold")
    for claim in claims:
        for check in claim.checks:
            shown.add_row(*_cells(check))
    console.print(shown)
    console.print(verdict(claims))


def verdict(claims: Sequence[Claim]) -> str:
    """Return how many checks hold, which do not, and how many are undecided."""
    checks = [check for claim in claims for check in claim.checks]
    if all(check.holds for check in checks):
        return f"All {len(checks)} checks hold."
    failing = [check.name for check in checks if not check.holds and not check.undecided]
    undecided = sum(check.undecided for check in checks)
    said = f"{sum(check.holds for check in checks)} of {len(checks)} checks hold"
    if undecided:
        said += f", {undecided} {'is' if undecided == 1 else 'are'} undecided"
    return f"{said}; these do not: {'; '.join(failing)}." if failing else f"{said}."


def _section(claim: Claim) -> Iterator[str]:
    yield f"## {escaped(claim.title)}\n"
    for block in re.split(r"\n\s*\n", claim.text):
        yield f"{_block(block)}\n"
    yield f"*Source: {escaped(claim.source)}.*\n"
    if claim.checks:
        yield table_of(claim.checks)
    if claim.caveat:
        yield f"> **Caveat.** {escaped(claim.caveat, markup=True)}\n"
    for figure in claim.figures:
        caption = escaped(figure.caption, markup=True)
        yield f"![{escaped(claim.title)}]({figure.name}.png)\n\n{caption}\n"


def table_of(checks: Sequence[Check]) -> str:
    """Return a table of checks."""
    return table([HEADINGS, *map(_cells, checks)]).replace("| no |\n", "| **no** |\n")


def _cells(check: Check) -> tuple[str, ...]:
    difference = check.measured - check.predicted
    if check.compare == "relative" and check.predicted:
        shown, allowed = f"{100 * difference / abs(check.predicted):+.1f} %", f"{100 * check.tolerance:.3g} %"
    else:
        shown, allowed = f"{difference:+.2g}", f"{check.tolerance:.3g}"
    one_sided = {"at most": "≤ ", "at least": "≥ "}.get(check.compare, "")
    predicted, measured = (f"{value:.4g}" for value in (check.predicted, check.measured))
    if check.interval:
        measured += f" ({check.interval[0]:.3g} to {check.interval[1]:.3g})"
    holds = "yes" if check.holds else "undecided" if check.undecided else "no"
    return check.name, one_sided + predicted, measured, f"{shown} ({allowed})", holds
