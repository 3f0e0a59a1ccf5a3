"""How many classes a network has: what it states, unless its head has been replaced by one of another number."""

from torch import nn

from ..utils.errors import UserError
from .token_networks import predicts_next_tokens, vocabulary_size

HEADS = ("classifier", "classification_head", "score", "fc", "head", "heads")  # as libraries call it


def outputs_of_head(network: nn.Module, stated: int | None) -> int | None:
    """Return the number of outputs of a network's head: ``stated``, or those of what has been put in its place.

    Args:
        network: of timm, with ``get_classifier``, or any other, whose head has one of the usual names.
        stated: the number of classes that it says it has; ``None`` if it says none.
    """
    network = getattr(network, "timm_model", network)
    if hasattr(network, "get_classifier"):
        head = network.get_classifier()
    else:
        head = next((each for name in HEADS if isinstance(each := getattr(network, name, None), nn.Module)), None)
    head = head[0] if isinstance(head, tuple) else head
    if not isinstance(head, nn.Module):
        return stated
    layers = [module for module in head.modules() if next(module.parameters(recurse=False), None) is not None]
    outputs = [getattr(each, "out_features", None) or getattr(each, "out_channels", None) for each in layers]
    return stated if stated in outputs else next(reversed(outputs), None) or stated


def stated_classes(network: nn.Module) -> int | None:
    """Return the number of classes that a network states, or that its replaced head has; ``None`` if it states none.

    Raises:
        UserError: it was built without a head.
    """
    if predicts_next_tokens(network):
        return vocabulary_size(network)
    stated = getattr(getattr(network, "config", None), "num_labels", None)
    stated = getattr(network, "num_classes", None) if stated is None else stated
    if not isinstance(stated, int):
        return None
    outputs = outputs_of_head(network, stated)
    if not outputs:
        raise UserError(
            f"{type(network).__name__} was built without a classification head, and puts out features: build it with "
            "the number of classes (num_classes= of timm, num_labels= of transformers)"
        )
    return outputs
