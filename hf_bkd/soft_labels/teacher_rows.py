"""The rows of a dataset as the teacher that is asked about them reads them."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import pandas as pd

from ..data.preprocessors import Preprocessor, ready_columns, tokenizer_of
from ..data.preprocessors.functions import function_preprocessor
from ..data.views import Views
from ..language import is_conversational, template_hash, tokenized
from ..utils.errors import UserError
from .columns import check_reserved
from .examples import AnyDataset, Examples
from .kinds import is_language_model


def check_dataset(dataset: AnyDataset) -> None:
    """Raise a UserError if a dataset has no rows, no known columns, or columns that are called like soft labels."""
    if isinstance(dataset, pd.DataFrame):
        raise UserError("a DataFrame is no dataset: label datasets.Dataset.from_pandas(frame, preserve_index=False)")
    if isinstance(dataset, Mapping):
        raise UserError(
            f"the dataset has the splits {', '.join(map(str, dataset))}, and one is labeled at a time: pass "
            f"dataset[{next(iter(dataset), 'train')!r}]"
        )
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


def in_tokens(
    dataset: AnyDataset, teachers: Sequence[Any], preprocessor: Any, processing_class: Any, max_length: int | None
) -> tuple[AnyDataset, str | None]:
    """The rows as a language model is asked about them, and the hash of the chat template that wrote their messages.

    The rows of other teachers, and those that hold tokens, stay as they are.

    Args:
        dataset: the rows.
        teachers: who are asked about them.
        preprocessor: as it was passed, which language models have none of.
        processing_class: the tokenizer, if not the first teacher's own.
        max_length: tokens after which texts are cut.

    Raises:
        UserError: as :func:`~hf_bkd.tokenized`; a stream; a maximum length of what is no text of a language model.
    """
    if not any(map(is_language_model, teachers)):
        if max_length is not None:
            raise UserError("max_length cuts the texts of a language model, and the teacher is none: omit it")
        return dataset, None
    if preprocessor is not None:
        raise UserError("a language model is asked about tokens: pass processing_class=, its tokenizer, instead")
    if not isinstance(dataset, datasets.Dataset):
        raise UserError("the tokens of a stream would be lost beside their labels: load it without streaming")
    if "input_ids" in dataset.features:
        if max_length is not None:
            raise UserError(
                f"the rows are tokens already, which max_length={max_length} doesn't cut: pass it to hf_bkd.tokenized"
            )
        return dataset, None
    asked = [teachers[0], *getattr(teachers[0], "parts", ())]
    given = [(each.network, processing_class or getattr(each, "processing_class", None)) for each in asked]
    tokenizer = next((each for each in map(tokenizer_of, *zip(*given, strict=True)) if each is not None), None)
    if tokenizer is None:
        raise UserError(
            f"nothing says how texts become the tokens of {type(teachers[0].network).__name__}: pass "
            "processing_class=, the tokenizer that it was trained with"
        )
    template = template_hash(tokenizer) if is_conversational(dataset.features) else None
    return tokenized(dataset, tokenizer, max_length), template
