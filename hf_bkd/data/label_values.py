"""The values of a label column become tensors that a network learns from, row numbers in hand where one can't."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from ..likelihoods import LARGEST, UNLABELED
from ..utils.errors import UserError

NO_CLASS = (-1, UNLABELED)  # how datasets say that a row has no label


@dataclass(frozen=True)
class LabelColumn:
    """A column of labels, read as what a network learns from.

    Args:
        name: of the column.
        form: what a row holds: ``"class"``, ``"classes of tokens"``, ``"hot"`` (zeros and ones), ``"set"`` or
            ``"numbers"``.
        num_values: C of the network, where it is known.
        places: the network's number of each of the column's own class numbers; ``None`` if they are the same.
        names: the network's classes, where the column holds names.
    """

    name: str
    form: str
    num_values: int | None = None
    places: tuple[int, ...] | None = None
    names: tuple[str, ...] | None = None

    def __call__(self, values: Any, first: int | None = 0) -> Tensor | list[Tensor]:
        """Read the labels of some rows.

        Args:
            values: of B rows: a list, a tensor or an Arrow array.
            first: number of the first of them, by which messages name a row; ``None`` if it isn't known.

        Returns:
            int64 [B] of classes, float32 [B, C] of labels or numbers; B tensors int64 [L] of tokens.

        Raises:
            UserError: a value that is none of the network's classes, lists of another length, or no finite number.
        """
        return READERS[self.form](self, as_arrow(values, self.name), first)

    def row(self, place: int, first: int | None) -> str:
        """Name a row in a message."""
        return f"a row of column {self.name}" if first is None else f"row {first + place} of column {self.name}"


def as_arrow(values: Any, name: str) -> pa.Array:
    """Return the values of a column called ``name``, a list, tensor, array or Arrow column, as an Arrow array."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
        return values.chunk(0) if isinstance(values, pa.ChunkedArray) else values
    if isinstance(values, pa.Array):
        return values
    if isinstance(values, (Tensor, np.ndarray)):
        values = values.tolist()
    values = [each.tolist() if isinstance(each, (Tensor, np.ndarray, np.generic)) else each for each in values]
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UserError(f"column {name} holds labels of several kinds ({error}): bring them to one type") from error


def lengths_of(rows: pa.Array) -> np.ndarray:
    """Return the lengths [M] of the lists that are there."""
    return pc.list_value_length(rows).drop_null().to_numpy(zero_copy_only=False)


def are_hot(rows: pa.Array) -> bool:
    """Whether all lists have one length and hold zeros and ones."""
    numbers = _flat_numbers(rows)
    return len(numbers) > 0 and len(np.unique(lengths_of(rows))) == 1 and bool(np.isin(numbers, (0, 1)).all())


def _flat_numbers(rows: pa.Array) -> np.ndarray:
    """Return all numbers of lists, or of single numbers, as float64 with NaN where one is missing."""
    flat = rows.flatten() if _holds_lists(rows) else rows
    return pc.cast(flat, pa.float64()).to_numpy(zero_copy_only=False)


