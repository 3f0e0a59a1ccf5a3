"""One user at a time for a folder of work, whose owner is named to the next one.

The lock is an ``flock`` on a file in the folder, so that the kernel frees it when its owner dies, however it dies. The
file says who that is.
"""

import errno
import json
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError
from .files import read_json, writing
from .processes import decided_by_main

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

LOCK_FILE = ".in_use"
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)  # a file system without them

NONE = -1  # where the main process has the lock, or nobody can
_held: dict[Path, int] = {}  # descriptors of the locks, by folder


@contextmanager
def sole_user(folder: str | Path, wait: bool = False) -> Iterator[None]:
    """Keep other runs out of a folder until the block ends; within it this process may ask again.

    The processes of one launch share the lock: the main one holds it. The folder is made if need be.

    Args:
        folder: what is to be used alone.
        wait: whether to wait, after one line on standard error, for a run that is in there, and not to end.

    Raises:
        UserError: another run is in there (its host, process and start are named), or it can't be made or written.
    """
    folder = Path(folder).absolute()
    is_inner = folder in _held
    if not is_inner:
        with writing(folder):
            decided_by_main(lambda: _take(folder, wait))
    _held.setdefault(folder, NONE)
    try:
        yield
    finally:
        if not is_inner:
            _release(folder)


def _take(folder: Path, wait: bool) -> None:
    """Lock a folder; UserError if another run is in there, OSError if it can't be written."""
    said = False
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _is_locked(descriptor, folder):
                return
            if _is_still(descriptor, folder / LOCK_FILE):  # or else its last owner removed the file meanwhile
                _write_owner(descriptor)
                _held[folder], descriptor = descriptor, NONE
                return
        except BlockingIOError:
            owner = _owner(folder)
            if not wait:
                raise UserError(
                    f"{folder} is in use by {owner}: wait until that run ends, or pass another folder"
                ) from None
            if not said:
                print(f"waiting for {owner}, which uses {folder}", file=sys.stderr)
            said = True
            time.sleep(0.2)
        finally:
            if descriptor != NONE:
                os.close(descriptor)


def _is_locked(descriptor: int, folder: Path) -> bool:
    """Lock a file now, and say whether its file system has locks; BlockingIOError if another run has it."""
    try:
        _lock(descriptor)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise BlockingIOError from error
        warnings.warn(f"{folder} is on a file system without locks: see to it that no other run uses it", stacklevel=6)
        return False
    return True


def _write_owner(descriptor: int) -> None:
    content = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(content).encode(), 0)


def _lock(descriptor: int) -> None:
    """Lock a file, or raise an OSError at once."""
    if fcntl is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_still(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except OSError:
        return False


def _release(folder: Path) -> None:
    descriptor = _held.pop(folder, NONE)  # none in a forked child, which has nothing to release
    if descriptor == NONE:
        return
    if _is_still(descriptor, folder / LOCK_FILE):
        (folder / LOCK_FILE).unlink(missing_ok=True)
    os.close(descriptor)


def _owner(folder: Path) -> str:
    try:
        content = read_json(folder / LOCK_FILE)
        return f"process {content['pid']} on {content['host']} since {content['since']}"
    except (UserError, KeyError):
        return "another run"


def _leave_to_parent() -> None:
    """Close a forked child's copies, so that a lock ends with the process that took it."""
    for descriptor in set(_held.values()) - {NONE}:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
