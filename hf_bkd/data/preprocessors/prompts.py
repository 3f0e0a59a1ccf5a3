"""Rows as the prompts that a language model is asked about their classes."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
from torch import Tensor

from ...models.prompted_network import PromptedNetwork
from ...models.prompts import Prompts, padded
from ...utils.errors import UserError
from ..columns import is_label
from ..rows import check_present
from .base import Preprocessor
from .content import TEXTS, Content
from .texts import check_lengths, check_vocabulary, longest_text, rules_hash, template_hash, vocabulary_hash

logger = logging.getLogger(__name__)

TEXT = "text"  # what prompts call the only column of texts, whatever its name
WRITTEN = ("string", "large_string", "int", "uint", "float", "double", "bool")  # beginnings of types
READ_AT_ONCE = 1000


def prompt_preprocessor(network: PromptedNetwork, dataset: Any, tokenizer: Any = None) -> Preprocessor:
    """Make the preprocessor of a language model that is asked with prompts: rows to the tokens of all prompts.

    Where a prompt and its row are longer than the model's positions, the row's values lose their beginnings, so that
    their ends and all of the prompt stay; how many rows these are is warned of.

    Args:
        network: with its prompts.
        dataset: whose columns the prompts name. ``{text}`` is also the only column of texts, or the usual one.
        tokenizer: that somebody passed, which must be the prompts'.

    Raises:
        UserError: columns that aren't there, or hold labels or what can't be written, another tokenizer, or prompts
            that are too long by themselves.
    """
    prompts, model = network.prompts, network.language_model
    own = vocabulary_hash(prompts.tokenizer)
    if tokenizer is not None and vocabulary_hash(tokenizer) != own:
        raise UserError(
            "the tokenizer that was passed is not the one that the prompts' label words were divided by: omit "
            "processing_class="
        )
    check_vocabulary(model, prompts.tokenizer)
    columns = _columns(prompts, dataset)
    longest = longest_text(model, prompts.tokenizer)
    prepare = PromptPreparation(prompts, columns, longest and longest - prompts.longest_answer)
    prepare.check_room(type(model).__name__)
    if isinstance(dataset, datasets.Dataset):
        _warn_of_cuts(prepare, dataset)
    settings = {"prompts": prompts.sources, "columns": columns, "tokenizer": type(prompts.tokenizer).__name__}
    settings |= {"vocabulary": own, "rules": rules_hash(prompts.tokenizer), "max_length": prepare.longest}
    settings |= {"chat_template": template_hash(prompts.tokenizer)} if prompts.in_chats else {}
    return Preprocessor("prompts", tuple(columns.values()), prepare, settings, processor=prompts.tokenizer)


@dataclass(frozen=True)
class PromptPreparation:
    """A preparation of rows as prompts, which worker processes can have.

    Args:
        prompts: what is asked.
        columns: name in the prompts -> name in the dataset.
        longest: tokens of a prompt, at most; without a limit if ``None``.
    """

    prompts: Prompts
    columns: dict[str, str]
    longest: int | None

    def __call__(self, rows: Mapping[str, Sequence]) -> dict[str, Tensor]:
        """Turn rows, column name -> B values, into ``input_ids`` and ``attention_mask`` [B, P, L]."""
        check_present(rows, tuple(self.columns.values()))
        asked = [[self.tokens(number, row) for number in range(len(self.prompts))] for row in self.values(rows)]
        return padded(asked)

    def values(self, rows: Mapping[str, Sequence]) -> list[dict[str, str]]:
        """Return what each row's columns say in the prompts; UserError for a row that says nothing."""
        names, own = list(self.columns), [rows[name] for name in self.columns.values()]
        values = [dict(zip(names, map(str, row), strict=True)) for row in zip(*own, strict=True)]
        if any(not "".join(row.values()).strip() for row in values):
            raise UserError("the row's text is empty, and nothing could be said of it: leave it out, or fill it in")
        return values

    def tokens(self, number: int, row: Mapping[str, str]) -> list[int]:
        """Return a prompt's tokens; of values that are too long as much of the ends as there is room for."""
        tokens = self.prompts.tokens(number, row)
        if self.longest is None or len(tokens) <= self.longest:
            check_lengths([len(tokens)])
            return tokens
        fits, least = self.prompts.tokens(number, dict.fromkeys(row, "")), 0
        most = max(map(len, row.values()))
        while most - least > 1:  # signs of each value that are kept
            middle = (least + most) // 2
            tokens = self.prompts.tokens(number, {name: value[-middle:] for name, value in row.items()})
            if len(tokens) <= self.longest:
                fits, least = tokens, middle
            else:
                most = middle
        return fits

    def is_cut(self, row: Mapping[str, str]) -> bool:
        """Return whether one of the prompts has no room for all of a row."""
        return any(len(self.prompts.tokens(number, row)) > self.longest for number in range(len(self.prompts)))

    def check_room(self, model: str) -> None:
        """Raise a UserError if a prompt has no room for a row."""
        for number in range(len(self.prompts) if self.longest is not None else 0):
            alone = len(self.prompts.tokens(number, dict.fromkeys(self.columns, "")))
            if alone >= self.longest:
                raise UserError(
                    f"prompt {number} has {alone} tokens by itself, and {model} room for {self.longest} before a "
                    "label word: shorten it"
                )


def _columns(prompts: Prompts, dataset: Any) -> dict[str, str]:
    """Return the dataset's column of each name in the prompts."""
    features, columns = dataset.features, {}
    for name in prompts.columns:
        own = name
        if name == TEXT and name not in features:
            texts = Content.of(dataset).of_kind("text")
            usual = [each for each in TEXTS if each in texts] or texts
            own = usual[0] if len(usual) == 1 else name
        if own not in features:
            raise UserError(
                f"a prompt names the column {{{name}}}, and the dataset has {', '.join(features)}: write one of its "
                "names into the prompt, or rename its column"
            )
        if is_label(own, features[own]):
            raise UserError(f"a prompt names the column {{{name}}}, which holds the labels: omit it from the prompt")
        if not str(getattr(features[own], "dtype", "")).startswith(WRITTEN):
            raise UserError(
                f"a prompt names the column {{{name}}}, which holds {features[own]}, and only texts and numbers can "
                "be written into one: make a column of texts of it"
            )
        columns[name] = own
    return columns


def _warn_of_cuts(prepare: PromptPreparation, dataset: datasets.Dataset) -> None:
    """Log how many rows lose their beginnings."""
    if prepare.longest is None:
        return
    prompts, cut = prepare.prompts, 0
    nothing = dict.fromkeys(prepare.columns, "")
    room = prepare.longest - max(len(prompts.tokens(number, nothing)) for number in range(len(prompts)))
    table = dataset.with_format(None).select_columns(list(prepare.columns.values()))
    for start in range(0, len(table), READ_AT_ONCE):
        rows = table[start : start + READ_AT_ONCE]
        for row in zip(*(rows[name] for name in prepare.columns.values()), strict=True):
            signs = sum(len(str(value).encode()) for value in row)
            if signs > room and None not in row:  # a token has a byte at least
                cut += prepare.is_cut(dict(zip(prepare.columns, map(str, row), strict=True)))
    if cut:
        logger.warning(
            "%d of %d rows have no room beside the prompts in %d tokens, and lose their beginnings",
            cut,
            len(table),
            prepare.longest,
        )
