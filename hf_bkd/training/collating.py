"""Examples that a dataset, its transform or a caller's collator has prepared become batches with their soft labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data.columns import EXAMPLE_ID, LABELS, is_soft_label_column
from ..models.calling import taken_inputs
from .supervision import OnlineTeacher, StoredLabels


@dataclass(frozen=True)
class Collator:
    """A collator that decodes the soft labels of examples, and hands on batches that are made already.

    Args:
        per_example: makes a batch of what else the examples hold.
        source: of the targets, or ``None``.
        network: whose inputs alone are kept of the examples; all that they hold if not given.
    """

    per_example: Callable[[list], Any]
    source: StoredLabels | OnlineTeacher | None
    network: nn.Module | None = None

    def __call__(self, features: Any) -> Any:
        """Make a batch of a list of examples, or return a batch as it is."""
        if isinstance(features, dict):
            return features
        if not isinstance(features[0], Mapping):
            return self.per_example(features)
        names = [name for name in features[0] if not is_soft_label_column(name)]
        if self.network is not None:
            lists = [name for name in names if _is_list(features[0][name])]
            names = kept_columns(self.network, names, lists)
        batch = dict(self.per_example([{name: example[name] for name in names} for example in features]))
        if self.source is not None:
            own = [name for name in features[0] if is_soft_label_column(name)]
            rows = {name: [example[name] for example in features] for name in own}
            batch |= self.source.decoded(rows, mask=batch.get("attention_mask"))
            if EXAMPLE_ID in own:
                batch[EXAMPLE_ID] = torch.tensor([int(example[EXAMPLE_ID]) for example in features])
        return batch


def _is_list(value: Any) -> bool:
    return isinstance(value, (torch.Tensor, np.ndarray, list, tuple)) and np.ndim(value) > 0


def kept_columns(network: nn.Module, names: Sequence[str], lists: Sequence[str]) -> list[str]:
    """Return which of some columns go on to a network: labels and its inputs; all, where nothing says which these are.

    Args:
        network: a student.
        names: of the columns.
        lists: those of them that hold more than a number.
    """
    labels = [name for name in names if name in LABELS]
    inputs = taken_inputs(network, [name for name in names if name not in labels])
    inputs = inputs or taken_inputs(network, [name for name in lists if name not in labels])
    return [name for name in names if name in inputs or name in labels] if inputs else list(names)
