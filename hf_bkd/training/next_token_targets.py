"""Stored soft labels of next tokens as the targets of a language model, and whether they stand where they should."""

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from ..data.columns import PROBS, TOKEN_IDS
from ..data.preprocessors import tokenizer_hash
from ..language import template_hash
from ..soft_labels.belonging import Facts, check_belonging
from ..soft_labels.columns import teachers_of
from ..soft_labels.layout import Layout
from ..soft_labels.lists import combined, lists_of
from ..soft_labels.reading import stored_labels
from ..soft_labels.token_positions import check_positions
from ..utils.errors import UserError
from .arguments import DistillationTrainingArguments

ROWS_AT_ONCE = 256


class StoredTokens:
    """The soft labels of next tokens in a training set.

    In a batch they are ``teacher_probs`` [B, L, k] and, unless they are of all tokens, ``teacher_tokens`` [B, L, k].

    Args:
        dataset: the training set.
        args: the trainer's.
        num_tokens: of the student's vocabulary.

    Raises:
        UserError: as :func:`~hf_bkd.soft_labels.reading.stored_labels`; labels of something else than next tokens, of
            several teachers, of tokens that the student doesn't have, or of other positions than they stand at.
    """

    def __init__(self, dataset: Any, args: DistillationTrainingArguments, num_tokens: int):
        self.stored = stored_labels(dataset, args.teacher_temperature, None, args.allow_unrecorded_labels)
        self.args, self.num_values, self.reads_labels = args, num_tokens, args.kd_lambda < 1
        teachers = teachers_of(list(dataset.column_names))
        if len(teachers) > 1:
            raise UserError(
                f"the labels of {len(teachers)} teachers are there, and a language model learns from those of one: "
                "remove the others' columns, or label with an EnsembleTeacher of them"
            )
        self.layout: Layout = next(iter(self.stored.values())).layout
        if not self.layout.next_tokens:
            raise UserError(
                f"column {self.layout.name} holds no labels of next tokens, and the student is a language model: "
                "label with a teacher that is one, by add_soft_labels"
            )
        if isinstance(dataset, datasets.Dataset):
            self._check_tokens(dataset)
            check_positions(dataset, self.layout)

    @property
    def is_cut(self) -> bool:
        """Whether what is missing to one belongs to all other tokens together."""
        return self.layout.record.storage == "top_k"

    @property
    def temperature(self) -> float:
        """The temperature T_t of the targets."""
        return self.layout.temperature

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return [each for each in (self.layout.token_ids, self.layout.name) if each is not None]

    def check_tokenizer(self, prepare: Any, tokenizer: Any) -> None:
        """Raise a UserError if the tokens, or messages that they are of, were made by others than the student's."""
        record = self.layout.record
        if record.tokenizer is not None:
            check_belonging(self.layout, Facts(tokenizer=tokenizer_hash(prepare)))
        own = template_hash(tokenizer)
        if None not in (record.chat_template, own) and record.chat_template != own:
            raise UserError(
                f"{self.layout.name} was made for messages by another chat template ({record.chat_template}) than the "
                f"student's ({own}): pass processing_class=, the teacher's tokenizer, or label again with the "
                "student's"
            )

    def from_table(self, table: Mapping[str, pa.Array], places: Tensor) -> dict[str, Tensor]:
        """Return the soft labels of rows whose tokens stand at some places, bool [B, L], of a batch, by column."""
        return {kind: _placed(_entries(table[name], name), places) for kind, name in self._named()}

    def decoded(self, rows: Mapping[str, Any], mask: Tensor | None = None) -> dict[str, Tensor]:
        """Return the soft labels of rows that somebody else has collated; arguments as of `StoredLabels`."""
        lengths = [len(row) for row in rows[self.layout.name]]
        longest = max(lengths) if mask is None else mask.shape[1]
        if mask is not None and (mask.sum(dim=1) != torch.tensor(lengths, device=mask.device)).any():
            raise UserError(
                f"the data_collator made rows of {mask.sum(dim=1).tolist()} tokens, and column {self.layout.name} has "
                f"labels of {lengths}: leave data_collator out, so that both are read alike"
            )
        ends = torch.arange(longest) < torch.tensor(lengths)[:, None]
        places = ends if mask is None else mask.bool().cpu()
        flat = {name: np.concatenate([np.asarray(row) for row in rows[name]]) for _, name in self._named()}
        return {kind: _placed(torch.from_numpy(_own(flat[name])), places) for kind, name in self._named()}

    def _named(self) -> list[tuple[str, str]]:
        names = [(TOKEN_IDS, self.layout.token_ids), (PROBS, self.layout.name)]
        return [(kind, name) for kind, name in names if name is not None]

    def target(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the probabilities [B, L, k] in a batch, and of which tokens; UserError if they are missing."""
        if PROBS not in batch or (self.layout.token_ids is not None and TOKEN_IDS not in batch):
            raise UserError(f"a batch has no {PROBS}: leave data_collator out, so that the rows' soft labels are read")
        return batch[PROBS], batch.get(TOKEN_IDS)

    def _check_tokens(self, dataset: datasets.Dataset) -> None:
        """Raise a UserError if a label names a token that the student doesn't have."""
        if self.layout.token_ids is None:
            if self.layout.num_classes != self.num_values:
                raise UserError(
                    f"{self.layout.name} holds the whole vocabulary of {self.layout.num_classes} tokens, and the "
                    f"student has {self.num_values}: label again with storage='sampled', whose tokens both know"
                )
            return
        rows = dataset.with_format("arrow").select_columns([self.layout.token_ids])
        for start in range(0, len(rows), ROWS_AT_ONCE):
            ids = combined(rows[start : start + ROWS_AT_ONCE][self.layout.token_ids])
            highest = pc.max(ids.flatten().flatten()).as_py()
            if highest is not None and highest >= self.num_values:
                raise UserError(
                    f"rows {start} to {min(start + ROWS_AT_ONCE, len(rows)) - 1} of column {self.layout.token_ids} "
                    f"name the token {highest}, and the student has {self.num_values}: take a student of the "
                    "teacher's vocabulary"
                )


def _entries(column: pa.Array, name: str) -> Tensor:
    """Return the entries of rows, one after the other [T, k], of whole numbers as int64."""
    entries = column.flatten()
    if not pa.types.is_fixed_size_list(entries.type):
        values = lists_of(entries, name)
        return values if values.is_floating_point() else values.long()
    values = entries.flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(_own(values)).unflatten(0, (-1, entries.type.list_size))


def _placed(flat: Tensor, places: Tensor) -> Tensor:
    """Place [T, k] at the T places that are true among [B, L]: [B, L, k], zeros elsewhere."""
    if places.all():
        return flat.unflatten(0, places.shape)
    result = flat.new_zeros(*places.shape, flat.shape[-1])
    result[places] = flat
    return result


def _own(values: np.ndarray) -> np.ndarray:
    """Return a copy of numbers, of whole ones in the type that torch counts with."""
    return values.astype(values.dtype if values.dtype.kind == "f" else np.int64)
