"""Networks that answer for each token of an example: token classifiers and causal language models of transformers."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..utils.errors import UserError
from .calling import call_network, evaluation_mode, logits_of, to_network, unwrapped

CAUSAL = ("ForCausalLM", "LMHeadModel")  # at the end of a class' name
NOT_CAUSAL = ("ForConditionalGeneration", "ForMaskedLM")
SAME = 1e-3  # by which rounding may change a logit
ROUNDINGS = 4  # of the logits' own precision, between a text in a packed row and alone


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


def check_no_other_language_model(network: nn.Module) -> None:
    """Raise a UserError if a network says, by its class' name, that it is a language model which isn't causal."""
    name = type(unwrapped(network)).__name__
    if name.endswith(NOT_CAUSAL):
        raise UserError(
            f"{name} is no causal language model, and only of these tokens are labeled and taught: take a class that "
            f"ends in {' or '.join(CAUSAL)}, such as AutoModelForCausalLM loads"
        )


def check_one_label_each(network: nn.Module) -> None:
    """Raise a UserError if a network is a language model, whose labels are not of the positions that they stand at."""
    if predicts_next_tokens(network):
        raise UserError(
            f"{type(unwrapped(network)).__name__} predicts next tokens, and this is for a label of each example or "
            "token: a language model is a teacher as it is, by DeterministicTeacher(network), and measured by "
            "trainer.evaluate() or hf-bkd evaluate"
        )


def check_next_tokens(network: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """Raise a UserError if what a language model says of a token depends on what it must not.

    Args:
        network: a language model.
        inputs: a batch of it; the texts of a packed row begin where its ``position_ids`` are 0.

    Raises:
        UserError: it depends on what comes after, or on the other texts of a packed row.
    """
    row = {name: value[:1] for name, value in inputs.items() if name not in ("labels", "lengths")}
    ids = row["input_ids"]
    last = int(row.get("attention_mask", torch.ones_like(ids))[0].nonzero().max())
    other = ids.clone()
    other[:, last] = (ids[:, last] + 1) % vocabulary_size(network)
    if last and _differ(network, row, row | {"input_ids": other}, slice(0, last), slice(0, last)):
        raise UserError(
            f"{type(network).__name__} sees what comes after a token, so that it predicts no next ones: take a causal "
            "language model, or set is_decoder=True in its config if it was trained as one"
        )
    starts = (row["position_ids"][0] == 0).nonzero()[:, 0].tolist() if "position_ids" in row else []
    if len(starts) < 2:
        return
    text = slice(starts[1], (*starts, ids.shape[1])[2])
    alone = {name: value[:, text] for name, value in row.items()}
    if _differ(network, row, alone, text, slice(None), ROUNDINGS):
        raise UserError(
            f"{type(network).__name__} lets the texts of a packed row see each other, whatever their position_ids: "
            "pass rows of one text each"
        )


@torch.no_grad()
def _differ(network: nn.Module, row: Mapping, other: Mapping, at: slice, other_at: slice, roundings: int = 0) -> bool:
    """Whether a network answers otherwise about some positions of a row than about those of another."""
    with evaluation_mode(network):
        logits, others = (logits_of(call_network(network, to_network(each, network))) for each in (row, other))
    tolerance = max(SAME, roundings * torch.finfo(logits.dtype).eps)
    logits, others = logits[:, at].float(), others[:, other_at].float()
    return bool((logits - others).abs().max() > tolerance * max(1.0, float(logits.abs().max())))
