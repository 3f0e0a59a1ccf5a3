"""Networks that neither transformers nor timm can make: a file that says how to build one, beside its weights."""

import dataclasses
import inspect
import json
from argparse import Namespace
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from .perceptron import Perceptron

DESCRIPTION = "network.json"
OURS = {f"{Perceptron.__module__}.{Perceptron.__qualname__}": Perceptron}  # what may be built from a description


def described(network: nn.Module, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Describe a module as JSON, so that somebody who has its code can build it and load its weights.

    Args:
        network: the module.
        without: names of weights that are not saved.

    Returns:
        ``class``, with its module; ``file``, the name of the one that defines it; ``arguments`` of the constructor,
        where they are known; ``structure``, as printed; ``state``: name -> [number format, shape]; ``shared``: groups
        of names of the same tensor, of which the file of weights holds copies.
    """
    kind = type(network)
    return {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "file": source_file(kind),
        "arguments": arguments_of(network),
        "structure": repr(network),
        "state": {
            name: [str(value.dtype).removeprefix("torch."), list(value.shape)]
            for name, value in network.state_dict().items()
            if name not in without
        },
        "shared": _shared(network),
    }


def source_file(kind: type) -> str | None:
    """Return the bare name of the file that defines a class, where there is one."""
    try:
        return Path(inspect.getsourcefile(kind) or "").name or None
    except (TypeError, OSError):
        return None


def _shared(network: nn.Module) -> list[list[str]]:
    names: dict[tuple, list[str]] = defaultdict(list)
    for name, value in network.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor) and value.numel():
            names[value.device, value.data_ptr(), value.shape, value.stride()].append(name)
    return [group for group in names.values() if len(group) > 1]


def arguments_of(network: nn.Module) -> dict[str, Any] | None:
    """Return the keyword arguments that a module's constructor was called with, as far as JSON holds them.

    They are known of modules that keep them as ``config`` or ``hparams`` (whose entries, or the whole, the constructor
    takes), and where each argument without a default is an attribute of its name, as in dataclasses.
    """
    try:
        parameters = inspect.signature(type(network).__init__).parameters
    except (TypeError, ValueError):
        return None
    names = [name for name, each in parameters.items() if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    names = names[1:]  # without self
    required = [name for name in names if parameters[name].default is inspect.Parameter.empty]
    if any(each.kind is each.VAR_POSITIONAL for each in parameters.values()):
        return None
    for source in ("_hub_mixin_config", "hparams", "config"):
        entries = _as_dict(getattr(network, source, None))
        if entries is None:
            continue
        if set(required) <= entries.keys():
            arguments = {name: entries[name] for name in names if name in entries}
            if arguments or not names:
                return _if_json(arguments)
        if source in names and set(required) <= {source}:
            return _if_json({source: entries})
    arguments = {name: vars(network)[name] for name in names if name in vars(network)}
    return _if_json(arguments) if set(required) <= arguments.keys() else None


def _as_dict(config: Any) -> dict[str, Any] | None:
    if isinstance(config, Mapping):
        return dict(config)
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return dataclasses.asdict(config)
    if isinstance(config, (Namespace, SimpleNamespace)):
        return vars(config)
    return config.to_dict() if hasattr(config, "to_dict") else None


def _if_json(arguments: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return json.loads(json.dumps(arguments, allow_nan=False))
    except (TypeError, ValueError):
        return None


def is_ours(config: dict[str, Any]) -> bool:
    """Whether a config.json is what ``Perceptron.save_pretrained`` writes, the arguments of its constructor."""
    return "in_features" in config and config.keys() <= inspect.signature(Perceptron).parameters.keys()


def described_by(config: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a network whose config.json :func:`is_ours`."""
    return {"class": next(iter(OURS)), "arguments": config} if config else {}


def built(description: dict[str, Any]) -> nn.Module | None:
    """Build a module of this library from its description; ``None`` for any other, whose code is not to be run."""
    kind, arguments = OURS.get(description.get("class")), description.get("arguments")
    return kind(**arguments) if kind is not None and isinstance(arguments, dict) else None
