"""PEFT's adapters of a language model: several over one base model, which is in memory once.

A network with adapters is PEFT's model around the base model. Those of :func:`over` have modules of their own and
share the base model's weights, so that each is called and trained as if it were the only one.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..utils.errors import UserError
from ..utils.files import read_json
from .token_networks import predicts_next_tokens

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TASKS = (None, "CAUSAL_LM")
PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")  # of LoRA's weights; others change the base model's

M = TypeVar("M", bound=nn.Module)


def is_adapted(network: nn.Module) -> bool:
    """Whether a network is PEFT's model around a causal language model."""
    return hasattr(network, "peft_config") and hasattr(network, "get_base_model") and predicts_next_tokens(network)


def sharing(network: M) -> M:
    """Copy a network's modules, which share its weights: these are in memory once, on whatever device."""
    return deepcopy(network, {id(each): each for each in (*network.parameters(), *network.buffers())})


def base_of(network: nn.Module) -> nn.Module:
    """Return the network within adapters, without them, with the weights that it shares with them.

    Raises:
        UserError: adapters that have changed it.
    """
    _check_unmerged(network)
    return _without_adapters(sharing(network).get_base_model())


def _without_adapters(network: nn.Module) -> nn.Module:
    """Put the layers that PEFT has put others around back into their places."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    within: tuple[str, ...] = ()
    for name, module in list(network.named_modules()):
        if name.startswith(within) or not isinstance(module, AuxiliaryTrainingWrapper | BaseTunerLayer):
            continue
        tuned = isinstance(module, BaseTunerLayer)
        network.set_submodule(name, module.get_base_layer() if tuned else module.original_module)
        within = (*within, f"{name}.")
    vars(network).pop("peft_config", None)
    return network


def in_peft_model(network: nn.Module) -> nn.Module:
    """Return a causal language model with which transformers has loaded adapters as PEFT's model; others as they are.

    The weights of the base model are shared.
    """
    if not hasattr(network, "peft_config") or hasattr(network, "get_base_model") or not predicts_next_tokens(network):
        return network
    from peft import get_peft_model_state_dict

    _check_unmerged(network)
    name = active_adapter(network)
    state = get_peft_model_state_dict(network, adapter_name=name, save_embedding_layers=False)
    state = {f"base_model.model.{name}": value for name, value in state.items()}
    config, base = deepcopy(network.peft_config[name]), _without_adapters(sharing(network))
    base._hf_peft_config_loaded = False
    return _joined(base, config, state, "the network")


def over(base: nn.Module, folder: str | Path, trained_further: bool = False) -> nn.Module:
    """Return a base model with the adapters of a folder, which alone are the network's own.

    Args:
        base: a causal language model, which keeps its weights and shares them.
        folder: with PEFT's files, in safetensors.
        trained_further: whether the adapters are to be trained.

    Returns:
        PEFT's model, in evaluation mode.

    Raises:
        UserError: adapters of another base model or task, ones that change their base model, or no adapters.
    """
    config = config_of(folder)
    config.inference_mode = not trained_further
    base = base_of(base) if is_adapted(base) else base
    return _joined(base, config, load_file(Path(folder, WEIGHTS)), str(folder))


def each_adapter(network: nn.Module) -> list[nn.Module]:
    """Return a network for each of the adapters of one of PEFT's models; they share the base model's weights.

    Raises:
        UserError: adapters that are merged or change their base model.
    """
    from peft import get_peft_model_state_dict

    base, networks = base_of(network), []
    for name, config in network.peft_config.items():
        check_leaves_base(config, f"the adapter {name}")
        state = get_peft_model_state_dict(network, adapter_name=name, save_embedding_layers=False)
        networks.append(_joined(base, deepcopy(config), state, f"the adapter {name}"))
    return networks


def _joined(base: nn.Module, config: Any, state: dict[str, Tensor], where: str) -> nn.Module:
    """Return a base model with adapters of a state, in the types of its numbers."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    config.base_model_name_or_path = None  # of old, which PEFT would compare
    network = get_peft_model(sharing(base), config)
    own = get_peft_model_state_dict(network, save_embedding_layers=False)
    state = {name: value for name, value in state.items() if name in own or not _is_of_base(base, name, value)}
    wrong = sorted(own.keys() ^ state.keys()) or sorted(n for n in own if own[n].shape != state[n].shape)
    if wrong:
        raise UserError(
            f"{where} has adapters of another base model than {_called(base)}, or of layers that these don't adapt "
            f"({wrong[0]}): pass the base model that they were trained over"
        )
    set_peft_model_state_dict(network, state)
    dtype, *others = {each.dtype for each in state.values()}
    for weight in own_weights(network, base) if not others else ():
        weight.data = weight.data.to(dtype)
    return network.eval()


def _is_of_base(base: nn.Module, name: str, value: Tensor) -> bool:
    """Whether what is saved beside adapters is a weight of their base model, as PEFT does of embeddings."""
    own = base.state_dict().get(name.removeprefix("base_model.model.").replace(".base_layer", ""))
    return own is not None and own.shape == value.shape and torch.equal(own.cpu(), value.cpu().to(own.dtype))


