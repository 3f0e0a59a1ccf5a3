"""What a language model is asked: texts or messages, as they stand in a dataset or as a template makes them."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta
from numbers import Number
from string import Formatter
from typing import Any

import datasets
import numpy as np
import torch

from ..data.caches import caches_elsewhere
from ..language import is_conversational, template_hash
from ..language.examples import Reader
from ..soft_labels.identity import content_ids
from ..utils.errors import RowError, UserError
from ..utils.random import GAMMA, mix_bits

PROMPT, MESSAGES, QUESTION = "prompt", "messages", "question"
PLAIN = "Question: {question}\nAnswer:"  # of a question, where no chat template asks it
IN_BRACES = "write names of columns in braces, and other braces twice"
WRITTEN = (str, Number, date, time, timedelta)  # what a template may write


@dataclass(frozen=True)
class Prompts:
    """The prompts of N rows.

    Args:
        dataset: the rows, with a column ``prompt``.
        tokens: N lists.
        keys: int64 [N], by which the answers are drawn: of the tokens, and of how many rows before have the same.
        template: by which texts were made, if they were.
        chat_template: hash of what wrote messages, if there are some.
    """

    dataset: datasets.Dataset
    tokens: list[list[int]]
    keys: torch.Tensor
    template: str | None
    chat_template: str | None

    @property
    def fingerprint(self) -> str:
        """A hash of all prompts in their order."""
        return hashlib.blake2b(self.keys.numpy().tobytes(), digest_size=8).hexdigest()


def read_prompts(dataset: datasets.Dataset, tokenizer: Any, template: str | None) -> Prompts:
    """Turn rows into prompts, and these into tokens.

    Args:
        dataset: with ``prompt``, texts or messages; with ``messages``, of which those after the last question are left
            out; or with ``question``, which the tokenizer's chat template asks, or else ``PLAIN``.
        tokenizer: of the language model.
        template: with the names of columns in braces, by which a text is made of each row instead.

    Raises:
        UserError: none of these columns, or one that the template lacks; a row without prompt or whose prompt is
            empty; messages without a chat template.
    """
    dataset, template = _with_prompts(dataset, tokenizer, template)
    conversational = is_conversational(dataset.features, (PROMPT,))
    reader = Reader((PROMPT,), tokenizer, None, "all")
    if conversational:
        reader.check_template((PROMPT,))
    columns = [PROMPT, *(["tools"] if conversational and "tools" in dataset.features else [])]
    tokens: list[list[int]] = []
    for row in dataset.with_format(None).select_columns(columns):
        tokens.append(_tokens(reader, row, len(tokens)))
    return Prompts(dataset, tokens, _keys(tokens), template, template_hash(tokenizer) if conversational else None)


def check_lengths(prompts: Prompts, longest: int | None, max_new_tokens: int, name: str) -> None:
    """Raise a UserError if a prompt and its answer are longer than a model, called ``name``, has positions."""
    if longest is None:
        return
    for number, tokens in enumerate(prompts.tokens):
        if len(tokens) + max_new_tokens > longest:
            raise RowError(
                f"the prompt of row {number} has {len(tokens)} tokens, which with max_new_tokens={max_new_tokens} are "
                f"more than the {longest} that {name} reads: shorten it or leave it out, or pass a smaller "
                "max_new_tokens",
                number,
                PROMPT,
            )


def _with_prompts(dataset: datasets.Dataset, tokenizer: Any, template: str | None) -> tuple[datasets.Dataset, Any]:
    features, rows = dataset.features, dataset.with_format(None)
    chats = bool(getattr(tokenizer, "chat_template", None))
    if template is None and PROMPT in features:
        return dataset, None
    if PROMPT in features:
        raise UserError(
            "the template's texts go into a column prompt, and the dataset has one: omit template=, or pass "
            "dataset.rename_column('prompt', 'own_prompt')"
        )
    if template is None and MESSAGES in features:
        asked = [_asked(each, number) for number, each in enumerate(rows[MESSAGES])]
        return _added(dataset, asked, features[MESSAGES]), None
    if template is None and QUESTION in features and chats:
        asked = [_question(each, number) for number, each in enumerate(rows[QUESTION])]
        text = datasets.Value("string")
        return _added(dataset, asked, datasets.List({"role": text, "content": text})), None
    if template is None and QUESTION not in features:
        raise UserError(
            "answers are sampled to a column 'prompt', 'messages' or 'question', and the dataset has the columns "
            f"{', '.join(features)}: rename its own, or pass template='... {{column}} ...'"
        )
    template = PLAIN if template is None else template
    return _added(dataset, _filled(template, rows), datasets.Value("string")), template


def _added(dataset: datasets.Dataset, values: Sequence[Any], feature: Any) -> datasets.Dataset:
    own = datasets.Dataset.from_dict({PROMPT: values}, features=datasets.Features({PROMPT: feature}))
    with caches_elsewhere(dataset):
        return datasets.concatenate_datasets([dataset.with_format(None), own], axis=1)


def _asked(messages: Sequence[Mapping[str, Any]] | None, number: int) -> list[Any] | None:
    """Return the messages up to the last that the assistant didn't say."""
    if messages is None:
        return None
    _check_prompt(messages, MESSAGES, number)
    others = [place for place, message in enumerate(messages) if message["role"] != "assistant"]
    if not others:
        raise RowError(f"the messages of row {number} ask nothing, all are the assistant's: leave it out", number)
    return list(messages[: others[-1] + 1])


