"""What a trainer is given: copied where training would change it, and refused where it can't be trained."""

from collections.abc import Sequence
from copy import copy, deepcopy
from typing import Any

import torch
from torch import nn

from ..models.adapter_bases import check_base_has_safetensors
from ..models.class_names import both_name
from ..models.gguf import forget_gguf
from ..models.variational_layers import gaussian_kl
from ..utils.errors import UserError
from .arguments import DistillationTrainingArguments
from .classes import places_among

REMEDY = "set dataset.class_names = None, to take its numbers as they are"


def own_config(model: nn.Module | None) -> None:
    """Give a model its own copy of its config, which may be other networks' too: the Trainer writes into it."""
    config = getattr(model, "config", None)
    if config is None:
        return
    own = deepcopy(config)
    for module in model.modules():
        if getattr(module, "config", None) is config:
            module.config = own


def check_can_be_saved(model: nn.Module | None) -> None:
    """Raise a UserError if a model of a GGUF file can't be saved as it will be trained; see `models.gguf`."""
    if hasattr(model, "peft_config"):
        check_base_has_safetensors(model)
    elif model is not None:
        forget_gguf(model)


def own_dataset(dataset: Any, args: DistillationTrainingArguments, classes: Sequence[str] | None) -> Any:
    """Return a copy of a `BatchedDataset`, whose views the trainer sets epoch by epoch, and others as they are.

    Args:
        dataset: the trainer's.
        args: the trainer's.
        classes: names of the student's classes, in whose order the copy has its labels.

    Raises:
        UserError: worker processes that can't read the dataset, or can't learn which view comes next; other classes
            than the student's.
    """
    if not hasattr(dataset, "view_order"):
        return dataset
    if args.dataloader_num_workers and dataset.device.type != "cpu":
        raise UserError(
            f"dataloader_num_workers is {args.dataloader_num_workers}, and worker processes can't read a training set "
            f"on {dataset.device}: pass 0, or keep the dataset on the CPU"
        )
    own = copy(dataset)
    own.view_order = args.view_order
    names, labels = dataset.class_names, dataset.values.get("labels")
    if labels is not None and both_name(names, classes) and list(names) != list(classes):
        places = torch.tensor(places_among(names, classes, "the dataset", REMEDY), device=labels.device)
        known = (labels >= 0) & (labels < len(places))
        own.values = dataset.values | {"labels": torch.where(known, places[labels.where(known, 0)], labels)}
    return own


def check_views(dataset: Any, args: DistillationTrainingArguments, reads_labels: bool) -> None:
    """Refuse what views of a training set can't go together with.

    Args:
        dataset: that the loader reads.
        args: the trainer's.
        reads_labels: whether the loss reads hard labels.
    """
    views = getattr(dataset, "views", None)
    if views is None:
        return
    if args.dataloader_persistent_workers:
        raise UserError(
            "dataloader_persistent_workers is True, and a worker learns only when it starts which view an epoch "
            "shows: pass False"
        )
    if reads_labels and views.mixing is not None:
        raise UserError(
            f"{views.mixing} mixes two images, which then have no single label: train with kd_lambda=1, towards the "
            "soft labels alone"
        )


def check_trained(model: nn.Module) -> None:
    """Raise a UserError if no parameter of the student would be trained."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(
            "no parameter of the student is trained: call student.requires_grad_(True), or on a part of it"
        )


def check_length(model: nn.Module, dataset: Any) -> None:
    """Refuse a training set of no rows, and one of an unknown number by which a KL divergence is to be divided."""
    if hasattr(dataset, "__len__") and len(dataset) == 0:
        raise UserError("the training set is empty: pass one with rows")
    if dataset is not None and not hasattr(dataset, "__len__") and gaussian_kl(model) is not None:
        raise UserError(
            "the KL divergence of a variational network is divided by the number of training examples, which a stream "
            "doesn't say: load the training set without streaming"
        )
