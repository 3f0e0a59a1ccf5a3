"""A labeled dataset as the batches that teachers are fitted and measured on."""

from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor, nn

from ..likelihoods import CATEGORICAL, Gaussian, Likelihood
from ..models.problem_types import likelihood_of, stated_problem_type
from ..models.token_networks import check_one_label_each, classifies_tokens
from ..utils.errors import UserError
from .columns import find_label, numbered_labels
from .labels import problem_type_of_column, read_labels
from .preprocessors import Preprocessor, called, class_names, columns_as_inputs, ready_columns
from .rows import read_rows


class DatasetBatches:
    """The batches of a dataset, in order and un-augmented: inputs with ``labels``, which can be gone through again.

    Args:
        dataset: N rows with a label column (``label``, ``labels`` or ``fine_label``): class numbers, names of the
            network's classes, or what :mod:`~hf_bkd.data.labels` reads for another problem type.
        network: whose classes they are.
        preprocessor: rows -> inputs; ``None`` where the columns are the inputs, or the dataset has a transform.
        batch_size: the preprocessor's if not given.
        problem_type: what the network's outputs mean, if it doesn't say it.

    ``likelihood`` is that of the outputs, told by the labels if nobody says it.

    Raises:
        UserError: a streamed or empty dataset, no label column, rows without a label, or labels of other classes or of
            another kind.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        network: nn.Module,
        preprocessor: Preprocessor | None,
        batch_size: int | None = None,
        problem_type: str | Likelihood | None = None,
    ):
        if isinstance(dataset, datasets.IterableDataset):
            raise UserError(
                "a streamed dataset can be labeled, but nothing is fitted on it: load it without streaming"
            )
        if len(dataset) == 0:
            raise UserError("there are no examples: the dataset is empty")
        check_one_label_each(network)
        self.dataset, self.preprocessor = dataset, preprocessor
        classes, per_token = class_names(network), classifies_tokens(network)
        label = find_label(dataset, classes)
        said = problem_type or stated_problem_type(network)
        told = None if said else problem_type_of_column(dataset, label, per_token, len(classes))
        self.likelihood = likelihood_of(network, problem_type, told)
        self.labels = _labels(dataset, label, classes, self.likelihood, per_token)
        self.columns = ready_columns(network, dataset) if preprocessor is None else preprocessor.columns
        self.batch_size = batch_size or (256 if preprocessor is None else preprocessor.batch_size)

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        dataset = self.dataset
        if self.columns and (self.preprocessor is None or self.preprocessor.kind != "function"):
            dataset = dataset.select_columns(list(self.columns))
        for start in range(0, len(dataset), self.batch_size):
            stop = min(start + self.batch_size, len(dataset))
            yield self._batch(dataset, start, stop)

    def _batch(self, dataset: datasets.Dataset, start: int, stop: int) -> dict[str, Any]:
        labels, numbers = self.labels[start:stop], np.arange(start, stop)
        if self.preprocessor is not None:
            rows = read_rows(dataset, start, stop)
            if isinstance(labels, list):
                return self.preprocessor.labeled(rows, labels, numbers)
            return called(self.preprocessor, rows, numbers) | {"labels": labels}
        if dataset.format["type"] not in ("custom", "torch"):
            dataset = dataset.with_format("torch")
        inputs = columns_as_inputs(dataset[start:stop], self.dataset.features, self.columns)
        return inputs | {"labels": torch.stack(labels) if isinstance(labels, list) else labels}


def _labels(
    dataset: datasets.Dataset, label: str, classes: list[str], likelihood: Likelihood, per_token: bool
) -> Tensor | list[Tensor]:
    """Return all labels of a dataset, as its network has them; UserError if a row has none."""
    if likelihood == CATEGORICAL and not per_token:
        labels = torch.tensor(numbered_labels(dataset, label, classes)[1])
        unlabeled = (labels < 0).nonzero().flatten().tolist()
    else:
        width = None if likelihood.problem_type == Gaussian.problem_type else len(classes)
        read = read_labels(dataset, label, likelihood, width, classes, per_token)
        labels = read(dataset.with_format("arrow").select_columns([label])[:][label])
        if per_token:
            unlabeled = [row for row, own in enumerate(labels) if len(own) == 0]
        else:
            unlabeled = (~likelihood.labeled(labels)).nonzero().flatten().tolist()
    if unlabeled:
        raise UserError(
            f"row {unlabeled[0]} of column {label} has no label: leave such rows out with "
            f"dataset.filter(lambda row: row[{label!r}] not in (None, -1, -100))"
        )
    return labels
