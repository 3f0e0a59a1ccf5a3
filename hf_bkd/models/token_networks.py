"""Networks that answer for each token of an example, such as transformers' ``AutoModelForTokenClassification``."""

from torch import nn

from .calling import unwrapped


def classifies_tokens(network: nn.Module) -> bool:
    """Return whether a network says, by its class' name, that it answers for each token: logits [B, L, C]."""
    return type(unwrapped(network)).__name__.endswith("ForTokenClassification")
