"""The code on a page, and what it is said to print."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```python\n(?P<code>.*?)```(?:\n\n```text\n(?P<output>.*?)```)?", re.DOTALL)
SCRIPT = re.compile(r"```sh\n(.*?)```", re.DOTALL)
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")


class Block(NamedTuple):
    """Code, and its output where the page shows it."""

    code: str
    output: str | None


def blocks(page: str) -> list[Block]:
    """All Python of a page: ``README.md``, or the name of one in docs/."""
    path = ROOT / page if page == "README.md" else ROOT / "docs" / page
    return [Block(match["code"], match["output"]) for match in BLOCK.finditer(path.read_text())]


def block(page: str, containing: str) -> str:
    """The code of the one block with some words in it."""
    (code,) = [each.code for each in blocks(page) if containing in each.code]
    return code


def commands(page: str) -> list[list[str]]:
    """The words of each command of ours that a page shows."""
    scripts = SCRIPT.findall((ROOT / "docs" / page).read_text())
    lines = "".join(scripts).splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("hf-bkd ")]


def run(page: str, world: dict, capsys, number: int | None = None) -> list[tuple[list[str], list[str]]]:
    """Execute the blocks of a page, or one of them, in one namespace.

    Returns, of each block whose output is shown, the lines shown, and the lines printed that look the same: trainers
    and bars print their own between them.
    """
    outputs = []
    for each in blocks(page) if number is None else blocks(page)[number : number + 1]:
        capsys.readouterr()
        exec(compile(each.code, page, "exec"), world)
        if each.output is not None:
            shown = each.output.splitlines()
            shapes = {shape(line) for line in shown}
            outputs.append((shown, [each for each in capsys.readouterr().out.splitlines() if shape(each) in shapes]))
    return outputs


def shape(text: str) -> str:
    """A text with its numbers left out."""
    return NUMBER.sub("N", text)


def numbers(lines: list[str]) -> list[float]:
    """The numbers in some lines."""
    return [float(number) for number in NUMBER.findall(" ".join(lines))]
