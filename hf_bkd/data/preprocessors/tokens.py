"""Columns of tokens that are there already: made by the network's own tokenizer, or refused, and padded."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, permutations
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from ...likelihoods import UNLABELED
from ...models.calling import argument_names
from ...utils.errors import UserError
from ..rows import check_present
from .base import Preprocessor
from .content import PAIRS, TEXTS, Content
from .texts import check_lengths, padding_side

COMPARED = 16  # rows, evenly spaced; of a stream the first ones
AT_ONCE = 10_000  # rows
NAMES_OF_TEXTS = {*TEXTS, *(name for pair in PAIRS for name in pair)}


def check_tokens(network: nn.Module, content: Content, column: str, tokenizer: Any) -> None:
    """Refuse a column of tokens that another tokenizer than the network's made.

    They are compared with the network's vocabulary; the padding with the network's, where that tells it where a text
    ends; and, where texts stand beside them, with what the tokenizer makes of these: without special tokens a row's
    are to be tokens of its texts in their order (they may be cut), or all of its texts' are to be in it (there may be
    a prompt).

    Args:
        network: reads the tokens.
        content: of the dataset.
        column: of tokens.
        tokenizer: the network's, or ``None`` if it isn't known.

    Raises:
        UserError: they are another tokenizer's.
    """
    others = [*content.of_kind("text"), *({"attention_mask"} & content.features.keys())]
    rows = some_rows(content, column, others)
    _check_vocabulary(network, content.dataset, column, rows)
    rows = {number: row for number, row in rows.items() if row[column] and not isinstance(row[column][0], list)}
    _check_padding(network, column, rows)
    if tokenizer is None:
        return
    aside = {*tokenizer.all_special_ids, getattr(getattr(network, "config", None), "pad_token_id", None)}

    def words(ids: list[int]) -> list[int]:
        return [each for each in ids if each not in aside]

    def of_column(name: str) -> dict[int, list[int]]:
        made = tokenizer([row[name] or "" for row in rows.values()], add_special_tokens=False)["input_ids"]
        return dict(zip(rows, map(words, made), strict=True))

    own = {number: words(row[column]) for number, row in rows.items()}
    of_texts = {name: of_column(name) for name in content.of_kind("text")} if rows else {}
    enough = sum(map(len, own.values())) / 2  # tokens: a column of fewer is no text that these could be of
    read = [name for name, each in of_texts.items() if name in NAMES_OF_TEXTS or sum(map(len, each.values())) > enough]
    for number, ids in own.items():
        made = {name: its for name in read if (its := of_texts[name][number])}
        if ids and made and not any(_within(ids, whole) or _within(whole, ids) for whole in _orders(made)):
            name, its = next(iter(made.items()))
            raise UserError(
                f"row {number} of column {column} holds the tokens {_first(ids)}, and the network's tokenizer makes "
                f"{_first(its)} of its {name}: they are another tokenizer's; pass dataset.remove_columns({column!r}), "
                f"so that the texts are read, or, if the tokens are right, dataset.remove_columns({list(made)})"
            )


def some_rows(content: Content, column: str, others: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Return some columns of ``COMPARED`` rows, evenly spaced, by the rows' numbers."""
    dataset = content.dataset.select_columns([column, *others])
    if not isinstance(dataset, datasets.Dataset):
        return dict(enumerate(islice(dataset, COMPARED)))
    numbers = np.unique(np.linspace(0, len(dataset) - 1, min(COMPARED, len(dataset))).round().astype(int)).tolist()
    return dict(zip(numbers, dataset.with_format(None).select(numbers), strict=True))


def _orders(made: Mapping[str, list[int]]) -> Iterator[list[int]]:
    """Yield what a row's tokens may be of: each text, and each two in a row."""
    yield from made.values()
    for first, second in permutations(made.values(), 2):
        yield first + second


def _within(tokens: list[int], whole: list[int]) -> bool:
    """Whether tokens stand among others, in their order."""
    left = iter(whole)
    return all(each in left for each in tokens)


def _first(tokens: list[int]) -> str:
    return ", ".join(map(str, tokens[:5])) + ", ..." * (len(tokens) > 5)


def _check_vocabulary(network: nn.Module, dataset: Any, column: str, rows: Mapping[int, dict[str, Any]]) -> None:
    known = _num_embeddings(network)
    if known is None:
        return
    for values in _pieces(dataset, column, rows):
        while isinstance(values, pa.ExtensionArray) or pa.types.is_nested(values.type):
            values = values.storage if isinstance(values, pa.ExtensionArray) else values.flatten()
        lowest, highest = pc.min_max(values).as_py().values()
        if highest is not None and (highest >= known or lowest < 0):
            raise UserError(
                f"the column {column} holds the token {highest if highest >= known else lowest}, and "
                f"{type(network).__name__} knows the tokens 0 to {known - 1}: they are another tokenizer's, or not "
                "its input; make them with the network's own"
            )


