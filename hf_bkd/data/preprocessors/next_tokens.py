"""Rows of tokens as a causal language model reads them: padded, or packed, with the tokens that it is taught."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from ...likelihoods import UNLABELED
from ...models.calling import argument_names
from ...models.token_networks import vocabulary_size
from ...utils.errors import UserError
from ..rows import check_present
from .base import Preprocessor
from .content import Content
from .texts import longest_text, vocabulary_hash
from .tokens import check_tokens

PACKED = ("position_ids", "seq_lengths")  # either says where the texts of a packed row begin
MASKS = ("completion_mask", "assistant_masks")  # by which trl says what is taught
AT_ONCE = 10_000  # rows


def next_token_preprocessor(network: nn.Module, content: Content, tokenizer: Any) -> Preprocessor:
    """Make the preprocessor of columns ``input_ids`` and, where they are there, of what belongs to them.

    ``labels`` say which tokens are taught (all but those with -100; all of a dataset without such a column), and
    ``position_ids`` or trl's ``seq_lengths`` where the texts of a packed row begin. Rows are padded at their end,
    which changes nothing of what a causal model says before it.

    Args:
        network: a causal language model.
        content: of the dataset.
        tokenizer: the network's, or ``None`` if it isn't known.

    Raises:
        UserError: there are no tokens, tokens of another vocabulary, or rows of more tokens than the network has
            positions; packed rows that it can't take apart.
    """
    name, taken = type(network).__name__, argument_names(network)
    if "input_ids" not in content.features:
        raise UserError(
            f"{name} predicts the next of a row's input_ids, and the dataset has no such column, only "
            f"{', '.join(content.dataset.features)}: pass hf_bkd.tokenized(dataset, tokenizer)"
        )
    masks = [each for each in MASKS if each in content.dataset.features]
    if masks and "labels" not in content.dataset.features:
        raise UserError(
            f"the rows have a column {masks[0]} and no labels, and all of their tokens would be taught: add a column "
            f"labels, the tokens where {masks[0]} is 1 and {UNLABELED} elsewhere, or remove it"
        )
    check_tokens(network, content, "input_ids", tokenizer)
    beside = [each for each in ("attention_mask", *PACKED) if each in content.features]
    packed = next((each for each in PACKED if each in beside), None)
    if packed is not None and "position_ids" not in taken:
        raise UserError(
            f"the rows are packed, as their column {packed} says, and {name} takes no position_ids, so that its texts "
            "would see each other: pass rows of one text each"
        )
    beside = [packed] if packed is not None else beside
    _check_positions(network, content.dataset, packed)
    padding = getattr(getattr(network, "config", None), "pad_token_id", None)
    padding = padding if padding is not None and 0 <= padding < vocabulary_size(network) else 0  # nothing reads it
    prepare = NextTokenPreparation(padding, "attention_mask" in taken)
    settings = {"next_tokens": sorted(["input_ids", *beside]), "padding": padding}
    if tokenizer is not None:
        settings |= {"tokenizer": type(tokenizer).__name__, "vocabulary": vocabulary_hash(tokenizer)}
    labels = ("labels",) if "labels" in content.dataset.features else ()
    return Preprocessor("text", ("input_ids", *beside), prepare, settings, processor=tokenizer, beside=labels)


def _check_positions(network: nn.Module, dataset: Any, packed: str | None) -> None:
    longest = longest_positions(network)
    if longest is None or packed == "position_ids" or not isinstance(dataset, datasets.Dataset):
        return
    column = packed or "input_ids"
    table = dataset.with_format("arrow").select_columns([column])
    for start in range(0, len(table), AT_ONCE):
        values = table[start : start + AT_ONCE][column]
        lengths = pc.list_value_length(values) if packed is None else pc.list_flatten(values)
        highest = pc.max(lengths).as_py()
        if highest is not None and highest > longest:
            row = start + pc.index(lengths, highest).as_py() if packed is None else None
            raise UserError(
                f"{'a text of a packed row' if row is None else f'row {row}'} has {highest} tokens, and "
                f"{type(network).__name__} {longest} positions: pass max_length={longest} to hf_bkd.tokenized, which "
                "cuts longer ones, or leave them out"
            )


def longest_positions(network: nn.Module) -> int | None:
    """Return how many tokens a language model has positions for; ``None`` if it doesn't say."""
    return longest_text(network, None)


