"""What can't work is refused before a training: the student is asked once about a few rows of each dataset."""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ..data.rows import reason
from ..models.calling import call_network, check_logits, evaluation_mode, logits_of, to_network, unwrapped
from ..models.variational_layers import GaussianWeights
from ..utils.errors import UserError
from .problem import Problem
from .supervision import network_inputs

ROWS = 2  # of which networks that can't take a batch are told apart


def first_batch(dataset: Any, collate: Callable[[Any], Any], number: int = ROWS) -> dict[str, Any] | None:
    """Return a batch of the first rows of a dataset, as the Trainer's loader would make it; ``None`` without rows."""
    rows, fetch = _some(dataset, number)
    return collate(fetch(rows)) if rows else None


def spread_batches(dataset: Any, collate: Callable[[Any], Any], number: int, size: int) -> Iterator[dict[str, Any]]:
    """Yield batches of at most ``size`` rows from all over a dataset, ``number`` in all; a stream's are its first."""
    rows, fetch = _some(dataset, number, spread=True)
    for start in range(0, len(rows), size):
        yield collate(fetch(rows[start : start + size]))


def _some(dataset: Any, number: int, spread: bool = False) -> tuple[list, Callable[[list], list]]:
    """Return the numbers of some rows and what fetches these; of a stream its first rows, which are there already."""
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        return list(islice(iter(dataset), number)), list
    number = min(number, len(dataset))
    rows = torch.linspace(0, (len(dataset) if spread else number) - 1, number).round().int().tolist()
    return rows, getattr(dataset, "__getitems__", lambda chosen: [dataset[row] for row in chosen])


def outputs_of_first_batch(student: nn.Module, batch: Mapping[str, Tensor], what: str) -> Tensor:
    """Return the student's outputs [B, K] or [B, L, K] of a batch, in evaluation mode and without a trace.

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
    answers = [rows] if logits.ndim < 3 else list(next(iter(inputs.values())).shape[:2])
    if list(logits.shape[:-1]) != answers:
        raise _no_classifier(network, logits, rows, [rows])
    return logits


def check_outputs(student: nn.Module, outputs: Tensor, labels: Tensor | None, problem: Problem) -> None:
    """Raise a UserError if the student's outputs are not what its problem asks for, or not logits."""
    network, likelihood = unwrapped(student), problem.likelihood
    answers = list(outputs.shape[: 1 + problem.per_token])
    if labels is not None:
        labels = likelihood.as_columns(labels)
        answers = list(labels.shape[:-1] if likelihood.independent else labels.shape)
    if list(outputs.shape[:-1]) != answers or outputs.shape[-1] < likelihood.least_values:
        raise _no_classifier(network, outputs, len(outputs), answers)
    check_logits(outputs, network, likelihood)


def _no_classifier(network: nn.Module, logits: Tensor, rows: int, answers: list[int]) -> UserError:
    return UserError(
        f"the student, a {type(network).__name__}, returns logits of shape {list(logits.shape)} for {rows} rows, "
        f"and a classifier's are {[*answers, 'classes']}, of two classes or more, and a regression's "
        f"{[*answers, 'numbers']}: take a network with such a head"
    )


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
