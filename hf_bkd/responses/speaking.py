"""Who answers: a language model with weights that were drawn, its tokenizer, and the tokens that end its answers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from ..data.preprocessors import tokenizer_of
from ..data.preprocessors.texts import check_vocabulary, vocabulary_hash
from ..models.calling import unwrapped
from ..models.token_networks import check_no_other_language_model, predicts_next_tokens, vocabulary_size
from ..teachers import DeterministicTeacher, Teacher
from ..teachers.composite import first_tokenizer
from ..teachers.loading import load_teacher
from ..utils.errors import UserError
from ..utils.random import named_seed
from .sampling import Sampling, batches_of, sampled_answers
from .weights import WeightDraw

HALF = "\ufffd"  # what a tokenizer writes for a character that was cut in two


@dataclass(frozen=True)
class Speaker:
    """A draw of the teacher's weights, and all that decides how it answers.

    Args:
        draw: the weights.
        tokenizer: of the model.
        sampling: of tokens, at the temperature of sampling and of the teacher.
        ends: tokens that end an answer.
        known: bool [V'], tokens that may be drawn: the tokenizer's, which may lack some, and those that end an answer.
        seed: of the answers.
    """

    draw: WeightDraw
    tokenizer: Any
    sampling: Sampling
    ends: tuple[int, ...]
    known: Tensor
    seed: int

    @classmethod
    def of(cls, draw: WeightDraw, tokenizer: Any, sampling: Sampling, seed: int) -> Self:
        own = replace(sampling, temperature=sampling.temperature * draw.temperature)
        ends, size = end_tokens(draw.network, tokenizer), vocabulary_size(draw.network)
        numbers = [number for number in {*tokenizer.get_vocab().values(), *ends} if number < size]
        known = torch.zeros(max(numbers) + 1, dtype=torch.bool)
        known[numbers] = True
        return cls(draw, tokenizer, own, ends, known, named_seed(seed, "responses"))

    def answers(self, prompts: Sequence[Sequence[int]], keys: Tensor, batch_size: int) -> list[tuple[str, bool]]:
        """Answer B prompts, each by its key: texts, and whether they were cut off."""
        network = self.draw.network
        made: list[tuple[str, bool]] = [("", False)] * len(prompts)
        with self.draw.drawn():
            form = batches_of(network, prompts[0], self.ends)
            for batch in _batches([len(each) for each in prompts], batch_size, form):
                asked = [prompts[place] for place in batch]
                answers = sampled_answers(network, asked, keys[batch], self.seed, self.sampling, self.ends, self.known)
                for place, prompt, answer in zip(batch, asked, answers, strict=True):
                    cut, text = answer[-1] not in self.ends, self._text(prompt, answer)
                    made[place] = text.rstrip(HALF) if cut else text, cut
        return made

    def _text(self, prompt: Sequence[int], answer: list[int]) -> str:
        """Return what an answer adds to its prompt's text: alone, some tokenizers write it without its first space."""
        own = [token for token in answer if token not in self.ends]
        before, whole = (self._written(tokens) for tokens in (list(prompt), [*prompt, *own]))
        return whole[len(before) :] if whole.startswith(before) else self._written(own)

    def _written(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def end_tokens(network: nn.Module, tokenizer: Any) -> tuple[int, ...]:
    """Return the tokens that end an answer: those of the model's ``generation_config``, and the tokenizer's.

    Raises:
        UserError: the model's says none, or only words of the tokenizer, which ends texts otherwise.
    """
    name, remedy = type(unwrapped(network)).__name__, "eos_token_id=tokenizer.eos_token_id"
    own = getattr(getattr(unwrapped(network), "generation_config", None), "eos_token_id", None)
    own = [] if own is None else list(own) if isinstance(own, (list, tuple)) else [own]
    if not own:
        raise UserError(
            f"{name} has no generation_config that says which token ends an answer: set "
            f"model.generation_config = transformers.GenerationConfig({remedy})"
        )
    end = tokenizer.eos_token_id
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    if end is not None and end not in own and not special & set(own):
        word = tokenizer.convert_ids_to_tokens(own[0])
        which = "none" if word is None else f"the word {word!r}"
        raise UserError(
            f"{name}'s generation_config ends answers at token {own[0]}, which is {which} of the tokenizer, whose "
            f"texts end in {tokenizer.eos_token!r}: set model.generation_config.{remedy}"
        )
    return tuple(dict.fromkeys([*own, *([] if end is None else [end])]))


def _batches(lengths: Sequence[int], batch_size: int, form: str) -> Iterator[list[int]]:
    """Yield the places of prompts of like lengths, in batches of a form that the model takes."""
    batch: list[int] = []
    most = 1 if form == "alone" else batch_size
    for place in np.argsort(lengths, kind="stable").tolist():
        if len(batch) == most or (batch and form != "padded" and lengths[batch[0]] != lengths[place]):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def teacher_of(teacher: Any) -> Teacher:
    """Return a language model as a teacher, loaded if it is a folder's name; UserError if it is no such model."""
    if isinstance(teacher, (str, Path)):
        teacher, _ = load_teacher(str(teacher))
    network = teacher if isinstance(teacher, nn.Module) else getattr(teacher, "network", None)
    if network is None or not predicts_next_tokens(network):
        if network is not None:
            check_no_other_language_model(network)
        raise UserError(
            f"{type(teacher if network is None else unwrapped(network)).__name__} answers no prompts: pass a causal "
            "language model of transformers, or a teacher of one"
        )
    return DeterministicTeacher(teacher) if isinstance(teacher, nn.Module) else teacher


def tokenizer_of_all(teacher: Teacher, processing_class: Any) -> Any:
    """Return the tokenizer; UserError without any, or if it isn't that of each member."""
    parts = getattr(teacher, "parts", None) or [teacher]
    tokenizer = first_tokenizer(teacher, processing_class)
    if tokenizer is None:
        raise UserError(
            f"nothing says how texts become the tokens of {type(teacher.network).__name__}: pass processing_class=, "
            "the tokenizer that it was trained with"
        )
    for part in parts:
        other = tokenizer_of(part.network, part.processing_class)
        if other is not None and vocabulary_hash(other) != vocabulary_hash(tokenizer):
            raise UserError(
                f"the tokenizer ({len(tokenizer)} tokens) is another than the one that was saved with "
                f"{type(part.network).__name__} ({len(other)} tokens): omit processing_class, or pass the model's own"
            )
        check_vocabulary(unwrapped(part.network), tokenizer)
    return tokenizer
