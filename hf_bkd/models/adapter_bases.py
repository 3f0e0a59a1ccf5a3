"""The base model of a language model's adapters, which are saved without it: its name, and a hash of its weights."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from torch import Tensor, nn

from ..utils.errors import UserError
from ..utils.files import read_json
from .adapters import CONFIG, active_adapter, base_of, changes_of_base, check_leaves_base, is_adapted, over
from .calling import unwrapped
from .gguf import is_of_gguf


class Base(NamedTuple):
    """The base model of saved adapters.

    name: a folder, or a name on the Hub.
    revision: the Hub's commit; "" of a folder, or where it isn't known.
    weights: :func:`weights_hash` of it.
    dtype: that it is loaded in, as torch calls it.
    """

    name: str
    revision: str
    weights: str
    dtype: str


def digest_of(tensors: Mapping[str, Tensor], start: bytes = b"") -> str:
    """Hash named tensors, in the order of their names, to 16 hexadecimal digits."""
    digest = hashlib.sha256(start)
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def weights_hash(network: nn.Module) -> str:
    """Hash a network's weights."""
    return digest_of(network.state_dict())


def base_name(folder: str | Path) -> str | None:
    """Return what the adapters in a folder call their base model, if they do."""
    return read_json(Path(folder, CONFIG)).get("base_model_name_or_path") or None


def base_revision(folder: str | Path) -> str | None:
    """Return the revision of their base model that the adapters in a folder were trained over, if they name one."""
    return read_json(Path(folder, CONFIG)).get("revision") or None


def loaded_base(name: str, dtype: str | None = None, revision: str | None = None) -> nn.Module:
    """Load a causal language model from a folder or the Hub.

    Args:
        name: of it.
        dtype: of its numbers, as torch calls it; as they were saved if not given.
        revision: branch, tag or commit on the Hub.

    Raises:
        UserError: it isn't there, or can't be loaded.
    """
    settings = {} if dtype is None else {"dtype": getattr(torch, dtype)}
    try:
        network = transformers.AutoModelForCausalLM.from_pretrained(
            name, revision=revision or "main", use_safetensors=True, trust_remote_code=False, **settings
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"the base model {name} can't be loaded ({str(error).splitlines()[0][:200]})") from error
    return network.eval()


def with_its_base(folder: str | Path) -> nn.Module:
    """Load the adapters in a folder over the base model that they name, which nothing else shares."""
    base = loaded_base(base_name(folder) or "", revision=base_revision(folder))
    from peft import PeftConfig, PeftModel

    if changes_of_base(PeftConfig.from_pretrained(str(folder))) is None:
        return over(base, folder)
    return PeftModel.from_pretrained(base, folder).eval()


def checked_base(base: Base, network: nn.Module | None, folder: str | Path) -> nn.Module:
    """Return the base model of the adapters in a folder: the one that was passed, or loaded by its name.

    Raises:
        UserError: it isn't there, or has other weights than that which the adapters were saved with.
    """
    remedy = (
        "put it there again, or pass it in Python, Teacher.from_pretrained(folder, network=base), and save that "
        "teacher, which notes the new place"
    )
    if network is None:
        try:
            network = loaded_base(base.name, base.dtype, base.revision)
        except UserError as error:
            raise UserError(f"the adapters in {folder} need their base model, and {error}: {remedy}") from error
        what = base.name
    else:
        network = base_of(network) if is_adapted(network) else unwrapped(network)
        what = "the network that was passed"
    dtype = dtype_of(network)
    if dtype != base.dtype:
        raise UserError(
            f"the adapters in {folder} were saved over a base model in {base.dtype}, and {what} is in {dtype}: load "
            f"it with dtype=torch.{base.dtype}"
        )
    if weights_hash(network) != base.weights:
        raise UserError(
            f"the adapters in {folder} are of another base model than {what}, which has other weights or has changed "
            f"since ({base.name} was its name): {remedy}"
        )
    return network


def dtype_of(network: nn.Module) -> str:
    """Name the type of a network's numbers, as torch has it."""
    return str(next(each for each in network.parameters() if each.is_floating_point()).dtype).removeprefix("torch.")


def named_base(network: nn.Module) -> Base | None:
    """Return the base model of a network with adapters, by which these are saved alone; ``None`` if nobody names it.

    Raises:
        UserError: adapters that are merged or change their base model, several active ones, or a base model that can't
            be loaded again by its name.
    """
    config = network.peft_config[active_adapter(network)]
    check_leaves_base(config, "this network")
    base = base_of(network)
    name = getattr(base.config, "_name_or_path", None) or config.base_model_name_or_path
    if not name:
        return None
    folder = Path(name).expanduser()
    if not folder.is_dir() and folder.is_absolute():
        raise UserError(
            f"the adapters' base model was loaded from {name}, which is gone, so that nobody could load them again: "
            "save it by network.get_base_model(), or put it there again"
        )
    _check_unchanged(base, name)
    place = (
        (str(folder.resolve()), "") if folder.is_dir() else (name, getattr(base.config, "_commit_hash", None) or "")
    )
    return Base(*place, weights_hash(base), dtype_of(base))


def _check_unchanged(base: nn.Module, name: str) -> None:
    """Raise a UserError if a base model is plainly not what its name would load."""
    trained = next((each for each, weight in base.named_parameters() if weight.requires_grad), None)
    if trained is not None:
        raise UserError(
            f"the base model's own {trained} is trained beside the adapters, which would be saved without it: freeze "
            "it, or name its layer in the adapters' modules_to_save"
        )
    file = Path(name).expanduser() / "config.json"
    check_base_has_safetensors(base)
    if file.parent.is_dir() and not file.is_file():
        raise UserError(
            f"the base model's name is {name}, and nothing can be loaded from there by it: save it in another folder, "
            "by hf_bkd.models.saving.save_network(base, folder), and train over the one that is loaded from there"
        )
    stated = read_json(file).get("vocab_size") if file.is_file() else None
    size = base.get_input_embeddings().num_embeddings
    if stated is not None and stated != base.config.get_text_config().vocab_size:
        raise UserError(
            f"the base model has {size} tokens, and the one in {name} {stated}: save the one with added tokens in a "
            "folder, and train over the one loaded from there"
        )


def check_base_has_safetensors(network: nn.Module) -> None:
    """Raise a UserError if a network with adapters, or within them, was loaded from a GGUF file."""
    if is_of_gguf(network):
        raise UserError(
            "the base model was loaded from a GGUF file, and adapters name a base model in safetensors: save it "
            "first, by hf_bkd.models.saving.save_network(base, folder), and train over the one that is loaded from "
            "there"
        )
