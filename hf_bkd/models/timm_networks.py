"""Plain timm networks: the call of ``timm.create_model`` that makes one, as the config.json of timm and transformers.

A network of ``timm.create_model`` says which architecture it is, newer versions of timm also with which arguments. As
both may be out of date (a replaced stem, arguments that JSON can't hold), a network is made anew from what is to be
saved, on the meta device, and compared module by module (see `rebuilding`).
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..utils.errors import UserError
from .outputs import outputs_of_head
from .rebuilding import IN_TRAINING_ALONE, first_difference

CONFIG, WEIGHTS = "config.json", "model.safetensors"  # as timm and transformers call them
IMAGES = ("input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation")
STRUCTURE = ("fixed_input_size", "pool_size", "first_conv", "classifier")


class Unknown(Exception):
    """What keeps a network from being made anew by its name and arguments."""


def is_timm(network: nn.Module) -> bool:
    """Whether ``timm.create_model`` made a network, which may have been changed since."""
    return isinstance(_pretrained_cfg(network).get("architecture"), str)


def wraps_timm(network: nn.Module) -> bool:
    """Whether a network is transformers' wrapper of one of timm's; asked by name, for its import brings timm along."""
    return any(kind.__name__ == "TimmWrapperForImageClassification" for kind in type(network).__mro__)


def is_timms_own(architecture: str) -> bool:
    """Whether timm knows an architecture without the help of another package, such as this one."""
    import timm

    return timm.is_model(architecture) and timm.model_entrypoint(architecture).__module__.startswith("timm.")


def _pretrained_cfg(network: nn.Module) -> dict[str, Any]:
    config = getattr(network, "pretrained_cfg", None) or getattr(network, "default_cfg", None)
    return config if isinstance(config, dict) else {}


def label_names_of(network: nn.Module) -> list[str] | None:
    """Return the names of a timm network's classes in order, as its ``label_names`` or its configuration says them."""
    names = getattr(network, "label_names", None) or _pretrained_cfg(network).get("label_names")
    names = list(names.values()) if isinstance(names, dict) else names
    return list(names) if names and len(names) == num_outputs(network) else None


def refresh_label_names(network: nn.Module) -> None:
    """Let transformers' wrapper save the names of its classes, not those with which its config was loaded."""
    config = getattr(network, "config", None)
    if getattr(config, "label_names", None) and getattr(config, "id2label", None):
        config.label_names = list(config.id2label.values())


def num_outputs(network: nn.Module) -> int:
    """Return the number of classes of a timm network, also where its head has been replaced by another layer."""
    return outputs_of_head(network, network.num_classes)


