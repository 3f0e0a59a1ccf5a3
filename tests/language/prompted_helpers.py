"""A tiny language model that is asked with prompts, and what it says computed by hand, one row and token at a time."""

import torch
from datasets import ClassLabel, Dataset, Features, Value

from hf_bkd import PromptedTeacher

from .language_helpers import llama, tokenizer

PROMPTS = ["Q: {text} A:", "{text}, which is"]
WORDS = {"no": [" no", " ba"], "yes": " ye", "other": [" ok"]}
TEXTS = ["one", "is it so", "why not now then", "xyz"]


def rows(texts: list[str] = TEXTS, names: tuple[str, ...] = ("no", "yes", "other")) -> Dataset:
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(names))})
    return Dataset.from_dict({"text": texts, "label": [number % len(names) for number in range(len(texts))]}, features)


def prompted(model=None, own=None, **settings) -> PromptedTeacher:
    settings = {"prompts": PROMPTS, "label_words": WORDS} | settings
    return PromptedTeacher(llama() if model is None else model, tokenizer() if own is None else own, **settings)


def word_log_prob(network, before: list[int], word: list[int]) -> float:
    """The sum of the log-probabilities of a word's tokens, each by a pass of its own."""
    total = 0.0
    for place, token in enumerate(word):
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([before + word[:place]])).logits[0, -1]
        total += logits.double().log_softmax(dim=-1)[token].item()
    return total


def by_hand(network, written: str, words=WORDS, own=None, before: tuple[int, ...] = ()) -> torch.Tensor:
    """Probabilities [C] of classes after a prompt as it is written."""
    own = tokenizer() if own is None else own
    tokens = list(before) + own(written, add_special_tokens=False)["input_ids"]
    sums = []
    for each in words.values():
        each = [each] if isinstance(each, str) else each
        spelled = [own(word, add_special_tokens=False)["input_ids"] for word in each]
        sums.append(sum(torch.tensor(word_log_prob(network, tokens, word)).exp().item() for word in spelled))
    return torch.tensor([each / sum(sums) for each in sums])


def answers(teacher: PromptedTeacher, texts: list[str] = TEXTS, **settings):
    return teacher.predict(teacher.preprocessor_for(rows(texts))({"text": texts}), return_samples=True, **settings)
