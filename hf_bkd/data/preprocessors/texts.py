"""Texts, or pairs of texts, as a network's own tokenizer makes them."""

import hashlib
import json
import logging
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ...models.calling import argument_names
from ...utils.errors import UserError
from ..rows import check_present
from .base import Preprocessor
from .word_labels import labels_of_pieces, words_of

logger = logging.getLogger(__name__)

UNLIMITED = 10**6  # what tokenizers without a maximum length say is more than this


def text_preprocessor(
    network: nn.Module, columns: tuple[str, ...], tokenizer: Any, in_words: bool = False
) -> Preprocessor:
    """Make the preprocessor of a column of texts, or of two columns of pairs.

    Texts are cut to what the network can read and padded to the longest of a batch, with the network's own padding
    token. A row without a text is refused: an empty text would be labeled like any other.

    Args:
        network: reads the texts.
        columns: one column of texts or two of pairs, in their order.
        in_words: whether the texts are lists of words, each of which has pieces of its own.
        tokenizer: of transformers; a copy of it is used.

    Raises:
        UserError: no tokenizer, one without a padding token, or one with more tokens than the network knows.
    """
    if tokenizer is None:
        raise UserError(
            f"nothing says how texts become the inputs of {type(network).__name__}: pass processing_class=, the "
            "tokenizer that it was trained with"
        )
    tokenizer, taken = deepcopy(tokenizer), tuple(argument_names(network))
    _set_padding(tokenizer, network)
    tokenizer.padding_side = padding_side(network, tokenizer)
    check_vocabulary(network, tokenizer)
    longest = longest_text(network, tokenizer)
    length = {} if longest is None else {"truncation": True, "max_length": longest}
    # padding that nothing masks changes the answer, and has to be the same in every batch
    padding = True if longest is None or "attention_mask" in taken else "max_length"
    settings = {"padding": padding, "is_split_into_words": in_words, **length}
    prepare = TextPreparation(columns, tokenizer, taken, settings)
    settings = {"tokenizer": type(tokenizer).__name__, "vocabulary": vocabulary_hash(tokenizer), "max_length": longest}
    settings |= {"rules": rules_hash(tokenizer), "truncation_side": tokenizer.truncation_side}
    settings |= {"words": True} if in_words else {}
    labeled = prepare.labeled if in_words else None
    return Preprocessor("text", columns, prepare, settings, processor=tokenizer, prepare_labeled=labeled)


