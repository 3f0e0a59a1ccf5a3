"""Prompts, sampled answers made by hand, and encoders of them."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch
from datasets import Dataset
from transformers import BertConfig, BertModel

from hf_bkd import generate_responses
from hf_bkd.responses.record import COLUMNS, CUT, DRAWS, RESPONSES, make_responses_record, with_responses
from tests.language.language_helpers import TEXTS, V, tokenizer

POINTS = {"a": (1.0, 0.0), "b": (0.0, 1.0), "c": (0.6, 0.8), "d": (0.8, 0.6), "e": (-1.0, 0.0)}


def prompts(count: int = 5) -> Dataset:
    """Of several lengths, and the first one twice."""
    return Dataset.from_dict({"prompt": [*TEXTS[: count - 1], TEXTS[0]]})


def answered(dataset: Dataset, teacher: Any, k: int = 3, **settings: Any) -> Dataset:
    """A few short answers, without a bar."""
    settings = {"processing_class": tokenizer(), "max_new_tokens": 6, "progress": False} | settings
    return generate_responses(dataset, teacher, k, **settings)


def by_hand(
    answers: Sequence[Sequence[str]], draws: Sequence[int] | None = None, weights: str = "teacher", seed: int = 0
) -> Dataset:
    """A dataset with these answers, as if a teacher had given them."""
    k = len(answers[0])
    draws = [0] * k if draws is None else list(draws)
    columns = {RESPONSES: answers, DRAWS: [draws] * len(answers), CUT: [[False] * k] * len(answers)}
    record = make_responses_record(
        k=k, num_samples=len(set(draws)), seed=seed, temperature=1.0, top_k=None, top_p=1.0, repetition_penalty=1.0,
        max_new_tokens=8, teacher={"weights": weights}, rows=len(answers), prompts="", cut_off=0, empty=0,
    )  # fmt: skip
    kinds = {"int32": pa.list_(pa.int32()), "bool": pa.list_(pa.bool_()), "string": pa.list_(pa.string())}
    table = pa.table({name: pa.array(columns[name], kinds[COLUMNS[name].feature.dtype]) for name in COLUMNS})
    rows = Dataset.from_dict({"prompt": [f"prompt {number}" for number in range(len(answers))]})
    return with_responses(rows, table, record)


def on_the_plane(texts: list[str]) -> torch.Tensor:
    return torch.tensor([POINTS[text] for text in texts])


def bert() -> BertModel:
    """A tiny random encoder of the tokens of ``tokenizer()``."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return BertModel(BertConfig(vocab_size=V, max_position_embeddings=64, **sizes))
