"""Writing so that a name either holds the whole thing or does not exist."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder that takes the name ``path`` when the block ends well, and vanishes when it does not.

    A folder that has the name already is replaced then, and kept otherwise; UserError if a file has it.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, and a folder is to be written there: move it away or pass another path")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    replaced = temporary.with_name(temporary.name + ".old")
    try:
        temporary.chmod(0o755)
        yield temporary
        if path.exists():
            path.rename(replaced)  # not deleted on the spot: that takes time, in which half of it would stand there
        temporary.rename(path)
    finally:
        if replaced.exists() and not path.exists():
            replaced.rename(path)  # interrupted between the two
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file in one step: readers see the old content or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """:func:`write_bytes` of text in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, content: object) -> None:
    """:func:`write_text` of strict, indented JSON (a NaN is a ValueError)."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def writable_folder(path: str | Path) -> Path:
    """Make ``path`` if need be and try to write into it; UserError if that can't be done."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"x")
    except OSError as error:
        raise UserError(f"cannot write into {path}: {error.strerror}; pass another --output_dir") from None
    return path


def bare_name(name_or_path: str) -> str:
    """A name on the Hub as it is, of a path that exists here only the last part: nobody else has the rest."""
    path = Path(name_or_path).expanduser()
    return path.resolve().name if path.exists() else name_or_path


def slug(name: str) -> str:
    """A name as part of a path: lower case, words joined by hyphens."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
