"""Rows that can't be read are looked for before a labeling begins, and left out of it where the user asks for that."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import datasets
from accelerate.utils import gather_object

from ..data.rows import UNREADABLE, reason
from ..utils.checks import check_choice
from ..utils.errors import RowError, UserError
from ..utils.files import write_json, writing
from ..utils.processes import decided_by_main, failing_together, processes
from .examples import AnyDataset, Examples

ON_ERROR = ("raise", "skip")
LEFT_OUT_FILE = "left_out.json"
AT_ONCE = 64  # rows that are read together
NAMED = 5  # rows in a warning


class LeftOut(NamedTuple):
    """A row that can't be read: its number, the column where that is known, and what is wrong with it."""

    row: int
    column: str | None
    reason: str


def unreadable_rows(examples: Examples) -> list[LeftOut]:
    """Read and prepare all rows, each process its share of them; those that can't be, in order.

    What goes wrong with several rows together but with none of them alone is no row's fault, and is not reported.
    """
    state, own = processes(), []
    with failing_together():
        for number, read in examples.pieces(AT_ONCE):
            if number % state.num_processes == state.process_index:
                own += _unreadable(examples, read(), number * AT_ONCE)
    return sorted(gather_object(own))


def _unreadable(examples: Examples, piece: datasets.Dataset, first: int) -> Iterator[LeftOut]:
    if _wrong(examples, piece, first) is None:
        return
    for row in range(len(piece)):
        error = _wrong(examples, piece.select([row]), first + row)
        if error is not None:
            sentence = str(error) if isinstance(error, UserError) else f"row {first + row}: {reason(error)}"
            yield LeftOut(first + row, getattr(error, "column", None), sentence)


def _wrong(examples: Examples, piece: datasets.Dataset, first: int) -> Exception | None:
    try:
        examples.prepare(piece, first)
    except UNREADABLE as error:
        return error
    return None


def first_readable(dataset: datasets.Dataset, make: Callable[[datasets.Dataset], Examples]) -> Examples:
    """What ``make`` makes of a dataset, or of its rows from a later one on where the first ones can't be read.

    Some preprocessors say which columns they read when they are given the first row.
    """
    for row in range(len(dataset)):
        try:
            return make(dataset if row == 0 else dataset.select(range(row, len(dataset))))
        except RowError as error:
            wrong = error
    raise wrong


def check_on_error(dataset: AnyDataset, on_error: str) -> None:
    """Refuse unknown choices, and to skip rows of a stream, which passes by once."""
    check_choice(ON_ERROR, on_error=on_error)
    if on_error == "skip" and isinstance(dataset, datasets.IterableDataset):
        raise UserError(
            "rows of a streamed dataset can't be looked at before they are labeled, which on_error='skip' needs: load "
            "it without streaming, or leave such rows out with dataset.filter"
        )


def numbers_left_out(readings: Iterable[Examples], num_rows: int, folder: str | Path | None) -> list[int]:
    """Numbers of the rows that can't be read, in order; a warning says how many they are, and which.

    Args:
        readings: the dataset as each teacher reads it.
        num_rows: of the dataset.
        folder: where ``left_out.json`` says each one's number, column and reason; nowhere if not given.

    Raises:
        UserError: not one row can be read.
    """
    by_row = {each.row: each for examples in readings for each in unreadable_rows(examples)}
    left_out = [by_row[row] for row in sorted(by_row)]
    if not left_out:
        return []
    first = left_out[0].reason
    if len(left_out) == num_rows:
        raise UserError(f"not one of the {num_rows} rows can be read; of the first it is said: {first}")
    numbers = [each.row for each in left_out]
    if folder is not None:
        with writing(folder):
            decided_by_main(lambda: write_json(Path(folder, LEFT_OUT_FILE), [each._asdict() for each in left_out]))
    if processes().is_main_process:
        named = ", ".join(map(str, numbers[:NAMED])) + ", ..." * (len(numbers) > NAMED)
        warnings.warn(
            f"{len(numbers)} of {num_rows} rows can't be read and are left out (rows {named}; {first})", stacklevel=3
        )
    return numbers
