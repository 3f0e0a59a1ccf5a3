"""A user's own function from rows to inputs as a preprocessor."""

from functools import partial
from typing import Any

import datasets
from torch import Tensor

from ...utils.errors import UserError
from ..preprocessing import Images, stacked
from ..rows import Watched, read_rows, undecoded
from .base import Preprocessor, called

AnyDataset = datasets.Dataset | datasets.IterableDataset


def function_preprocessor(function: Any, dataset: AnyDataset) -> Preprocessor:
    """Make the preprocessor of a function from rows (column name -> list) to inputs.

    It reads the columns that it reads of the first row, or, where it has a method ``normalize`` for uint8 images
    [B, C, H, W], as an :class:`~hf_bkd.ImagePreprocessor` does, the first column of images. Its ``to_dict``, if it has
    one, says what is recorded of it.

    Raises:
        UserError: it can't read the first row.
    """
    settings = function.to_dict() if hasattr(function, "to_dict") else {}
    images = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    if hasattr(function, "normalize") and images:
        of_pictures = partial(_normalized, function)
        return Preprocessor(
            "image", (images[0],), function, settings, function, normalization=function, of_pictures=of_pictures
        )
    rows = Watched(_first_row(dataset))
    called(function, rows, [0])
    columns = tuple(name for name in dict.keys(rows) if name in rows.seen)
    return Preprocessor("function", columns, function, settings, function)


def _normalized(function: Any, pictures: Images) -> dict[str, Tensor]:
    return {"pixel_values": function.normalize(stacked(pictures))}


def _first_row(dataset: AnyDataset) -> dict[str, list]:
    if isinstance(dataset, datasets.Dataset):
        return read_rows(dataset, 0, 1)
    rows = list(dataset.decode(False).take(1))
    if not rows:
        raise UserError("the dataset to label is empty")
    return read_rows(undecoded(rows, dataset.features), 0, 1)
