"""Parts of a dataset that were labeled one by one become one dataset, whose record speaks for all of its rows."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np

from ..data.columns import EXAMPLE_ID, RECORD
from ..utils.errors import UserError
from .columns import column, read_record, teachers_of
from .identity import summarized_ids
from .record import LabelRecord
from .shards import first_difference
from .writing import with_records

OF_ROWS = ("rows", "fingerprint", "repeated_ids", "split", "image_size")  # what differs from part to part


def concatenate_soft_labels(parts: Sequence[datasets.Dataset]) -> datasets.Dataset:
    """Append datasets with soft labels to each other, as `datasets.concatenate_datasets` would if records were equal.

    Args:
        parts: with the same columns, each labeled by the same teachers in the same way.

    Returns:
        The rows of all parts in order. Each teacher's record says what all parts' records say, with the rows counted
        together; a split or an image size that differs is no longer said.

    Raises:
        UserError: no parts, different columns, records that differ in what made the labels, or views that mix images,
            whose partners are of their own part.
    """
    parts = list(parts)
    if not parts:
        raise UserError("there are no datasets to concatenate: pass at least one")
    teachers = teachers_of(parts[0].column_names)
    if any(set(part.column_names) != set(parts[0].column_names) for part in parts):
        raise UserError("the datasets have different columns: select the same ones of each first")
    records = {name: [read_record(part.features, name) for part in parts] for name in teachers}
    together = {name: _together(own, parts) for name, own in records.items() if None not in own}
    aligned = [with_records(part, {column(RECORD, name): each for name, each in together.items()}) for part in parts]
    return datasets.concatenate_datasets([part.select_columns(parts[0].column_names) for part in aligned])


def _together(records: list[LabelRecord], parts: list[datasets.Dataset]) -> LabelRecord:
    """One record of the labels of all parts."""
    first = records[0].to_json()
    for number, record in enumerate(records[1:], start=2):
        difference = first_difference(_shared(first), _shared(record.to_json()), "record")
        if difference:
            raise UserError(
                f"the labels of dataset {number} were made in another way than those of the first: {difference}; "
                "label them alike"
            )
    if len(records) > 1 and (first.get("views") or {}).get("mixing"):
        raise UserError("views that mix images have their partners in their own part: label the whole dataset at once")
    return LabelRecord.from_json(
        first | {"dataset": _rows_together([each.to_json()["dataset"] for each in records], parts)}
    )


def _shared(record: dict[str, Any]) -> dict[str, Any]:
    """What two parts' records have to agree on."""
    about = {name: value for name, value in (record.get("dataset") or {}).items() if name not in OF_ROWS}
    return record | {"dataset": about}


def _rows_together(about: list[dict[str, Any]], parts: list[datasets.Dataset]) -> dict[str, Any]:
    said = dict(about[0])
    for name in ("split", "image_size"):
        if any(each.get(name) != said.get(name) for each in about):
            said[name] = None
    said["rows"] = sum(map(len, parts))
    if EXAMPLE_ID in parts[0].column_names:
        ids = summarized_ids(np.concatenate([np.asarray(part.with_format("numpy")[EXAMPLE_ID]) for part in parts]))
        said |= {"fingerprint": ids.fingerprint, "repeated_ids": ids.repeated}
    return said
