"""How the trainer of a language model reads a dataset: rows of tokens as padded or packed batches with soft labels."""

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ..data.columns import EXAMPLE_ID
from ..data.preprocessors import Preprocessor, preprocessor_for
from ..data.rows import reason
from ..likelihoods import CATEGORICAL, UNLABELED
from ..models.token_networks import check_next_tokens, vocabulary_size
from ..soft_labels.identity import Identity
from ..soft_labels.lists import combined
from ..utils.errors import UserError
from ..utils.seeding import unmoved_randomness
from .collating import Collator
from .first_batch import ROWS, first_batch, outputs_of_first_batch
from .next_token_loss import next_token_labels
from .next_token_targets import StoredTokens
from .online_teacher import OnlineTeacher, Source
from .problem import Problem
from .reader import TRAINING_SET, Loaded, Reader, is_prepared, naming
from .supervision import network_inputs


class NextTokenReader(Reader):
    """A language model's trainer's way to read datasets: rows of tokens, whose labels are tokens too."""

    def loaded(
        self, what: str, dataset: Any, source: Source | None = None, needs_labels: bool | None = None
    ) -> Loaded:
        """Say how the Trainer reads a dataset, as `Reader` does; one without a column of labels has all of its tokens.

        Raises:
            UserError: no tokens, ones of another tokenizer or that the student can't take; a student that sees what
                comes after a token, or other texts of a packed row; a batch in which nothing is taught.
        """
        problem = Problem(CATEGORICAL, True, vocabulary_size(self.network), next_tokens=True)
        with unmoved_randomness(), naming(what):
            loaded = self._read(dataset, source)._replace(problem=problem)
            batch = self._first_batch(loaded)
            if not isinstance(batch, Mapping) or "input_ids" not in batch:
                raise UserError(
                    "the batches of a language model need input_ids: pass hf_bkd.tokenized(dataset, tokenizer)"
                )
            if self.asks:
                outputs_of_first_batch(self.network, batch, what)
                check_next_tokens(self.network, network_inputs(batch))
            if source is not None:
                target = source.target(batch)
                if isinstance(source, OnlineTeacher):
                    source.check_num_classes(problem.num_values)
                elif target[0].shape[:2] != batch["input_ids"].shape:
                    raise UserError(
                        f"a batch has soft labels of {list(target[0].shape[:2])} tokens, and its input_ids are "
                        f"{list(batch['input_ids'].shape)}: leave data_collator out, so that both are read alike"
                    )
            if what == TRAINING_SET and isinstance(dataset, datasets.Dataset):
                _check_taught(loaded.dataset, batch)
        return loaded

    def _first_batch(self, loaded: Loaded) -> Any:
        try:
            return first_batch(loaded.dataset, loaded.collate, ROWS)
        except ValueError as error:
            if self.prepares or isinstance(error, UserError):
                raise
            raise UserError(
                f"the data_collator makes no batch of the rows ({reason(error)}): leave data_collator out, by which "
                "rows of tokens are padded with their labels"
            ) from error

    def _read(self, dataset: Any, source: Source | None) -> Loaded:
        if not (self.prepares and is_prepared(dataset)):
            network = self.network if self.args.remove_unused_columns else None
            return Loaded(dataset, Collator(self.per_example, source, network))
        prepare = preprocessor_for(self.network, dataset, self.processing)
        if isinstance(source, StoredTokens):
            source.check_tokenizer(prepare, prepare.processor)
        rows = TokenRows(dataset, prepare, source)
        if isinstance(dataset, datasets.Dataset):
            return Loaded(rows, rows)
        return Loaded(dataset.select_columns(rows.columns).with_format(None), rows)


def _check_taught(dataset: Any, batch: Mapping[str, Tensor]) -> None:
    if (next_token_labels(batch) != UNLABELED).any() or not isinstance(dataset, TokenRows):
        return
    if not dataset.teaches():
        raise UserError("no token of the training set is taught, all of its labels are -100: see hf_bkd.tokenized")


class TokenRows(torch.utils.data.Dataset):
    """Rows of tokens as batches of a language model: ``rows[[3, 5]]`` is what it is trained on, or collated rows."""

    def __init__(self, dataset: Any, prepare: Preprocessor, source: Source | None):
        self.dataset, self.prepare, self.source = dataset, prepare, source
        self.columns = [*prepare.columns, *prepare.beside]
        self.identity = Identity(prepare.columns) if isinstance(source, OnlineTeacher) else None
        if isinstance(source, StoredTokens):
            self.columns += source.columns
        self._rows = None
        if isinstance(dataset, datasets.Dataset):
            self._rows = dataset.with_format("arrow").select_columns(self.columns)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int | list[int]) -> dict[str, Any]:
        if isinstance(index, int):
            return {name: value[0] for name, value in self.__getitems__([index]).items()}
        return self.__getitems__(index)

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        return self._batch(self._rows[indices])

    def __call__(self, examples: Any) -> dict[str, Any]:
        """Hand on a batch, or make one of a list of a stream's rows."""
        if isinstance(examples, dict):
            return examples
        columns = {name: [example[name] for example in examples] for name in self.columns}
        schema = pa.schema([self.dataset.features.arrow_schema.field(name) for name in self.columns])
        return self._batch(pa.table(columns, schema=schema))

    def teaches(self) -> bool:
        """Return whether any token is taught."""
        if "labels" not in self.columns:
            return True
        labels = self.dataset.with_format("numpy")["labels"]
        return any((np.asarray(row) != UNLABELED).any() for row in labels)

    def _batch(self, rows: pa.Table) -> dict[str, Any]:
        table = {name: combined(rows[name]) for name in self.columns}
        lists = {name: _rows_of(table[name]) for name in (*self.prepare.columns, *self.prepare.beside)}
        batch = dict(self.prepare(lists))
        lengths = batch.pop("lengths")
        if isinstance(self.source, StoredTokens):
            places = torch.arange(int(lengths.max())) < lengths[:, None]
            batch |= self.source.from_table(table, places)
        if self.identity is not None:
            batch[EXAMPLE_ID] = torch.from_numpy(self.identity.ids({name: lists[name] for name in lists}).copy())
        return batch


def _rows_of(column: pa.Array) -> list[np.ndarray | None]:
    """Return the lists of an Arrow column as arrays."""
    if column.null_count:
        return [None if row is None else np.asarray(row) for row in column.to_pylist()]
    values, ends = column.flatten().to_numpy(zero_copy_only=False), np.asarray(column.value_lengths()).cumsum()
    return np.split(values, ends[:-1])