def timm_config(
    network: nn.Module,
    label_names: list[str] | None = None,
    images: dict[str, Any] | None = None,
    without: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return the content of the config.json from which timm and transformers make a plain timm network anew.

    Args:
        network: that :func:`is_timm`.
        label_names: of the classes in order; those that the network was loaded with if not given.
        images: what is known of the images that it was trained on, by timm's names (``IMAGES``), where that is not
            what its ``pretrained_cfg`` says.
        without: names of weights that are not saved: the spread of variational layers, whose means are ordinary ones.

    Raises:
        Unknown: no call of ``timm.create_model`` with arguments that JSON can hold makes this network.
    """
    arguments, num_classes = _arguments(network, without), num_outputs(network)
    config = {
        "architecture": _pretrained_cfg(network)["architecture"],
        "num_classes": num_classes,
        "num_features": network.num_features,
    }
    names = label_names or label_names_of(network)
    if names is not None and len(names) == num_classes:
        config["label_names"] = names
    if arguments:
        config["model_args"] = arguments
    return json.loads(json.dumps(config | {"pretrained_cfg": _images(network, arguments, images or {})}))


def _images(network: nn.Module, arguments: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Return how images are prepared, and what timm needs to load weights."""
    own = _pretrained_cfg(network)
    config = {name: own[name] for name in (*IMAGES, *STRUCTURE) if name in own} | known
    channels = arguments.get("in_chans") or own.get("input_size", (3,))[0]
    height, width = config.get("input_size", (3, 224, 224))[1:]
    if "img_size" in arguments and "input_size" not in known:
        size = arguments["img_size"]
        height, width = (size, size) if isinstance(size, int) else size
    config["input_size"] = [channels, height, width]
    for name in ("mean", "std"):
        values = config.get(name)
        if values is not None and len(values) != channels:  # as timm's own scripts do
            config[name] = [sum(values) / len(values)] * channels
    return config | {"custom_load": False}


def _arguments(network: nn.Module, without: tuple[str, ...]) -> dict[str, Any]:
    """Return the arguments of ``timm.create_model``, but for the classes, that make a network like this one."""
    recorded = getattr(network, "_model_args", {})
    arguments = {name: value for name, value in recorded.items() if name != "num_classes" and _is_json(value)}
    anew = _made_anew(network, arguments)
    if first_difference(network, anew, "timm", without) is None:
        return arguments
    own, others = _visible(network), _visible(anew)
    seen = {name: value for name, value in own.items() if value is not None and value != others[name]}
    if seen:
        arguments |= seen
        anew = _made_anew(network, arguments)
        made, wanted = _visible(anew)["drop_path_rate"], own["drop_path_rate"]
        if made and made != wanted:  # the last block of some networks has a part of the rate
            arguments["drop_path_rate"] = round(wanted * arguments["drop_path_rate"] / made, 9)
            anew = _made_anew(network, arguments)
    difference = first_difference(network, anew, "timm", without, ignored=IN_TRAINING_ALONE)
    if difference is not None:
        raise Unknown(difference)
    return arguments


def _is_json(value: Any) -> bool:
    try:
        return json.loads(json.dumps(value)) is not None
    except (TypeError, ValueError):
        return False


def _made_anew(network: nn.Module, arguments: dict[str, Any]) -> nn.Module:
    import timm

    architecture = _pretrained_cfg(network)["architecture"]
    arguments = json.loads(json.dumps(arguments))  # lists in the place of tuples, as whoever loads it has them
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return timm.create_model(architecture, num_classes=num_outputs(network), **arguments)
    except Exception as error:
        raise Unknown(f"timm can't make {architecture} anew ({type(error).__name__}: {error})") from error


def _visible(network: nn.Module) -> dict[str, Any]:
    """Return arguments that can be seen in a network, for versions of timm that don't record them."""
    first = _pretrained_cfg(network).get("first_conv")
    first = dict(network.named_modules()).get(first) if isinstance(first, str) else None
    channels = None if first is None else getattr(first, "in_channels", None)
    rates = [module.drop_prob for module in network.modules() if isinstance(getattr(module, "drop_prob", None), float)]
    pool = getattr(getattr(network, "global_pool", None), "pool_type", getattr(network, "global_pool", None))
    size = getattr(getattr(network, "patch_embed", None), "img_size", None)
    return {
        "in_chans": channels and channels * getattr(first, "groups", 1),
        "img_size": list(size) if size else None,
        "global_pool": pool if isinstance(pool, str) else None,
        "drop_rate": getattr(network, "drop_rate", None),
        "drop_path_rate": max(rates, default=0.0),
    }


def made_by_timm(folder: Path, config: dict[str, Any]) -> nn.Module:
    """Make the timm network that a folder's config.json describes, without its weights.

    Raises:
        UserError: an architecture that is not timm's, or weights that are elsewhere.
    """
    import timm

    check_stays_here(folder, config.get("architecture"), config.get("model_args"))
    network = timm.create_model(f"local-dir:{folder}", pretrained=False)
    here = {name: value for name, value in network.pretrained_cfg.items() if name not in ("file", "source")}
    network.pretrained_cfg = network.default_cfg = here
    network.label_names = label_names_of(network)
    return network


def check_stays_here(folder: Path, architecture: Any, model_args: Any) -> None:
    """Refuse a description whose architecture would be downloaded, or is a file elsewhere."""
    elsewhere = [name for name in ("pretrained", "checkpoint_path") if (model_args or {}).get(name)]
    if isinstance(architecture, str) and (":" in architecture or "/" in architecture):
        raise UserError(f"{folder} asks for the architecture {architecture!r}, which is none of timm's own")
    if elsewhere:
        raise UserError(f"{folder} asks for weights from elsewhere ({elsewhere[0]}), and its own are to be loaded")
