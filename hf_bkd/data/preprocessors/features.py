"""Numbers in columns as the one tensor that a plain network takes."""

import numpy as np
import torch
from torch import Tensor, nn

from ...models.calling import argument_names
from ...utils.errors import UserError
from ..rows import check_present
from .base import Preprocessor


def feature_preprocessor(network: nn.Module, columns: tuple[str, ...]) -> Preprocessor:
    """Make the preprocessor of columns of numbers: float32 [B, d], the columns side by side in their order.

    A column of lists has as many features as its lists are long. A single column of lists of any depth keeps its
    shape.

    Raises (when rows are read):
        UserError: a value that is missing, or lists of several lengths.
    """
    name = next(iter(argument_names(network)), "features")

    def prepare(rows: dict[str, list]) -> dict[str, Tensor]:
        check_present(rows, columns)
        parts = [_numbers(rows[column], column) for column in columns]
        if len(parts) > 1:
            parts = [part.reshape(len(part), -1) for part in parts]
        return {name: torch.from_numpy(np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0])}

    return Preprocessor("features", columns, prepare, {"features": list(columns)})


def _numbers(values: list, column: str) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"the column {column} holds lists of several lengths, or something else than numbers: bring them to one "
            "length, or pass preprocessor=, a function from rows to inputs"
        ) from error
    return array[:, None] if array.ndim == 1 else array
