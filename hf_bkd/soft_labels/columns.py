"""The columns that carry soft labels in a `datasets.Dataset`.

| column               | content                                                                                 |
| -------------------- | --------------------------------------------------------------------------------------- |
| `teacher_probs`      | class probabilities, averaged over the teacher's draws and tempered: [C], or [V, C] flat |
|                      | for V views; compact storages: see `storage`                                            |
| `teacher_variance`   | across-draw variance (ddof 1), when kept: shaped as the probabilities, or its sum over  |
|                      | the classes, one number a view                                                          |
| `teacher_provenance` | a `ClassLabel` with one name: the JSON record of what made the labels (`provenance`)     |
| `example_id`         | hash of the row's content, by which labels and examples recognize each other            |

Labels of a named teacher end in `__NAME`. `teacher_probs` is a list of fixed length, or for `top_k` a struct of such
lists. The record sits in a feature, not beside the table, so that it travels wherever the rows go: `select`, `map`,
`save_to_disk`, parquet, the Hub.
"""

from dataclasses import dataclass
from typing import Any, Self

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ..utils.errors import UserError
from .arrow import PROBS, VARIANCE, children, combined, encoded_table, feature_of, is_list_of_numbers, lists
from .identity import EXAMPLE_ID
from .layout import PROVENANCE, Layout, column, soft_label_columns, teachers_of
from .record import encode_provenance
from .storage import check_parts, check_storage, decode


@dataclass(frozen=True)
class SoftLabels:
    """One teacher's labels of N rows in V views of C classes, as they are stored.

    Args:
        parts: tensors [N, V, L] of `storage`.
        num_classes: C.
        stored_variance: [N, V, C], [N, V, 1] if summed over the classes, or ``None``.
        provenance: the record of what made them, or ``None``.
    """

    parts: dict[str, Tensor]
    num_classes: int
    stored_variance: Tensor | None
    provenance: dict | None

    @classmethod
    def of(cls, probs: Tensor, provenance: dict | None = None) -> Self:
        """Of probabilities [N, C] that are at hand; UserError if they are no distributions."""
        parts = {"probs": probs[:, None]}
        check_parts(parts, probs.shape[-1])
        return cls(parts, probs.shape[-1], None, provenance)

    def __len__(self) -> int:
        return len(self.parts["probs"])

    @property
    def num_views(self) -> int:
        return self.parts["probs"].shape[1]

    @property
    def probs(self) -> Tensor:
        """All of them: float32 [N, C], or [N, V, C] if there are several views."""
        probs = decode(self.parts, self.num_classes)
        return probs[:, 0] if self.num_views == 1 else probs

    @property
    def variance(self) -> Tensor | None:
        """float32 [N, C] or [N], with V in the second place if there are several views."""
        if self.stored_variance is None:
            return None
        variance = self.stored_variance.float()
        variance = variance[..., 0] if variance.shape[-1] == 1 else variance
        return variance[:, 0] if self.num_views == 1 else variance

    def at(self, rows: Tensor, view: int) -> dict[str, Tensor]:
        """``teacher_probs`` [B, C] and, where it is kept, ``teacher_variance`` [B, C] or [B] of some rows."""
        seen = {PROBS: decode({name: part[rows, view] for name, part in self.parts.items()}, self.num_classes)}
        if self.stored_variance is not None:
            variance = self.stored_variance[rows, view].float()
            seen[VARIANCE] = variance[:, 0] if variance.shape[-1] == 1 else variance
        return seen

    def how_stored(self) -> dict[str, Any]:
        """The arguments of :func:`~hf_bkd.add_soft_labels` that store labels like these."""
        if "classes" in self.parts:
            return {"storage": "top_k", "top_k": self.parts["classes"].shape[-1]}
        return {"storage": str(self.parts["probs"].dtype).removeprefix("torch.")}

    def to(self, device: torch.device | str) -> Self:
        parts = {name: part.to(device) for name, part in self.parts.items()}
        variance = None if self.stored_variance is None else self.stored_variance.to(device)
        return type(self)(parts, self.num_classes, variance, self.provenance)


