"""Answers as rows that a language model is taught: a prompt and its completion."""

from collections.abc import Sequence
from typing import Any

import datasets

from ..data.caches import caches_elsewhere
from ..utils.errors import UserError
from .prompts import PROMPT

ANSWER, NUMBER = "completion", "response"


def completions(
    dataset: datasets.Dataset, rows: Sequence[int], texts: Sequence[str], numbers: Sequence[int]
) -> datasets.Dataset:
    """Return the prompts of some rows with a text each, which answers it, and that answer's number."""
    check_has_prompt(dataset)
    conversational = getattr(dataset.features[PROMPT], "dtype", "") not in ("string", "large_string")
    feature: Any = datasets.Value("string")
    answers: list[Any] = list(texts)
    if conversational:
        answers = [[{"role": "assistant", "content": text}] for text in texts]
        feature = datasets.List({"role": feature, "content": feature})
    columns = [PROMPT, *(["tools"] if conversational and "tools" in dataset.column_names else [])]
    features = datasets.Features({ANSWER: feature, NUMBER: datasets.Value("int32")})
    own = datasets.Dataset.from_dict({ANSWER: answers, NUMBER: list(numbers)}, features=features)
    with caches_elsewhere(dataset):
        asked = dataset.with_format(None).select_columns(columns).select(rows)
        return datasets.concatenate_datasets([asked, own], axis=1)


def check_has_prompt(dataset: datasets.Dataset) -> None:
    """Raise a UserError if what was asked isn't there any more."""
    if PROMPT not in dataset.column_names:
        raise UserError(
            f"answers need their column {PROMPT}, what was asked, and the dataset has "
            f"{', '.join(dataset.column_names)}: keep it beside them"
        )
