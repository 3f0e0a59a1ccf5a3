"""Save networks so that they load without this library, and load them without pickle and without running any code.

A transformers model is saved by its own ``save_pretrained``. A plain timm network gets the files that timm and
transformers read: ``timm.create_model("local-dir:FOLDER", pretrained=True)`` and ``AutoModelForImageClassification``.
Of any other module the weights are saved beside a file that says how to build it.
"""

import functools
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from textwrap import shorten
from typing import Any

import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..utils.errors import UserError
from ..utils.files import read_json, write_json
from .adapter_bases import with_its_base
from .adapters import CONFIG as ADAPTERS
from .adapters import check_enabled, over
from .calling import unwrapped
from .gguf import forget_gguf, gguf_remedy
from .plain_networks import DESCRIPTION, built, described, described_by, is_ours
from .problem_types import BY_EXP, CONCENTRATIONS, is_dirichlet, name_dirichlet, stated_problem_type
from .rebuilding import difference_when_loaded, is_of_transformers
from .timm_networks import (
    CONFIG,
    WEIGHTS,
    Unknown,
    check_stays_here,
    is_timm,
    made_by_timm,
    refresh_label_names,
    timm_config,
    wraps_timm,
)

ESTIMATOR = "estimator.skops"  # which stands in the place of a network's weights
FORMER_WEIGHTS = "network.safetensors"  # of plain modules, up to version 0.1

logger = logging.getLogger(__name__)


def save_network(network: nn.Module, folder: str | Path, without: tuple[str, ...] = ()) -> None:
    """Save a network into a new folder, in the form that whoever made it loads.

    A compiled network is saved as the one that was compiled, a PEFT model merged with its adapters.

    Args:
        network: a transformers model, a timm network or any other module.
        folder: that is made.
        without: names of weights that are omitted.
    """
    folder, network = Path(folder), _merged(network)
    without = tuple(name.removeprefix("_orig_mod.") for name in without)
    forget_gguf(network)
    weights = {name: value for name, value in network.state_dict().items() if name not in without}
    if is_of_transformers(network):
        refresh_label_names(network)
        difference = difference_when_loaded(network, without)
        if difference is None:
            network.save_pretrained(folder, state_dict=timms_names(network, weights))
            return
        _warn_of_plain(type(network).__name__, "transformers", difference)
    folder.mkdir(parents=True)
    save_file(storable(weights), folder / WEIGHTS, metadata={"format": "pt"})
    save_description(network, folder, without=without)


