"""Writing of files and folders so that each is complete or absent, also after an interruption."""

import errno
import glob
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .errors import UserError
from .limits import LIMITS

UNFINISHED = ".unfinished."  # in the hidden names of what is being written
LONGEST_NAME = 200  # bytes; file systems take 255, and names get endings
AGAIN = "do the same again (what is finished is kept), or pass another folder"
ROOM, RIGHTS = "make room", "make it writable"
REMEDIES = {errno.ENOSPC: ROOM, errno.EDQUOT: ROOM, errno.EFBIG: ROOM} | {
    errno.EACCES: RIGHTS, errno.EPERM: RIGHTS, errno.EROFS: RIGHTS, errno.EIO: "check the disk"
}  # fmt: skip


class DiskError(UserError):
    """What could not be written, why, and what to do; its cause is the system's error, or the library's."""


@contextmanager
def writing(path: str | Path, then: str = AGAIN) -> Iterator[None]:
    """Turn the errors of Python, torch and safetensors on a full, read-only or vanished disk into a DiskError.

    Of several within each other the outermost, which knows what the user asked for, says what could not be written.

    Args:
        path: what is written.
        then: what to do once the disk is mended.

    Raises:
        DiskError: it could not be.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError, DiskError) as error:
        cause = (error.__cause__ if isinstance(error, DiskError) else None) or error
        trouble = _trouble_of_disk(cause)
        if trouble is None:
            raise
        reason, remedy = trouble
        place = getattr(cause, "filename", None)
        if isinstance(place, (str, Path)) and not Path(place).absolute().is_relative_to(Path(path).absolute().parent):
            reason = f"{reason}: {place}"
        raise DiskError(f"{path} could not be written ({reason}): {remedy}, and {then}") from cause


def _trouble_of_disk(error: BaseException) -> tuple[str, str] | None:
    """Say why a file could not be written, and what to do about it; ``None`` for an error of another kind."""
    if isinstance(error, OSError):
        if error.errno is None or isinstance(error, (ConnectionError, TimeoutError)):
            return None
        return error.strerror or os.strerror(error.errno), REMEDIES.get(error.errno, "see what is there")
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    by_torch = frame is not None and frame.tb_frame.f_globals.get("__name__") == "torch.serialization"
    if not (by_torch or isinstance(error, SafetensorError)):
        return None
    return "the disk is full, read-only or gone", f"{ROOM} or {RIGHTS}"


@contextmanager
def whole_folder(path: str | Path, last: str = "", stale: Iterable[str] = ()) -> Iterator[Path]:
    """Collect files in a hidden folder, and move them to ``path`` when the block ends well.

    A folder that does not exist yet appears in one step. Into one that exists each file is moved in one step, and
    nothing that was not written here is replaced or removed, but for older files of the names ``stale``.

    Args:
        path: the folder.
        last: the name of the file that is moved last, as the sign that all others are there; so are files of this name
            in inner folders, before it.
        stale: patterns (of ``Path.glob``) of files that an earlier call may have left and this one has not written.

    Raises:
        UserError: a file has the name of a folder that is to be written, or the other way around; or the disk is full,
            read-only or gone.
    """
    with writing(path), _collected(Path(path), last, stale) as temporary:
        yield temporary


@contextmanager
def _collected(path: Path, last: str, stale: Iterable[str]) -> Iterator[Path]:
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, and a folder is to be written there: move it away or pass another path")
    path.parent.mkdir(parents=True, exist_ok=True)
    exists = path.is_dir()  # then the hidden folder lies inside: next to a mount point may be another file system
    place, prefix = (path, UNFINISHED) if exists else (path.parent, f".{path.name}{UNFINISHED}")
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    try:
        temporary.chmod(0o755)
        yield temporary
        for file in filter(Path.is_file, temporary.rglob("*")):
            file.chmod(0o644)  # safetensors writes for the owner alone
        if exists:
            _move_into(path, temporary, last, stale)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_into(path: Path, temporary: Path, last: str, stale: Iterable[str]) -> None:
    """Move all files of ``temporary`` to the same places in ``path``; remove the stale ones before the last file."""
    files = [file.relative_to(temporary) for file in temporary.rglob("*") if file.is_file()]
    for file in files:
        _check_place(path, file)
    signs = sorted((file for file in files if file.name == last), key=lambda file: -len(file.parts))
    for file in sorted(set(files) - set(signs)) + signs[:-1]:
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary / file, path / file)
    for pattern in stale:
        for left in sorted(path.glob(pattern), reverse=True):
            if left.is_file() and left.relative_to(path) not in files and temporary not in left.parents:
                left.unlink()
                _remove_if_empty(left.parent, path)
    for file in signs[-1:]:
        os.replace(temporary / file, path / file)


def _check_place(path: Path, file: Path) -> None:
    """Raise a UserError where ``file`` can't stand in ``path``, before anything is moved there."""
    for parent in file.parents[:-1]:
        if (path / parent).exists() and not (path / parent).is_dir():
            raise UserError(f"{path / parent} is a file, and a folder is to be written there: move it away")
    if (path / file).is_dir():
        raise UserError(f"{path / file} is a folder, and a file is to be written there: move it away")


