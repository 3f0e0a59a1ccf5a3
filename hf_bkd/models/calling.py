"""Call any network in one way: its inputs, its logits, its classification head and the features that enter it."""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..utils.errors import UserError
from ..utils.seeding import seeded

Inputs = Mapping[str, Tensor] | Tensor
_WATCHED: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()  # heads that names don't tell, seen in a call


def to_network(inputs: Inputs, network: nn.Module) -> Inputs:
    """Move inputs, a tensor or a mapping's values, to the network's device, and floats to its number format."""
    weight = next(network.parameters())

    def move(value: Tensor) -> Tensor:
        dtype = weight.dtype if value.is_floating_point() else value.dtype
        return value.to(weight.device, dtype, non_blocking=weight.device.type != "cpu")

    return move(inputs) if isinstance(inputs, Tensor) else {name: move(value) for name, value in inputs.items()}


def split(batch: Mapping[str, Tensor] | tuple | list) -> tuple[Inputs, Tensor]:
    """Split a batch into inputs and labels: a dict (or transformers' BatchEncoding) with ``labels``, or a pair."""
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    if isinstance(batch, Mapping) and "labels" in batch:
        return {name: value for name, value in batch.items() if name != "labels"}, batch["labels"]
    given = f"a dict with {', '.join(batch)}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
    raise UserError(f"batches must be (inputs, labels) pairs or dicts with a 'labels' entry; this one is {given}")


def num_classes_of(network: nn.Module) -> int:
    """Return the number of classes that a network states, or else of its classification head's outputs."""
    return _stated_classes(uncompiled(network)) or classification_head(network)[1].out_features


def check_single_label(network: nn.Module) -> None:
    """Refuse a network of another kind of prediction than one class for each example, if it says so.

    Raises:
        UserError: a multi-label classifier, a regression, or a network of timm without its head.
    """
    network = uncompiled(network)
    config = getattr(network, "config", None)
    kind = getattr(config, "problem_type", None)
    if kind in ("multi_label_classification", "regression") or getattr(config, "num_labels", None) == 1:
        said = f"problem_type {kind!r}" if kind else "a single output"
        raise UserError(
            f"{type(network).__name__} has {said}, and only classifiers with one class for each example can teach or "
            "be taught yet: build it with num_labels of at least 2 and problem_type='single_label_classification'"
        )
    if _stated_classes(network) == 0:
        raise UserError(
            f"{type(network).__name__} has no classification head (num_classes=0): build it with a num_classes of at "
            "least 2, or give it one by network.reset_classifier(num_classes)"
        )


def check_logits(logits: Tensor, network: nn.Module) -> None:
    """Refuse probabilities where logits [B, C] are needed: a softmax of them would flatten every answer.

    Raises:
        UserError: every row is a distribution.
    """
    sums = logits.double().sum(dim=-1)
    if logits.ndim == 2 and len(logits) and bool((logits >= 0).all() & ((sums - 1).abs() < 1e-4).all()):
        raise UserError(
            f"{type(network).__name__} returns probabilities, and logits are needed: leave out the softmax at its "
            "end, or return their logarithms"
        )


@torch.no_grad()
def check_network(network: nn.Module, inputs: Inputs) -> None:
    """Ask a network about a few examples: its answers must be logits, and the same each time.

    Raises:
        UserError: it returns probabilities, or draws random numbers in evaluation mode.
    """
    inputs, device = to_network(inputs, network), next(network.parameters()).device
    answers = []
    with evaluation_mode(network):
        for seed in range(2):
            with seeded(seed, device):
                answers.append(logits_of(call_network(network, inputs)))
    check_logits(answers[0], network)
    if not torch.allclose(*answers, rtol=1e-3, atol=1e-3):
        raise UserError(
            f"{type(network).__name__} draws random numbers in evaluation mode, so that its answers depend on the "
            "batch: give F.dropout training=self.training, or take MCDropoutTeacher, whose draws they then are"
        )


