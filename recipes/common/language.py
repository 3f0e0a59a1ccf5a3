"""Language models in recipes: rows of text that Python ships, a teacher that remembers, and students of it."""

import copy
from collections.abc import Iterable
from pydoc_data.topics import topics
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from hf_bkd import DeterministicTeacher, load_splits, tokenized
from hf_bkd.metrics import summarized_metrics, summary
from hf_bkd.teachers import Teacher
from hf_bkd.utils.errors import UserError

PYTHON = "Python's language reference"
HELD_OUT = 5  # one of so many topics
SMALL_SIZES = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}


class Remembering(DeterministicTeacher):
    """A teacher that is asked once about each row, since all arms and epochs ask again; its logits are float16."""

    def draw_logits(self, inputs: Any, num_samples: int, generator: torch.Generator | None) -> Tensor:
        rows, known = inputs["input_ids"], vars(self).setdefault("known", {})
        for row in rows:
            if (key := tuple(row.tolist())) not in known:
                known[key] = super().draw_logits({"input_ids": row[None]}, 1, None)[0, 0].half()
        return torch.stack([known[tuple(row.tolist())] for row in rows]).float()[None]


def texts(name: str) -> dict[str, datasets.Dataset]:
    """Return the texts of a dataset's splits; of Python's reference what ``help()`` shows, each paragraph once."""
    if name != PYTHON:
        return load_splits(name, needed=("train", "test"))
    seen: set[str] = set()
    parts: dict[str, list[str]] = {"train": [], "test": []}
    for number, topic in enumerate(sorted(topics)):
        paragraphs = [each for each in dict.fromkeys(topics[topic].split("\n\n")) if each not in seen]
        seen.update(paragraphs)
        if paragraphs:
            parts["test" if number % HELD_OUT == 0 else "train"].append("\n\n".join(paragraphs))
    return {split: datasets.Dataset.from_dict({"text": own}) for split, own in parts.items()}


def blocks(rows: datasets.Dataset, tokenizer: Any, length: int) -> datasets.Dataset:
    """Return texts, one after the other, in rows of the same length; the last tokens are left out."""
    tokens = np.concatenate([row["input_ids"] for row in tokenized(rows, tokenizer)])
    whole = tokens[: len(tokens) // length * length].reshape(-1, length)
    return datasets.Dataset.from_dict({"input_ids": whole.tolist(), "labels": whole.tolist()})


def chosen(rows: datasets.Dataset, number: int, seed: int, split: str) -> datasets.Dataset:
    if len(rows) < number:
        raise UserError(f"the {split} split has {len(rows)} rows of tokens, and {number} are asked for: take fewer")
    return rows.shuffle(seed=seed).select(range(number)).flatten_indices()


def measures_of(teacher: Teacher, rows: datasets.Dataset) -> dict[str, float]:
    """Measure a teacher's own next tokens."""
    seen = []
    for row in rows.with_format("torch")["input_ids"]:
        probs = teacher.predict({"input_ids": row[None]}, generator=torch.Generator().manual_seed(0)).mean[0, :-1]
        seen.append(summary(probs.clamp_min(torch.finfo(probs.dtype).tiny).log(), row[1:]))
    return summarized_metrics(torch.cat(seen))


def number_of_draws(distributions: list[Tensor], entries: int) -> int:
    """Return of how many draws from rows' distributions [L, V] so many tokens are distinct, on average."""
    logs = torch.cat([torch.log1p(-probs[:-1].clamp_max(1 - 1e-6)) for probs in distributions])
    low, high = entries, 64 * entries
    while low < high:
        middle = (low + high) // 2
        distinct = -torch.expm1(middle * logs).sum(dim=-1).mean()
        low, high = (middle + 1, high) if distinct < entries else (low, middle)
    return low


def plain_draws(
    labeled: datasets.Dataset, distributions: Iterable[Tensor], number: int, seed: int
) -> datasets.Dataset:
    """Put draws with replacement in the place of sampled labels, each token with the share of its draws.

    Args:
        labeled: rows with sampled labels, for whose columns and record the draws' are written.
        distributions: of each row [L, V].
        number: of draws at each position.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    counted = []
    for probs in distributions:
        drawn = torch.multinomial(probs[:-1], number, replacement=True, generator=generator).numpy()
        counted.append([np.unique(each, return_counts=True) for each in drawn])
    width = max(len(ids) for row in counted for ids, _ in row)
    shape = (len(counted), len(counted[0]) + 1, width)
    tokens, probs = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    for i, row in enumerate(counted):
        for j, (ids, counts) in enumerate(row):
            others = np.setdiff1d(np.arange(width), ids)[: width - len(ids)]  # an entry names no token twice
            tokens[i, j], probs[i, j, : len(ids)] = np.append(ids, others), counts / number
    features = labeled.features.copy()
    for name, kind in (("teacher_tokens", "int32"), ("teacher_probs", "float16")):
        features[name] = datasets.List(datasets.List(datasets.Value(kind), length=width))
    made = labeled.remove_columns(["teacher_tokens", "teacher_probs"])
    made = made.add_column("teacher_tokens", tokens.tolist()).add_column("teacher_probs", probs.tolist())
    return made.select_columns(labeled.column_names).cast(features)


def first_layers(teacher: nn.Module, number: int) -> nn.Module:
    """Return a copy of some layers, between embeddings and a head that learn no further."""
    student = copy.deepcopy(teacher)
    student.model.layers = student.model.layers[:number]
    student.config.num_hidden_layers = number
    for part in (student.get_input_embeddings(), student.get_output_embeddings()):
        part.requires_grad_(False)
    return student


def small_llama(teacher: nn.Module, seed: int) -> nn.Module:
    transformers.set_seed(seed)
    config = LlamaConfig(vocab_size=teacher.config.vocab_size, tie_word_embeddings=True, **SMALL_SIZES)
    return LlamaForCausalLM(config)
