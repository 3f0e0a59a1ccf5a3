"""The values of an answer by themselves: what they are called, how they are stored, checked and compared."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


class Values(ABC):
    """The C values in which a likelihood's answers are stored; leading dimensions are free throughout."""

    storages: ClassVar[tuple[str, ...]]
    """How soft labels can be stored, see `soft_labels.storage`; the first if nobody says."""
    column: ClassVar[str] = "teacher_probs"
    """Name of the column of a dataset that holds the values."""
    called: ClassVar[str] = "classes"
    """What the C values are of."""
    classes_in: ClassVar[str | None] = None
    """Whether a dataset's label column names the C values: of a ``"single"`` class a row, or in a ``"list"``."""
    least_values: ClassVar[int] = 1
    """How many of them say anything at all."""
    summaries: ClassVar[tuple[str, ...]] = ()
    """What a message says of a row that is no answer: its sum, minimum or maximum."""
    unit: ClassVar[str] = "total variation"
    """Of :meth:`distance`."""
    remedy: ClassVar[str]
    """What to pass instead of such a row."""

    def normalized(self, values: Tensor) -> Tensor:
        """Return values [..., C] without what rounding did to them; rows of zeros stand for nothing, and stay."""
        return values

    def to_bytes(self, values: Tensor) -> Tensor:
        """Return whole numbers from 0 to 255, uint8 [..., C], for probabilities float64 [..., C]."""
        raise NotImplementedError

    def from_bytes(self, numbers: Tensor) -> Tensor:
        """Return the probabilities float32 [..., C] for which :meth:`to_bytes` stores such numbers."""
        raise NotImplementedError

    def problems_of_bytes(self, numbers: Tensor) -> dict[str, Tensor]:
        """Return what may be wrong with numbers [..., C] of :meth:`to_bytes`, as :meth:`problems` does."""
        return {}

    def scale(self, values: Tensor) -> Tensor | float:
        """Return the unit, [C] or one for all, in which values [N, ..., C] are compared."""
        return 1.0

    @abstractmethod
    def distance(self, values: Tensor, others: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Return how far values [..., C] are from others [...]: 0 where they are equal, and little below 0.02."""

    @abstractmethod
    def problems(self, values: Tensor) -> dict[str, Tensor]:
        """Return what may be wrong with values [..., C] and where it is: sentence -> bool [...]."""


class Numbers(Values):
    """C numbers, each of its own unit."""

    storages = ("float32", "float16")
    column = "teacher_mean"
    called = "numbers"
    unit = "standard deviations"
    remedy = "pass finite numbers"

    def scale(self, values: Tensor) -> Tensor:
        """Return the standard deviation of each number over all rows, 1 where they are all equal."""
        flat = values.reshape(-1, values.shape[-1]).double()
        spread = flat.std(dim=0, correction=0)
        return torch.where(spread > 0, spread, 1).float()

    def distance(self, values: Tensor, others: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Return the largest difference of a number, in units of ``scale``."""
        return ((values - others).abs() / scale).amax(dim=-1)

    def problems(self, values: Tensor) -> dict[str, Tensor]:
        return {"holds a value that is not a finite number": ~values.isfinite().all(dim=-1)}
