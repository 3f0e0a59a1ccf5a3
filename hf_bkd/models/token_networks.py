"""Networks that answer for each token of an example: token classifiers and causal language models of transformers."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..utils.errors import UserError
from .calling import call_network, evaluation_mode, logits_of, to_network, unwrapped

CAUSAL = ("ForCausalLM", "LMHeadModel")  # at the end of a class' name
SAME = 1e-3  # by which rounding may change a logit


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


def check_causal(network: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """Raise a UserError if a network's answer about a token depends on what comes after it."""
    asked = {name: value[:1] for name, value in inputs.items() if name not in ("labels", "lengths")}
    ids = asked["input_ids"]
    mask = asked.get("attention_mask", torch.ones_like(ids))
    last = int(mask[0].nonzero().max())
    if last == 0:
        return
    other = ids.clone()
    other[:, last] = (ids[:, last] + 1) % vocabulary_size(network)
    with torch.no_grad(), evaluation_mode(network):
        first, second = (
            logits_of(call_network(network, to_network(asked | {"input_ids": each}, network)))[:, :last].float()
            for each in (ids, other)
        )
    if (first - second).abs().max() > SAME * max(1.0, float(first.abs().max())):
        raise UserError(
            f"{type(network).__name__} sees what comes after a token, so that it predicts no next ones: take a causal "
            "language model, or set is_decoder=True in its config if it was trained as one"
        )
