"""Save networks as safetensors, and load them without pickle and without running anybody's code."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from ..utils.errors import UserError

PLAIN_WEIGHTS = "network.safetensors"


def save_network(network: nn.Module, folder: Path, without: tuple[str, ...] = ()) -> None:
    """Save a transformers model by its own ``save_pretrained``, and of any other module the weights alone.

    Weights whose names end in one of ``without`` are omitted.
    """
    weights = {name: value for name, value in network.state_dict().items() if not name.endswith(without)}
    if _transformers_class(type(network).__name__) is type(network):
        network.save_pretrained(folder, state_dict=weights)
        return
    folder.mkdir(parents=True)
    save_file({name: value.cpu().clone().contiguous() for name, value in weights.items()}, folder / PLAIN_WEIGHTS)


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


def load_network(folder: Path, network: nn.Module | None = None) -> nn.Module:
    """Load what :func:`save_network` wrote, in evaluation mode; only transformers' own classes are instantiated.

    Weights of a plain ``nn.Module`` are loaded into ``network``, built as the saved one was.

    Raises:
        UserError: weights of another network, or of a plain module without one, or an unknown model class.
    """
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
    _check_stays_here(folder, config)
    model, info = model_class.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
    if info["missing_keys"]:  # transformers would go on with random weights
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise UserError(f"{folder} holds the weights of another network than its config.json describes: no {missing}")
    return model.eval()


def _check_stays_here(folder: Path, config: transformers.PretrainedConfig) -> None:
    """Refuse a description whose architecture would be downloaded, or is a file elsewhere."""
    architecture, model_args = getattr(config, "architecture", None), getattr(config, "model_args", None) or {}
    elsewhere = [name for name in ("pretrained", "checkpoint_path") if model_args.get(name)]
    if isinstance(architecture, str) and (":" in architecture or "/" in architecture):
        raise UserError(f"{folder} asks for the architecture {architecture!r}, which is none of timm's own")
    if elsewhere:
        raise UserError(f"{folder} asks for weights from elsewhere ({elsewhere[0]}), and its own are to be loaded")


def _transformers_class(name: str) -> type[nn.Module] | None:
    kind = getattr(transformers, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel) else None
