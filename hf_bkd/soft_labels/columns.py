"""The columns that carry soft labels in a `datasets.Dataset`.

| column               | content                                                                                 |
| -------------------- | --------------------------------------------------------------------------------------- |
| `teacher_probs`      | class probabilities, averaged over the teacher's draws and tempered: [C], or [V, C] flat |
|                      | for V views; compact storages: see `storage`                                            |
| `teacher_variance`   | across-draw variance (ddof 1), when kept: shaped as the probabilities, or its sum over  |
|                      | the classes, one number a view                                                          |
| `teacher_provenance` | a `ClassLabel` with one name: the JSON record of what made the labels (`record`)         |
| `example_id`         | hash of the row's content, by which labels and examples recognize each other            |

Labels of a named teacher end in `__NAME`. `teacher_probs` is a list of fixed length, or for `top_k` a struct of such
lists. The record sits in a feature, not beside the table, so that it travels wherever the rows go: `select`, `map`,
`save_to_disk`, parquet, the Hub.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import datasets
import numpy as np
import torch
from torch import Tensor

from ..data.columns import EXAMPLE_ID, PROBS, RECORD, RENAMED, VARIANCE, is_soft_label_column
from ..utils.deprecation import warn_renamed
from ..utils.errors import UserError
from ..utils.limits import LIMITS
from .record import LabelRecord, decode_record
from .storage import check_parts, decode

UNCHANGED = {"uint8": np.uint8, "int32": np.int32, "float16": np.float16}  # all other types are read as float32


def column(kind: str, teacher: str | None = None) -> str:
    """Name of a soft-label column, of the only teacher or of the one called ``teacher``."""
    return kind if teacher is None else f"{kind}__{teacher}"


def is_record_column(name: str) -> bool:
    """Whether a column's feature holds the record of what made labels."""
    return name.partition("__")[0] == RECORD


def soft_label_columns(dataset: Any) -> list[str]:
    """Names of a dataset's columns that carry soft labels; none of a dataset that names no columns."""
    return [name for name in getattr(dataset, "column_names", None) or [] if is_soft_label_column(name)]


def teachers_of(column_names: list[str]) -> list[str | None]:
    """Names of the teachers whose labels are there, in order; ``None`` stands for an unnamed one."""
    parts = [name.partition("__") for name in column_names]
    return [teacher if separator else None for kind, separator, teacher in parts if kind == PROBS]


def read_record(features: Mapping[str, Any], teacher: str | None = None) -> LabelRecord | None:
    """The record of what made the labels; ``None`` if the columns were added by hand."""
    feature = features.get(column(RECORD, teacher))
    return None if feature is None else decode_record(feature)


def check_reserved(features: Mapping[str, Any]) -> None:
    """UserError if a column has the name of soft labels and is the user's own: no record of ours stands beside it."""
    records = [name for name in features if is_record_column(name) and len(getattr(features[name], "names", ())) == 1]
    recorded = {name.partition("__")[2] for name in records}
    for name in records:
        decode_record(features[name])
    for name in filter(is_soft_label_column, features):
        ours = bool(recorded) if name == EXAMPLE_ID else name.partition("__")[2] in recorded
        if not ours:
            raise UserError(
                f"the dataset has a column {name} of its own, a name that soft labels need: pass "
                f"dataset.rename_column({name!r}, {RENAMED + name!r})"
            )


