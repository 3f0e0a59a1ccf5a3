"""Where soft labels lie in a dataset: the names of their columns, and what the features tell of their shape."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from ..utils.errors import UserError
from .arrow import PROBS, VARIANCE, as_bytes, is_list_of_numbers, stacked_lists
from .identity import EXAMPLE_ID
from .record import check_class_count, check_class_names, decode_provenance, num_draws
from .storage import check_parts, decode

PROVENANCE = "teacher_provenance"


def column(kind: str, teacher: str | None = None) -> str:
    """Name of a soft-label column, of the only teacher or of the one called ``teacher``."""
    return kind if teacher is None else f"{kind}__{teacher}"


def is_soft_label_column(name: str) -> bool:
    """Whether a column belongs to this library and not to a model's inputs."""
    return name == EXAMPLE_ID or name.split("__")[0] in (PROBS, VARIANCE, PROVENANCE)


def soft_label_columns(dataset: Any) -> list[str]:
    """Those of a dataset's columns that carry soft labels; none of a dataset that names no columns."""
    return [name for name in getattr(dataset, "column_names", None) or [] if is_soft_label_column(name)]


def teachers_of(column_names: list[str]) -> list[str | None]:
    """Names of the teachers whose labels are there, in order; ``None`` stands for an unnamed one."""
    found = [name.partition("__") for name in column_names]
    return [teacher if separator else None for kind, separator, teacher in found if kind == PROBS]


def read_provenance(features: Mapping[str, Any], name: str | None = None) -> dict | None:
    """The record of what made the labels; ``None`` if the columns were added by hand."""
    feature = features.get(column(PROVENANCE, name))
    return None if feature is None else decode_provenance(feature)


@dataclass(frozen=True)
class Layout:
    """How one teacher's labels lie in their columns, as far as the features tell.

    Args:
        name: of the column of probabilities.
        num_views, num_classes: V and C.
        provenance: the record, or ``None``.
        in_bytes: whether the probabilities are stored as ``uint8``.
    """

    name: str
    num_views: int
    num_classes: int
    provenance: dict | None
    in_bytes: bool = False

    @classmethod
    def of(cls, features: Mapping[str, Any], teacher: str | None = None, width: int | None = None) -> Self:
        """Of a teacher's columns; ``width`` is the length of their lists, where the features don't tell it.

        Raises:
            UserError: no such column, one of something else, an unreadable record, or other classes than the data's.
        """
        name, record = column(PROBS, teacher), read_provenance(features, teacher)
        if name not in features:
            raise UserError(f"the dataset has no column {name}; add it with add_soft_labels(dataset, teacher)")
        feature = features[name]
        parts = feature if isinstance(feature, dict) else {"probs": feature}
        known = set(parts) in ({"probs"}, {"classes", "probs", "tail"})
        if not known or not all(map(is_list_of_numbers, parts.values())):
            raise UserError(f"column {name} holds {feature}, not a list of probabilities per row")
        in_bytes = parts["probs"].feature.dtype == "uint8"
        num_views = ((record or {}).get("views") or {}).get("number") or 1
        num_classes = ((record or {}).get("teacher") or {}).get("num_classes")
        if num_classes is None:
            if len(parts) > 1 or in_bytes:
                raise UserError(f"column {name} is stored in a form that can't be read without its teacher_provenance")
            num_classes = max(getattr(parts["probs"], "length", 0) if width is None else width, 0) // num_views
        if num_classes:
            check_class_count(name, num_classes, features)
        check_class_names(record, features)
        return cls(name, num_views, num_classes, record, in_bytes)

    @property
    def teacher(self) -> str | None:
        """The teacher's name, if it has one."""
        return teachers_of([self.name])[0]

    @property
    def variance_name(self) -> str:
        """Of the column that holds the variance of these probabilities, if it is there."""
        return column(VARIANCE, self.teacher)

    @property
    def num_draws(self) -> int | None:
        """How many draws the probabilities average, if the record tells."""
        record = self.provenance or {}
        asked = record.get("num_samples")
        return num_draws(record.get("teacher") or {}, asked) if isinstance(asked, int) else None

    def parts(self, flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """[N, V * L] -> [N, V, L], of a batch or of everything; UserError if they are of other lengths."""
        lengths = {name: part.shape[-1] for name, part in flat.items()}
        expected = {"probs": self.num_views * self.num_classes}
        if "classes" in flat:
            kept = lengths["classes"]
            expected = {"classes": kept - kept % self.num_views, "probs": kept, "tail": self.num_views}
        if lengths != expected or 0 in lengths.values():
            raise UserError(
                f"the lists of column {self.name} have lengths {_told(lengths)}, and for {self.num_views} views of "
                f"{self.num_classes} classes they would be {_told(expected)}: label again with add_soft_labels"
            )
        return {name: part.unflatten(-1, (self.num_views, -1)) for name, part in flat.items()}

    def of_rows(self, values: list) -> Tensor:
        """Probabilities float32 [B, C] of some rows' values in the column; UserError if they are no distributions."""
        rows = [value if isinstance(value, Mapping) else {"probs": value} for value in values]
        flat = {part: stacked_lists([row.get(part) for row in rows], self.name) for part in rows[0]}
        parts = self.parts(flat)
        if self.in_bytes:
            parts["probs"] = as_bytes(parts["probs"], self.name)
        check_parts(parts, self.num_classes)
        return decode(parts, self.num_classes)[:, 0]

    def variance(self, flat: Tensor) -> Tensor:
        """[N, V * C] or [N, V] -> [N, V, C] or [N, V, 1]; UserError if it is of another length."""
        if flat.shape[-1] not in (self.num_views, self.num_views * self.num_classes):
            raise UserError(
                f"the variance beside column {self.name} has lists of length {flat.shape[-1]}, not {self.num_views} "
                f"(views) or {self.num_views * self.num_classes} (classes of all views): label again"
            )
        return flat.unflatten(-1, (self.num_views, -1))


def _told(lengths: dict[str, int]) -> str:
    return " and ".join(map(str, lengths.values()))
