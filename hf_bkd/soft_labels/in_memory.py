"""One teacher's soft labels in memory, as they are stored, and as values when they are asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from ..data.columns import NOISE, PROBS, VARIANCE
from ..utils.deprecation import warn_renamed
from ..utils.limits import LIMITS
from .layout import Layout
from .lists import padded, positions_of
from .record import LabelRecord
from .storage import check_parts, decode


@dataclass(frozen=True)
class SoftLabels:
    """One teacher's labels of N rows in V views of C classes, labels or numbers, as they are stored.

    Args:
        layout: of their columns, with V, C and the record.
        parts: tensors [N, V, L] of `storage`; [T, 1, L] of the T tokens of all rows, row after row.
        beside: what is stored beside them, by the kind of its column: the draws' variance [N, V, C], or [N, V, 1] if
            summed over the classes; a number's variance given the draw, and the draws' mean logarithms [N, V, C].
        lengths: int64 [N], of the tokens of each row; ``None`` where a row has one label.
    """

    layout: Layout
    parts: dict[str, Tensor]
    beside: Mapping[str, Tensor] = field(default_factory=dict)
    lengths: Tensor | None = None

    @classmethod
    def of(cls, probs: Tensor, record: LabelRecord | dict | None = None) -> Self:
        """Labels with values [N, C] that are in memory; UserError if they are no answers."""
        record = LabelRecord.from_json(record) if isinstance(record, dict) else record
        layout = Layout(PROBS if record is None else record.likelihood.column, 1, probs.shape[-1], record)
        parts = {"probs": probs[:, None]}
        check_parts(parts, probs.shape[-1], likelihood=layout.likelihood)
        return cls(layout, parts)

    def __len__(self) -> int:
        return len(self.parts["probs"] if self.lengths is None else self.lengths)

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
        """All values, probabilities or means: float32 [N, C], [N, V, C] in several views, [T, C] of all tokens."""
        positions = len(self.parts["probs"])
        LIMITS.check(f"column {self.layout.name}", label_numbers=positions * self.num_views * self.num_classes)
        return self._shown(self._decoded(self.parts))

    values = probs

    @property
    def variance(self) -> Tensor | None:
        """float32 [N, C] or [N], with V in the second place if there are several views; N are T for tokens."""
        if VARIANCE not in self.beside:
            return None
        variance = self.beside[VARIANCE].float()
        return self._shown(variance[..., 0] if self._is_summed(variance) else variance)

    @property
    def noise(self) -> Tensor | None:
        """float32, shaped as the values: variance of a number given the draw."""
        return self._shown(self.beside[NOISE].float()) if NOISE in self.beside else None

    @property
    def scale(self) -> Tensor | float:
        """The unit in which values are compared, see :meth:`~hf_bkd.likelihoods.Likelihood.scale`."""
        return self.layout.likelihood.scale(self.parts["probs"])  # of numbers, which are stored as they are

    def _is_summed(self, variance: Tensor) -> bool:
        return variance.shape[-1] == 1 < self.num_classes

    def _shown(self, values: Tensor) -> Tensor:
        return values[:, 0] if self.num_views == 1 else values

    def _decoded(self, parts: dict[str, Tensor]) -> Tensor:
        return decode(parts, self.num_classes, self.layout.likelihood)

    def at(self, rows: Tensor, view: int, mask: Tensor | None = None) -> dict[str, Tensor]:
        """The values [B, C] of some rows in a view and, where it is kept, what stands beside them, by column.

        A variance is [B, C] or [B]. Those of tokens are [B, L, C] or [B, L], placed by the ``mask`` [B, L] of their
        inputs, if it is given, and 0 where there is none.
        """
        at = rows if self.lengths is None else positions_of(rows, self.lengths)
        values = self._decoded({name: part[at, view] for name, part in self.parts.items()})
        seen = {self.layout.likelihood.column: values}
        for name, stored in self.beside.items():
            each = stored[at, view].float()
            seen[name] = each[:, 0] if name == VARIANCE and self._is_summed(each) else each
        if self.lengths is None:
            return seen
        lengths = self.lengths[rows]
        return {name: padded(each, lengths, mask, name, rows.tolist()) for name, each in seen.items()}

    def rows(self, rows: Tensor) -> Tensor:
        """Values float32 [B, V, C] of some rows; of tokens [T', 1, C], row after row."""
        rows = rows if self.lengths is None else positions_of(rows, self.lengths)
        return self._decoded({name: part[rows] for name, part in self.parts.items()})

    def storage_options(self) -> dict[str, Any]:
        """The arguments of :func:`~hf_bkd.add_soft_labels` that store labels like these."""
        if self.layout.token_ids is not None:
            return {"storage": self.record.storage, "top_k": self.parts["classes"].shape[-1]}
        if "classes" in self.parts:
            return {"storage": "top_k", "top_k": self.parts["classes"].shape[-1]}
        return {"storage": str(self.parts["probs"].dtype).removeprefix("torch.")}

    def to(self, device: torch.device | str) -> Self:
        parts, beside = ({name: each.to(device) for name, each in own.items()} for own in (self.parts, self.beside))
        return replace(
            self, parts=parts, beside=beside, lengths=None if self.lengths is None else self.lengths.to(device)
        )
