"""How a command recognizes its own finished result, so that the same command goes on from every moment."""

import hashlib
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..study.settings import check_same_settings
from ..utils.errors import UserError
from ..utils.files import digests, write_json
from ..utils.locks import LOCK_FILE

MARKER = "hf_bkd_command.json"  # in the finished folder: what was asked for


def is_finished(output_dir: Path, settings: dict[str, Any]) -> bool:
    """Whether a folder is the finished result of a command with these settings; call it alone there.

    Raises:
        UserError: it is of other settings, or not of this command.
    """
    if not output_dir.exists():
        return False
    file = output_dir / MARKER
    if not file.is_file():  # or of version 0.1, which noted no command
        raise UserError(
            f"{output_dir} is there already, and does not say which command made it: pass a new --output_dir"
        )
    check_same_settings(file, settings, "a result", "pass a new --output_dir")
    return True


def mark_finished(folder: Path, settings: dict[str, Any]) -> None:
    """Write into a folder what made it, before it gets its final name."""
    write_json(folder / MARKER, settings)


def remove_unused(folder: Path) -> None:
    """Remove a folder of work in which nothing stands but its lock."""
    with suppress(OSError):
        if {file.name for file in folder.iterdir()} <= {LOCK_FILE}:
            shutil.rmtree(folder)


def contents(name_or_path: str) -> str:
    """A digest of a folder's files, by which it is recognized, or the name as it is of what is on the Hub."""
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        return name_or_path
    return hashlib.sha256(repr(digests(folder)).encode()).hexdigest()[:16]
