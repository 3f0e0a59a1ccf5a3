"""The network inside a teacher: feeding it, reading its features, saving it without pickle."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..backbones import classification_head, head_features
from ..errors import UserError

Inputs = Mapping[str, Tensor] | Tensor
PLAIN_WEIGHTS = "network.safetensors"


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
