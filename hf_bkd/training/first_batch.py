"""What can't work is refused before a training: the student is asked once about a few rows of each dataset."""

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ..data.rows import reason
from ..models.calling import call_network, check_logits, evaluation_mode, logits_of, to_network, unwrapped
from ..models.variational_layers import GaussianWeights
from ..utils.errors import UserError
from .supervision import network_inputs

ROWS = 2  # of which networks that can't take a batch are told apart


def first_batch(dataset: Any, collate: Callable[[Any], Any], batch_size: int = ROWS) -> dict[str, Any] | None:
    """Return a batch of the first rows of a dataset, as the Trainer's loader would make it; ``None`` without rows."""
    size = min(ROWS, batch_size)
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        indices = list(range(min(size, len(dataset))))
        if not indices:
            return None
        fetch = getattr(dataset, "__getitems__", None)
        return collate(fetch(indices) if fetch else [dataset[index] for index in indices])
    rows = list(islice(iter(dataset), size))
    return collate(rows) if rows else None


def logits_of_first_batch(student: nn.Module, batch: Mapping[str, Tensor], what: str) -> Tensor:
    """Return the student's logits [B, C] of a batch, in evaluation mode and without a trace.

    Args:
        student: of the training.
        batch: a few rows.
        what: the rows' name in errors.

    Raises:
        UserError: its forward can't take the inputs, or returns something else than logits of each row.
    """
    network, inputs = unwrapped(student), network_inputs(batch)
    given = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
    with torch.no_grad(), evaluation_mode(network):
        try:
            logits = logits_of(call_network(network, to_network(inputs, network)))
        except UserError:
            raise
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise UserError(
                f"the student, a {type(network).__name__}, can't take {what} ({given}; {reason(error)}): pass the "
                "processing_class or preprocessor that makes its inputs, or rename the columns to the arguments of "
                "its forward"
            ) from error
    rows = len(next(iter(inputs.values())))
    answers = list(batch["labels"].shape) if "labels" in batch else [rows]
    if list(logits.shape[:-1]) != answers or logits.shape[-1] < 2:
        raise UserError(
            f"the student, a {type(network).__name__}, returns logits of shape {list(logits.shape)} for {rows} rows, "
            f"and a classifier's are {[*answers, 'classes']}, of two classes or more: take a network with a "
            "classification head"
        )
    check_logits(logits, network)
    return logits


def check_posterior(student: nn.Module, batch: Mapping[str, Tensor]) -> None:
    """Raise a UserError if a student has variational layers, and its logits of a batch depend on none of them."""
    network = unwrapped(student)
    layers = {name: module for name, module in network.named_modules() if isinstance(module, GaussianWeights)}
    weights = [weight for module in layers.values() for weight in module.parameters() if weight.requires_grad]
    if not weights:
        return
    with torch.enable_grad(), evaluation_mode(network):
        logits = logits_of(call_network(network, to_network(network_inputs(batch), network)))
        gradients = torch.autograd.grad(logits.sum(), weights, allow_unused=True) if logits.requires_grad else [None]
    if all(gradient is None for gradient in gradients):
        raise UserError(
            f"the posterior is over the weights of {', '.join(layers)}, which the logits don't depend on: make it "
            "with make_variational(network, inputs=a few examples' inputs)"
        )
