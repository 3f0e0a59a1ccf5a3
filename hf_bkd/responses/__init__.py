"""Sampled answers of language models: k for each prompt, and what becomes of them as completions that are taught."""

from .aggregating import aggregate_responses
from .embedding import embedding_estimates, sentence_encoder
from .generating import generate_responses
from .record import read_responses_record

__all__ = [
    "aggregate_responses",
    "embedding_estimates",
    "generate_responses",
    "read_responses_record",
    "sentence_encoder",
]