class HeadData(NamedTuple):
    """Inputs and outputs of a network's last layer on N examples, with their labels, on the network's device.

    features [N, d] and logits [N, C] in float32; labels [N], integers in [0, C).
    """

    features: Tensor
    logits: Tensor
    labels: Tensor


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Put all modules into evaluation mode for the block, and each back into its own mode afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def head_data(network: nn.Module, batches: Iterable[Mapping | tuple]) -> HeadData:
    """Collect features, logits and labels in one pass over ``batches``, with the network in evaluation mode.

    Raises:
        UserError: the batches are empty, or the labels don't fit the head.
    """
    device = next(network.parameters()).device
    columns = [], [], []
    with evaluation_mode(network):
        for batch in batches:
            inputs, labels = split(batch)
            features, logits = head_features(network, to_network(inputs, network))
            if not columns[0]:
                check_logits(logits, network)
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


def head_parameters(name: str) -> tuple[str, str]:
    """Return what a network calls the weight and the bias of its layer of some name, ``""`` for itself."""
    return f"{name}.weight".removeprefix("."), f"{name}.bias".removeprefix(".")


def classification_head(network: nn.Module) -> tuple[str, nn.Linear]:
    """Find the linear layer that makes the logits of a timm, transformers or plain network.

    Returns:
        The name and the module of the layer that :func:`head_features` saw the logits come from; before that, of the
        last ``nn.Linear`` of ``named_modules`` with as many outputs as there are classes (``config.num_labels`` or
        ``num_classes``), or simply of the last one if the network has neither.

    Raises:
        UserError: there is none, as in a network that ends in a convolution, or timm's network averages several heads.
    """
    network = uncompiled(network)
    if network in _WATCHED:
        return _WATCHED[network], network.get_submodule(_WATCHED[network])
    get_classifier = getattr(getattr(network, "timm_model", network), "get_classifier", None)
    if get_classifier is not None and isinstance(get_classifier(), tuple):
        raise UserError(f"{type(network).__name__} averages the logits of several heads: choose a network with one")
    classes = _stated_classes(network)
    linears = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    heads = [(name, module) for name, module in linears if classes in (None, module.out_features)]
    if not heads:
        outputs = "" if classes is None else f" with {classes} outputs"
        raise UserError(
            f"{type(network).__name__} has no linear layer{outputs} that could be its head, over which a posterior "
            "could be had: temperature scaling, MC dropout, ensembles and posteriors over all weights still work"
        )
    return heads[-1]


def taken_inputs(network: nn.Module, names: Sequence[str]) -> list[str]:
    """Return which of some named inputs go into a network.

    They are those that its forward names; where it names none, all if it takes any name (``**kwargs``), or the only
    one, which :func:`call_arguments` passes by position; otherwise none.
    """
    taken = argument_names(network)
    named = [name for name in names if name in taken]
    takes_any = _takes(type(unwrapped(network)).forward, "")
    return named or (list(names) if takes_any or len(names) == 1 else [])


def _stated_classes(network: nn.Module) -> int | None:
    """Return the number of classes that a network states, if it does."""
    return getattr(getattr(network, "config", None), "num_labels", None) or getattr(network, "num_classes", None)


def call_network(network: nn.Module, inputs: Inputs) -> Any:
    """Call a network on some inputs, as :func:`call_arguments` passes them, and return what its forward returns."""
    args, kwargs = call_arguments(network, inputs)
    return network(*args, **kwargs)


def call_arguments(network: nn.Module, inputs: Inputs) -> tuple[tuple, dict[str, Any]]:
    """Turn inputs into positional and keyword arguments of a network's forward.

    Args:
        network: whose forward is to be called.
        inputs: a tensor is the first positional argument, a mapping holds keyword arguments; a single one whose name
            forward does not know, such as ``pixel_values`` of a timm network, is the first positional argument too.
    """
    if not isinstance(inputs, Mapping):
        return (inputs,), {}
    if len(inputs) == 1 and not _takes(type(unwrapped(network)).forward, *inputs):
        return tuple(inputs.values()), {}
    return (), dict(inputs)


