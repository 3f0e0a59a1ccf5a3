"""Networks that answer for each token of an example: token classifiers and causal language models of transformers."""

from torch import nn

from .calling import unwrapped

CAUSAL = ("ForCausalLM", "LMHeadModel")  # at the end of a class' name


def classifies_tokens(network: nn.Module) -> bool:
    """Return whether a network says, by its class' name, that it classifies each token: logits [B, L, C]."""
    return type(unwrapped(network)).__name__.endswith("ForTokenClassification")


def predicts_next_tokens(network: nn.Module) -> bool:
    """Return whether a network says, by its class' name, that it predicts the next token: logits [B, L, V]."""
    return type(unwrapped(network)).__name__.endswith(CAUSAL)


def vocabulary_size(network: nn.Module) -> int:
    """Return V of a language model's logits, which may be padded beyond what its tokenizer makes."""
    network = unwrapped(network)
    head = network.get_output_embeddings() if hasattr(network, "get_output_embeddings") else None
    return getattr(head, "out_features", None) or network.config.get_text_config().vocab_size
