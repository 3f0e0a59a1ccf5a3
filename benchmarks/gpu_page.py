"""The page of what a GPU showed, drawn from the same numbers as the JSON."""

from collections.abc import Iterable
from typing import Any

NOTHING = "nothing yet"
WORDS = {"works": "Does it work", "speed": "How fast", "cells": "First cells of a study"}


def page_of(report: dict[str, Any], results: dict[str, Any]) -> str:
    """Markdown.

    Args:
        report: content of ``gpu.json``.
        results: content of ``results.json``; empty if no cell is finished.
    """
    environment = report.get("environment") or {}
    sections = [
        "# First light on a GPU",
        f"{environment.get('hardware', 'no device described')}, {report.get('started', '')}, commit "
        f"{report.get('commit', 'unknown')}" + (", at toy size" if report.get("toy") else "") + ".",
        table(("", "version"), ((name, value) for name, value in environment.items() if name != "hardware")),
    ]
    for name, part in report.get("parts", {}).items():
        spent = f", {part['seconds']:g} s" if "seconds" in part else ""
        sections += [f"## {WORDS.get(name, name)}", f"{part['status'].capitalize()}{spent}."]
        sections.append(PARTS[name](part, results) if name in PARTS else NOTHING)
        sections += [failure_of(*failure) for failure in part["failures"].items()]
    return "\n\n".join(section for section in sections if section) + "\n"


def of_tests(part: dict[str, Any], results: dict[str, Any]) -> str:
    tests, failed = part["results"], len(part["failures"])
    passed = sum(each["outcome"] == "passed" for each in tests.values())
    skipped = {name: each for name, each in tests.items() if each["outcome"] == "skipped"}
    text = f"{passed} passed, {failed} failed, {len(skipped)} skipped, of {part.get('facts', {}).get('planned', '?')}."
    return text + "".join(f"\n- skipped: `{name}`: {each['why']}" for name, each in skipped.items())


def of_claims(part: dict[str, Any], results: dict[str, Any]) -> str:
    claims = [claim for claim in part["results"].values() if isinstance(claim, dict) and "ratio" in claim]
    rows = [
        (
            claim["claim"],
            f"{claim['ratio']:.4g}",
            "" if claim["bar"] is None else f"{'<=' if claim['better'] == 'lower' else '>='} {claim['bar']:g}",
            claim["verdict"],
            "{:.4g} to {:.4g} in {}".format(*claim["spread"], claim["runs"]),
            claim["sides"],
        )
        for claim in claims
    ]
    notes = [
        (name, note) for name, note in part["results"].items() if not (isinstance(note, dict) and "ratio" in note)
    ]
    parts = [table(("ratio", "measured", "bar", "", "rounds", "sides"), rows) or NOTHING]
    parts += [f"{name}:\n\n" + "\n".join(f"- {line}" for line in _lines(note)) for name, note in notes]
    return "\n\n".join(parts)


def of_cells(part: dict[str, Any], results: dict[str, Any]) -> str:
    rows = []
    for arm in results.get("arms", []):
        metrics, teacher = arm["metrics"], arm["teacher_metrics"] or {}
        numbers = [metrics["accuracy"], metrics["nll"], metrics["ece"], teacher.get("accuracy"), teacher.get("nll")]
        shown = ["" if number is None else f"{number:.4f}" for number in numbers]
        temperature = f"{arm['teacher_temperature']:g}" if arm["teacher"] != "none" else ""
        rows.append((arm["condition"], arm["arm"], arm["seed"], temperature, *shown, f"{arm['seconds']:.0f}"))
    head = ("condition", "arm", "seed", "T", "accuracy", "NLL", "ECE", "teacher's accuracy", "its NLL", "seconds")
    note = results.get("note", "")
    return "\n\n".join(filter(None, [note, table(head, rows) or NOTHING]))


PARTS = {"works": of_tests, "speed": of_claims, "cells": of_cells}


def failure_of(name: str, lines: list[str]) -> str:
    """A heading and the last lines of a traceback."""
    return f"Failed: `{name}`\n\n```\n" + "\n".join(lines) + "\n```"


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table in Markdown; nothing without rows."""
    body = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    if not body:
        return ""
    head = list(head)
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _lines(note: Any) -> list[str]:
    if isinstance(note, dict):
        return [f"{name}: {value}" for name, value in note.items()]
    return [str(line) for line in note] if isinstance(note, list) else [str(note)]
