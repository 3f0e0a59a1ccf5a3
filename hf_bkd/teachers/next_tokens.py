"""Rows of tokens that language models are fitted and measured on, some at a time, and what is measured of them.

All logits of a text are [L, V], of which few fit into memory.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..likelihoods import UNLABELED
from ..likelihoods.scaling import prior_loss, warn_of_ends
from ..metrics import summarized_metrics, summary
from ..models.calling import call_network, evaluation_mode, logits_of, split, to_network
from ..models.token_networks import vocabulary_size
from ..utils.errors import UserError
from ..utils.progress import track
from .base import Teacher

LOGITS_AT_ONCE = 2**26  # of all draws
PIECE = 2**21  # logits that are brought to a temperature, as many as a processor's caches hold
TEMPERATURES = (0.25, 4.0)


@dataclass(frozen=True)
class TokenBatches:
    """Batches of rows of tokens, as a language model reads them, that can be gone through again.

    Args:
        rows: a ``datasets.Dataset`` with ``input_ids`` and, where not all tokens are taught, ``labels``.
        prepare: the network's preprocessor of them.
        size: rows of a batch.
        progress: the name of a bar, if there is to be one.
    """

    rows: Any
    prepare: Any
    size: int
    progress: str | None = None

    @classmethod
    def of(
        cls,
        network: nn.Module,
        rows: Any,
        processing_class: Any = None,
        progress: str | None = None,
        draws: int = 1,
    ) -> Self:
        """Make batches of as many rows as a network can be asked about at once, so many times."""
        from ..data.preprocessors import preprocessor_for  # teachers need no datasets to answer

        prepare = preprocessor_for(network, rows, processing_class)
        longest = max(map(len, rows["input_ids"]), default=1)
        size = max(LOGITS_AT_ONCE // (vocabulary_size(network) * max(longest, 1) * draws), 1)
        plain = rows.with_format(None).select_columns([*prepare.columns, *prepare.beside])
        return cls(plain, prepare, size, progress)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        starts: Iterable[int] = range(0, len(self.rows), self.size)
        for start in starts if self.progress is None else track(starts, self.progress):
            batch = dict(self.prepare(self.rows[start : start + self.size]))
            del batch["lengths"]
            yield batch


def taught(answers: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the answers [N, V] of [B, L, V] whose next token is taught, and these tokens [N].

    Of an adapter's own tokens, which prompt tuning puts before each row, there are none.
    """
    there, answers = (labels[:, 1:] != UNLABELED).to(answers.device), answers[:, -labels.shape[1] :]
    return answers[:, :-1][there], labels.to(answers.device)[:, 1:][there]


@torch.no_grad()
def token_temperature(network: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> float:
    """Find T in [1/4, 4] by which logits / T predict next tokens best, in one pass.

    The negative log-likelihood and the prior of T, see :func:`~hf_bkd.likelihoods.scaling.prior_loss`, are known at 17
    temperatures, evenly spaced by their logarithm, and between them by a parabola.

    Raises:
        UserError: no token is taught.
    """
    logarithms = torch.linspace(*map(math.log, TEMPERATURES), 17, dtype=torch.float64)
    losses, number = torch.zeros_like(logarithms), 0
    with evaluation_mode(network):
        for batch in batches:
            inputs, labels = split(batch)
            logits, labels = taught(logits_of(call_network(network, to_network(inputs, network))), labels)
            number += len(labels)
            size = max(PIECE // logits.shape[-1], 1)
            for some, own in zip(logits.split(size), labels.split(size), strict=True):
                some = some.float()
                for place, logarithm in enumerate(logarithms.tolist()):
                    scaled = some / math.exp(logarithm)
                    losses[place] += nn.functional.cross_entropy(scaled, own, reduction="sum").item()
    _check_any(number)
    temperature = math.exp(_lowest_point(logarithms, losses + prior_loss(logarithms)))
    warn_of_ends(temperature, TEMPERATURES, bool(losses[0] <= losses[1]), bool(losses[-1] <= losses[-2]), number)
    return temperature


def _lowest_point(places: Tensor, values: Tensor) -> float:
    """Return where the parabola through the least of values at even places and its neighbors is lowest, or an end."""
    best = int(values.argmin())
    if best in (0, len(values) - 1):
        return places[best].item()
    before, here, after = values[best - 1 : best + 2].tolist()
    step = (places[1] - places[0]).item()
    return places[best].item() + step * (before - after) / (2 * (before - 2 * here + after))


@torch.no_grad()
def token_measures(
    teacher: Teacher, batches: Iterable[Mapping[str, Tensor]], num_samples: int = 10, seed: int = 0
) -> dict[str, float]:
    """Measure what a language model's teacher says of each taught token: accuracy, NLL, ECE and Brier score.

    Raises:
        UserError: no token is taught.
    """
    generator, seen = torch.Generator().manual_seed(seed), []
    for batch in batches:
        inputs, labels = split(batch)
        probs, labels = taught(teacher.predict(inputs, num_samples, generator).mean, labels)
        for some, own in zip(probs.split(PIECE), labels.split(PIECE), strict=True):
            logarithms = some.double().cpu().clamp_min(torch.finfo(torch.float64).tiny).log()
            seen.append(summary(logarithms, own.cpu()))
    _check_any(sum(map(len, seen)))
    return summarized_metrics(torch.cat(seen))


def _check_any(number: int) -> None:
    if not number:
        raise UserError(
            "no token of the rows is taught, all of their labels are -100: nothing can be measured on them"
        )
