"""What a network made anew from its description has otherwise than the network itself: layers, shapes, attributes.

Whoever loads a saved network makes it anew, on the meta device nearly for free, and puts the weights in. An activation
that was exchanged by hand has no weights: nothing else would say that it is gone.
"""

import inspect
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
import transformers
from torch import nn

from ..utils.seeding import unmoved_randomness
from .variational_layers import GaussianWeights

IN_TRAINING_ALONE = (
    "momentum", "p", "drop_prob", "drop_rate", "inplace", "grad_checkpointing", "gradient_checkpointing", "dropout",
    "layerdrop",
)  # fmt: skip
OF_ACCELERATE = ("_original_forward", "_old_forward", "_hf_hook")  # beside a forward that it exchanged
OF_LIBRARIES = ("torch.", "transformers.", "accelerate.", "peft.", "functools")  # hooks that change no answer
ANYWAY = ("training", "num_classes", "num_labels", "name_or_path", "vocab_size")  # the shape of the weights decides


def first_difference(
    network: nn.Module, other: nn.Module, maker: str, without: tuple[str, ...] = (), ignored: tuple[str, ...] = ()
) -> str | None:
    """Return a difference in the weights' shapes, the modules' kinds or their plain attributes; ``None`` if alike.

    Args:
        network: that is to be saved.
        other: the one that was made anew.
        maker: who made that.
        without: names of weights that are not saved.
        ignored: names of attributes that may differ; if there are some, layers that do something in training alone
            may be others too.
    """
    shapes, others = ({name: list(v.shape) for name, v in each.state_dict().items()} for each in (network, other))
    for name in [name for name in shapes | others if name not in without]:
        if shapes.get(name) != others.get(name):
            here, there = shapes.get(name, "absent"), others.get(name, "absent")
            return f"{name} is {here}, and {maker} makes it {there}"
    own, made = (dict(_running(each) if ignored else each.named_modules()) for each in (network, other))
    for name, module in made.items():
        kind = type(own.get(name))
        if not _same(kind, type(module)) and not (without and _is_gaussian(kind, type(module))):
            return f"{name} is {kind.__name__}, and {maker} makes it {type(module).__name__}"
        if "forward" in vars(own[name]) and not any(hasattr(own[name], each) for each in OF_ACCELERATE):
            return f"the forward of {name or 'the network'} was exchanged"
        hooks = [*own[name]._forward_hooks.values(), *own[name]._forward_pre_hooks.values()]
        if any(not str(getattr(hook, "__module__", "")).startswith(OF_LIBRARIES) for hook in hooks):
            return f"{name or 'the network'} has a hook"
        for attribute, value in vars(module).items():
            if attribute.startswith("_") or attribute in (*ANYWAY, *ignored) or not _is_plain(value):
                continue
            here = vars(own[name]).get(attribute)
            if here is not value and here != value:
                return f"{attribute} of {name or 'the network'} is {here!r}, and {maker} makes it {value!r}"
    extra = sorted(own.keys() - made.keys())
    return f"{maker} makes no {extra[0]}" if extra else None


def _same(kind: type, other: type) -> bool:
    """Whether two classes are one, or were made by `torch.nn.utils.parametrize` of one."""
    return kind is other or (kind.__name__ == other.__name__ and kind.__mro__[1:] == other.__mro__[1:])


def _is_gaussian(kind: type, ordinary: type) -> bool:
    return issubclass(kind, GaussianWeights) and issubclass(kind, ordinary)


def _running(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that do something outside of training, by name."""
    for name, module in network.named_modules():
        if not isinstance(module, (nn.Identity, nn.Dropout)) and not hasattr(module, "drop_prob"):
            yield name, module


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str)) or inspect.isroutine(value)


def difference_when_loaded(network: nn.Module, without: tuple[str, ...] = ()) -> str | None:
    """Return what of a transformers model its class doesn't make from its config; ``None`` if it makes the same.

    ``None`` too of models that can't be made so, of quantized ones, and of other networks.
    """
    kind = type(network)
    if not is_of_transformers(network) or getattr(network.config, "quantization_config", None) is not None:
        return None
    try:
        with torch.device("meta"), unmoved_randomness():
            made = kind(deepcopy(network.config))
    except Exception:  # one that can't be made so is left to its own loader
        return None
    return first_difference(network, made, "its class", without, ignored=IN_TRAINING_ALONE)


def is_of_transformers(network: nn.Module) -> bool:
    """Whether transformers has a network's class, and so loads it by its config."""
    kind = type(network)
    return isinstance(network, transformers.PreTrainedModel) and getattr(transformers, kind.__name__, None) is kind