def attach(
    dataset: datasets.Dataset,
    probs: np.ndarray,
    provenance: dict,
    variance: np.ndarray | None = None,
    example_ids: np.ndarray | None = None,
    storage: str = "float16",
    name: str | None = None,
    top_k: int = 10,
) -> datasets.Dataset:
    """``dataset`` with soft-label columns; those of the same name are replaced.

    Args:
        dataset: N rows.
        probs: [N, C], or [N, V, C].
        provenance: JSON-able record, of the form of `provenance.make_provenance`.
        variance: shaped as ``probs``, or with a last dimension of 1.
        example_ids: int64 [N].
        storage: one of `storage.STORAGES`.
        name: the teacher's name, if there are several.
        top_k: k of that storage.

    Raises:
        UserError: not one distribution per row, a variance of another shape, an unknown storage, or a record that
            could not be read back.
    """
    check_storage(storage)
    if len(probs) != len(dataset):
        raise UserError(f"{len(probs)} rows of soft labels were given for a dataset of {len(dataset)} rows")
    return attach_table(dataset, encoded_table(probs, variance, example_ids, storage, top_k), provenance, name)


def attach_table(
    dataset: datasets.Dataset, table: pa.Table, provenance: dict, name: str | None = None
) -> datasets.Dataset:
    """``dataset`` with the columns of :func:`encoded_table` and their record."""
    record = datasets.ClassLabel(names=[encode_provenance(provenance)])
    new = {
        column(kind, name) if kind != EXAMPLE_ID else kind: (table[kind], feature_of(table.schema.field(kind).type))
        for kind in table.column_names
    }
    new[column(PROVENANCE, name)] = pa.array(np.zeros(len(table), np.int64)), record
    stale = {*new, column(VARIANCE, name)}
    dataset = dataset.remove_columns([old for old in dataset.column_names if old in stale])
    return with_columns(dataset, new)


def with_columns(
    dataset: datasets.Dataset, columns: dict[str, tuple[pa.Array | pa.ChunkedArray, Any]]
) -> datasets.Dataset:
    """``dataset`` and further columns: name -> their values and their feature."""
    for name, (array, feature) in columns.items():
        dataset = dataset.add_column(name, combined(array), feature=feature)
    return dataset


def label_set(table: pa.Table, provenance: dict, name: str | None = None) -> datasets.Dataset:
    """The same columns as a dataset without images or texts, which can be shared where those may not."""
    rows = datasets.Dataset.from_dict({"row": np.arange(len(table))})
    return only_soft_labels(attach_table(rows, table, provenance, name))


def only_soft_labels(dataset: datasets.Dataset) -> datasets.Dataset:
    """A dataset's soft-label columns and ``example_id``, by which `join_soft_labels` finds their images again."""
    return dataset.with_format(None).select_columns(soft_label_columns(dataset))


def read(dataset: datasets.Dataset | Any, name: str | None = None) -> SoftLabels:
    """All soft labels of one teacher, checked; a :class:`~hf_bkd.BatchedDataset` has them at hand.

    Whether they are of these very rows is not checked (see `check`).

    Raises:
        UserError: no such column, one of another shape, rows that are not distributions, an unreadable record, or
            other classes than the dataset's.
    """
    if hasattr(dataset, "soft_labels"):
        return dataset.soft_labels(name)
    probs, variance = column(PROBS, name), column(VARIANCE, name)
    Layout.of(dataset.features, name)
    wanted = [kind for kind in (probs, variance) if kind in dataset.column_names]
    table = dataset.with_format("arrow", columns=wanted)[:]
    flat = {part: lists(rows, probs) for part, rows in children(combined(table[probs])).items()}
    layout = Layout.of(dataset.features, name, flat["probs"].shape[-1])
    parts = layout.parts(flat)
    check_parts(parts, layout.num_classes)
    stored = None
    if variance in wanted:
        if not is_list_of_numbers(dataset.features[variance]):
            raise UserError(f"column {variance} holds {dataset.features[variance]}, not a list of numbers per row")
        stored = layout.variance(lists(combined(table[variance]), variance))
    return SoftLabels(parts, layout.num_classes, stored, layout.provenance)


def bytes_per_example(dataset: datasets.Dataset) -> float:
    """What the probabilities of one row, in all of its views, take in Arrow."""
    names = [column(PROBS, teacher) for teacher in teachers_of(dataset.column_names)]
    table = dataset.with_format("arrow", columns=names)[:]
    return sum(table[name].nbytes for name in names) / max(len(dataset), 1)
