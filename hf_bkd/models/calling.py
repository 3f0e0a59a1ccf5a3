"""Call any network in one way: which inputs it takes, how they are passed, and where its logits are."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..likelihoods import CATEGORICAL, Likelihood
from ..utils.errors import UserError
from ..utils.seeding import seeded

Inputs = Mapping[str, Tensor] | Tensor


def unwrapped(network: nn.Module, keep_adapters: bool = False) -> nn.Module:
    """Return the network within what compiles it, spreads it over devices or adapts it (PEFT); others as they are.

    Args:
        network: any module.
        keep_adapters: whether to stop at a PEFT model, which calls and saves its network with the adapters.
    """
    while True:
        if hasattr(network, "_orig_mod"):
            network = network._orig_mod
        elif isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            network = network.module
        elif not keep_adapters and hasattr(network, "peft_config") and hasattr(network, "get_base_model"):
            network = network.get_base_model()
        else:
            return network


def argument_names(network: nn.Module, required: bool = False) -> list[str]:
    """Return the names of the arguments of a network's forward, or of those alone that have no default.

    Those of labels don't count, nor do ``*args`` and ``**kwargs``.
    """
    return list(_argument_names(type(unwrapped(network)).forward, required))


@functools.cache
def _argument_names(forward: Callable, required: bool) -> tuple[str, ...]:
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    named = [each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    return tuple(
        each.name
        for each in named
        if each.name != "labels" and not (required and each.default is not inspect.Parameter.empty)
    )


def taken_inputs(network: nn.Module, names: Sequence[str]) -> list[str]:
    """Return which of some named inputs go into a network.

    They are those that its forward names; where it names none, all if it takes any name (``**kwargs``), or the only
    one, which :func:`call_arguments` passes by position; otherwise none.
    """
    taken = argument_names(network)
    named = [name for name in names if name in taken]
    takes_any = _takes(type(unwrapped(network)).forward, "")
    return named or (list(names) if takes_any or len(names) == 1 else [])


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
    return (), _uncached(type(unwrapped(network)).forward) | dict(inputs)


@functools.cache
def _uncached(forward: Callable) -> dict[str, bool]:
    """Return what keeps a decoder from a cache, which nobody reads, and with which packed texts see each other."""
    parameter = inspect.signature(forward).parameters.get("use_cache")
    return {} if parameter is None else {"use_cache": False}


@functools.cache
def _takes(forward: Callable, name: str) -> bool:
    parameters = inspect.signature(forward).parameters
    return name in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def logits_of(outputs: Any) -> Tensor:
    """Extract the logits from what a network returned.

    Args:
        outputs: a tensor, a ModelOutput or dict with "logits", or a tuple whose first tensor [B, C] they are.

    Raises:
        UserError: there are none, or they lack the dimension of the outputs.
    """
    if isinstance(outputs, tuple | list):
        logits = next((item for item in outputs if isinstance(item, Tensor) and item.ndim >= 2), None)
    else:
        logits = outputs.get("logits") if isinstance(outputs, Mapping) else outputs
    if not isinstance(logits, Tensor):
        raise UserError(f"the model returned a {type(outputs).__name__} without logits")
    if logits.ndim < 2:
        raise UserError(
            f"the model returned logits of shape {list(logits.shape)}, and they must be [examples, outputs]: return "
            "[examples, 1] for one output, without .squeeze() at its end"
        )
    return logits


def to_network(inputs: Inputs, network: nn.Module) -> Inputs:
    """Move inputs, a tensor or a mapping's values, to the network's device, and floats to its number format.

    Mappings in a mapping, each of which is another network's inputs, are left to that, and tables, which estimators
    read, stay as they are.
    """
    weight = next(network.parameters())
    if not weight.is_floating_point():  # it is quantized
        weight = next((each for each in network.parameters() if each.is_floating_point()), weight)

    def move(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        floats = value.is_floating_point() and weight.is_floating_point()
        dtype = weight.dtype if floats else value.dtype
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


def check_logits(logits: Tensor, network: nn.Module, likelihood: Likelihood = CATEGORICAL) -> None:
    """Refuse probabilities where logits [..., C] are needed: a softmax or sigmoid of them would flatten every answer.

    Raises:
        UserError: every row is what a softmax or sigmoid returns.
    """
    made = logits.grad_fn.name() if logits.grad_fn is not None else ""
    ends_in_one = made.startswith(("Sigmoid", "Softmax")) and likelihood.has_temperature
    if len(logits) and (ends_in_one or likelihood.look_like_values(logits)):
        raise UserError(
            f"{type(network).__name__} returns probabilities, and logits are needed: leave out the softmax or sigmoid "
            "at its end, or return what goes into it"
        )


def check_network(network: nn.Module, inputs: Inputs, likelihood: Likelihood = CATEGORICAL) -> None:
    """Ask a network about a few examples: its answers must be logits, and the same each time.

    Raises:
        UserError: it returns probabilities, or draws random numbers in evaluation mode.
    """
    inputs, device = to_network(inputs, network), next(network.parameters()).device
    answers = []
    with evaluation_mode(network):
        for seed in range(2):
            with seeded(seed, device), torch.enable_grad():  # which tells what made the answers
                answers.append(logits_of(call_network(network, inputs)))
    check_logits(answers[0], network, likelihood)
    if not torch.allclose(*answers, rtol=1e-3, atol=1e-3):
        raise UserError(
            f"{type(network).__name__} draws random numbers in evaluation mode, so that its answers depend on the "
            "batch: give F.dropout training=self.training, or take MCDropoutTeacher, whose draws they then are"
        )
