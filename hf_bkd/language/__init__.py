"""Texts, prompts and messages as rows of tokens that a causal language model is taught."""

from ..data.preprocessors.texts import template_hash
from .examples import is_conversational, same_tokens, tokenized

__all__ = ["is_conversational", "same_tokens", "template_hash", "tokenized"]
