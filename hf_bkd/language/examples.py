"""Texts, prompts with completions, and messages become rows of tokens, with those that are to be taught."""

import functools
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import datasets

from ..data.columns import is_soft_label_column
from ..data.preprocessors.content import TEXTS
from ..data.preprocessors.texts import template_hash, vocabulary_hash
from ..likelihoods import UNLABELED
from ..utils.checks import check_choice, check_count
from ..utils.errors import RowError, UserError
from .chats import ALPACA, MESSAGES, NOT_ALPACA, answers_in, as_messages, chats_in, said, with_messages

logger = logging.getLogger(__name__)

FEATURES = {"input_ids": datasets.List(datasets.Value("int32")), "labels": datasets.List(datasets.Value("int32"))}
TAUGHT = ("completions", "all")
MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")  # in a chat template, around what the assistant says
READ = "a column of texts ('text'), 'prompt' and 'completion', or chats ('messages')"


def tokenized(
    dataset: datasets.Dataset | datasets.DatasetDict,
    tokenizer: Any,
    max_length: int | None = None,
    taught: str | None = None,
) -> Any:
    """Turn texts, prompts with completions, or messages into rows of tokens for a causal language model.

    Args:
        dataset: with a column of texts; with ``prompt`` and ``completion``, each a text or messages; with
            ``messages``, lists of ``{"role", "content"}`` or of ShareGPT's ``{"from", "value"}`` under any name, and
            ``tools`` where there are some; or with Alpaca's ``instruction``, ``input`` and ``output``.
        tokenizer: of transformers. Texts and completions end in its end-of-text token, if it has one; messages are
            written by its chat template.
        max_length: tokens, at least 2; of longer rows the end is cut off. Rows stay as they are if not given.
        taught: ``"completions"``, what comes after a prompt or what the assistant says; or ``"all"`` tokens. Texts
            alone are taught whole.

    Returns:
        The dataset with the columns ``input_ids`` and ``labels``, which are the tokens that are taught and -100 at all
        others, and no others.

    Raises:
        UserError: no such column, messages without a chat template, or one of which nobody can tell what the assistant
            says where that alone is to be taught; a row without tokens.
    """
    if isinstance(dataset, datasets.DatasetDict):
        return datasets.DatasetDict(
            {name: tokenized(each, tokenizer, max_length, taught) for name, each in dataset.items()}
        )
    if max_length is not None:
        check_count(2, max_length=max_length)
    if taught is not None:
        check_choice(TAUGHT, taught=taught)
    if not isinstance(dataset, datasets.Dataset):
        raise UserError("only whole datasets are turned into tokens: load it without streaming")
    columns = _columns(dataset.features)
    tools = _tools(dataset, columns)
    plain = dataset.with_format(None).select_columns([*columns, *tools])
    if _are_chats(dataset.features, columns):
        plain, columns = with_messages(plain, columns), (MESSAGES,)
    if taught == "completions" and len(columns) == 1 and columns[0] != MESSAGES:
        raise UserError(
            f"taught='completions' needs a prompt before them, and column {columns[0]} holds texts: omit it"
        )
    reader = Reader(columns, tokenizer, max_length, taught or "completions")
    if is_conversational(plain.features, columns):
        reader.check_template(columns)
    rows = plain.map(
        reader,
        batched=True,
        with_indices=True,
        remove_columns=plain.column_names,
        features=datasets.Features(FEATURES | {"cut": datasets.Value("bool")}),
        desc="tokenizing",
    )
    cut = sum(rows["cut"][:])
    if cut:
        logger.warning(
            "%d of %d rows have more than max_length=%d tokens, and lose their end", cut, len(rows), max_length
        )
    return rows.remove_columns("cut")


def same_tokens(tokenizer: Any, other: Any) -> bool:
    """Return whether two tokenizers have the same vocabulary and the same chat template."""
    return vocabulary_hash(tokenizer) == vocabulary_hash(other) and template_hash(tokenizer) == template_hash(other)


def is_conversational(features: Mapping[str, Any], columns: tuple[str, ...] | None = None) -> bool:
    """Return whether a dataset's rows are messages, which a chat template writes."""
    columns = _columns(features) if columns is None else columns
    return columns[:2] == ALPACA or any(not _is_text(features[name]) for name in columns)