def timms_names(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of transformers' wrapper of a timm network by timm's names, which both read."""
    if not wraps_timm(network):
        return state
    return {name.removeprefix("timm_model."): value for name, value in state.items()}


def _merged(network: nn.Module) -> nn.Module:
    network = unwrapped(network, keep_adapters=True)
    check_enabled(network)
    return unwrapped(deepcopy(network).merge_and_unload() if hasattr(network, "merge_and_unload") else network)


def storable(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a state as safetensors takes them: on the CPU, contiguous, and no two with shared memory.

    Tensors that a network uses in several places are copied, so that whoever loads the file finds every name.
    """
    tensors, seen = {}, set()
    for name, value in state.items():
        tensor = value.detach().cpu()
        memory = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone().contiguous() if memory in seen or not tensor.is_contiguous() else tensor
        seen.add(memory)
    return tensors


def save_description(
    network: nn.Module,
    folder: str | Path,
    label_names: list[str] | None = None,
    images: dict[str, Any] | None = None,
    without: tuple[str, ...] = (),
) -> None:
    """Write what a network's weights in ``folder`` need to be loaded, where it is no transformers model.

    Args:
        network: timm's, or any other module.
        folder: with the network's ``model.safetensors``.
        label_names, images, without: see :func:`~hf_bkd.models.timm_networks.timm_config`.
    """
    folder = Path(folder)
    config, description = getattr(network, "_hub_mixin_config", None), None
    if is_timm(network):
        try:
            config = timm_config(network, label_names, images, without)
        except Unknown as difference:
            architecture = network.pretrained_cfg["architecture"]
            _warn_of_plain(architecture, "timm", difference)
            description = described(network, without)
    else:
        names = label_names or getattr(network, "label_names", None)
        description = described(network, without) | ({"label_names": names} if names else {})
    said = {"problem_type": stated_problem_type(network), CONCENTRATIONS: BY_EXP if is_dirichlet(network) else None}
    described_in = config if description is None else description
    described_in |= {name: value for name, value in said.items() if value is not None}
    for name, content in ((CONFIG, config), (DESCRIPTION, description)):
        if content is None:
            (folder / name).unlink(missing_ok=True)  # an older network's, whose weights have been replaced
        else:
            write_json(folder / name, content)


@functools.cache
def _warn_of_plain(name: str, library: str, difference: Any) -> None:
    """Log once, however many checkpoints are saved, that a network's own library could not load it as it is."""
    logger.warning(
        f"the {name} is saved as a plain module, for {library} can't make it anew ({difference}): load it with "
        "hf_bkd.models.saving.load_network(folder, network=...), built as this one"
    )


@contextmanager
def damage_refused(what: str) -> Iterator[None]:
    """Turn any error in loading ``what``, of safetensors, transformers or timm, into a :class:`UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = shorten(f"{type(error).__name__}: {error}", 200)
        raise UserError(f"{what} cannot be loaded ({reason})") from error


def needed_network(folder: str | Path) -> str | None:
    """Return the file in a folder that describes a network which only its owner's code can build, if there is one."""
    folder = Path(folder)
    descriptions = (file for file in sorted(folder.rglob(DESCRIPTION)) if built(read_json(file)) is None)
    return next((file.relative_to(folder).as_posix() for file in descriptions), None)


def holds_network(folder: str | Path) -> bool:
    """Whether a folder has the files of a saved network."""
    return any((Path(folder) / name).is_file() for name in (CONFIG, DESCRIPTION, WEIGHTS, FORMER_WEIGHTS))


def is_adapted_language_model(folder: str | Path) -> bool:
    """Whether a folder has PEFT's adapters of a causal language model, in safetensors, which name their network."""
    config = Path(folder, ADAPTERS)
    if not (config.is_file() and Path(folder, "adapter_model.safetensors").is_file()):
        return False
    content = read_json(config)
    return content.get("task_type") == "CAUSAL_LM" and bool(content.get("base_model_name_or_path"))


def check_loadable(folder: Path) -> None:
    """Raise a UserError if a folder does not hold a network and its weights in safetensors."""
    if is_adapted_language_model(folder):
        return
    if any((folder / place / ESTIMATOR).is_file() for place in ("", "network")):
        raise UserError(
            f"{folder} holds an estimator of scikit-learn, which is no network to train or to predict with here: it "
            "is a teacher (SklearnTeacher.from_pretrained), and learns from weighted_rows(dataset)"
        )
    if (folder / ADAPTERS).is_file() and not holds_network(folder):
        raise UserError(
            f"{folder} holds PEFT's adapters without their network: save the two as one, by "
            "model.merge_and_unload().save_pretrained(folder)"
        )
    if not holds_network(folder):
        raise UserError(
            f"{folder} holds no network: there is neither a {CONFIG} nor a {WEIGHTS}, which save_pretrained writes"
            + gguf_remedy(folder)
        )
    if not any(folder.glob("*.safetensors*")):
        raise UserError(
            f"{folder} holds no weights in safetensors, and pickled ones (pytorch_model.bin) could run code: where "
            "you trust them, load the network from Python and write it anew with model.save_pretrained(folder)"
        )


def load_network(folder: str | Path, network: nn.Module | None = None) -> nn.Module:
    """Load a saved network, in evaluation mode; only networks of transformers, timm and this library are instantiated.

    Args:
        folder: as :func:`save_network`, a trainer, timm or a transformers model wrote it.
        network: built as the saved one was; needed for a plain ``nn.Module``, whose weights are loaded into it. Of
            adapters of a language model, their base model, if not by its name.

    Raises:
        UserError: weights of another network, or of a plain module without one, or an unknown model class.
    """
    folder = Path(folder)
    config, description = (
        read_json(folder / name) if (folder / name).is_file() else {} for name in (CONFIG, DESCRIPTION)
    )
    former = (folder / FORMER_WEIGHTS).is_file()
    if network is None and is_adapted_language_model(folder):
        return with_its_base(folder)
    if network is not None and (folder / ADAPTERS).is_file() and not config:
        return over(network, folder)
    check_loadable(folder)
    if "pretrained_cfg" in config and "architectures" not in config:
        network = made_by_timm(folder, config) if network is None else network
    elif config and not description and not is_ours(config):
        return _load_transformers(folder)
    elif network is None:
        network = built(description or described_by(config))
    if network is None:
        kind = f" ({description['class']})" if description.get("class") else ""
        raise UserError(
            f"{folder} holds the weights of a plain nn.Module{kind}: from Python, pass network=, built as it was then"
        )
    weights = folder / (FORMER_WEIGHTS if former else WEIGHTS)
    if not weights.is_file():
        raise UserError(f"the network in {folder} cannot be loaded, for it lacks {weights.name}: save it again")
    try:
        network.load_state_dict(load_file(weights))
    except RuntimeError as error:
        reason = [*str(error).splitlines()[:2]][-1].strip()
        raise UserError(f"{folder} holds the weights of another network than the one passed: {reason}") from None
    if description.get("label_names"):
        network.label_names = description["label_names"]
    said = (description or config).get("problem_type")
    if isinstance(said, str):
        network.problem_type = said
    if BY_EXP in (description.get(CONCENTRATIONS), config.get(CONCENTRATIONS)):
        name_dirichlet(network, True)
    return network.eval()


def _load_transformers(folder: Path) -> nn.Module:
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    name = (config.architectures or ["none"])[0]
    model_class = _transformers_class(name)
    if model_class is None:
        raise UserError(f"{folder} asks for the model class {name!r}, which transformers does not have")
    check_stays_here(folder, getattr(config, "architecture", None), getattr(config, "model_args", None))
    model, info = model_class.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
    if info["missing_keys"]:  # transformers would go on with random weights
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise UserError(f"{folder} holds the weights of another network than its config.json describes: no {missing}")
    return model.eval()


def _transformers_class(name: str) -> type[nn.Module] | None:
    kind = getattr(transformers, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel) else None
