"""The prompted teacher: a language model classifies a row by the words that it expects after a prompt."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..models.calling import Inputs, unwrapped
from ..models.prompted_network import PromptedNetwork
from ..models.prompts import Prompts, padded
from ..models.token_networks import CAUSAL, check_next_tokens, check_no_other_language_model, predicts_next_tokens
from ..utils.errors import UserError
from ..utils.random import ExampleGenerator
from ..utils.seeding import drawn_seed
from .base import Teacher
from .composite import Composite, first_tokenizer, joined, member_draws
from .deterministic import DeterministicTeacher
from .predictive import Draws

CONTENT_FREE = ("N/A", "[MASK]", "")
LOOKED_AT = 32  # tokens of a prompt


class PromptedTeacher(Composite):
    r"""A causal language model as a teacher of C classes: the probabilities of their label words after prompts.

    A word has the product of the probabilities of its tokens, each given the prompt and those before it; a class has
    the sum over its words, divided by the sum over all classes. The answers after several prompts are averaged. Each
    prompt counts as a draw, as members of an ensemble do, whose variance between prompts is stored with labels; with
    a single prompt it is the variance between the language model's own draws.

    Args:
        model: a causal language model of transformers, or a teacher of one (an ensemble, a posterior), whose draws
            are averaged too.
        tokenizer: the model's; what lies beside its weights if not given.
        prompts: P texts with names of the dataset's columns in braces, ``"Question: {text}\nType:"``; other braces are
            written twice. ``{text}`` is also the only column of texts of another name. A prompt that is a list of
            messages is written by the tokenizer's chat template; a last one of the assistant's is gone on with.
        label_words: class -> one or several words, each as it stands after a prompt, mostly with a space before it
            (``{"HUM": [" person", " group"], ...}``), which is omitted after a prompt that ends in a space or a line
            break. Classes are matched with the dataset's by name.
        temperature, tempering: see :class:`~hf_bkd.Teacher`.

    Raises:
        UserError: no causal language model, no tokenizer, prompts that name no column, or label words that are
            missing, unknown to the tokenizer, joined with the prompt or the beginnings of others.
    """

    method = "prompted"
    network: PromptedNetwork

    def __init__(
        self,
        model: nn.Module | Teacher,
        tokenizer: Any = None,
        *,
        prompts: str | Sequence[Any],
        label_words: Mapping[str, str | Sequence[str]],
        temperature: float = 1.0,
        tempering: str = "post_average",
    ):
        _check_language_model(model.network if isinstance(model, Teacher) else model)
        self.member = copy(model) if isinstance(model, Teacher) else DeterministicTeacher(model)
        tokenizer = first_tokenizer(self.member) if tokenizer is None else tokenizer
        if tokenizer is None:
            raise UserError(
                f"nothing says how prompts become the tokens of {type(self.member.network).__name__}: pass "
                "tokenizer=, the one that it was trained with"
            )
        _compare_tokenizers(tokenizer, [self.member, *getattr(self.member, "parts", ())])
        self.member.processing_class = tokenizer
        super().__init__([self.member], temperature, tempering)
        asked = Prompts(prompts, label_words, tokenizer)
        self.network = PromptedNetwork(self.member.network, asked)
        self.processing_class = tokenizer
        look = asked.tokens(0, dict.fromkeys(asked.columns, "a b c"))[:LOOKED_AT]
        check_next_tokens(self.member.network, {"input_ids": torch.tensor([look])})

    @property
    def parts(self) -> list[Teacher]:
        return [self.member]

    @property
    def num_classes(self) -> int:
        return self.network.num_classes

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in the order of the answers: those of the label words."""
        return list(self.network.label_names)

    @torch.no_grad()
    def calibrate(self, texts: Sequence[str] = CONTENT_FREE, num_samples: int = 10) -> Self:
        """Divide each prompt's answers by those about texts without content (Zhao et al. 2021); return the teacher.

        A language model prefers some words whatever it is asked; what it says of nothing tells which. With unlabeled
        texts of the dataset in their place it says each class about as often as the others.

        Args:
            texts: stand in the place of every column, one after the other; their probabilities are averaged.
            num_samples: S >= 1, draws of the language model for each.

        Raises:
            UserError: no texts, or a text that is none.
        """
        if isinstance(texts, str) or not len(texts) or not all(isinstance(text, str) for text in texts):
            raise UserError("calibrate takes a list of texts, such as ['N/A', '']")
        asked = self.network.prompts
        rows = [dict.fromkeys(asked.columns, text) for text in texts]
        inputs = padded([[asked.tokens(number, row) for number in range(len(asked))] for row in rows])
        self.network.prior = None
        drawn = self._prompt_draws(inputs, num_samples, torch.Generator().manual_seed(0))
        answers = [each.logits.float().log_softmax(dim=-1).flatten(0, 1) for each in drawn]
        self.network.prior = torch.stack([each.logsumexp(dim=0) - math.log(len(each)) for each in answers])
        self.record["calibrated on"] = f"{len(texts)} texts" if len(texts) > len(CONTENT_FREE) else list(texts)
        return self

    def draws(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Draws:
        """Draw from the language model after each prompt, by the same draws of its weights."""
        drawn = self._prompt_draws(inputs, num_samples, generator)
        return drawn[0] if len(drawn) == 1 else joined(drawn)

    def num_draws(self, num_samples: int) -> int:
        """Return how many independent draws there are: a prompt each, or those of the model after the only one."""
        prompts = len(self.network.prompts)
        return prompts if prompts > 1 else super().num_draws(num_samples)

    def _prompt_draws(self, inputs: Any, num_samples: int, generator: torch.Generator | None) -> list[Draws]:
        ids, mask = (inputs[name].to(self.device) for name in ("input_ids", "attention_mask"))
        own, units = _generators(generator), None

        def ask(these: dict[str, Tensor], rows: Tensor) -> Tensor:
            nonlocal units
            drawn = member_draws(self.member, these, num_samples, own(rows))
            if drawn.weights is not None:
                raise UserError(
                    f"the draws of this {type(self.member).__name__} count differently from token to token, which "
                    "words of several tokens can't: take an EnsembleTeacher, or weights='equal'"
                )
            units = drawn.units
            return drawn.logits

        return [
            Draws(self.network.answers(number, ids, mask, ask), None, units)
            for number in range(len(self.network.prompts))
        ]

    def preprocessor_for(self, dataset: Any, processing_class: Any = None) -> Any:
        return Teacher.preprocessor_for(self, dataset, processing_class)

    def fingerprint(self) -> str:
        """Hash the language model, its tokenizer, the prompts and the words to 16 hexadecimal digits."""
        settings, tensors = self.get_state()
        content = [self.member.fingerprint(), settings, self._hashes()]
        content += [{name: tensor.tolist() for name, tensor in tensors.items()}]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """Describe the teacher as JSON, with its prompts and words and hashes of tokenizer and chat template."""
        return super().describe() | self._hashes()

    def _hashes(self) -> dict[str, Any]:
        from ..data.preprocessors.texts import rules_hash, template_hash, vocabulary_hash  # not needed to answer

        tokenizer, chats = self.processing_class, self.network.prompts.in_chats
        hashes = {"vocabulary": vocabulary_hash(tokenizer), "rules": rules_hash(tokenizer)}
        return {"tokenizer": hashes, "chat_template": template_hash(tokenizer) if chats else None}

    def get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        asked, prior = self.network.prompts, self.network.prior
        settings = {"prompts": asked.sources, "label_words": asked.label_words}
        return settings, {} if prior is None else {"prior": prior}

    @classmethod
    def from_state(cls, network: Any, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        teacher = cls(*network, **settings)
        teacher.network.prior = tensors.get("prior")
        return teacher


def _check_language_model(network: nn.Module) -> None:
    check_no_other_language_model(network)
    if not predicts_next_tokens(network):
        raise UserError(
            f"{type(unwrapped(network)).__name__} is no causal language model, and only one says what comes after a "
            f"prompt: take a class that ends in {' or '.join(CAUSAL)}, such as AutoModelForCausalLM loads"
        )


def _compare_tokenizers(tokenizer: Any, teachers: Sequence[Teacher]) -> None:
    """Log a warning of teachers whose own tokenizers number words otherwise."""
    from ..data.preprocessors import tokenizer_of
    from ..data.preprocessors.texts import warn_of_another

    for teacher in teachers:
        warn_of_another(teacher.network, tokenizer, tokenizer_of(teacher.network, teacher.processing_class))


def _generators(generator: torch.Generator | None) -> Callable[[Tensor], torch.Generator]:
    """Return what makes the generator of some rows, so that all prompts and words have the same draws."""
    if isinstance(generator, ExampleGenerator):
        drawn = generator.draws
        return lambda rows: ExampleGenerator(drawn.ids[rows.to(drawn.ids.device)], drawn.seed, drawn.view)
    seed = drawn_seed(generator)
    return lambda rows: torch.Generator().manual_seed(seed)
