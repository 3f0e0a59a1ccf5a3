"""The columns that carry soft labels in a `datasets.Dataset`.

| column               | content                                                                              |
| -------------------- | ------------------------------------------------------------------------------------ |
| `teacher_probs`      | class probabilities [C] of each row, averaged over the teacher's draws and tempered   |
| `teacher_variance`   | across-draw variance (ddof 1) [C], when kept                                          |
| `teacher_provenance` | a `ClassLabel` with one name: the JSON record of what made the labels (`provenance`)  |
| `example_id`         | hash of the row's content, by which labels and examples recognise each other          |

Labels of a named teacher end in `__NAME`. Probabilities are stored as float16 by default, |stored - p| <= 2**-11 p +
2**-25, or as float32. The record sits in a feature, not beside the table, so that it travels wherever the rows go:
`select`, `map`, `save_to_disk`, parquet, the Hub.
"""

from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from ..errors import UserError
from .provenance import check_class_count, check_class_names, decode_provenance, encode_provenance

PROBS, VARIANCE, PROVENANCE, EXAMPLE_ID = "teacher_probs", "teacher_variance", "teacher_provenance", "example_id"
STORAGES = ("float16", "float32")
SUM_TOLERANCE = 5e-3


class SoftLabels(NamedTuple):
    """One teacher's labels of N rows: probs [N, C] and variance [N, C] (or ``None``) in float32, and their record."""

    probs: Tensor
    variance: Tensor | None
    provenance: dict | None


def column(kind: str, teacher: str | None = None) -> str:
    """Name of a soft-label column, of the only teacher or of the one called ``teacher``."""
    return kind if teacher is None else f"{kind}__{teacher}"


def is_soft_label_column(name: str) -> bool:
    """Whether a column belongs to this library and not to a model's inputs."""
    return name == EXAMPLE_ID or name.split("__")[0] in (PROBS, VARIANCE, PROVENANCE)


def teachers_of(column_names: list[str]) -> list[str | None]:
    """Names of the teachers whose labels are there, in order; ``None`` stands for an unnamed one."""
    found = [name.partition("__") for name in column_names]
    return [teacher if separator else None for kind, separator, teacher in found if kind == PROBS]


def attach(
    dataset: datasets.Dataset,
    probs: np.ndarray,
    provenance: dict,
    variance: np.ndarray | None = None,
    example_ids: np.ndarray | None = None,
    storage: str = "float16",
    name: str | None = None,
) -> datasets.Dataset:
    """``dataset`` with soft-label columns; those of the same name are replaced.

    Args:
        dataset: N rows.
        probs, variance: [N, C].
        provenance: JSON-able record, of the form of `provenance.make_provenance`.
        example_ids: int64 [N].
        storage: ``"float16"`` or ``"float32"``.
        name: the teacher's name, if there are several.

    Raises:
        UserError: not one distribution per row, a variance of another shape, an unknown storage, or a record that
            could not be read back.
    """
    check_storage(storage)
    probs = np.asarray(probs)
    if len(probs) != len(dataset):
        raise UserError(f"{len(probs)} rows of soft labels were given for a dataset of {len(dataset)} rows")
    check_distributions(probs)
    if variance is not None and np.shape(variance) != probs.shape:
        raise UserError(f"the variance is {np.shape(variance)} and the probabilities are {probs.shape}")
    record = datasets.ClassLabel(names=[encode_provenance(provenance)])
    new = {
        column(PROBS, name): _fixed_lists(probs, storage),
        column(PROVENANCE, name): (pa.array(np.zeros(len(dataset), np.int64)), record),
    }
    if variance is not None:
        new[column(VARIANCE, name)] = _fixed_lists(variance, storage)
    if example_ids is not None:
        new[EXAMPLE_ID] = pa.array(example_ids, pa.int64()), datasets.Value("int64")
    stale = {*new, column(VARIANCE, name)}
    dataset = dataset.remove_columns([old for old in dataset.column_names if old in stale])
    for column_name, (array, feature) in new.items():
        dataset = dataset.add_column(column_name, array, feature=feature)
    return dataset