def _columns(features: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the columns that make up an example."""
    for columns in ((MESSAGES,), ("prompt", "completion")):
        if set(columns) <= set(features):
            return columns
    texts = [name for name, feature in features.items() if _is_text(feature) and not is_soft_label_column(name)]
    usual, chats = [name for name in TEXTS if name in texts], chats_in(features)
    if len(usual) == 1:
        return tuple(usual)
    if len(chats) == 1:
        return tuple(chats)
    if set(ALPACA) <= set(texts) and not {*NOT_ALPACA} & set(features):
        return (*ALPACA, "input") if "input" in texts else ALPACA
    if len(texts) == 1 and not chats:
        return tuple(texts)
    raise UserError(
        f"a language model is taught {READ}, and the dataset has the columns {', '.join(features)}: rename its own, "
        "as by dataset.rename_columns({'question': 'prompt', 'answer': 'completion'})"
    )


def _are_chats(features: Mapping[str, Any], columns: tuple[str, ...]) -> bool:
    if columns == (MESSAGES,) or columns[:2] == ALPACA:
        return True
    return len(columns) == 1 and not _is_text(features[columns[0]])


def _is_text(feature: Any) -> bool:
    return getattr(feature, "dtype", "") in ("string", "large_string")


def _tools(dataset: datasets.Dataset, columns: tuple[str, ...]) -> list[str]:
    return ["tools"] if "tools" in dataset.features and not _is_text(dataset.features[columns[0]]) else []


def _own_keys(value: Any) -> Any:
    """Return a nested value without the keys that hold nothing, which Arrow adds where other rows have them."""
    if isinstance(value, Mapping):
        return {key: _own_keys(each) for key, each in value.items() if each is not None}
    return [_own_keys(each) for each in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Reader:
    """A function from rows to tokens and those that are taught.

    Args:
        columns: that make up an example.
        tokenizer: makes the tokens.
        max_length: after which rows are cut off, if at all.
        taught: one of ``TAUGHT``.
    """

    columns: tuple[str, ...]
    tokenizer: Any
    max_length: int | None
    taught: str

    def check_template(self, columns: tuple[str, ...]) -> None:
        """Raise a UserError if there is no chat template."""
        if not getattr(self.tokenizer, "chat_template", None):
            raise UserError(
                f"column {columns[0]} holds messages, and the tokenizer has no chat template that writes them: set "
                "tokenizer.chat_template, or take the tokenizer of a model that chats"
            )

    def __call__(self, rows: Mapping[str, list], numbers: list[int]) -> dict[str, list]:
        """Turn rows, column name -> B values, into ``input_ids`` and ``labels``, and say which were cut off."""
        made: dict[str, list] = {name: [] for name in (*FEATURES, "cut")}
        for place, number in enumerate(numbers):
            row = {name: rows[name][place] for name in rows}
            missing = next((name for name in self.columns if row[name] is None), None)
            if missing is not None:
                raise RowError(f"row {number} of column {missing} holds no value: leave it out", number, missing)
            try:
                tokens, labels = self._example(row)
            except UserError:
                raise
            except Exception as error:
                raise RowError(
                    f"the tokenizer can't write row {number} ({type(error).__name__}: {error}): bring it to the form "
                    "of the others, or leave it out",
                    number,
                ) from error
            if not tokens:
                raise RowError(
                    f"row {number} has no tokens, and nothing could be learned from it: leave it out", number
                )
            made["cut"].append(self.max_length is not None and len(tokens) > self.max_length)
            made["input_ids"].append(tokens[: self.max_length])
            made["labels"].append([UNLABELED, *labels[1:]][: self.max_length])  # nothing could predict the first
        return made

    def _example(self, row: Mapping[str, Any]) -> tuple[list[int], list[int]]:
        if self.columns == (MESSAGES,):
            return self._messages(row)
        if len(self.columns) == 1:
            tokens = self._ended(self._tokens(row[self.columns[0]]))
            return tokens, tokens
        if isinstance(row["prompt"], str) != isinstance(row["completion"], str):
            raise UserError("one of prompt and completion is a text and the other messages: bring both to one form")
        if isinstance(row["prompt"], str):
            before, tokens = self._tokens(row["prompt"]), self._ended(self._tokens(row["prompt"] + row["completion"]))
        else:
            before = self._written(row, row["prompt"], add_generation_prompt=True)["input_ids"]
            tokens = self._written(row, [*row["prompt"], *row["completion"]])["input_ids"]
        if self.taught == "all":
            return tokens, tokens
        same = next(
            (n for n, (one, other) in enumerate(zip(before, tokens, strict=False)) if one != other), len(before)
        )
        if same < len(before) and not isinstance(row["prompt"], str):
            prompt = self._written(row, row["prompt"])["input_ids"]
            if same < len(prompt) - 1:  # whose last token may grow together with what follows
                raise UserError(
                    "the chat template writes a prompt otherwise when a completion follows, so that the two can't be "
                    "told apart: pass taught='all', or their messages in one column 'messages'"
                )
        return tokens, [UNLABELED] * min(same, len(tokens)) + tokens[same:]

    def prompt(self, row: Mapping[str, Any]) -> list[int]:
        """Return the tokens of a row's ``prompt``, a text or messages, after which an answer begins."""
        if not isinstance(row["prompt"], str):
            return self._written(row, row["prompt"], add_generation_prompt=True)["input_ids"]
        tokens = self._tokens(row["prompt"])
        return tokens[:-1] if tokens[-1:] == [self.tokenizer.eos_token_id] else tokens  # which some tokenizers add

    def _messages(self, row: Mapping[str, Any]) -> tuple[list[int], list[int]]:
        if self.taught == "all":
            tokens = self._written(row, row[MESSAGES])["input_ids"]
            return tokens, tokens
        if MARK.search(self.tokenizer.get_chat_template(tools=self._tools(row))):
            written = self._written(row, row[MESSAGES], return_assistant_tokens_mask=True)
            tokens, own = written["input_ids"], written["assistant_masks"]
        else:
            messages = as_messages(_own_keys(row[MESSAGES]))
            text, answers = answers_in(functools.partial(self._text, row), messages)
            encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            tokens, own = encoded["input_ids"], said(encoded["offset_mapping"], answers)
        return tokens, [token if taught else UNLABELED for token, taught in zip(tokens, own, strict=True)]

    def _written(self, row: Mapping[str, Any], messages: list[dict], **settings: Any) -> Mapping[str, list[int]]:
        """Return the tokens of what the chat template makes of messages, and what else is asked for."""
        return self._templated(row, messages, tokenize=True, return_dict=True, **settings)

    def _text(self, row: Mapping[str, Any], messages: list[dict], **settings: Any) -> str:
        return self._templated(row, messages, tokenize=False, **settings)

    def _templated(self, row: Mapping[str, Any], messages: list[dict], **settings: Any) -> Any:
        """Apply the chat template to messages, without the keys that Arrow adds to some of them.

        Raises:
            ValueError: what is no message, or a content that the template would write as Python does.
        """
        messages = as_messages(_own_keys(messages))
        if not all(isinstance(each, Mapping) and isinstance(each.get("role"), str) for each in messages):
            raise ValueError("messages are lists of {'role', 'content'}, and one of these says no role")
        tools = self._tools(row)
        given = {"tools": tools} if tools else {}
        parts = [each["content"] for each in messages if each.get("content") and not isinstance(each["content"], str)]
        if parts:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, **given)
            if any(str(each) in text for each in parts):
                raise ValueError("the chat template reads texts, and a message's content is a list of parts")
        return self.tokenizer.apply_chat_template(messages, **given | settings)

    @staticmethod
    def _tools(row: Mapping[str, Any]) -> list | None:
        tools = row.get("tools")
        return _own_keys(json.loads(tools) if isinstance(tools, str) else tools) or None

    def _tokens(self, text: str) -> list[int]:
        return self.tokenizer(text)["input_ids"]

    def _ended(self, tokens: list[int]) -> list[int]:
        end = self.tokenizer.eos_token_id
        return tokens if end is None or tokens[-1:] == [end] else [*tokens, end]
