"""Texts as tokens in memory, read a whole batch at a time."""

from collections.abc import Callable
from functools import cached_property
from typing import Self

import datasets
import torch
from torch import Tensor

from ..soft_labels.identity import content_ids
from ..utils.errors import UserError
from .batched_dataset import BatchedDataset


class BatchedTexts(BatchedDataset):
    """Token columns [N, L], of which a batch gets as many as its longest text needs.

    With ``train_sampling_strategy="group_by_length"`` batches of short questions have half as many of them as random
    batches.
    """

    @classmethod
    def from_texts(
        cls,
        dataset: datasets.Dataset,
        tokenize: Callable[[dict[str, list]], dict[str, Tensor]],
        device: torch.device | str = "cpu",
    ) -> Self:
        """A dataset with columns ``text`` and ``label``, and its checked soft labels.

        Args:
            dataset: N rows.
            tokenize: rows to ``input_ids``, ``attention_mask`` (0 where a text is padded, at its end) and what else
                the network takes, each [N, L].
            device: where the tokens are kept.

        Raises:
            UserError: no rows, or soft labels that don't belong to them.
        """
        if len(dataset) == 0:
            raise UserError("the dataset of texts is empty")
        rows = dataset.with_format(None)[:]
        values = tokenize(rows) | {"labels": torch.tensor(rows["label"])}
        values = {name: value.to(device) for name, value in values.items()}
        return cls(values, example_ids=content_ids(rows["text"])).with_soft_labels(dataset)

    @cached_property
    def _lengths(self) -> list[int]:
        return self.values["attention_mask"].sum(dim=1).tolist()  # read once: each batch would wait for the device

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        batch = super().__getitems__(indices)
        longest = max(self._lengths[index] for index in indices)
        tokens = [name for name, value in self.values.items() if value.ndim == 2]
        return batch | {name: batch[name][:, :longest] for name in tokens}