@dataclass(frozen=True)
class Layout:
    """What the features of a dataset say of one teacher's columns: how their lists are to be read.

    Args:
        name: of the column of probabilities.
        num_views, num_classes: V and C; C is 0 where nothing says it.
        record: what made the labels, or ``None``.
        in_bytes: whether the probabilities are stored as ``uint8``.
    """

    name: str
    num_views: int
    num_classes: int
    record: LabelRecord | None
    in_bytes: bool = False

    @classmethod
    def of(cls, features: Mapping[str, Any], teacher: str | None = None) -> Self:
        """Read the features of a teacher's columns.

        Raises:
            UserError: no such column, one of something else, or an unreadable record.
        """
        name, record = column(PROBS, teacher), read_record(features, teacher)
        if name not in features:
            raise UserError(f"the dataset has no column {name}; add it with add_soft_labels(dataset, teacher)")
        feature = features[name]
        parts = feature if isinstance(feature, dict) else {"probs": feature}
        known = set(parts) in ({"probs"}, {"classes", "probs", "tail"})
        if not known or not all(map(is_list_of_numbers, parts.values())):
            raise UserError(f"column {name} holds {feature}, not a list of probabilities per row")
        in_bytes = parts["probs"].feature.dtype == "uint8"
        num_classes = None if record is None else record.teacher.num_classes
        if num_classes is None and (len(parts) > 1 or in_bytes):
            raise UserError(f"column {name} is stored in a form that can't be read without its teacher_provenance")
        layout = cls(name, 1 if record is None else record.num_views, num_classes or 0, record, in_bytes)
        return layout.with_width(getattr(parts["probs"], "length", 0))

    def with_width(self, width: int) -> Self:
        """The same with the number of classes that lists of this length imply, if it isn't known otherwise."""
        return self if self.num_classes else replace(self, num_classes=max(width, 0) // self.num_views)

    @property
    def teacher(self) -> str | None:
        """The teacher's name, if it has one."""
        return teachers_of([self.name])[0]

    @property
    def variance_name(self) -> str:
        """Name of the column that holds the variance of these probabilities, if it is there."""
        return column(VARIANCE, self.teacher)

    @property
    def temperature(self) -> float:
        """T_t of the probabilities, 1 if there is no record."""
        return 1.0 if self.record is None else self.record.temperature

    @property
    def num_draws(self) -> int | None:
        """How many draws the probabilities average, if the record says so."""
        return None if self.record is None else self.record.draws

    def parts(self, flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """[N, V * L] -> [N, V, L], of a batch or of all rows; UserError if the lists have other lengths."""
        lengths = {name: part.shape[-1] for name, part in flat.items()}
        expected = {"probs": self.num_views * self.num_classes}
        if "classes" in flat:
            largest = lengths["classes"]
            expected = {"classes": largest - largest % self.num_views, "probs": largest, "tail": self.num_views}
        if lengths != expected or 0 in lengths.values():
            actual, wanted = (" and ".join(map(str, each.values())) for each in (lengths, expected))
            raise UserError(
                f"the lists of column {self.name} have lengths {actual}, and for {self.num_views} views of "
                f"{self.num_classes} classes they would be {wanted}: label again with add_soft_labels"
            )
        return {name: part.unflatten(-1, (self.num_views, -1)) for name, part in flat.items()}

    def of_rows(self, values: list, view: int = 0) -> Tensor:
        """Probabilities float32 [B, C] of some rows' values in the column; UserError if they are no distributions."""
        rows = [value if isinstance(value, Mapping) else {"probs": value} for value in values]
        parts = self.parts({part: stacked_lists([row.get(part) for row in rows], self.name) for part in rows[0]})
        if self.in_bytes:
            parts["probs"] = _as_bytes(parts["probs"], self.name)
        check_parts(parts, self.num_classes)
        return decode(parts, self.num_classes)[:, view]

    def variance(self, flat: Tensor) -> Tensor:
        """[N, V * C] or [N, V] -> [N, V, C] or [N, V, 1]; UserError if the lists have another length."""
        if flat.shape[-1] not in (self.num_views, self.num_views * self.num_classes):
            raise UserError(
                f"the variance beside column {self.name} has lists of length {flat.shape[-1]}, not {self.num_views} "
                f"(views) or {self.num_views * self.num_classes} (classes of all views): label again"
            )
        return flat.unflatten(-1, (self.num_views, -1))


@dataclass(frozen=True)
class SoftLabels:
    """One teacher's labels of N rows in V views of C classes, as they are stored.

    Args:
        layout: of their columns, with V, C and the record.
        parts: tensors [N, V, L] of `storage`.
        stored_variance: [N, V, C], [N, V, 1] if summed over the classes, or ``None``.
    """

    layout: Layout
    parts: dict[str, Tensor]
    stored_variance: Tensor | None = None

    @classmethod
    def of(cls, probs: Tensor, record: LabelRecord | dict | None = None) -> Self:
        """Labels with probabilities [N, C] that are in memory; UserError if they are no distributions."""
        parts = {"probs": probs[:, None]}
        check_parts(parts, probs.shape[-1])
        record = LabelRecord.from_json(record) if isinstance(record, dict) else record
        return cls(Layout(PROBS, 1, probs.shape[-1], record), parts)

    def __len__(self) -> int:
        return len(self.parts["probs"])

    @property
    def num_views(self) -> int:
        return self.layout.num_views

    @property
    def num_classes(self) -> int:
        return self.layout.num_classes

    @property
    def record(self) -> LabelRecord | None:
        return self.layout.record

    @property
    def provenance(self) -> dict | None:
        """The old name of :attr:`record`, as plain JSON."""
        warn_renamed("SoftLabels.provenance", "SoftLabels.record")
        return None if self.record is None else self.record.to_json()

    @property
    def probs(self) -> Tensor:
        """All probabilities: float32 [N, C], or [N, V, C] if there are several views."""
        LIMITS.check(f"column {self.layout.name}", label_numbers=len(self) * self.num_views * self.num_classes)
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

    def rows(self, rows: Tensor) -> Tensor:
        """Probabilities float32 [B, V, C] of some rows."""
        return decode({name: part[rows] for name, part in self.parts.items()}, self.num_classes)

    def storage_options(self) -> dict[str, Any]:
        """The arguments of :func:`~hf_bkd.add_soft_labels` that store labels like these."""
        if "classes" in self.parts:
            return {"storage": "top_k", "top_k": self.parts["classes"].shape[-1]}
        return {"storage": str(self.parts["probs"].dtype).removeprefix("torch.")}

    def to(self, device: torch.device | str) -> Self:
        parts = {name: part.to(device) for name, part in self.parts.items()}
        return replace(
            self,
            parts=parts,
            stored_variance=None if self.stored_variance is None else self.stored_variance.to(device),
        )


def is_list_of_numbers(feature: object) -> bool:
    """Whether a feature is of lists of numbers."""
    inner = getattr(feature, "feature", None)
    return isinstance(inner, datasets.Value) and inner.dtype.startswith(("float", "int", "uint", "double"))


def stacked_lists(rows: list, name: str) -> Tensor:
    """Rows that were read one by one, as lists, arrays or tensors, as one tensor [N, L].

    UserError with the column's ``name`` if they differ in length or hold something else than numbers.
    """
    try:
        values = np.asarray([np.asarray(row) for row in rows])
    except (TypeError, ValueError):
        raise uneven(name) from None
    if values.ndim != 2 or values.dtype.kind not in "iuf":
        raise uneven(name)
    return as_tensor(values)


def as_tensor(values: np.ndarray) -> Tensor:
    """A copy as a tensor, of the stored type if it is one of those in use and of float32 otherwise."""
    with np.errstate(over="ignore"):  # what becomes infinite is refused later
        return torch.from_numpy(np.array(values, dtype=UNCHANGED.get(str(values.dtype), np.float32)))


def uneven(name: str) -> UserError:
    """The error of lists that differ in length."""
    return UserError(f"the rows of column {name} don't all hold a list of the same length: label the dataset again")


def _as_bytes(values: Tensor, name: str) -> Tensor:
    """The uint8 numbers that a dataset's format has turned into a larger type."""
    small = values.to(torch.uint8)
    if not (small == values).all():
        raise UserError(f"column {name} holds numbers that are no bytes, though it is stored as uint8: label again")
    return small