@functools.cache
def _takes(forward: Callable, name: str) -> bool:
    parameters = inspect.signature(forward).parameters
    return name in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the network within what compiles it, spreads it over devices or adapts it (PEFT); others as they are."""
    while True:
        if hasattr(network, "_orig_mod"):
            network = network._orig_mod
        elif isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            network = network.module
        elif hasattr(network, "peft_config") and hasattr(network, "get_base_model"):
            network = network.get_base_model()
        else:
            return network


def argument_names(network: nn.Module, required: bool = False) -> list[str]:
    """Return the names of the arguments of a network's forward, or of those alone that have no default.

    Those of labels don't count, nor do ``*args`` and ``**kwargs``.
    """
    parameters = list(inspect.signature(type(unwrapped(network)).forward).parameters.values())[1:]
    named = [each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    return [
        each.name
        for each in named
        if each.name != "labels" and not (required and each.default is not inspect.Parameter.empty)
    ]


def head_features(network: nn.Module, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return the head's input [B, d] and the logits [B, C] of one forward pass; gradients flow through both.

    The head is the linear layer whose output the logits are, or for each example one position of its output, as in
    decoders that classify by the last token; :func:`classification_head` knows it from then on.

    Args:
        network: has a :func:`classification_head`.
        inputs: keyword arguments of its forward, or the one positional argument.

    Raises:
        UserError: no head, no logits, or logits that are not the head's output.
    """
    network = uncompiled(network)
    expected, _ = classification_head(network)
    layers = {
        module: name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and _stated_classes(network) in (None, module.out_features)
    }
    seen: list[tuple[str, Tensor, Tensor]] = []

    def watch(module: nn.Module, args: tuple, named: dict[str, Any], output: Tensor) -> None:
        seen.append((layers[module], (*args, *named.values())[0], output))

    hooks = [module.register_forward_hook(watch, with_kwargs=True) for module in layers]
    try:
        logits = logits_of(call_network(network, inputs))
    finally:
        for hook in hooks:
            hook.remove()
    for name, features, output in reversed(seen):
        entered = _entering(features, output, logits)
        if entered is not None:
            if name != expected:
                _WATCHED[network] = name
            return entered, logits
    raise UserError(
        f"the logits of {type(network).__name__} are not what its linear layer {expected!r} puts out, so that no "
        "posterior over a last layer can be had: temperature scaling, MC dropout, ensembles and posteriors over all "
        "weights still work"
    )


def _entering(features: Tensor, output: Tensor, logits: Tensor) -> Tensor | None:
    """Return what of a layer's input [B, d] or [B, T, d] became the logits; ``None`` if they are not its output."""
    if output is logits or (output.shape == logits.shape and torch.equal(output.to(logits), logits)):
        return features
    pooled = output.ndim == 3 and logits.ndim == 2 and output.shape[::2] == logits.shape
    if not pooled:
        return None
    same = (output.to(logits) == logits[:, None]).all(dim=-1)
    if not same.any(dim=1).all():
        return None
    last = same.shape[1] - 1 - same.flip(1).int().argmax(dim=1)
    return features[torch.arange(len(last), device=last.device), last]


def uncompiled(network: nn.Module) -> nn.Module:
    """Return the network that `torch.compile` wraps, whose layers can be watched; others as they are."""
    return getattr(network, "_orig_mod", network)


def logits_of(outputs: Any) -> Tensor:
    """Extract the logits from what a network returned.

    Args:
        outputs: a tensor, a ModelOutput or dict with "logits", or a tuple whose first tensor [B, C] they are.

    Raises:
        UserError: there are none.
    """
    if isinstance(outputs, tuple | list):
        logits = next((item for item in outputs if isinstance(item, Tensor) and item.ndim >= 2), None)
    else:
        logits = outputs.get("logits") if isinstance(outputs, Mapping) else outputs
    if not isinstance(logits, Tensor):
        raise UserError(f"the model returned a {type(outputs).__name__} without logits")
    return logits
