"""The splits of datasets that a student is trained and measured on."""

from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

import datasets

from ..data.loading import choose_split, load_splits
from ..soft_labels.columns import teachers_of
from ..utils.errors import UserError

USUAL = ("validation", "test")  # to be measured on, in this order


class Split(NamedTuple):
    """A split of a dataset, and those beside it."""

    name: str
    rows: datasets.Dataset
    others: datasets.DatasetDict


def split_to_train_on(arguments: Namespace) -> Split:
    """Load the split to train on.

    Raises:
        UserError: the dataset can't be loaded, or has no such split.
    """
    splits = load_splits(arguments.dataset, configuration=arguments.dataset_config)
    name = choose_split(splits, arguments.train_split, ("train",), arguments.dataset)
    return Split(name, splits[name], datasets.DatasetDict({each: splits[each] for each in splits if each != name}))


def check_taught(rows: datasets.Dataset, arguments: Namespace, kd_lambda: float) -> None:
    """Raise a UserError if soft labels are to be learned from, and there are none and no teacher to ask."""
    if kd_lambda > 0 and arguments.teacher is None and not teachers_of(rows.column_names):
        raise UserError(
            f"{arguments.dataset} holds no soft labels: pass a folder that hf-bkd label has written, or a --teacher "
            "to be asked at each step (--kd_lambda 0 learns what the dataset says itself)"
        )


def split_to_measure_on(
    arguments: Namespace,
    others: datasets.DatasetDict,
    is_usable: Callable[[datasets.Dataset], bool] = lambda rows: True,
) -> tuple[str, datasets.Dataset] | None:
    """Return the name and the rows of the split to measure on; ``None`` if none was asked for and none is usual.

    Args:
        arguments: of the command.
        others: splits beside the one to train on.
        is_usable: whether a usual one of these can be measured on.

    Raises:
        UserError: there is no such split.
    """
    usual, dataset = USUAL, arguments.dataset
    if arguments.eval_dataset is not None:
        others, dataset = load_splits(arguments.eval_dataset), arguments.eval_dataset
    else:
        usual = tuple(name for name in USUAL if name in others and is_usable(others[name]))
        if arguments.eval_split is None and not usual:
            return None
    name = choose_split(others, arguments.eval_split, usual, dataset)
    return name, others[name]
