"""A network's classification head: which layer it is, how many classes it tells apart, and what enters it."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..likelihoods import CATEGORICAL, Likelihood
from ..utils.errors import UserError
from .calling import Inputs, call_network, check_logits, evaluation_mode, logits_of, split, to_network, unwrapped
from .outputs import stated_classes
from .problem_types import likelihood_of, problem_type_of_labels
from .taking import taking
from .token_networks import check_one_label_each

_WATCHED: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()  # heads that names don't tell, seen in a call


class HeadData(NamedTuple):
    """Inputs and outputs of a network's last layer on N examples, with their labels, on the network's device.

    features [N, d] and logits [N, K] in float32; labels as the likelihood has them: integers [N] in [0, C), or numbers
    [N, C]. For a network that answers for each token, N counts the labeled ones.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor
    likelihood: Likelihood = CATEGORICAL


@torch.no_grad()
def head_data(
    network: nn.Module, batches: Iterable[Mapping | tuple], problem_type: str | Likelihood | None = None
) -> HeadData:
    """Collect features, logits and labels in one pass over ``batches``, with the network in evaluation mode.

    Args:
        network: of which :func:`~hf_bkd.models.problem_types.likelihood_of` tells what its outputs mean, or the labels
            where nobody says it.
        batches: (inputs, labels) pairs, or dicts with ``labels``.
        problem_type: as there.

    Raises:
        UserError: the batches are empty, or the labels don't fit the network.
    """
    check_one_label_each(network)
    device = next(network.parameters()).device
    problem_type = getattr(batches, "likelihood", problem_type)  # a dataset's, by all of its labels
    likelihood, columns = None, ([], [], [])
    with evaluation_mode(network):
        for batch in batches:
            inputs, labels = split(batch)
            features, logits = head_features(network, to_network(inputs, network))
            labels = labels.to(device)
            per_token = logits.ndim == 3 and features.shape[:-1] == labels.shape
            features = labeled(features, labels)[0] if per_token else features
            seen = features.float(), *labeled(logits.float(), labels)
            if likelihood is None and len(seen[2]):
                likelihood = likelihood_of(network, problem_type, problem_type_of_labels(seen[2], seen[1]))
                likelihood.matching(seen[2], seen[1].shape[-1])  # refused before the others are gone through
                check_logits(seen[1], network, likelihood)
            for column, value in zip(columns, seen, strict=True):
                column.append(value)
    if likelihood is None:
        raise UserError("there are no examples to fit a teacher on: the batches are empty")
    features, logits, labels = map(torch.cat, columns)
    likelihood, labels = likelihood.matching(labels, logits.shape[-1])
    return HeadData(features, logits, labels, likelihood)


def labeled(answers: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return answers [B, ...] and labels as they are, and those for each token [B, L, ...] where there is a label."""
    if answers.ndim != 3 or labels.shape != answers.shape[:-1]:
        return answers, labels
    there = CATEGORICAL.labeled(labels)
    return answers[there], labels[there]


def num_classes_of(network: nn.Module) -> int:
    """Return the number of outputs that a network states, or else of its classification head."""
    return stated_classes(unwrapped(network, keep_adapters=True)) or classification_head(network)[1].out_features


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
    network = unwrapped(network, keep_adapters=True)
    if network in _WATCHED:
        return _WATCHED[network], network.get_submodule(_WATCHED[network])
    get_classifier = getattr(getattr(network, "timm_model", network), "get_classifier", None)
    if get_classifier is not None and isinstance(get_classifier(), tuple):
        raise UserError(f"{type(network).__name__} averages the logits of several heads: choose a network with one")
    classes = stated_classes(network)
    linears = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    heads = [(name, module) for name, module in linears if classes in (None, module.out_features)]
    if not heads:
        outputs = "" if classes is None else f" with {classes} outputs"
        raise UserError(
            f"{type(network).__name__} has no linear layer{outputs} that could be its head, over which a posterior "
            "could be had: temperature scaling, MC dropout, ensembles and posteriors over all weights still work"
        )
    return heads[-1]


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
    network = unwrapped(network, keep_adapters=True)
    expected, _ = classification_head(network)
    layers = {
        module: name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and stated_classes(network) in (None, module.out_features)
    }
    seen: list[tuple[str, Tensor, Tensor]] = []

    def watch(module: nn.Module, args: tuple, named: dict[str, Any], output: Tensor) -> None:
        seen.append((layers[module], (*args, *named.values())[0], output))

    hooks = [module.register_forward_hook(watch, with_kwargs=True) for module in layers]
    try:
        with taking(network, inputs):
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
