"""Soft labels of a study's splits as columns: kept apart from the examples, and put beside them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import datasets

from ..soft_labels import only_soft_labels
from ..soft_labels.columns import column, soft_label_columns, teachers_of
from ..soft_labels.identity import EXAMPLE_ID


class Labels(NamedTuple):
    """Soft labels of what is taught and of the test split, ``None`` without any, and the seconds they took."""

    train: datasets.Dataset
    test: datasets.Dataset | None
    seconds: float


def read_labels(folder: Path) -> Labels:
    """What was labeled earlier: ``train``, perhaps ``test``, and ``cost.json``."""
    parts = [folder / "train", folder / "test"]
    train, test = (datasets.load_from_disk(part) if part.is_dir() else None for part in parts)
    return Labels(train, test, json.loads((folder / "cost.json").read_text())["seconds"])


def beside(rows: datasets.Dataset, labels: datasets.Dataset) -> datasets.Dataset:
    """Rows with these soft labels and no others."""
    return datasets.concatenate_datasets([rows.remove_columns(soft_label_columns(rows)), labels], axis=1)


def of_teacher(rows: datasets.Dataset, name: str) -> datasets.Dataset | None:
    """The soft labels of a named teacher, if the rows have them."""
    if name not in teachers_of(rows.column_names):
        return None
    labels = only_soft_labels(rows)
    own = [each for each in labels.column_names if each == EXAMPLE_ID or each.endswith(f"__{name}")]
    return labels.select_columns(own)


def together(labels: Sequence[datasets.Dataset], names: Sequence[str]) -> datasets.Dataset:
    """Several teachers' soft labels of the same rows, each under its name."""
    named = []
    for part, name in zip(labels, names, strict=True):
        known = named and EXAMPLE_ID in part.column_names
        part = part.remove_columns([EXAMPLE_ID]) if known else part
        plain = [each for each in part.column_names if each != EXAMPLE_ID and "__" not in each]
        named.append(part.rename_columns({each: column(each, name) for each in plain}))
    return datasets.concatenate_datasets(named, axis=1)
