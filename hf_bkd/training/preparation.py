"""The trainer's own copies of what it is given, and settings that can't go together."""

from copy import copy, deepcopy
from typing import Any

from torch import nn

from ..utils.errors import UserError
from .arguments import DistillationTrainingArguments
from .supervision import OnlineTeacher, StoredLabels


def own_config(model: nn.Module | None) -> None:
    """Give a model its own copy of its config, which may be other networks' too: the Trainer writes into it."""
    config = getattr(model, "config", None)
    if config is None:
        return
    own = deepcopy(config)
    for module in model.modules():
        if getattr(module, "config", None) is config:
            module.config = own


def own_dataset(dataset: Any, args: DistillationTrainingArguments) -> Any:
    """Return a copy of a `BatchedDataset`, whose views the trainer sets epoch by epoch, and others as they are.

    Raises:
        UserError: worker processes that can't read the dataset, or can't learn which view comes next.
    """
    if not hasattr(dataset, "view_order"):
        return dataset
    if args.dataloader_num_workers and dataset.device.type != "cpu":
        raise UserError(
            f"dataloader_num_workers is {args.dataloader_num_workers}, and worker processes can't read a training set "
            f"on {dataset.device}: pass 0, or keep the dataset on the CPU"
        )
    if args.dataloader_persistent_workers and dataset.views is not None:
        raise UserError(
            "dataloader_persistent_workers is True, and a worker learns only when it starts which view an epoch "
            "shows: pass False"
        )
    own = copy(dataset)
    own.view_order = args.view_order
    return own


def check_mixed(dataset: Any, source: StoredLabels | OnlineTeacher) -> None:
    """Refuse hard labels of images that are mixed from two.

    Raises:
        UserError: the views of the dataset mix images, and ``source`` has the labels read.
    """
    views = getattr(dataset, "views", None)
    if source.reads_labels and views is not None and views.mixing is not None:
        raise UserError(
            f"{views.mixing} mixes two images, which then have no single label: train with kd_lambda=1, towards the "
            "soft labels alone"
        )
