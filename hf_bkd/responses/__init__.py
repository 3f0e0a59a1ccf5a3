"""Sampled answers of language models: k for each prompt, which are taught, and what students' own answers are like."""

from .aggregating import aggregate_responses
from .embedding import embedding_estimates, sentence_encoder
from .generating import generate_responses
from .measures import (
    answer_entropy,
    answer_noise,
    measured,
    reference_similarity,
    unsupported_answers,
    unsupported_words,
)
from .record import read_responses_record

__all__ = [
    "aggregate_responses",
    "answer_entropy",
    "answer_noise",
    "embedding_estimates",
    "generate_responses",
    "measured",
    "read_responses_record",
    "reference_similarity",
    "sentence_encoder",
    "unsupported_answers",
    "unsupported_words",
]