def _holds_lists(rows: pa.Array) -> bool:
    kind = rows.type
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _numbers_of(
    column: LabelColumn, flat: pa.Array, owners: np.ndarray, first: int | None, optional: bool
) -> np.ndarray:
    """Return the network's class numbers of values, int64; ``UNLABELED`` where one is ``optional`` and missing.

    Args:
        flat: class numbers or names.
        owners: the row that each belongs to.
    """
    if pa.types.is_string(flat.type) or pa.types.is_large_string(flat.type):
        numbers = _by_name(flat, column.names or ())
    else:
        numbers = pc.cast(flat, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    missing = np.isnan(numbers) & np.asarray(flat.is_null(nan_is_null=True)) if len(flat) else np.isnan(numbers)
    missing |= np.isin(numbers, NO_CLASS) & (column.names is None)
    count = len(column.places) if column.places is not None else column.num_values or np.inf
    with np.errstate(invalid="ignore"):
        fine = (numbers >= 0) & (numbers < count) & (numbers % 1 == 0)
    wrong = np.flatnonzero(~(fine | missing) if optional else ~fine)
    if len(wrong):
        value, most = flat[int(wrong[0])].as_py(), column.num_values
        known = (
            ", ".join(map(repr, column.names[:5])) if column.names else f"0 to {most - 1}" if most else "whole numbers"
        )
        where = f"{column.row(owners[wrong[0]], first)} has the label {value!r}, and the network's classes are {known}"
        if isinstance(value, float) and value % 1:
            raise UserError(
                f"{where}: mend the labels, or pass problem_type='regression' if they are numbers to predict"
            )
        raise UserError(f"{where}: mend the labels, or take a network of their classes")
    numbers = np.where(missing, 0, numbers).astype(np.int64)
    numbers = numbers if column.places is None else np.asarray(column.places)[numbers]
    return np.where(missing, UNLABELED, numbers)


def _by_name(flat: pa.Array, names: Sequence[str]) -> np.ndarray:
    """Return the place of each name among some, NaN where it isn't; in any case of letters if that is unambiguous."""
    flat = pc.cast(flat, pa.string())
    numbers = pc.index_in(flat, value_set=pa.array(names, pa.string()))
    lower = [name.lower() for name in names]
    if len(set(lower)) == len(lower):
        numbers = pc.coalesce(numbers, pc.index_in(pc.utf8_lower(flat), value_set=pa.array(lower, pa.string())))
    # a missing name is not looked up: index_in finds null in a value set that has it, which names have not
    return pc.cast(numbers, pa.float64()).to_numpy(zero_copy_only=False)


def _read_classes(column: LabelColumn, values: pa.Array, first: int | None) -> Tensor:
    return torch.from_numpy(_numbers_of(column, values, np.arange(len(values)), first, optional=True))


def _read_classes_of_tokens(column: LabelColumn, values: pa.Array, first: int | None) -> list[Tensor]:
    owners, lengths = _owners(values)
    numbers = _numbers_of(column, _as_lists(values).flatten(), owners, first, optional=True)
    return list(torch.from_numpy(numbers).split(lengths.tolist()))


def _read_set(column: LabelColumn, values: pa.Array, first: int | None) -> Tensor:
    owners, lengths = _owners(values)
    numbers = _numbers_of(column, _as_lists(values).flatten(), owners, first, optional=False)
    pairs, counts = np.unique(np.stack([owners, numbers]), axis=1, return_counts=True)
    twice = np.flatnonzero(counts > 1)
    if len(twice):
        place, number = pairs[:, twice[0]]
        raise UserError(
            f"{column.row(place, first)} names the class {number} twice: bring each row's labels to one of each, "
            "or, if they are a zero or one for each class, to lists of one length"
        )
    hot = np.zeros((len(values), column.num_values), np.float32)
    hot[owners, numbers] = 1
    return _with_missing(hot, values)


def _read_hot(column: LabelColumn, values: pa.Array, first: int | None) -> Tensor:
    numbers = _matrix(column, values, first)
    _refuse(column, (numbers < 0) | (numbers > 1), numbers, first, "which is no label that is there (1) or not (0)")
    return _with_missing(numbers, values)


def _read_numbers(column: LabelColumn, values: pa.Array, first: int | None) -> Tensor:
    numbers = _matrix(column, values, first)
    _refuse(column, np.abs(numbers) > LARGEST, numbers, first, f"whose square float32 can't hold (up to {LARGEST:g})")
    return _with_missing(numbers, values)


READERS: Mapping[str, Callable[[LabelColumn, pa.Array, int | None], Any]] = {
    "class": _read_classes,
    "classes of tokens": _read_classes_of_tokens,
    "set": _read_set,
    "hot": _read_hot,
    "numbers": _read_numbers,
}


def _matrix(column: LabelColumn, values: pa.Array, first: int | None) -> np.ndarray:
    """Return finite numbers float32 [B, C] of B rows, 0 where a row is missing."""
    there = np.asarray(values.is_valid())
    width = column.num_values
    if _holds_lists(values) or pa.types.is_null(values.type):
        lengths = pc.list_value_length(_as_lists(values)).fill_null(-1).to_numpy(zero_copy_only=False)
        width = width or int(lengths.max(initial=1))
        wrong = np.flatnonzero(there & (lengths != width))
        if len(wrong):
            classes = f"datasets.List(datasets.ClassLabel(num_classes={width}))"
            named = f", or, if they are the classes that are there, cast the column to {classes}"
            raise UserError(
                f"{column.row(wrong[0], first)} has {lengths[wrong[0]]} numbers, and the network has {width} outputs "
                "for labels: bring all rows to that length, or take a network of another number"
                f"{named if column.form == 'hot' else ''}"
            )
    elif width not in (None, 1):
        raise UserError(
            f"column {column.name} has one number a row, and the network predicts {width}: take one of one"
        )
    numbers = np.zeros((len(values), width or 1), np.float32)
    with np.errstate(over="ignore"):
        numbers[there] = _flat_numbers(values.drop_null()).reshape(-1, width or 1)
    _refuse(column, ~np.isfinite(numbers), numbers, first, "which is no finite number")
    return numbers


def _refuse(column: LabelColumn, wrong: np.ndarray, numbers: np.ndarray, first: int | None, why: str) -> None:
    if wrong.any():
        place = int(np.flatnonzero(wrong.any(axis=1))[0])
        value = numbers[place][wrong[place]][0]
        raise UserError(
            f"{column.row(place, first)} has the label {value:g}, {why}: mend it, or set the whole row to None if it "
            "has no label"
        )


def _with_missing(numbers: np.ndarray, values: pa.Array) -> Tensor:
    numbers[np.asarray(values.is_null())] = np.nan
    return torch.from_numpy(numbers)


def _owners(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return the row of each value of all lists, and the lists' lengths [B], 0 of one that is missing."""
    lengths = pc.list_value_length(_as_lists(values)).fill_null(0).to_numpy(zero_copy_only=False)
    return np.repeat(np.arange(len(lengths)), lengths), lengths


def _as_lists(values: pa.Array) -> pa.Array:
    """Return lists as they are, and rows of which none is there as lists."""
    return values if _holds_lists(values) else values.cast(pa.list_(pa.float64()))
