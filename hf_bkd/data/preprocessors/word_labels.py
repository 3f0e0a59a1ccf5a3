"""Labels of words stand at the first of their tokens, and a tokenizer is recognized by what it makes of texts."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...likelihoods import UNLABELED
from ...utils.errors import UserError

PROBES = (
    "The quick brown fox, 12.5 km/h, jumps over O'Neill's naive cafe.",
    "THE Quick  brown\tfox\n\u00c9t\u00e9 \u4f60\u597d \u0437\u0434\u0440 e\u0301 \ufb01 \u2014 \U0001f600",
    "unbelievably <tag> [x] a_b@c.org #1",
)
SAMPLED = 256  # words of a vocabulary


def words_of(batch: Any) -> np.ndarray:
    """Return the number of the word that each token of a tokenized batch belongs to, int64 [B, L]; -1 of none.

    Raises:
        UserError: the tokenizer doesn't say, as slow ones don't.
    """
    try:
        words = [batch.word_ids(row) for row in range(len(batch["input_ids"]))]
    except (ValueError, AttributeError) as error:
        raise UserError(
            "the tokenizer doesn't say which word a token is of, so that labels of words can't be placed: take the "
            "fast one (tokenizer.is_fast)"
        ) from error
    return np.array([[-1 if word is None else word for word in row] for row in words], dtype=np.int64)


def labels_of_pieces(words: np.ndarray, labels: Sequence[Tensor]) -> Tensor:
    """Place the labels of words at the first of their tokens.

    Args:
        words: int64 [B, L], the word that each token belongs to, -1 of none.
        labels: B tensors int64 [W], of all words of a row, also of those that were cut off; empty if it has no labels.

    Returns:
        int64 [B, L], ``UNLABELED`` at all other tokens.
    """
    before = np.pad(words, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    labeled = np.array([len(each) > 0 for each in labels])
    first = (words >= 0) & (words != before) & labeled[:, None]
    flat = np.concatenate([np.empty(0, np.int64), *(each.numpy() for each in labels)])
    starts = np.cumsum([0, *map(len, labels)])[:-1]
    aligned = np.full(words.shape, UNLABELED, np.int64)
    aligned[first] = flat[(starts[:, None] + words)[first]]
    return torch.from_numpy(aligned)


def tokenizer_hash(preprocessor: Any) -> str | None:
    """Return a hash of what decides how a preprocessor divides texts into tokens; ``None`` if it reads no texts.

    It is of the vocabulary and of the tokens of a few texts, some with all kinds of characters and some of its own
    words in several cases, whole and in words, so that two tokenizers of one hash make the same tokens, in whatever
    version of their library.
    """
    if "vocabulary" not in getattr(preprocessor, "settings", ()):
        return None
    return hash_of_tokens(preprocessor.processor, preprocessor.settings["vocabulary"])


def hash_of_tokens(tokenizer: Any, vocabulary_hash: str) -> str:
    """Return :func:`tokenizer_hash` of a tokenizer whose vocabulary has some hash."""
    vocabulary = sorted(tokenizer.get_vocab())
    own = " ".join(vocabulary[:: -(-len(vocabulary) // SAMPLED)])
    texts = [*PROBES, own, own.upper(), own.title()]
    whole = tokenizer(texts)["input_ids"]
    in_words = tokenizer([text.split(" ") for text in texts], is_split_into_words=True)["input_ids"]
    content = json.dumps([vocabulary_hash, whole, in_words])
    return hashlib.sha256(content.encode()).hexdigest()[:16]
