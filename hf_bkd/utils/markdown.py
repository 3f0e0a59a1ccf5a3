"""Markdown whose structure is ours: text that people, records and files supply stays text."""

import re
from collections.abc import Sequence
from typing import Any

LINK = r"^\[|\](?=[(\[:])"  # what makes brackets a link; others are shown as they are
ACTIVE = re.compile(rf"{LINK}|[\\`*|$~]|(?<!\w)_|_(?!\w)")  # an underscore within a word does nothing
ONLY_LINKS = re.compile(LINK)
OPENING = re.compile(r"(#+|[-+=]+|\d+[.)])(?=\s|$)")  # of a heading, a list or a rule, where a line begins


def escaped(text: Any, markup: bool = False) -> str:
    """Return text as one line that Markdown shows letter by letter: no HTML, links, headings or cells come of it.

    Args:
        text: anything with a ``str``; line breaks of all kinds become spaces, and control characters vanish.
        markup: keep emphasis and code, for prose that is written in Markdown; HTML and links still don't act.
    """
    line = "".join(character for character in " ".join(str(text).split()) if character.isprintable())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = (ONLY_LINKS if markup else ACTIVE).sub(r"\\\g<0>", line)
    return (
        OPENING.sub(lambda match: f"{match[0][:-1]}\\{match[0][-1]}", line, count=1) if OPENING.match(line) else line
    )


def capitalized(text: str) -> str:
    """Return text with a capital first letter, the others as they are (NLL stays NLL)."""
    return text[:1].upper() + text[1:]


def table(cells: Sequence[Sequence[Any]]) -> str:
    """Return rows of plain text, the header first, as a table."""
    lines = ["| " + " | ".join(map(escaped, row)) + " |" for row in cells]
    return "\n".join([lines[0], "| --- " * len(cells[0]) + "|", *lines[1:]]) + "\n"


def folded(summary: str, *blocks: str) -> str:
    """Return blocks of Markdown that a reader unfolds by a click on the summary."""
    return "\n".join([f"<details>\n<summary>{escaped(summary)}</summary>\n", *blocks, "</details>\n"])