@dataclass(frozen=True)
class TextPreparation:
    """A preparation of texts, which worker processes can have.

    Args:
        columns: of texts.
        tokenizer: makes the tokens.
        taken: names of what the network takes.
        settings: of each call of the tokenizer.
    """

    columns: tuple[str, ...]
    tokenizer: Any
    taken: tuple[str, ...]
    settings: dict[str, Any]

    def __call__(self, rows: dict[str, list]) -> dict[str, Tensor]:
        """Turn rows into tokens and what belongs to them."""
        return self._inputs(self._tokenized(rows))

    def labeled(self, rows: dict[str, list], labels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Turn rows of words, with a label for each, into tokens and their labels."""
        batch = self._tokenized(rows)
        return self._inputs(batch) | {"labels": labels_of_pieces(words_of(batch), labels)}

    def _tokenized(self, rows: dict[str, list]) -> Any:
        check_present(rows, self.columns)
        texts = [list(rows[name]) for name in self.columns]
        if self.settings["is_split_into_words"] and any(None in row for column in texts for row in column):
            raise UserError("one of the words is missing (None): fill it in, or give it the empty text ''")
        batch = self.tokenizer(*texts, return_tensors="pt", **self.settings)
        check_lengths(batch["attention_mask"].sum(dim=1).tolist() if "attention_mask" in batch else [])
        return batch

    def _inputs(self, batch: Any) -> dict[str, Tensor]:
        return {name: value for name, value in batch.items() if name in self.taken}


def check_lengths(lengths: Sequence[int]) -> None:
    """Refuse a text without tokens, of which a network's answer would be that of the padding."""
    if 0 in lengths:
        raise UserError("the text has no tokens, and nothing could be said of it: leave it out, or fill it in")


def longest_text(network: nn.Module, tokenizer: Any) -> int | None:
    """Return how many tokens a network can read, by its positions and its tokenizer; ``None`` without a limit.

    Networks like RoBERTa count positions from the padding token's number + 1, and so have fewer than their embedding
    has rows.
    """
    config = getattr(network, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    limits = [getattr(tokenizer, "model_max_length", None), getattr(config, "max_position_embeddings", None)]
    for name, module in network.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and padding is not None:
            limits.append(module.num_embeddings - padding - 1)
    return min((limit for limit in limits if limit is not None and 0 < limit < UNLIMITED), default=None)


def padding_side(network: nn.Module, tokenizer: Any) -> str:
    """Return the side on which texts are padded, ``"left"`` or ``"right"``, so that a text's answer is its own.

    Classifiers of transformers read a text's first token or find its last one, and count positions from the left: the
    end is where padding changes nothing, whatever the tokenizer says, which may have been made to generate. Those that
    read the last position whatever stands there (XLNet) are padded as the tokenizer says, and so are other networks.
    """
    config = getattr(network, "config", None)
    own = getattr(tokenizer, "padding_side", "right")
    return own if config is None or getattr(config, "summary_type", None) == "last" else "right"


def _set_padding(tokenizer: Any, network: nn.Module) -> None:
    """Let a tokenizer pad with the token that the network takes for padding, by which some find a text's end."""
    config = getattr(network, "config", None)
    expected = getattr(config, "pad_token_id", None)
    token = None if expected is None or expected < 0 else tokenizer.convert_ids_to_tokens(expected)
    if token is not None and token != tokenizer.pad_token:
        tokenizer.pad_token = token
    if tokenizer.pad_token is None:
        raise UserError(
            "the tokenizer has no token to pad texts with: set tokenizer.pad_token = tokenizer.eos_token (or another "
            "of its tokens) and network.config.pad_token_id = tokenizer.pad_token_id"
        )
    if expected is None and hasattr(network, "score"):  # the head of a decoder, which looks at a text's last token
        raise UserError(
            f"{type(network).__name__} can't tell where padded texts end: set "
            "network.config.pad_token_id = tokenizer.pad_token_id"
        )


def check_vocabulary(network: nn.Module, tokenizer: Any) -> None:
    """Raise a UserError if a tokenizer has more tokens than a network knows."""
    try:
        embedding = network.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return
    highest = max(tokenizer.get_vocab().values(), default=0)
    if isinstance(embedding, nn.Embedding) and highest >= embedding.num_embeddings:
        raise UserError(
            f"the tokenizer's tokens are numbered up to {highest}, and {type(network).__name__} knows "
            f"{embedding.num_embeddings} tokens: pass processing_class=, the tokenizer that it was trained with"
        )


def warn_of_another(network: nn.Module, tokenizer: Any, saved: Any) -> None:
    """Log a warning if a tokenizer numbers words otherwise than the one that is saved beside a network's weights."""
    if saved is None or not hasattr(tokenizer, "get_vocab"):
        return
    given, own = tokenizer.get_vocab(), saved.get_vocab()
    shared = [word for word in own if word in given]
    if 2 * len(shared) < len(own) or any(own[word] != given[word] for word in shared):
        logger.warning(
            "the tokenizer numbers words otherwise than the one that is saved beside %s, in %s: leave "
            "processing_class out if the network was trained with that one",
            type(network).__name__,
            network.config.name_or_path,
        )


def vocabulary_hash(tokenizer: Any) -> str:
    """Return a hash of a tokenizer's words and their numbers."""
    return _digest(tokenizer.get_vocab())


def template_hash(tokenizer: Any) -> str | None:
    """Return a hash of a tokenizer's chat template; ``None`` if it has none."""
    template = getattr(tokenizer, "chat_template", None)
    return None if template is None else hashlib.sha256(repr(template).encode()).hexdigest()[:16]


def rules_hash(tokenizer: Any) -> str | None:
    """Return a hash of how a tokenizer cuts texts and frames them; ``None`` of one that is written in Python."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    return _digest(json.loads(backend.to_str()) | {"padding": None, "truncation": None})


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
