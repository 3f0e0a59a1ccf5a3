"""Networks saved as safetensors, and loaded without pickle and without running anybody's code."""

from pathlib import Path

import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from ..utils.errors import UserError

PLAIN_WEIGHTS = "network.safetensors"


def save_network(network: nn.Module, folder: Path, without: tuple[str, ...] = ()) -> None:
    """A model of a class that transformers has through its ``save_pretrained``; of any other module only the weights.

    Weights whose names end in one of ``without`` are left out.
    """
    weights = {name: value for name, value in network.state_dict().items() if not name.endswith(without)}
    if _transformers_class(type(network).__name__) is type(network):
        network.save_pretrained(folder, state_dict=weights)
        return
    folder.mkdir(parents=True)
    save_file({name: value.cpu().clone().contiguous() for name, value in weights.items()}, folder / PLAIN_WEIGHTS)


def load_network(folder: Path, network: nn.Module | None = None) -> nn.Module:
    """Load what :func:`save_network` wrote, in evaluation mode; only transformers' own classes are instantiated."""
    if (folder / PLAIN_WEIGHTS).is_file():
        if network is None:
            raise UserError(f"{folder} holds the weights of a plain nn.Module: pass network=, built as it was then")
        try:
            network.load_state_dict(load_file(folder / PLAIN_WEIGHTS))
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip()
            raise UserError(f"{folder} holds the weights of another network than the one passed: {reason}") from None
        return network.eval()
    return _load_transformers(folder)


def _load_transformers(folder: Path) -> nn.Module:
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    name = (config.architectures or ["none"])[0]
    model_class = _transformers_class(name)
    if model_class is None:
        raise UserError(f"{folder} asks for the model class {name!r}, which transformers does not have")
    model, found = model_class.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
    if found["missing_keys"]:  # transformers would go on with random weights
        missing = ", ".join(sorted(found["missing_keys"])[:3])
        raise UserError(f"{folder} holds the weights of another network than its config.json tells of: no {missing}")
    return model.eval()


def _transformers_class(name: str) -> type[nn.Module] | None:
    found = getattr(transformers, name, None)
    return found if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) else None
