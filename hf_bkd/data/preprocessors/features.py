"""Numbers in columns as the one tensor that a plain network takes."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ...models.calling import argument_names
from ...utils.errors import UserError
from ..rows import check_present
from .base import Preprocessor

TOLD_APART = 1e-5  # of the largest number: a hundred steps of float32


def feature_preprocessor(network: nn.Module, columns: tuple[str, ...]) -> Preprocessor:
    """Make the preprocessor of columns of numbers: float32 [B, d], the columns side by side in their order.

    A column of lists has as many features as its lists are long. A single column of lists of any depth keeps its
    shape.

    Raises (when rows are read):
        UserError: a value that is missing or not finite, lists of several lengths, or numbers that float32 can't tell
            apart.
    """
    name = next(iter(argument_names(network)), "features")
    return Preprocessor("features", columns, FeaturePreparation(columns, name), {"features": list(columns)})


@dataclass(frozen=True)
class FeaturePreparation:
    """A preparation of numbers in columns as the argument ``name``, which worker processes can have."""

    columns: tuple[str, ...]
    name: str

    def __call__(self, rows: dict[str, list]) -> dict[str, Tensor]:
        """Turn rows into one tensor."""
        check_present(rows, self.columns)
        parts = [_numbers(rows[column], column) for column in self.columns]
        if len(parts) > 1:
            parts = [part.reshape(len(part), -1) for part in parts]
        return {self.name: torch.from_numpy(np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0])}


def _numbers(values: list, column: str) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"the column {column} holds lists of several lengths, or something else than numbers: bring them to one "
            "length, or pass preprocessor=, a function from rows to inputs"
        ) from error
    if not np.isfinite(array).all():
        odd = np.argwhere(~np.isfinite(array))[0][0]
        raise UserError(
            f"the column {column} holds a number that is not finite ({values[odd]!r}): leave such rows out, or put "
            "another number in its place"
        )
    if array.ndim == 1:
        exact = np.asarray(values, dtype=np.float64)
        spread, largest = np.ptp(exact), np.abs(exact).max(initial=0.0)
        if 0 < spread < TOLD_APART * largest:
            raise UserError(
                f"the numbers of the column {column} differ by less than float32 tells apart at their size (by "
                f"{spread:.3g} around {exact[0]:.6g}): subtract their mean, as of times"
            )
    return array[:, None] if array.ndim == 1 else array