def own_weights(network: nn.Module, base: nn.Module | None = None) -> list[nn.Parameter]:
    """Return the weights of a network's adapters, which are not its base model's."""
    shared = {id(each) for each in (base_of(network) if base is None else base).parameters()}
    return [each for each in network.parameters() if id(each) not in shared]


def config_of(folder: str | Path) -> Any:
    """Read PEFT's config of adapters of a causal language model that leave its own weights as they are.

    Raises:
        UserError: there are none, or they are of another kind.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"{folder} holds no adapters ({CONFIG} is missing): pass a folder that save_pretrained of PEFT's model "
            "wrote, before its adapters were merged; a whole network is a member by DeterministicTeacher(network)"
        )
    if not (folder / WEIGHTS).is_file():
        raise UserError(
            f"{folder} holds no {WEIGHTS}, and pickled weights could run code: where you trust them, load and save "
            "the adapters anew in Python"
        )
    task = read_json(folder / CONFIG).get("task_type")
    if task not in TASKS:
        raise UserError(
            f"the adapters in {folder} are of the task {task}, and those of a causal language model are of CAUSAL_LM: "
            "pass others"
        )
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(str(folder))
    check_leaves_base(config, str(folder))
    return config


def save_adapters(network: nn.Module, folder: Path) -> None:
    """Save a network's active adapter into a new folder, without its base model."""
    name = active_adapter(network)
    network.save_pretrained(folder, selected_adapters=[name], save_embedding_layers=False)
    for file in (folder / name).glob("*") if name != "default" else ():
        file.rename(folder / file.name)
    if name != "default":
        (folder / name).rmdir()
    (folder / "README.md").unlink(missing_ok=True)


def by_one_name(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of a network's weights by the names that these have when it is loaded again."""
    if not is_adapted(network) or (active := active_adapter(network)) == "default":
        return dict(tensors)
    own = {id(weight) for weight in own_weights(network)}
    names = {name for name, weight in network.named_parameters(remove_duplicate=False) if id(weight) in own}

    def renamed(name: str) -> str:
        before, _, after = name.rpartition(f".{active}")
        return f"{before}.default{after}"

    return {renamed(name) if name in names else name: value for name, value in tensors.items()}


def active_adapter(network: nn.Module) -> str:
    """Name the one adapter that is active; UserError if there are several, or they are disabled."""
    check_enabled(network)
    active = list(dict.fromkeys(name for layer in _tuned(network) for name in layer.active_adapters))
    active = active or [*network.peft_config]
    if len(active) != 1:
        raise UserError(
            f"the network has {len(active)} active adapters ({', '.join(active)}), and a teacher's are saved as one: "
            "set one by network.set_adapter(name), or join them by network.add_weighted_adapter"
        )
    return active[0]


def check_enabled(network: nn.Module) -> None:
    """Raise a UserError if a network has adapters that it doesn't use now, and would use when it was loaded again."""
    if any(layer.disable_adapters for layer in _tuned(network)):
        raise UserError(
            "the network's adapters are disabled, and would be saved as if they were not: call "
            "network.base_model.enable_adapter_layers() first"
        )


def lost_when_merged(network: nn.Module, posterior: Iterable[str], drops: bool) -> bool:
    """Whether a posterior is of adapters: it has weights of theirs by name, or draws by their dropout."""
    names = {name for layer in _tuned(network) for name in (*layer.adapter_layer_names, *layer.other_param_names)}
    dropout = (m for layer in _tuned(network) for m in layer.modules() if isinstance(m, nn.Dropout))
    own = any(part in names for name in posterior for part in name.split("."))
    return own or (drops and any(module.p > 0 for module in dropout))


def _tuned(network: nn.Module) -> list[Any]:
    """Return the layers that adapters are put around, if there are some."""
    if not hasattr(network, "peft_config"):
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in network.modules() if isinstance(module, BaseTunerLayer)]


def _check_unmerged(network: nn.Module) -> None:
    if any(getattr(module, "merged", False) is True for module in network.modules()):
        raise UserError(
            "the adapters are merged into the base model, and can't be told from it: call network.unmerge_adapter() "
            "first"
        )


def changes_of_base(config: Any) -> str | None:
    """Say how adapters change their base model, which others may share, or its rows; ``None`` if they don't."""
    start, bias = getattr(config, "init_lora_weights", True), getattr(config, "bias", "none")
    if config.is_prompt_learning:
        kind = getattr(config.peft_type, "value", config.peft_type)
        return f"are {kind}, which adds tokens of its own to each row: take LoRA"
    if bias != "none":
        return (
            f"train the base model's own biases (bias={bias!r}), so that it can't be shared: train them with "
            "bias='none'"
        )
    if start not in PLAIN_STARTS:
        return (
            f"began by changing the base model (init_lora_weights={start!r}), so that it can't be shared: save them "
            "converted, with path_initial_model_for_weight_conversion of PEFT's save_pretrained"
        )
    return None


def check_leaves_base(config: Any, where: str) -> None:
    """Raise a UserError if adapters change their base model."""
    changes = changes_of_base(config)
    if changes is not None:
        raise UserError(f"the adapters of {where} {changes}")


def _called(base: nn.Module) -> str:
    return getattr(getattr(base, "config", None), "_name_or_path", None) or type(base).__name__