@dataclass(frozen=True)
class NextTokenPreparation:
    """A preparation of rows of tokens for a causal language model, which worker processes can have.

    Args:
        padding: token that rows are padded with.
        masked: whether the network takes a mask.
    """

    padding: int
    masked: bool

    def __call__(self, rows: Mapping[str, Sequence]) -> dict[str, Tensor]:
        """Turn rows, column name -> B lists or arrays, into inputs, ``labels`` [B, L] and ``lengths`` [B]."""
        check_present(rows, [name for name in rows if name != "labels"])
        lengths = torch.tensor([len(each) for each in rows["input_ids"]])
        if 0 in lengths:
            raise UserError("a row has no tokens, and nothing could be said of it: leave it out")
        places = torch.arange(int(lengths.max())) < lengths[:, None]
        ids = placed_rows("input_ids", rows["input_ids"], places, self.padding)
        positions = _positions(rows, places)
        inputs, attended = {"input_ids": ids}, places
        if positions is not None:
            inputs["position_ids"] = positions
        elif self.masked or "attention_mask" in rows:
            mask = (
                placed_rows("attention_mask", rows["attention_mask"], places, 0) if "attention_mask" in rows else None
            )
            attended = places if mask is None else mask.bool()
            if self.masked:
                inputs["attention_mask"] = attended.long()
        labels = placed_rows("labels", rows["labels"], places, UNLABELED) if "labels" in rows else ids
        labels = labels.masked_fill(~attended, UNLABELED)
        if ((labels != UNLABELED) & (labels != ids)).any():
            raise UserError(
                "a row's labels are other tokens than its input_ids: they are to be the same tokens at the same "
                f"places, {UNLABELED} where nothing is taught, and are shifted later"
            )
        labels[:, 0] = UNLABELED  # nothing comes before it that could predict it
        if positions is not None:
            labels[positions == 0] = UNLABELED
        return inputs | {"labels": labels, "lengths": lengths}


def placed_rows(name: str, rows: Sequence, places: Tensor, fill: int) -> Tensor:
    """Return rows of numbers as int64 [B, L] with ``fill`` where there is none; UserError if they differ in length."""
    expected = places.sum(dim=1).tolist()
    wrong = [row for row, length in zip(rows, expected, strict=True) if row is None or len(row) != length]
    if wrong:
        found = 0 if wrong[0] is None else len(wrong[0])
        raise UserError(
            f"a row of column {name} has {found} entries, and its input_ids another number: cut all columns of a row "
            "alike, or make them again with hf_bkd.tokenized"
        )
    result = torch.full(places.shape, fill)
    result[places] = torch.from_numpy(np.concatenate([np.asarray(row, dtype=np.int64) for row in rows]))
    return result


def _positions(rows: Mapping[str, Sequence], places: Tensor) -> Tensor | None:
    """Return the position of each token in its own text, of packed rows; padding is a text of its own."""
    if not set(PACKED) & set(rows):
        return None
    counted = torch.arange(places.shape[1]).expand(places.shape)
    after = counted - places.sum(dim=1, keepdim=True)
    if "position_ids" in rows:
        given = placed_rows("position_ids", rows["position_ids"], places, 0)
        return torch.where(places, given, after)
    starts = [np.concatenate([np.arange(length) for length in row]) for row in rows["seq_lengths"]]
    return torch.where(places, placed_rows("seq_lengths", starts, places, 0), after)
