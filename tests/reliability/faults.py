"""Faults at the file layer: the n-th write of a call fails, as on a full, a broken or a read-only disk.

Go through all writes of a call, whatever makes them, in two lines:

    for number in range(1, count(folder, call) + 1):
        with failing(folder, number, errno.ENOSPC) as disk: ...  # the call has to raise, or to go on well without

Counted are files opened for writing (``open``, ``os.open``, ``Path.write_text``, ``tempfile``, fsspec), the first
write into each, ``os.mkdir``, ``os.rename``, ``os.replace``, ``torch.save`` and safetensors' ``save_file``, below
``folder`` alone: caches elsewhere don't count. A write that fails leaves the first half of its bytes, as a full disk
does; ``disk.failed`` then says which it was. torch and safetensors raise errors of their own kinds and words.
"""

import builtins
import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import safetensors.torch
import torch

OPERATIONS = ("mkdir", "rename", "replace", "ftruncate", "pwrite")


class Disk:
    """Counts the writes below a folder and fails one of them.

    Args:
        folder: below which writes count.
        number: of the write that fails, from 1; ``None`` fails none.
        error: its errno.
    """

    def __init__(self, folder: Path, number: int | None = None, error: int = 0):
        self.folder, self.number, self.error = Path(folder).resolve(), number, error
        self.writes: list[str] = []
        self.failed: str | None = None

    def fails(self, what: str, path: Any) -> bool:
        """Count a write; say whether it is the one that fails."""
        place = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fspath(path)
        if not Path(os.path.abspath(place)).is_relative_to(self.folder):
            return False
        self.writes.append(f"{what} {place}")
        if len(self.writes) != self.number:
            return False
        self.failed = self.writes[-1]
        return True

    def refuse(self, path: Any) -> None:
        """Raise the error as the operating system does."""
        raise OSError(self.error, os.strerror(self.error), None if isinstance(path, int) else os.fspath(path))


class _HalfWritten:
    """An open file whose first write writes half and fails."""

    def __init__(self, file: Any, refuse: Callable[[], None]):
        self._file, self._refuse = file, refuse

    def write(self, content: Any) -> None:
        self._file.write(content[: len(content) // 2])
        self._file.flush()
        self._refuse()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_HalfWritten":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _open(disk: Disk, real: Callable) -> Callable:
    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if not set(mode) & set("wax+"):
            return real(file, mode, *args, **kwargs)
        if not isinstance(file, int) and disk.fails("open", file):
            disk.refuse(file)
        handle = real(file, mode, *args, **kwargs)
        return _HalfWritten(handle, lambda: disk.refuse(file)) if disk.fails("write", file) else handle

    return opened


def _low_level(disk: Disk, real: Callable) -> Callable:
    def opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and disk.fails("open", path):
            disk.refuse(path)
        return real(path, flags, *args, **kwargs)

    return opened


def _operation(disk: Disk, real: Callable, what: str) -> Callable:
    def operation(path: Any, *args: Any, **kwargs: Any) -> Any:
        if disk.fails(what, path):
            disk.refuse(path)
        return real(path, *args, **kwargs)

    return operation


def _whole_file(disk: Disk, real: Callable, what: str, unwritable: str) -> Callable:
    def saved(content: Any, file: Any, *args: Any, **kwargs: Any) -> Any:
        result = real(content, file, *args, **kwargs)
        if isinstance(file, (str, os.PathLike)) and disk.fails(what, file):
            os.truncate(file, os.path.getsize(file) // 2)
            real(content, unwritable, *args, **kwargs)  # fails as the library does
        return result

    return saved


@contextlib.contextmanager
def failing(folder: str | Path, number: int | None, error: int = 0) -> Iterator[Disk]:
    """Fail the ``number``-th write below ``folder`` with an errno (``ENOSPC``, ``EIO``, ``EACCES``), and no other."""
    disk = Disk(Path(folder), number, error)
    replaced = [
        (builtins, "open", _open(disk, builtins.open)),
        (io, "open", _open(disk, io.open)),
        (os, "open", _low_level(disk, os.open)),
        *((os, name, _operation(disk, getattr(os, name), name)) for name in OPERATIONS),
        (torch, "save", _whole_file(disk, torch.save, "torch.save", "/dev/full")),
        # not /dev/full: safetensors would put a file in its place
        (
            safetensors.torch,
            "serialize_file",
            _whole_file(disk, safetensors.torch.serialize_file, "safetensors", "/nowhere/file"),
        ),
    ]
    with contextlib.ExitStack() as stack:
        for module, name, replacement in replaced:
            stack.enter_context(mock.patch.object(module, name, replacement))
        yield disk


def count(folder: str | Path, call: Callable[[], Any]) -> int:
    """Count the writes of a call below a folder."""
    with failing(folder, None) as disk:
        call()
    return len(disk.writes)
