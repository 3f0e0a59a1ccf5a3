"""Answers are sampled so that each draws by random numbers of its own, whatever batch it is in.

``generate`` of transformers runs the model, and a logits processor chooses the tokens: by the inverse of their
cumulative probabilities at a uniform number that is a function of the example, the response and the step alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor

from ..models.calling import evaluation_mode, unwrapped
from ..models.token_networks import ROUNDINGS, SAME
from ..utils.checks import check_count, check_positive
from ..utils.errors import UserError
from ..utils.random import Draws
from ..utils.seeding import unmoved_randomness

PADDED = 3  # tokens before a prompt, to see whether they change its answer
BATCHES = ("padded", "of one length", "alone")


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; the order of the steps is that of transformers' ``generate``.

    Args:
        temperature: T > 0, by which logits are divided.
        top_k: how many of the most probable tokens are drawn from; all if ``None``.
        top_p: in (0, 1], the least mass of the most probable tokens that are drawn from; 1 for all.
        repetition_penalty: > 0, by which the logits of tokens that are there already are divided, or multiplied if
            they are negative; 1 for none.
        max_new_tokens: of an answer, after which it is cut off.

    Raises:
        UserError: a number out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 64

    def __post_init__(self):
        check_positive(temperature=self.temperature, top_p=self.top_p, repetition_penalty=self.repetition_penalty)
        check_count(max_new_tokens=self.max_new_tokens)
        if self.top_k is not None:
            check_count(top_k=self.top_k)
        if self.top_p > 1:
            raise UserError(f"top_p must be at most 1, which draws from all tokens, and it is {self.top_p:g}")
        for name in ("temperature", "top_p", "repetition_penalty"):  # numbers of numpy, as records can't hold them
            object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "max_new_tokens", int(self.max_new_tokens))
        object.__setattr__(self, "top_k", None if self.top_k is None else int(self.top_k))

    def probs(self, logits: Tensor, seen: Tensor | None = None) -> Tensor:
        """Compute the probabilities [B, V] by which the next token is drawn.

        Args:
            logits: [B, V].
            seen: int64 [B, L], the tokens that are there already.
        """
        logits = logits.to(torch.float32 if logits.device.type == "mps" else torch.float64)
        if seen is not None and self.repetition_penalty != 1:
            own = logits.gather(1, seen)
            factor = torch.where(own < 0, self.repetition_penalty, 1 / self.repetition_penalty)
            logits = logits.scatter(1, seen, own * factor)
        logits = logits / self.temperature
        if self.top_k is not None:
            least = logits.topk(min(self.top_k, logits.shape[-1])).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        probs = logits.softmax(dim=-1)
        if self.top_p < 1:
            ordered, tokens = probs.sort(dim=-1, descending=True, stable=True)
            ordered[ordered.cumsum(dim=-1) - ordered >= self.top_p] = 0
            probs = torch.zeros_like(probs).scatter(1, tokens, ordered / ordered.sum(dim=-1, keepdim=True))
        return probs


class _Drawing(LogitsProcessor):
    """Leaves ``generate`` one token to choose.

    Args:
        draws: of the batch's answers; stream t is of their token t.
        sampling: how tokens are drawn.
        attention_mask: int64 [B, P] of the prompts.
        known: bool [V'], the tokens that may be drawn; none beyond them.
    """

    def __init__(self, draws: Draws, sampling: Sampling, attention_mask: Tensor, known: Tensor):
        self.draws, self.sampling, self.known = draws, sampling, known.to(attention_mask.device)
        self.hidden, self.steps = attention_mask == 0, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # a padding token counts as the prompt's last one, which is there anyway
        hidden, last = self.hidden, input_ids[:, self.hidden.shape[1] - 1, None]
        seen = torch.cat(
            [torch.where(hidden, last, input_ids[:, : hidden.shape[1]]), input_ids[:, hidden.shape[1] :]], 1
        )
        scores_of_known = scores[:, : len(self.known)].masked_fill(~self.known, -torch.inf)
        probs = self.sampling.probs(scores_of_known, seen)
        if not probs.isfinite().all():
            raise UserError(
                "the teacher's logits are no finite numbers: its training must have diverged, or its precision is too "
                "low (pass it in float32 or bfloat16)"
            )
        uniform = self.draws.uniform(torch.full_like(self.draws.ids, self.steps)).to(probs)
        self.steps += 1
        cumulative = probs.cumsum(dim=-1)
        tokens = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(dim=-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens.clamp_max(probs.shape[-1] - 1), 0.0)


def sampled_answers(
    network: nn.Module,
    prompts: Sequence[Sequence[int]],
    keys: Tensor,
    seed: int,
    sampling: Sampling,
    ends: Sequence[int],
    known: Tensor,
) -> list[list[int]]:
    """Sample an answer to each of B prompts.

    Args:
        network: a causal language model of transformers, in evaluation mode.
        prompts: B lists of tokens; they are padded on the left.
        keys: int64 [B], each answer's own.
        seed: of all answers.
        sampling: how tokens are drawn.
        ends: tokens that end an answer.
        known: bool [V'], V' <= V, the tokens that may be drawn; none beyond them.

    Returns:
        B lists of tokens, the last of which is one of ``ends`` unless the answer was cut off.
    """
    inputs = _padded(prompts, ends[0], network)
    drawing = _Drawing(Draws(keys, seed, 0), sampling, inputs["attention_mask"], known)
    with _own_settings(network, sampling.max_new_tokens, ends), torch.no_grad():
        rows = network.generate(**inputs, logits_processor=[drawing])
    answers = rows[:, inputs["input_ids"].shape[1] :].tolist()
    lengths = [next((place + 1 for place, token in enumerate(row) if token in ends), len(row)) for row in answers]
    return [row[:length] for row, length in zip(answers, lengths, strict=True)]


def batches_of(network: nn.Module, prompt: Sequence[int], ends: Sequence[int]) -> str:
    """Return which batches a model answers as it does each prompt alone, up to rounding: one of ``BATCHES``.

    It is asked for two tokens, of which the second depends on what it keeps of the prompt.
    """
    prompt = prompt[: max(len(prompt) - PADDED, 1)]  # so that no other is longer
    alone = _first_logits(network, [prompt], ends)
    tolerance = max(SAME, ROUNDINGS * torch.finfo(next(network.parameters()).dtype).eps)
    for form, other in zip(BATCHES, ([*prompt, *prompt[-1:] * PADDED], prompt[::-1]), strict=False):
        difference = (_first_logits(network, [prompt, other], ends) - alone).abs().max()
        if difference <= tolerance * alone.abs().max().clamp_min(1):
            return form
    return BATCHES[-1]


@torch.no_grad()
def _first_logits(network: nn.Module, prompts: Sequence[Sequence[int]], ends: Sequence[int]) -> Tensor:
    """Compute the logits [2, V] of the first two tokens of the first prompt's answer."""
    with _own_settings(network, 2, ends), unmoved_randomness():
        inputs = _padded(prompts, ends[0], network)
        settings = {"return_dict_in_generate": True, "output_logits": True, "min_new_tokens": 2}
        return torch.stack([logits[0].float() for logits in network.generate(**inputs, **settings).logits])


def _padded(prompts: Sequence[Sequence[int]], padding: int, network: nn.Module) -> dict[str, Tensor]:
    longest = max(map(len, prompts))
    ids = torch.tensor([[padding] * (longest - len(each)) + list(each) for each in prompts])
    mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in prompts])
    device = next(network.parameters()).device
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


@contextmanager
def _own_settings(network: nn.Module, max_new_tokens: int, ends: Sequence[int]) -> Iterator[None]:
    """Let ``generate`` do what is asked here, and nothing that the model's own configuration adds (penalties)."""
    base: Any = unwrapped(network)
    before = base.generation_config
    base.generation_config = GenerationConfig(
        max_new_tokens=max_new_tokens, eos_token_id=list(ends), pad_token_id=ends[0], do_sample=False, use_cache=True
    )
    try:
        with evaluation_mode(network):
            yield
    finally:
        base.generation_config = before