def _pieces(dataset: Any, column: str, rows: Mapping[int, dict[str, Any]]) -> Iterator[pa.Array]:
    """Yield the tokens of a dataset, or of some rows of a stream."""
    if not isinstance(dataset, datasets.Dataset):
        yield pa.array([row[column] for row in rows.values()])
        return
    table = dataset.with_format("arrow").select_columns([column])
    for start in range(0, len(table), AT_ONCE):
        yield from table[start : start + AT_ONCE][column].chunks


def _num_embeddings(network: nn.Module) -> int | None:
    """Return how many tokens a network knows: of one that doesn't say which layer reads them, its largest one's."""
    try:
        layers = [network.get_input_embeddings()]
    except (AttributeError, NotImplementedError):
        layers = list(network.modules())
    sizes = [each.num_embeddings for each in layers if isinstance(each, (nn.Embedding, nn.EmbeddingBag))]
    return max(sizes, default=None)


def _check_padding(network: nn.Module, column: str, rows: Mapping[int, dict[str, Any]]) -> None:
    """Compare the tokens that aren't attended to, at either end, with those that tell a decoder where a text ends."""
    padding = getattr(getattr(network, "config", None), "pad_token_id", None)
    if padding is None or not hasattr(network, "score"):
        return
    for number, row in rows.items():
        mask = row.get("attention_mask") or ()
        others = {row[column][end] for end in (0, -1) if mask and not mask[end]} - {padding}
        if others:
            raise UserError(
                f"row {number} of column {column} ends in the token {min(others)}, which its mask hides, and "
                f"{type(network).__name__} finds a text's end by its padding token {padding}: make them with the "
                f"network's own tokenizer, or set network.config.pad_token_id = {min(others)}"
            )


def token_preprocessor(network: nn.Module, columns: tuple[str, ...], tokenizer: Any) -> Preprocessor:
    """Make the preprocessor of columns of tokens (``input_ids`` and what belongs to them) of several lengths.

    Rows are padded to the longest of a batch, on the :func:`padding_side` and with the network's padding token.

    Raises:
        UserError: neither network nor tokenizer name a padding token.
    """
    config = getattr(network, "config", None)
    padding = getattr(config, "pad_token_id", None)
    padding = getattr(tokenizer, "pad_token_id", None) if padding is None else padding
    if padding is None:
        raise UserError(
            "rows of tokens of several lengths have to be padded, and neither network nor tokenizer names a padding "
            "token: set network.config.pad_token_id"
        )
    prepare = TokenPreparation(
        columns, padding, padding_side(network, tokenizer), "attention_mask" in argument_names(network)
    )
    settings = {"tokens": list(columns), "padding": padding}
    return Preprocessor("text", columns, prepare, settings, processor=tokenizer, prepare_labeled=prepare.labeled)


@dataclass(frozen=True)
class TokenPreparation:
    """A preparation of rows of tokens, which worker processes can have.

    Args:
        columns: of tokens and what belongs to them.
        padding: token that rows are padded with.
        side: on which they are.
        masked: whether the network takes a mask.
    """

    columns: tuple[str, ...]
    padding: int
    side: str
    masked: bool

    def __call__(self, rows: dict[str, list]) -> dict[str, Tensor]:
        """Pad the rows to the longest of them."""
        check_present(rows, self.columns)
        ids = rows["input_ids"]
        check_lengths(list(map(len, ids)))
        inputs = {name: self._padded(rows[name], self.padding * (name == "input_ids")) for name in self.columns}
        if self.masked and "attention_mask" not in inputs:
            inputs["attention_mask"] = self._padded([[1] * len(each) for each in ids], 0)
        return inputs

    def labeled(self, rows: dict[str, list], labels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Pad rows with a label for each token, and their labels, where there are some."""
        own = zip(labels, rows["input_ids"], strict=True)
        values = [each.tolist() or [UNLABELED] * len(tokens) for each, tokens in own]
        return self(rows) | {"labels": self._padded(values, UNLABELED)}

    def _padded(self, values: list, value: int) -> Tensor:
        longest = max(map(len, values))
        fill = [[value] * (longest - len(each)) for each in values]
        before = self.side == "left"
        return torch.tensor([[*f, *v] if before else [*v, *f] for f, v in zip(fill, values, strict=True)])