def _question(question: Any, number: int) -> list[Any] | None:
    if question is None:
        return None
    if not isinstance(question, str):
        raise RowError(f"row {number} of column {QUESTION} holds {question!r}, which is no text", number, QUESTION)
    return [{"role": "user", "content": question}]


def _filled(template: str, rows: datasets.Dataset) -> list[str]:
    """Fill in a template with the columns that it names."""
    try:
        fields = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise _not_filled(template, rows.column_names, error) from error
    if not fields:
        raise UserError(f"the template {template!r} names no column, so that all prompts are the same: {IN_BRACES}")
    columns = {field: re.split(r"[.\[]", field)[0] for field in fields}
    missing = [name for name in columns.values() if name not in rows.features]
    if missing:
        raise _not_filled(template, rows.column_names, KeyError(missing[0]))
    made = []
    for number, row in enumerate(rows.select_columns(list(dict.fromkeys(columns.values())))):
        try:
            values = {field: Formatter().get_field(field, (), row)[0] for field in fields}
            made.append(template.format(**row) if None not in values.values() else "")
        except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
            raise _not_filled(template, rows.column_names, error) from error
        for field, value in values.items():
            if value is None:
                name = columns[field]
                raise RowError(f"row {number} of column {name} holds no value: leave it out", number, name)
            if not isinstance(value, WRITTEN):
                raise UserError(
                    f"the template names {{{field}}}, which is a {type(value).__name__} in row {number}, and only "
                    "texts and numbers can be written into a prompt: name one of its items, or make a column of texts"
                )
    return made


def _not_filled(template: str, columns: Sequence[str], error: Exception) -> UserError:
    return UserError(
        f"the template {template!r} can't be filled in with the columns {', '.join(columns)} ({error}): {IN_BRACES}"
    )


def _check_prompt(prompt: Any, column: str, number: int) -> None:
    """Raise a UserError if a value is neither a text nor messages, or one that is empty."""
    messages = prompt if isinstance(prompt, list) else []
    if isinstance(prompt, str) and column == PROMPT:
        text = prompt
    elif not isinstance(prompt, list) or not all(isinstance(each, Mapping) and each.get("role") for each in messages):
        raise RowError(
            f"row {number} of column {column} holds {prompt!r:.60}, and what is asked is a text (in 'prompt' or "
            "'question') or a list of messages with 'role' and 'content'",
            number,
            column,
        )
    else:
        text = "".join(str(each.get("content") or "") for each in messages)
    if not text.strip():
        raise RowError(f"row {number} has an empty prompt, to which nothing answers: leave it out", number, column)


def _tokens(reader: Reader, row: Mapping[str, Any], number: int) -> list[int]:
    prompt = "" if row[PROMPT] is None else row[PROMPT]
    _check_prompt(prompt, PROMPT, number)
    if isinstance(prompt, list) and prompt[-1]["role"] == "assistant":
        raise RowError(
            f"the prompt of row {number} ends in what the assistant says, so that nothing is asked: pass "
            "dataset.rename_column('prompt', 'messages'), whose last answers are not part of what is asked",
            number,
            PROMPT,
        )
    try:
        tokens = reader.prompt(row)
    except Exception as error:
        raise RowError(
            f"the tokenizer can't write the prompt of row {number} ({type(error).__name__}: {error}): bring it to the "
            "form of the others, or leave it out",
            number,
            PROMPT,
        ) from error
    if not tokens:
        raise RowError(f"the prompt of row {number} has no tokens: leave it out", number, PROMPT)
    return tokens


def _keys(tokens: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return an id [N] of each prompt, and another where the same stands before, so that repeated ones differ."""
    ids, seen, before = content_ids(tokens), {}, []
    for each in ids.tolist():
        before.append(seen.get(each, 0))
        seen[each] = before[-1] + 1
    repeated = torch.tensor(before, dtype=torch.int64)
    keys = torch.from_numpy(np.array(ids, dtype=np.int64))
    return torch.where(repeated > 0, mix_bits(keys + repeated * (GAMMA - (1 << 64))), keys)
