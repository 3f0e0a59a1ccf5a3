"""What a part of the GPU script has finished so far, in a file that is whole at any moment."""

import json
import os
import time
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LAST_LINES = 20  # of a traceback that are kept
AGAIN = 75  # exit code of a part that has to be started anew, for its process can't use the card any more
BROKEN = ("CUDA error", "an illegal memory access", "device-side assert")  # after which nothing runs on the card


class Record:
    """Results and failures by name, written after each; what a file holds already is not lost.

    Args:
        path: of the file.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        stored = read_json(self.path)
        self.facts: dict[str, Any] = stored.get("facts", {})
        self.results: dict[str, Any] = stored.get("results", {})
        self.failures: dict[str, list[str]] = stored.get("failures", {})

    def __contains__(self, name: str) -> bool:
        return name in self.results or name in self.failures

    def note(self, **facts: Any) -> None:
        """Write down what holds for the whole part."""
        self.facts |= facts
        self._write()

    def add(self, name: str, result: Any) -> None:
        """Write down a result; it takes the place of a failure of that name."""
        self.failures.pop(name, None)
        self.results[name] = result
        self._write()

    def fail(self, name: str, lines: list[str]) -> None:
        """Write down the last lines of what went wrong."""
        self.failures[name] = lines[-LAST_LINES:]
        self._write()

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Write down what goes wrong in the block, which ends there, and go on after it.

        Raises:
            SystemExit: with :data:`AGAIN`, where the process can't use the card any more.
        """
        try:
            yield
        except (Exception, SystemExit) as error:
            lines = traceback.format_exc().strip().splitlines()
            self.fail(name, lines)
            if is_broken(str(error)):
                raise SystemExit(AGAIN) from error

    def _write(self) -> None:
        parts = {"facts": self.facts, "results": self.results, "failures": self.failures}
        write_json(self.path, parts)


def is_broken(text: str) -> bool:
    """Whether an error says that this process can't use the card any more; lack of memory doesn't."""
    return any(words in text for words in BROKEN) and "out of memory" not in text


def write_json(path: Path, content: Any) -> None:
    """Write a file that is the old one or the new one at any moment; what JSON doesn't know is written as text."""
    write_text(path, json.dumps(content, indent=1, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """The same of text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    os.replace(temporary, path)


def read_json(path: Path) -> dict[str, Any]:
    """An object from a file; an empty one if there is none, or if it can't be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def part_arguments(argv: list[str] | None) -> Namespace:
    """What every part is told."""
    parser = ArgumentParser()
    parser.add_argument("--record", type=Path, required=True, help="file of what is finished")
    parser.add_argument("--work", type=Path, required=True, help="folder of what is not kept")
    parser.add_argument("--data", default="", help="folder of CIFAR-100, or its parts")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true", help="walk through at sizes that a CPU can bear")
    parser.add_argument("--until", type=float, default=float("inf"), help="when its time is over, by time.time()")
    return parser.parse_args(argv)


def time_left(options: Namespace) -> float:
    """Seconds before a part is cut off."""
    return options.until - time.time()
