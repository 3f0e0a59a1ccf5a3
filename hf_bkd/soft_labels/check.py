"""Whether a training set's soft labels may be used: checked once, before the first step."""

from typing import Any

import datasets
import numpy as np

from ..errors import UserError
from .columns import EXAMPLE_ID, PROBS, column, is_soft_label_column, read, teachers_of
from .provenance import check_identity, content_column, content_ids

SPOT_CHECKED_ROWS = 256


def column_names(dataset: Any) -> list[str]:
    """Names of a dataset's columns; none for one that doesn't say."""
    return list(getattr(dataset, "column_names", None) or [])


def soft_label_columns(dataset: Any) -> list[str]:
    """Those of a dataset's columns that carry soft labels."""
    return [name for name in column_names(dataset) if is_soft_label_column(name)]


def stored_temperatures(dataset: Any, wanted: float | None, num_classes: int | None) -> dict[str, tuple[float, float]]:
    """The temperature that each ``teacher_probs`` column is stored at, and the one that it is to be brought to.

    Args:
        dataset: a `datasets.Dataset`, or anything with ``column_names`` and ``soft_labels(teacher)``.
        wanted: T_t; ``None`` for that of the labels.
        num_classes: of the student, where it is known.

    Raises:
        UserError: no such column, labels that are no distributions or not this dataset's, another number of classes
            than the student's, a temperature that the stored average can't be brought to, or several temperatures.
    """
    names = column_names(dataset)
    if not teachers_of(names):
        raise UserError(
            f"the training set has no teacher_probs column (only {', '.join(names) or 'unnamed ones'}): add it with "
            "add_soft_labels, or train with kd_lambda=0"
        )
    found = {}
    for teacher in teachers_of(names):
        name = column(PROBS, teacher)
        if isinstance(dataset, datasets.Dataset):
            probs, _, record = read(dataset, teacher)
            _spot_check_identity(dataset, record)
        elif hasattr(dataset, "soft_labels"):
            probs, _, record = dataset.soft_labels(teacher)
        else:
            raise UserError(
                f"soft labels can't be read from a {type(dataset).__name__}: pass a datasets.Dataset or a "
                "ResidentDataset"
            )
        if num_classes is not None and num_classes != probs.shape[-1]:
            raise UserError(
                f"{name} has {probs.shape[-1]} classes and the model has {num_classes}: build the student with "
                f"{probs.shape[-1]} classes, or label the dataset with another teacher"
            )
        stored = 1.0 if record is None else float(record["temperature"])
        target = wanted or stored
        if target != stored != 1 and record["tempering"] == "per_sample":
            raise UserError(
                f"{name} was averaged over draws at temperature {stored:g} and can't be brought to {target:g}: leave "
                "teacher_temperature out, or label again"
            )
        if target > stored and (record or {}).get("storage") == "float16":
            raise UserError(
                f"{name} is stored as float16, which rounds probabilities below 3e-8 to 0, and at temperature "
                f"{target:g} they would count: label with teacher.temperature = {target:g}, or with storage='float32'"
            )
        found[name] = (stored, target)
    if len({target for _, target in found.values()}) > 1:
        temperatures = ", ".join(f"{name} at {stored:g}" for name, (stored, _) in found.items())
        raise UserError(
            f"the teachers' labels are stored at different temperatures ({temperatures}): pass teacher_temperature"
        )
    return found


def stored_ids(dataset: datasets.Dataset, record: dict | None) -> np.ndarray | None:
    """Ids int64 [N] of the rows that the soft labels were made for; ``None`` if there never were any.

    Raises:
        UserError: the labels' record says that there were, but they are gone.
    """
    if EXAMPLE_ID in dataset.column_names:
        return np.asarray(dataset.with_format(None)[EXAMPLE_ID][:])
    if _content_column(record) is not None:
        raise UserError(
            f"the soft labels came with a column {EXAMPLE_ID} and it is gone, so that nobody can tell whether they "
            "are these rows' own: keep it beside them, or label this dataset with add_soft_labels"
        )
    return None


def _spot_check_identity(dataset: datasets.Dataset, record: dict | None) -> None:
    """Compare the content of evenly spaced rows with the ids stored beside their labels."""
    ids, content = stored_ids(dataset, record), _content_column(record)
    if content not in dataset.column_names:
        content = content_column(dataset.features)
        if not isinstance(dataset.features.get(content), datasets.Image):
            return  # a text that was turned into tokens can't be recognised, an image that was renamed can
    if ids is not None:
        rows = np.arange(0, len(dataset), max(1, len(dataset) // SPOT_CHECKED_ROWS))
        check_identity(ids[rows], content_ids(dataset.with_format(None).select(rows)[content][:]), rows)


def _content_column(record: dict | None) -> str | None:
    return ((record or {}).get("dataset") or {}).get("content_column")
