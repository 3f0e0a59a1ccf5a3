"""How a test follows a message's advice, and the messages of the package whose advice is code."""

import ast
import re
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy
import PIL.Image
import pytest
from torch import nn

import hf_bkd
from hf_bkd import UserError

PACKAGE = Path(hf_bkd.__file__).parent
CODE = re.compile(
    r"--\w+"  # an option of the command line
    r"|\b\w+(\.\w+)*\([^)]"  # a call with arguments
    r"|\b\w+(\.\w+)+(?= = )|\bset \w+(\.\w+)+"  # an assignment
    r"|\b\w+\.\w+\(\)"  # a call without any
    r"|\b\w+=[\w.,\['\"{]"  # an argument
)
FOLLOWED: dict[str, str] = {}
MET: list[str] = []


class Message(NamedTuple):
    """A message of a UserError: where it is raised, and its text with ``{}`` for each value."""

    place: str
    text: str

    @property
    def remedy(self) -> str:
        """What stands behind the fact, or in brackets behind it; all of a message that is nothing else."""
        behind = self.text.partition(": ")[2] or " ".join(re.findall(r"\((.*?)\)", self.text))
        return self.text if self.text.startswith("pass ") else behind


@cache
def messages() -> list[Message]:
    """Find what is raised as a UserError anywhere in the package."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "UserError" and node.args:
                place = f"{path.relative_to(PACKAGE.parent)}:{node.lineno}"
                found.append(Message(place, " ".join(map(_text, node.args))))
    return found


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    return _text(node.left) + _text(node.right) if isinstance(node, ast.BinOp) else "{}"


def advises(*pieces: str) -> Callable[[Callable], Callable]:
    """Say that a test follows the advice of the messages that hold these pieces of text, and must meet them all."""

    def note(test: Callable) -> Callable:
        FOLLOWED.update(dict.fromkeys(pieces, test.__name__))

        @wraps(test)
        def following(*args: Any, **named: Any) -> None:
            MET.clear()
            test(*args, **named)
            for piece in pieces:
                assert any(piece in message for message in MET), (piece, MET)

        return following

    return note


def refused(call: Callable[[], Any]) -> str:
    """Return the message with which a call is refused."""
    with pytest.raises(UserError) as caught:
        call()
    MET.append(str(caught.value))
    return MET[-1]


def code(message: str, pattern: str) -> str:
    """Return the code that stands in a message, by a pattern with one group."""
    found = re.search(pattern, message)
    assert found, message
    return found[1]


def follow(source: str, **names: Any) -> Any:
    """Run an expression or an assignment from a message, by what a reader has imported and these names."""
    public = {name: getattr(hf_bkd, name) for name in hf_bkd.__all__}
    world = {"datasets": datasets, "numpy": numpy, "PIL": PIL, "nn": nn, "hf_bkd": hf_bkd} | public | names
    try:
        return eval(source, world)
    except SyntaxError:
        return exec(source, world)
