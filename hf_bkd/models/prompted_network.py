"""A language model as a network of C classes: the probabilities of label words after its prompts."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..utils.errors import UserError
from .calling import argument_names, call_network, logits_of
from .prompts import Prompts
from .token_networks import vocabulary_size

TOKENS_AT_ONCE = 2**12  # of one call of the language model, padding included
NUMBERS_AT_ONCE = 2**26  # of its logits
Ask = Callable[[dict[str, Tensor], Tensor], Tensor]


class Continuation(NamedTuple):
    """What is read after a prompt, and the label words whose tokens it tells.

    stem: tokens; those of a word but its last one begin it.
    words: pairs of a word's place among all of them and its tokens.
    """

    stem: list[int]
    words: list[tuple[int, list[int]]]


class PromptedNetwork(nn.Module):
    """A causal language model that is asked P prompts, and answers with log-probabilities of C classes.

    A label word has the product of the probabilities of all of its tokens, each given the prompt and those before, and
    a class the sum over its words; those of the C classes are divided by their sum.

    Args:
        language_model: causal, of transformers.
        prompts: what it is asked.

    Raises:
        UserError: label words of tokens that the language model doesn't know.
    """

    prior: Tensor | None

    def __init__(self, language_model: nn.Module, prompts: Prompts):
        super().__init__()
        self.language_model, self.prompts = language_model, prompts
        self.label_names, self.num_classes = list(prompts.label_words), len(prompts.label_words)
        highest = max(max(tokens) for words in prompts.words for _, tokens in words)
        if highest >= vocabulary_size(language_model):
            raise UserError(
                f"a label word has the token {highest}, and {type(language_model).__name__} knows "
                f"{vocabulary_size(language_model)} tokens: pass the tokenizer that it was trained with"
            )
        self.register_buffer("prior", None)  # log-probabilities [P, C] that are subtracted from the prompts' answers

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return log-probabilities [B, C], averaged over the prompts; arguments [B, P, L] as `prompts.padded`."""

        def ask(inputs: dict[str, Tensor], rows: Tensor) -> Tensor:
            return logits_of(call_network(self.language_model, inputs))[None]

        answers = [self.answers(number, input_ids, attention_mask, ask)[0] for number in range(len(self.prompts))]
        return torch.stack(answers).softmax(dim=-1).mean(dim=0).log()

    def answers(self, number: int, input_ids: Tensor, attention_mask: Tensor, ask: Ask) -> Tensor:
        """Return the log-probabilities [S, B, C] of the classes after one prompt.

        Args:
            number: of the prompt.
            input_ids, attention_mask: [B, P, L], padded at the end.
            ask: returns logits [S, b, K, V] of inputs of b rows, whose numbers it gets.
        """
        ids, lengths = input_ids[:, number], attention_mask[:, number].sum(dim=-1)
        words = self.prompts.words[number]
        told: list[Tensor | None] = [None] * len(words)
        for continuation in continuations([tokens for _, tokens in words]):
            for place, log_probs in self._word_log_probs(ids, lengths, continuation, ask):
                told[place] = log_probs
        classes = [[told[i] for i, (own, _) in enumerate(words) if own == label] for label in range(self.num_classes)]
        raw = torch.stack([torch.stack(own).logsumexp(dim=0) for own in classes], dim=-1)
        return (raw if self.prior is None else raw - self.prior[number].to(raw)).log_softmax(dim=-1)

    def _word_log_probs(
        self, ids: Tensor, lengths: Tensor, continuation: Continuation, ask: Ask
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the place and the log-probabilities [S, B] of each word that a continuation tells."""
        stem, words = torch.tensor(continuation.stem, dtype=ids.dtype, device=ids.device), continuation.words
        pieces, order = [], []
        for rows in self._groups(lengths, len(stem)):
            own = lengths[rows]
            inputs, places = self._inputs(ids[rows], own, stem)
            logits = ask(inputs, rows)
            at = own[:, None] - 1 + torch.arange(len(stem) + 1, device=ids.device)
            at = torch.searchsorted(places, at) if logits.shape[-2] == len(places) else at
            told = logits[:, torch.arange(len(rows), device=ids.device)[:, None], at].float()
            scale = told.logsumexp(dim=-1)
            pieces.append(
                torch.stack(
                    [
                        sum(told[:, :, i, token] - scale[:, :, i] for i, token in enumerate(tokens))
                        for _, tokens in words
                    ]
                )
            )
            order.append(rows)
        back = torch.cat(order).argsort()
        for (place, _), log_probs in zip(words, torch.cat(pieces, dim=-1)[..., back], strict=True):
            yield place, log_probs

    def _inputs(self, ids: Tensor, lengths: Tensor, stem: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return some rows' inputs with a stem after each, and the sorted places [K] whose logits are needed."""
        longest = int(lengths.max()) + len(stem)
        counted = torch.arange(longest, device=ids.device)
        whole = torch.zeros(len(ids), longest, dtype=ids.dtype, device=ids.device)
        whole[:, : longest - len(stem)] = ids[:, : longest - len(stem)]
        after = lengths[:, None] + torch.arange(len(stem), device=ids.device)
        whole.scatter_(1, after, stem.expand(len(ids), -1))
        taken = argument_names(self.language_model)
        inputs = {"input_ids": whole}
        if "attention_mask" in taken:
            inputs["attention_mask"] = (counted < lengths[:, None] + len(stem)).long()
        places = torch.unique(lengths[:, None] - 1 + torch.arange(len(stem) + 1, device=ids.device))
        if "logits_to_keep" in taken:  # those of a whole vocabulary take the most memory
            return inputs | {"logits_to_keep": places}, places
        return inputs, counted

    def _groups(self, lengths: Tensor, added: int) -> Iterator[Tensor]:
        """Yield the numbers of rows of like lengths, as many as are asked about at once."""
        order = lengths.argsort(stable=True, descending=True)
        sizes, vocabulary = lengths[order].tolist(), vocabulary_size(self.language_model)
        start = 0
        while start < len(sizes):
            longest, stop = sizes[start] + added, start + 1
            while stop < len(sizes):
                rows, kept = stop + 1 - start, min(sizes[start] - sizes[stop] + added + 1, longest)
                if rows * longest > TOKENS_AT_ONCE or rows * kept * vocabulary > NUMBERS_AT_ONCE:
                    break
                stop += 1
            yield order[start:stop]
            start = stop


def continuations(words: list[list[int]]) -> list[Continuation]:
    """Return the fewest continuations that tell the probabilities of all tokens of some words."""
    stems: list[list[int]] = []
    for stem in sorted((word[:-1] for word in words), key=len, reverse=True):
        if not any(other[: len(stem)] == stem for other in stems):
            stems.append(stem)
    own: list[list[tuple[int, list[int]]]] = [[] for _ in stems]
    for place, word in enumerate(words):
        own[next(i for i, stem in enumerate(stems) if stem[: len(word) - 1] == word[:-1])].append((place, word))
    return [Continuation(stem, told) for stem, told in zip(stems, own, strict=True)]
