"""The rows of a dataset as the teacher that is asked about them reads them."""

from typing import Any

import datasets
import pandas as pd

from ..data.preprocessors import Preprocessor, ready_columns
from ..data.preprocessors.functions import function_preprocessor
from ..data.views import Views
from ..utils.errors import UserError
from .columns import check_reserved
from .examples import AnyDataset, Examples


def check_dataset(dataset: AnyDataset) -> None:
    """Raise a UserError if a dataset has no rows, no known columns, or columns that are called like soft labels."""
    if isinstance(dataset, pd.DataFrame):
        raise UserError("a DataFrame is no dataset: label datasets.Dataset.from_pandas(frame, preserve_index=False)")
    if dataset.features is None:
        raise UserError(
            "the streamed dataset doesn't say what its columns are, so that nobody could tell whose labels these "
            "are: pass dataset.cast(features)"
        )
    if isinstance(dataset, datasets.Dataset) and len(dataset) == 0:
        raise UserError("the dataset to label is empty")
    check_reserved(dataset.features)


def examples_of(
    teacher: Any, dataset: AnyDataset, preprocessor: Any, processing_class: Any, views: Views | None
) -> Examples:
    """The rows to label as a teacher reads them: by a preprocessor that was passed, or else by the teacher's own.

    Args:
        teacher: may have a method ``preprocessor_for``, as a :class:`~hf_bkd.Teacher` does, and a ``network``.
        dataset, views: as for :class:`Examples`.
        preprocessor: a function from rows to inputs, or ``None``.
        processing_class: instead of the teacher's own, or ``None``.

    Raises:
        UserError: as for :class:`Examples` and :func:`~hf_bkd.data.preprocessors.preprocessor_for`.
    """
    own = getattr(teacher, "preprocessor_for", None)
    if preprocessor is not None:
        if not isinstance(preprocessor, Preprocessor):
            preprocessor = function_preprocessor(preprocessor, dataset)
    elif own is not None:
        preprocessor = own(dataset, processing_class)
    elif processing_class is not None:
        raise UserError(f"a {type(teacher).__name__} doesn't say what its network reads: pass preprocessor= instead")
    inputs = ready_columns(teacher.network, dataset) if preprocessor is None and own is not None else None
    return Examples(dataset, preprocessor, views, inputs)