def _remove_if_empty(folder: Path, root: Path) -> None:
    """Remove the folders between a removed file and ``root`` that hold nothing any more."""
    while folder != root and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def digests(folder: str | Path, sign: str | None = None) -> dict[str, str]:
    """Compute the SHA-256 of each file in a folder; of inner folders that hold a file ``sign``, of that file alone."""
    folder = Path(folder)
    inner = [] if sign is None else [file.parent for file in folder.rglob(sign) if file.parent != folder]
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {
        file.relative_to(folder).as_posix(): digest(file)
        for file in files
        if file.name == sign or not any(parent in inner for parent in file.parents)
    }


def digest(file: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal digits."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file in one step: readers see the old content or the new one, never a part; DiskError if it can't be."""
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}{UNFINISHED}", dir=path.parent)
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


def read_json(path: str | Path, kind: type = dict) -> Any:
    """Read a JSON file that holds an object, or another ``kind``.

    Raises:
        UserError: it is no file that can be read, more than ``LIMITS.json_bytes`` long, not UTF-8, no JSON, nested
            deeper than ``LIMITS.json_depth``, or holds something else.
    """
    path = Path(path)
    try:
        LIMITS.check(str(path), json_bytes=path.stat().st_size)
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8: write it again, or delete it") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return parsed_json(text, str(path), kind)


def parsed_json(text: str | bytes, source: str, kind: type = dict) -> Any:
    """Parse JSON that ``source`` holds; UserErrors as :func:`read_json`."""
    LIMITS.check(source, json_bytes=len(text))
    try:
        content = json.loads(text)
        depth = _depth(content)
    except RecursionError:
        depth = sys.getrecursionlimit()
    except ValueError as error:
        raise UserError(f"{source} holds no JSON ({error}): write it again, or delete it") from None
    LIMITS.check(source, json_depth=depth)
    if not isinstance(content, kind):
        raise UserError(f"{source} must hold a JSON {KINDS[kind]}, and it holds {type(content).__name__}")
    return content


KINDS = {dict: "object", list: "list", object: "value"}


def _depth(content: Any) -> int:
    """Count how many objects and lists are within each other, level by level."""
    depth, level = 0, [content]
    while level := [each for each in level if isinstance(each, (dict, list))]:
        level = [value for each in level for value in (each.values() if isinstance(each, dict) else each)]
        depth += 1
    return depth


def tidy(path: str | Path) -> None:
    """Remove what killed processes left half-written for a path and inside it; call it as its :func:`sole_user`."""
    path = Path(path)
    places = (path.rglob(f"{UNFINISHED}*"), path.rglob(f".*{UNFINISHED}*"))
    beside = path.parent.glob(f".{glob.escape(path.name)}{UNFINISHED}*")
    for left in [*beside, *(left for place in places for left in place)]:
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def distinct_names(what: str, named: Iterable[tuple[str, Any]]) -> None:
    """Raise a UserError if two different things have the same name as part of a path, or one has none.

    Args:
        what: they are.
        named: pairs of the name in paths and the thing as the user knows it.
    """
    known: dict[str, Any] = {}
    for name, thing in named:
        if not name or len(name.encode()) > LONGEST_NAME:
            raise UserError(f"{what} {str(thing)!r} makes no name of a file: pass a name of some letters or digits")
        if known.setdefault(name, thing) != thing:
            raise UserError(f"{what} {known[name]!r} and {thing!r} would share the file name {name!r}: rename one")


def writable_folder(path: str | Path) -> Path:
    """Make a folder if need be and try to write into it; UserError if that can't be done."""
    if not str(path).strip():
        raise UserError("the name of the output folder is empty: pass --output_dir")
    path = Path(path)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"x")
    return path


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a new folder among the system's temporary ones, which is removed when the block ends."""
    with writing("the folder of temporary files"):
        made = tempfile.TemporaryDirectory()
    with made as name:
        yield Path(name)


def bare_name(name_or_path: str) -> str:
    """Return a name on the Hub as it is, and only the last part of a path here: nobody else has the rest."""
    path = Path(name_or_path).expanduser()
    return path.resolve().name if path.exists() else name_or_path


def slug(name: str) -> str:
    """A name as part of a path: lower case, words joined by hyphens."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