def read(dataset: datasets.Dataset, name: str | None = None) -> SoftLabels:
    """All soft labels of one teacher, checked. Whether they are of these very rows is not (see `check`).

    Raises:
        UserError: no such column, one of another shape, rows that are not distributions, an unreadable record, or
            other classes than the dataset's.
    """
    probs = _read_fixed_lists(dataset, column(PROBS, name))
    check_distributions(probs)
    has_variance = column(VARIANCE, name) in dataset.column_names
    record = read_provenance(dataset.features, name)
    check_class_count(column(PROBS, name), probs.shape[1], dataset.features)
    check_class_names(record, dataset.features)
    return SoftLabels(
        torch.from_numpy(probs),
        torch.from_numpy(_read_fixed_lists(dataset, column(VARIANCE, name))) if has_variance else None,
        record,
    )


def read_provenance(features: datasets.Features, name: str | None = None) -> dict | None:
    """The record of what made the labels; ``None`` if the columns were added by hand."""
    feature = features.get(column(PROVENANCE, name))
    return None if feature is None else decode_provenance(feature)


def check_storage(storage: str) -> None:
    """UserError unless ``storage`` is one of ``STORAGES``."""
    if storage not in STORAGES:
        raise UserError(f"storage is {storage!r}; it must be one of {', '.join(STORAGES)}")


def check_distributions(probs: np.ndarray) -> None:
    """UserError naming the first row of ``probs`` [N, C] that is not a distribution over at least two classes."""
    if probs.ndim != 2 or probs.shape[1] < 2:
        raise UserError(f"soft labels must be [rows, classes] with at least two classes, and these are {probs.shape}")
    probs = probs.astype(np.float32, copy=False)
    problems = {
        "holds a value that is not a finite number": ~np.isfinite(probs).all(axis=1),
        "holds a negative probability": (probs < 0).any(axis=1),
        "does not sum to one": ~(np.abs(probs.sum(axis=1) - 1) <= SUM_TOLERANCE),
    }
    for problem, rows in problems.items():
        if rows.any():
            row = int(rows.argmax())
            raise UserError(
                f"row {row} of the soft labels {problem} (sum {probs[row].sum():.4g}, minimum {probs[row].min():.4g}; "
                f"{int(rows.sum())} such rows): pass class probabilities, not logits or counts, and label again"
            )


def _fixed_lists(values: np.ndarray, storage: str) -> tuple[pa.Array, datasets.List]:
    flat = pa.array(np.ascontiguousarray(values, dtype=storage).reshape(-1))
    feature = datasets.List(datasets.Value(storage), length=values.shape[1])
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1]), feature


def _read_fixed_lists(dataset: datasets.Dataset, name: str) -> np.ndarray:
    """A column of lists of equal length as float32 [N, C]."""
    if name not in dataset.column_names:
        raise UserError(f"the dataset has no column {name}; add it with add_soft_labels(dataset, teacher)")
    table = dataset.with_format("arrow", columns=[name])[:]
    rows = table[name].combine_chunks()
    lists = pa.types.is_list(rows.type) or pa.types.is_large_list(rows.type) or pa.types.is_fixed_size_list(rows.type)
    if not lists or not (pa.types.is_floating(rows.type.value_type) or pa.types.is_integer(rows.type.value_type)):
        raise UserError(f"column {name} holds {rows.type}, not a list of probabilities per row")
    lengths = pc.list_value_length(rows).to_numpy(zero_copy_only=False)  # NaN where a row is missing
    if len(set(lengths.tolist())) > 1 or rows.null_count:
        raise UserError(f"the rows of column {name} don't all hold a list of the same length: label the dataset again")
    values = rows.flatten().to_numpy(zero_copy_only=False)
    return np.array(values, dtype=np.float32).reshape(len(rows), -1 if len(rows) else 0)
