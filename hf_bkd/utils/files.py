"""Writing of files and folders so that each is complete or absent, also after an interruption."""

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
    """Yield a temporary folder that takes the name ``path`` when the block ends well, and vanishes otherwise.

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
    """Write text in UTF-8 in one step."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, content: object) -> None:
    """Write strict, indented JSON in one step (a NaN is a ValueError)."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def writable_folder(path: str | Path) -> Path:
    """Make a folder if need be and try to write into it; UserError if that can't be done."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"x")
    except OSError as error:
        raise UserError(f"cannot write into {path}: {error.strerror}; pass another --output_dir") from None
    return path


def bare_name(name_or_path: str) -> str:
    """Return a name on the Hub as it is, and only the last part of a path here: nobody else has the rest."""
    path = Path(name_or_path).expanduser()
    return path.resolve().name if path.exists() else name_or_path
