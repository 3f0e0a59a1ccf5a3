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
        UserError: another run is in there (its host, process and start are named).
        OSError: the folder can't be made or written.
    """
    folder = Path(folder).absolute()
    is_inner = folder in _held
    refusal = None if is_inner else decided_by_main(lambda: _take(folder, wait))
    if isinstance(refusal, OSError):
        raise refusal
    if refusal:
        raise UserError(refusal)
    _held.setdefault(folder, NONE)
    try:
        yield
    finally:
        if not is_inner:
            _release(folder)


def _take(folder: Path, wait: bool) -> str | OSError | None:
    """Lock a folder; why that is not possible, if it isn't."""
    told = False
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            return error
        try:
            _lock(descriptor)
        except OSError as error:
            owner = _owner(folder)
            os.close(descriptor)
            if error.errno in NO_LOCKS:
                warnings.warn(
                    f"{folder} is on a file system without locks: see to it that no other run uses it", stacklevel=4
                )
                return None
            if not wait:
                return f"{folder} is in use by {owner}: wait until that run ends, or pass another folder"
            if not told:
                print(f"waiting for {owner}, which uses {folder}", file=sys.stderr)
            told = True
            time.sleep(0.2)
            continue
        if _is_still(descriptor, folder / LOCK_FILE):
            content = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
            try:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(content).encode(), 0)
            except OSError as error:  # a full disk
                os.close(descriptor)
                return error
            _held[folder] = descriptor
            return None
        os.close(descriptor)  # its last owner removed the file meanwhile


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
        content = json.loads((folder / LOCK_FILE).read_text())
        return f"process {content['pid']} on {content['host']} since {content['since']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another run"


def _leave_to_parent() -> None:
    """Close a forked child's copies, so that a lock ends with the process that took it."""
    for descriptor in set(_held.values()) - {NONE}:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
