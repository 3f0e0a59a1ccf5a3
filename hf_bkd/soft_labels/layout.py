"""How the lists in a teacher's columns are to be read: in views, in classes, and for each token of an example."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ..data.columns import MEAN, RECORD, TOKEN_IDS, VARIANCE
from ..likelihoods import Categorical, Gaussian, Likelihood
from ..utils.errors import UserError
from .columns import column, read_record, teachers_of, value_column
from .lists import is_list_of_numbers, joined_rows, lengths_of, lists_of, padded, stacked_lists, uneven
from .record import LabelRecord
from .record_parts import NEXT_TOKENS
from .storage import check_parts, decode


@dataclass(frozen=True)
class Layout:
    """What the features of a dataset say of one teacher's columns: how their lists are to be read.

    Args:
        name: of the column of values.
        num_views, num_classes: V and C; C is 0 where nothing says it.
        record: what made the labels, or ``None``.
        in_bytes: whether the values are stored as ``uint8``.
        ragged: whether there is an answer for each token of an example; then V is 1, and N below counts tokens.
        token_ids: name of the column that says of which tokens of a vocabulary the values are, if there is one.
    """

    name: str
    num_views: int
    num_classes: int
    record: LabelRecord | None
    in_bytes: bool = False
    ragged: bool = False
    token_ids: str | None = None

    @classmethod
    def of(cls, features: Mapping[str, Any], teacher: str | None = None) -> Self:
        """Read the features of a teacher's columns.

        Raises:
            UserError: no such column, one of something else, or an unreadable record.
        """
        name, record = value_column(features, teacher), read_record(features, teacher)
        feature = features[name]
        parts = feature if isinstance(feature, dict) else {"probs": feature}
        token_ids = column(TOKEN_IDS, teacher) if column(TOKEN_IDS, teacher) in features else None
        if token_ids is not None:
            parts = {"classes": features[token_ids]} | parts
        ragged = all(is_list_of_numbers(getattr(part, "feature", None)) for part in parts.values())
        lists = {part: each.feature if ragged else each for part, each in parts.items()}
        known = set(parts) in ({"probs"}, {"classes", "probs", "tail"}, {"classes", "probs"})
        if not known or not all(map(is_list_of_numbers, lists.values())):
            raise UserError(f"column {name} holds {feature}, not a list of probabilities per row")
        if record is not None and (record.positions is not None) != ragged:
            says = "each token" if record.positions else "each row"
            raise UserError(
                f"column {name} holds {feature}, and its {column(RECORD, teacher)} speaks of one answer for {says}: "
                "label again with add_soft_labels"
            )
        in_bytes = lists["probs"].feature.dtype == "uint8"
        num_classes = None if record is None else record.teacher.num_classes
        if num_classes is None and (len(parts) > 1 or in_bytes):
            raise UserError(f"column {name} is stored in a form that can't be read without its teacher_provenance")
        layout = cls(
            name, 1 if record is None else record.num_views, num_classes or 0, record, in_bytes, ragged, token_ids
        )
        return layout.with_width(getattr(lists["probs"], "length", 0))

    def with_width(self, width: int) -> Self:
        """The same with the number of classes that lists of this length imply, if it isn't known otherwise."""
        return self if self.num_classes else replace(self, num_classes=max(width, 0) // self.num_views)

    @property
    def next_tokens(self) -> bool:
        """Whether the values are of the token after each position."""
        return self.record is not None and self.record.positions == NEXT_TOKENS

    @property
    def teacher(self) -> str | None:
        """The teacher's name, if it has one."""
        return teachers_of([self.name])[0]

    @property
    def likelihood(self) -> Likelihood:
        """What the values are of; without a record what their column's name says."""
        if self.record is not None:
            return self.record.likelihood
        return Gaussian() if self.name.partition("__")[0] == MEAN else Categorical()

    def beside(self, kind: str) -> str:
        """Name of the column of a kind, one of ``BESIDE``, that stands beside the values, if it is there."""
        return column(kind, self.teacher)

    @property
    def temperature(self) -> float:
        """T_t of the values, 1 if there is no record."""
        return 1.0 if self.record is None else self.record.temperature

    @property
    def num_draws(self) -> int | None:
        """How many draws the values average, if the record says so."""
        return None if self.record is None else self.record.draws

    def flat_parts(self, columns: Mapping[str, pa.Array]) -> tuple[dict[str, Tensor], Tensor | None]:
        """The parts of Arrow columns as tensors [N, L], or [T, L] of tokens beside the number of each row's."""
        parts = _parts_of(columns[self.name])
        if self.token_ids is not None:
            parts = {"classes": columns[self.token_ids]} | parts
        if not self.ragged:
            return {part: lists_of(rows, self.name) for part, rows in parts.items()}, None
        lengths = [lengths_of(rows, self.name) for rows in parts.values()]
        if any(not torch.equal(each, lengths[0]) for each in lengths):
            raise uneven(self.name)
        return {part: lists_of(rows.flatten(), self.name) for part, rows in parts.items()}, lengths[0]

    def parts(self, flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """[N, V * L] -> [N, V, L], of a batch or of all rows; UserError if the lists have other lengths."""
        lengths = {name: part.shape[-1] for name, part in flat.items()}
        expected = {"probs": self.num_views * self.num_classes}
        if "classes" in flat and self.token_ids is not None:
            expected = {"classes": lengths["classes"], "probs": lengths["classes"]}
        elif "classes" in flat:
            largest = lengths["classes"]
            expected = {"classes": largest - largest % self.num_views, "probs": largest, "tail": self.num_views}
        if lengths != expected or 0 in lengths.values():
            actual, wanted = (" and ".join(map(str, each.values())) for each in (lengths, expected))
            raise UserError(
                f"the lists of column {self.name} have lengths {actual}, and for {self.num_views} views of "
                f"{self.num_classes} {self.likelihood.called} they would be {wanted}: label again with add_soft_labels"
            )
        parts = {name: part.unflatten(-1, (self.num_views, -1)) for name, part in flat.items()}
        if self.token_ids is not None:
            missing = 1 - parts["probs"].float().sum(dim=-1, keepdim=True)
            is_cut = self.record.storage == "top_k"
            parts["tail"] = missing.clamp(0, 1).where((missing < 1) & is_cut, 0)
        return parts

    def check(self, parts: Mapping[str, Tensor], numbers: Sequence[int] | np.ndarray | None = None) -> None:
        """Refuse parts [N, V, L] that hold no answers; of a language model, zeros stand for none.

        Args:
            parts: of :meth:`parts`.
            numbers: of the rows [N], for messages.
        """
        if self.next_tokens:
            there = parts["probs"].ne(0).any(dim=-1)[:, 0]
            parts = {name: part[there] for name, part in parts.items()}
            numbers = np.arange(len(there))[there.numpy()] if numbers is None else np.asarray(numbers)[there.numpy()]
        check_parts(parts, self.num_classes, numbers, self.likelihood)

    def of_rows(
        self, values: list, view: int = 0, mask: Tensor | None = None, numbers: Sequence[int] | None = None
    ) -> Tensor:
        """Values of some rows in the column, as a dataset hands them out; UserError if they are no answers.

        Args:
            values: of B rows.
            view: of them, from 0 to V - 1.
            mask: [B, L], 0 where the inputs of the rows are padded, by which labels of tokens are placed.
            numbers: of the rows in the dataset, for messages.

        Returns:
            float32 [B, C], or [B, L, C] of tokens, zeros where there is none.
        """
        rows = [value if isinstance(value, Mapping) else {"probs": value} for value in values]
        columns = {part: [row.get(part) for row in rows] for part in rows[0]}
        if self.ragged:
            lengths = torch.tensor([len(row) for row in next(iter(columns.values()))])
            columns = {part: joined_rows(each, lengths, self.name) for part, each in columns.items()}
        parts = self.parts({part: stacked_lists(each, self.name) for part, each in columns.items()})
        if self.in_bytes:
            parts["probs"] = _as_bytes(parts["probs"], self.name)
        self.check(parts)
        decoded = decode(parts, self.num_classes, self.likelihood)[:, view]
        return padded(decoded, lengths, mask, self.name, numbers) if self.ragged else decoded

    def variance_of_rows(
        self, values: list, view: int = 0, mask: Tensor | None = None, numbers: Sequence[int] | None = None
    ) -> Tensor:
        """Variances (or noise) of some rows as :meth:`of_rows` has the values: [B, C], [B, L, C], or with C = 1."""
        if not self.ragged:
            return self.variance(stacked_lists(values, self.beside(VARIANCE)))[:, view].float()
        lengths = torch.tensor([len(row) for row in values])
        rows = joined_rows(values, lengths, self.beside(VARIANCE))
        summed = all(np.ndim(row) == 0 for row in rows)
        flat = stacked_lists([[row] for row in rows] if summed else rows, self.beside(VARIANCE))
        return padded(self.variance(flat)[:, 0].float(), lengths, mask, self.beside(VARIANCE), numbers)

    def variance(self, flat: Tensor) -> Tensor:
        """[N, V * C] or [N, V] -> [N, V, C] or [N, V, 1]; UserError if the lists have another length."""
        if flat.shape[-1] not in (self.num_views, self.num_views * self.num_classes):
            raise UserError(
                f"the variance beside column {self.name} has lists of length {flat.shape[-1]}, not {self.num_views} "
                f"(views) or {self.num_views * self.num_classes} ({self.likelihood.called} of all views): label again"
            )
        return flat.unflatten(-1, (self.num_views, -1))


def _parts_of(array: pa.Array) -> dict[str, pa.Array]:
    if not pa.types.is_struct(array.type):
        return {"probs": array}
    return dict(zip((field.name for field in array.type), array.flatten(), strict=True))


def _as_bytes(values: Tensor, name: str) -> Tensor:
    """The uint8 numbers that a dataset's format has turned into a larger type."""
    small = values.to(torch.uint8)
    if not (small == values).all():
        raise UserError(f"column {name} holds numbers that are no bytes, though it is stored as uint8: label again")
    return small
