"""The network inside a teacher: feeding it, reading its features, saving it without pickle."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..backbones import classification_head, head_features
from ..errors import UserError

Inputs = dict[str, Tensor] | Tensor
PLAIN_WEIGHTS = "network.safetensors"


def to_device(inputs: Inputs, device: torch.device) -> Inputs:
    """Inputs, or each of a dict's, on ``device``."""
    if isinstance(inputs, Tensor):
        return inputs.to(device, non_blocking=True)
    return {name: value.to(device, non_blocking=True) for name, value in inputs.items()}


def split(batch: dict[str, Tensor] | tuple | list) -> tuple[Inputs, Tensor]:
    """Inputs and labels of a batch: a dict with ``labels``, or a pair."""
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    if isinstance(batch, dict) and "labels" in batch:
        return {name: value for name, value in batch.items() if name != "labels"}, batch["labels"]
    found = f"a dict with {', '.join(batch)}" if isinstance(batch, dict) else f"a {type(batch).__name__}"
    raise UserError(f"batches must be (inputs, labels) pairs or dicts with a 'labels' entry; this one is {found}")


def num_classes_of(network: nn.Module) -> int:
    return classification_head(network)[1].out_features


class HeadData(NamedTuple):
    """What the last layer sees of a data set: features [N, d], logits [N, C] and labels [N], on the network's device."""

    features: Tensor
    logits: Tensor
    labels: Tensor


@torch.no_grad()
def head_data(network: nn.Module, batches: Iterable[dict | tuple]) -> HeadData:
    """One pass over ``batches`` in evaluation mode; UserError if they are empty or the labels don't fit the head."""
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    columns = [], [], []
    for batch in batches:
        inputs, labels = split(batch)
        for column, value in zip(columns, (*head_features(network, to_device(inputs, device)), labels), strict=True):
            column.append(value.to(device))
    network.train(was_training)
    if not columns[0]:
        raise UserError("no batches were given to fit a teacher on")
    data = HeadData(*(torch.cat(column) for column in columns))
    if int(data.labels.max()) >= data.logits.shape[-1]:
        raise UserError(
            f"labels go up to {int(data.labels.max())}, but the network has {data.logits.shape[-1]} classes"
        )
    return data


def save_network(network: nn.Module, folder: Path, without: tuple[str, ...] = ()) -> None:
    """A transformers model through its own ``save_pretrained``; of any other module only the weights.

    Weights whose names end in one of ``without`` are left out.
    """
    weights = {name: value for name, value in network.state_dict().items() if not name.endswith(without)}
    if hasattr(network, "save_pretrained"):
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
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    name = (config.architectures or ["none"])[0]
    model_class = getattr(transformers, name, None)
    if not (isinstance(model_class, type) and issubclass(model_class, transformers.PreTrainedModel)):
        raise UserError(f"{folder} asks for the model class {name!r}, which transformers does not have")
    return model_class.from_pretrained(folder, use_safetensors=True).eval()
