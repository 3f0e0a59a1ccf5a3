"""Finished pieces of a labeling are kept, so that an interrupted one goes on where it stopped.

A shard is an Arrow stream of some rows' columns. Its file appears under its name in one step, and the name ends in a
checksum of its content, so that one that was cut off or damaged can't be taken for whole.
"""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from accelerate.utils import gather_object

from ..utils.errors import UserError
from ..utils.files import read_json, write_bytes, write_json
from ..utils.processes import decided_by_main, processes
from .record import as_json

PLAN_FILE = "labelling.json"  # spelled so in folders that earlier versions left
ADDED = ("identity", "draws", "stream")  # to plans, since there is more than one value


def has_begun(folder: str | Path | None) -> bool:
    """Whether a folder holds a labeling that is to go on."""
    return folder is not None and Path(folder, PLAN_FILE).is_file()


class Shards:
    """Tables by name, in a folder that outlives the process, or in memory.

    Args:
        folder: made if need be; ``None`` for memory.
        plan: all that decides what is in the tables, as JSON; a folder with shards of another one is refused.

    Raises:
        UserError: the folder belongs to another labeling, or can't be written.
    """

    def __init__(self, folder: str | Path | None, plan: dict[str, Any]):
        self.folder = None if folder is None else Path(folder)
        self._written: dict[str, pa.Buffer] = {}
        self._files: dict[str, Path] = {}
        self.unsaid: set[str] = set()  # what the folder's plan, of an earlier version, doesn't say
        if self.folder is not None:
            with error_if_full(self.folder):
                self.unsaid = decided_by_main(lambda: self._begin(as_json(plan)))
            processes().wait_for_everyone()
            self._look()

    def _begin(self, plan: dict[str, Any]) -> set[str]:
        """Begin or go on; which of the ``ADDED`` settings the folder's plan doesn't say."""
        for kind in ("arrow", "json"):
            for leftover in self.folder.glob(f".*.{kind}.*"):  # of a process that was killed while it wrote
                leftover.unlink(missing_ok=True)
        file = self.folder / PLAN_FILE
        if not file.is_file():
            write_json(file, plan)
            return set()
        try:
            before = read_json(file, object)
        except UserError as error:
            raise UserError(f"{file} is damaged: delete {self.folder} and label again") from error
        unsaid = {key for key in ADDED if isinstance(before, dict) and key not in before}
        difference = first_difference(before, {key: value for key, value in plan.items() if key not in unsaid})
        if difference:
            raise UserError(
                f"{self.folder} holds an unfinished labeling with another {difference}: pass another folder, or "
                "delete it"
            )
        return unsaid

    def _look(self) -> None:
        """See which shards are there."""
        self._files = {file.stem.rpartition("-")[0]: file for file in sorted(self.folder.glob("[!.]*.arrow"))}

    def __contains__(self, name: str) -> bool:
        return name in self._written or name in self._files

    def write(self, name: str, table: pa.Table) -> None:
        """Keep a table; UserError if there is no space left, and shards that were finished before stay."""
        content = _serialized(table)
        if self.folder is None:
            self._written[name] = content
            return
        with error_if_full(self.folder):
            file = self.folder / f"{name}-{_checksum(content)}.arrow"
            write_bytes(file, content)
            self._files[name] = file

    def remember(self, name: str, content: dict[str, Any]) -> None:
        """Keep a small note beside the shards, in a folder."""
        if self.folder is not None and processes().is_main_process:
            with error_if_full(self.folder):
                write_json(self.folder / f"{name}.json", as_json(content))

    def recall(self, name: str) -> dict[str, Any] | None:
        """The note that :meth:`remember` kept under this name, if there is one; UserError if it is damaged."""
        file = None if self.folder is None else self.folder / f"{name}.json"
        if file is None or not file.is_file():
            return None
        try:
            return read_json(file)
        except UserError as error:
            raise UserError(
                f"{file} is damaged: delete this file and label again with the same folder; the shards are kept"
            ) from error

    def share(self) -> None:
        """Wait until all processes have written their shards, and let each have all."""
        if self.folder is None and processes().num_processes > 1:
            self._written = dict(gather_object(list(self._written.items())))
        processes().wait_for_everyone()
        if self.folder is not None:
            self._look()

    def read(self, name: str) -> pa.Table:
        """The table of this name, in a folder mapped and not read; UserError if the file is not what was written."""
        content, file = self._written.get(name), self._files.get(name)
        if content is None:
            if file is None or not file.is_file():
                raise UserError(f"the shard {name} in {self.folder} is gone: label again with the same folder")
            with open(file, "rb") as opened:
                checksum = hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
            if not file.stem.endswith(f"-{checksum}"):
                raise UserError(
                    f"{file} is damaged, its content does not match the checksum in its name: delete this file and "
                    "label again with the same folder; the other shards are kept"
                )
            content = pa.memory_map(str(file))
        return pa.ipc.open_stream(content).read_all()

    def assembled(self, tables: Iterable[pa.Table]) -> pa.Table:
        """The tables one after the other, in a folder by way of a file that is mapped and has no name any more."""
        if self.folder is None:
            return pa.concat_tables(tables)
        with error_if_full(self.folder), tempfile.NamedTemporaryFile(prefix=".rows.arrow.", dir=self.folder) as file:
            writer = None
            for table in tables:
                writer = writer or pa.ipc.new_stream(file, table.schema)
                writer.write_table(table)
            writer.close()
            file.flush()
            return pa.ipc.open_stream(pa.memory_map(file.name)).read_all()


def first_difference(before: Any, now: Any, name: str = "setting") -> str | None:
    """Where two JSON contents differ first, in words; ``None`` if they don't."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return None if before == now else f"{name} ({before!r} there, {now!r} here)"
    keys = dict.fromkeys([*now, *before])
    inner = (first_difference(before.get(key), now.get(key), key.replace("_", " ")) for key in keys)
    return next(filter(None, inner), None)


@contextmanager
def error_if_full(folder: Path) -> Iterator[None]:
    """Turn the system's refusal to write into a UserError that says what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"can't write into {folder} ({error.strerror}): make room or pass another folder; shards that are "
            "finished are kept, and labeling again with the same folder goes on from there"
        ) from None


def _serialized(table: pa.Table) -> pa.Buffer:
    """The Arrow stream of a table, in a buffer of just that size."""
    length = pa.MockOutputStream()
    _write(table, length)
    content = pa.allocate_buffer(length.size())
    _write(table, pa.FixedSizeBufferWriter(content))
    return content


def _write(table: pa.Table, sink: Any) -> None:
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)


def _checksum(content: pa.Buffer) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
