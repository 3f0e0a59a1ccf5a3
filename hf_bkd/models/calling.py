"""How any network is asked: its inputs, its logits, its head and the features that go into it."""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..utils.errors import UserError

Inputs = Mapping[str, Tensor] | Tensor


def to_network(inputs: Inputs, network: nn.Module) -> Inputs:
    """Inputs, or each of a mapping's, on the network's device and, where they are floats, in its number format."""
    weight = next(network.parameters())

    def move(value: Tensor) -> Tensor:
        dtype = weight.dtype if value.is_floating_point() else value.dtype
        return value.to(weight.device, dtype, non_blocking=weight.device.type != "cpu")

    return move(inputs) if isinstance(inputs, Tensor) else {name: move(value) for name, value in inputs.items()}


def split(batch: Mapping[str, Tensor] | tuple | list) -> tuple[Inputs, Tensor]:
    """Inputs and labels of a batch: a dict (or transformers' BatchEncoding) with ``labels``, or a pair."""
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    if isinstance(batch, Mapping) and "labels" in batch:
        return {name: value for name, value in batch.items() if name != "labels"}, batch["labels"]
    found = f"a dict with {', '.join(batch)}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
    raise UserError(f"batches must be (inputs, labels) pairs or dicts with a 'labels' entry; this one is {found}")


def num_classes_of(network: nn.Module) -> int:
    return classification_head(network)[1].out_features


class HeadData(NamedTuple):
    """What the last layer sees of a data set, on the network's device.

    features [N, d] and logits [N, C] in float32; labels [N], integers in [0, C).
    """

    features: Tensor
    logits: Tensor
    labels: Tensor


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """All modules in evaluation mode for the block; each in its own afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def head_data(network: nn.Module, batches: Iterable[Mapping | tuple]) -> HeadData:
    """One pass over ``batches`` in evaluation mode; UserError if they are empty or the labels don't fit the head."""
    device = next(network.parameters()).device
    columns = [], [], []
    with evaluation_mode(network):
        for batch in batches:
            inputs, labels = split(batch)
            features, logits = head_features(network, to_network(inputs, network))
            for column, value in zip(columns, (features.float(), logits.float(), labels.to(device)), strict=True):
                column.append(value)
    if not sum(map(len, columns[2])):
        raise UserError("there are no examples to fit a teacher on: the batches are empty")
    data = HeadData(*map(torch.cat, columns))
    _check_labels(data.labels, data.logits.shape[-1])
    return data


def _check_labels(labels: Tensor, num_classes: int) -> None:
    if labels.ndim != 1 or labels.is_floating_point():
        raise UserError(f"labels must be class indices [N], not {labels.dtype} of shape {list(labels.shape)}")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= num_classes:
        raise UserError(
            f"labels must be in 0 to {num_classes - 1}, the network's classes; they go from {lowest} to {highest}"
        )


def classification_head(model: nn.Module) -> tuple[str, nn.Linear]:
    """Name and module of the linear layer that makes the logits of a timm, transformers or plain network.

    It is the last ``nn.Linear`` of ``named_modules`` with as many outputs as there are classes; if the model doesn't
    tell their number (``config.num_labels`` or ``num_classes``), simply the last.

    Raises:
        UserError: there is none, as in a network that ends in a convolution, or timm's network averages several heads.
    """
    get_classifier = getattr(getattr(model, "timm_model", model), "get_classifier", None)
    if get_classifier is not None and isinstance(get_classifier(), tuple):
        raise UserError(f"{type(model).__name__} averages the logits of several heads: choose a network with one")
    classes = getattr(getattr(model, "config", None), "num_labels", None) or getattr(model, "num_classes", None)
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    heads = [(name, module) for name, module in linears if classes in (None, module.out_features)]
    if not heads:
        outputs = "" if classes is None else f" with {classes} outputs"
        raise UserError(f"{type(model).__name__} has no linear layer{outputs} that could be its head")
    return heads[-1]


def call_network(model: nn.Module, inputs: Mapping[str, Any] | Tensor) -> Any:
    """What a model returns for some inputs; see :func:`call_arguments`."""
    args, kwargs = call_arguments(model, inputs)
    return model(*args, **kwargs)


def call_arguments(model: nn.Module, inputs: Mapping[str, Any] | Tensor) -> tuple[tuple, dict[str, Any]]:
    """Positional and keyword arguments of a model's forward.

    Args:
        inputs: keyword arguments; a single one by a name that forward does not know, such as ``pixel_values`` of a
            timm network, is its first argument, and so is a tensor.
    """
    if not isinstance(inputs, Mapping):
        return (inputs,), {}
    if len(inputs) == 1 and not _takes(type(model).forward, *inputs):
        return tuple(inputs.values()), {}
    return (), dict(inputs)


@functools.cache
def _takes(forward: Callable, name: str) -> bool:
    parameters = inspect.signature(forward).parameters
    return name in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def head_features(model: nn.Module, inputs: Mapping[str, Any] | Tensor) -> tuple[Tensor, Tensor]:
    """What goes into the head, [B, d], and the logits, [B, C], of one forward pass; gradients flow through both.

    Args:
        model: a network with a :func:`classification_head`.
        inputs: keyword arguments of its forward, or the one positional argument.

    Raises:
        UserError: no head, no logits, or logits that are not the head's output.
    """
    name, head = classification_head(model)
    seen: list[Tensor] = []
    hook = head.register_forward_hook(lambda module, args, output: seen.extend((args[0], output)))
    try:
        logits = logits_of(call_network(model, inputs))
    finally:
        hook.remove()
    features, output = seen[-2:] if seen else (None, None)
    if output is not logits and not (seen and output.shape == logits.shape and torch.equal(output.to(logits), logits)):
        raise UserError(f"the logits of {type(model).__name__} are not what its linear layer {name!r} puts out")
    return features, logits


def logits_of(outputs: Any) -> Tensor:
    """Logits in what a model returned: a tensor, "logits" of a ModelOutput or dict, or a tuple's first tensor [B, C].

    Raises:
        UserError: there are none.
    """
    if isinstance(outputs, tuple | list):
        logits = next((item for item in outputs if isinstance(item, Tensor) and item.ndim >= 2), None)
    else:
        logits = outputs.get("logits") if isinstance(outputs, Mapping) else outputs
    if not isinstance(logits, Tensor):
        raise UserError(f"the model returned a {type(outputs).__name__} without logits")
    return logits
