"""How a command recognizes its own finished result, so that the same command goes on from every moment."""

import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..study.settings import check_same_settings
from ..utils.errors import UserError
from ..utils.files import digest, digests, tidy, whole_folder, writable_folder, write_json
from ..utils.locks import LOCK_FILE, sole_user
from ..utils.processes import decided_by_main, processes

MARKER = "hf_bkd_command.json"  # in the finished folder: what was asked for
SETTINGS = "settings.json"  # of a training, in its folder of work


def finish(
    output_dir: Path,
    work: Path,
    settings: dict[str, Any],
    make: Callable[[], Callable[[Path], str]],
    push: Callable[[], str] | None = None,
) -> None:
    """Make a result, unless it is there already, and push it if asked to; all processes of a run call it.

    Args:
        output_dir: where the result appears in one step, when it is whole.
        work: the folder, beside it, of what is kept when a run is interrupted.
        settings: all that makes the result what it is.
        make: does the work, and returns what saves it in a folder and says in a sentence what it is.
        push: uploads the result and returns its address.

    Raises:
        UserError: there is something else, or another run uses the folder.
    """
    writable_folder(output_dir.parent)
    state = processes()
    with sole_user(work):
        try:
            done = decided_by_main(lambda: is_finished(output_dir, settings))
            decided_by_main(lambda: tidy(output_dir))
            sentence = f"{output_dir} is finished already, by the same command"
            if not done:
                save = make()
                sentence = decided_by_main(lambda: _saved(output_dir, settings, save))
            state.wait_for_everyone()  # until all have read what the main process removes
            if state.is_main_process:
                print(sentence)
                shutil.rmtree(work, ignore_errors=True)
        finally:
            if state.is_main_process:
                remove_unused(work)
    if push is not None:
        address = decided_by_main(push)
        if state.is_main_process:
            print(f"pushed: {address}")
    state.destroy_process_group()


def _saved(output_dir: Path, settings: dict[str, Any], save: Callable[[Path], str]) -> str:
    with whole_folder(output_dir) as temporary:
        sentence = save(temporary)
        mark_finished(temporary, settings)
    return sentence


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
    """Remove a folder of work in which nothing stands but its lock and the settings of what never began."""
    with suppress(OSError):
        if {file.name for file in folder.rglob("*") if file.is_file()} <= {LOCK_FILE, SETTINGS}:
            shutil.rmtree(folder)


def contents(name_or_path: str) -> str:
    """A digest of a folder's files, or of one file, by which it is recognized; a name on the Hub as it is."""
    folder = Path(name_or_path).expanduser()
    if not folder.exists():
        return name_or_path
    content = digest(folder) if folder.is_file() else repr(digests(folder))
    return hashlib.sha256(content.encode()).hexdigest()[:16]
