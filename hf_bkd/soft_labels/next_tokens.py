"""A language model is asked for the distribution of each next token, and what is stored of it is made at once.

All of a batch's distributions are [B, L, V], of which few fit into memory, and those of a shard never do.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ..data.columns import EXAMPLE_ID, PROBS, TOKEN_IDS, VARIANCE
from ..likelihoods import CATEGORICAL, UNLABELED
from ..utils.errors import UserError
from ..utils.random import Draws, ExampleGenerator, named_seed
from .examples import Batch
from .lists import as_lists
from .options import LabelingTeacher, LabelOptions
from .sampling import BLOCK, largest_classes, sample_classes
from .storage import check_parts

LOOKED_AT = 16  # tokens of a row
ASKED_AT_ONCE = 2**26  # probabilities of one call of the teacher, of all draws
MOSTLY = 0.8  # share of taught positions from which a copy of them takes longer than the others
KEPT_AT_ONCE = {"cuda": 2**26}  # numbers that are brought to what is stored; on the CPU as many as its caches hold
ON_OTHERS = 2**21


def answer_of_next_tokens(
    teacher: LabelingTeacher, batch: Batch, options: LabelOptions, device: torch.device
) -> dict[str, np.ndarray]:
    """Ask about the tokens of a batch, some rows of like lengths at a time.

    Returns:
        ``probs`` and, of a compact storage, ``classes`` [T, 1, k], and ``variance`` [T, 1, 1] if there are several
        draws, of the T tokens of all rows, zeros where the next one isn't taught; ``lengths`` [B].
    """
    inputs = dict(batch.inputs(0))
    labels, lengths = inputs.pop("labels"), inputs.pop("lengths")
    taught = torch.zeros(labels.shape, dtype=torch.bool)
    taught[:, :-1] = labels[:, 1:] != UNLABELED
    keys, places = torch.from_numpy(batch.keys.copy()), torch.arange(labels.shape[1]) < lengths[:, None]
    numbers = places.flatten().cumsum(0).reshape(places.shape) - 1  # of each token among the T
    stored: dict[str, np.ndarray] = {}
    draws = teacher.num_draws(options.num_samples) if hasattr(teacher, "num_draws") else 1
    for rows, longest in _groups(lengths, ASKED_AT_ONCE // (teacher.num_classes * draws)):
        asked = {name: value[rows, :longest] for name, value in inputs.items()}
        generator = ExampleGenerator(keys[rows], options.draw_seed)
        with options.autocast(device):
            prediction = teacher.predict(asked, options.num_samples, generator)
        expected = [*asked["input_ids"].shape, teacher.num_classes]
        if list(prediction.mean.shape) != expected:
            raise UserError(
                f"the teacher answered with probabilities {list(prediction.mean.shape)}, and for {expected[0]} rows "
                f"of {expected[1]} tokens they would be {expected}: its num_classes or its predict is wrong"
            )
        where = taught[rows, :longest]
        for name, values in _kept(prediction, where, keys[rows], options).items():
            whole = stored.setdefault(name, np.zeros((int(lengths.sum()), 1, values.shape[-1]), values.dtype))
            whole[numbers[rows, :longest][where].numpy(), 0] = values
    return stored | {"lengths": lengths.numpy()}


def beginning(batch: Batch) -> Batch:
    """Return the first tokens of each row, by which a teacher can be looked at; all of packed rows."""
    inputs = dict(batch.inputs(0))
    if "position_ids" not in inputs:
        inputs = {name: v[:, :LOOKED_AT] if v.ndim > 1 else v.clamp_max(LOOKED_AT) for name, v in inputs.items()}
    return batch._replace(inputs=lambda view: inputs)


def _groups(lengths: Tensor, most: int) -> Iterator[tuple[Tensor, int]]:
    """Yield rows of like lengths, with at most so many tokens when they are padded, and their greatest length."""
    order = lengths.argsort(stable=True).tolist()
    while order:
        rows = [order.pop()]
        longest = int(lengths[rows[0]])
        while order and (len(rows) + 1) * longest <= most:
            rows.append(order.pop())
        yield torch.tensor(rows), longest


def _kept(prediction: Any, where: Tensor, keys: Tensor, options: LabelOptions) -> dict[str, np.ndarray]:
    """Return what is stored of a prediction [B, L, V] at some of its positions, [n, k] or [n, 1] by name."""
    rows, positions = (each.flatten() for each in torch.meshgrid(*map(torch.arange, where.shape), indexing="ij"))
    start = Draws(keys[rows], named_seed(options.draw_seed, "sampling"), 0).uniform(positions)
    mean, variance, taught = prediction.mean.flatten(0, 1), prediction.variance, where.flatten()
    if taught.float().mean() < MOSTLY:
        mean, start = mean[taught.to(mean.device)], start[taught]
        variance = None if variance is None else variance.flatten(0, 1)[taught.to(mean.device)]
        taught = torch.ones(len(mean), dtype=torch.bool)
    pieces: dict[str, list[np.ndarray]] = {}
    size = max(KEPT_AT_ONCE.get(mean.device.type, ON_OTHERS) // max(mean.shape[-1], options.top_k * BLOCK), 1)
    for first in range(0, max(len(mean), 1), size):
        at = slice(first, first + size)
        stored = encoded(mean[at].float(), options.storage, options.top_k, start[at])
        if variance is not None and options.variance != "none":
            stored["variance"] = variance.reshape(-1, mean.shape[-1])[at].float().sum(dim=-1, keepdim=True)
        for name, values in stored.items():
            pieces.setdefault(name, []).append(values.cpu().numpy()[taught[at].numpy()])
    return {name: np.concatenate(each) for name, each in pieces.items()}


def encoded(probs: Tensor, storage: str, k: int, start: Tensor) -> dict[str, Tensor]:
    """Return what is stored of probabilities [n, V].

    Args:
        probs: float32.
        storage: one of ``OF_NEXT_TOKENS``.
        k: 1 <= k <= V, of a compact storage.
        start: float64 [n] in [0, 1), where sampling starts.
    """
    if storage not in ("sampled", "top_k"):
        return {"probs": probs.to(getattr(torch, storage))}
    width = probs.shape[-1]
    if k > width:
        raise UserError(f"top_k is {k}, and the language model's vocabulary has {width} tokens: pass at most that")
    if storage == "top_k":
        values, classes = largest_classes(probs, k)
    else:
        classes, values = sample_classes(probs, k, start.to(probs.device))
    return {"classes": classes.to(torch.uint16 if width <= 2**16 else torch.int32), "probs": values.half()}


def table_of_next_tokens(labels: Mapping[str, np.ndarray], num_classes: int, storage: str) -> pa.Table:
    """Return the columns, all but the record, of the answers about some rows.

    Args:
        labels: arrays of :func:`answer_of_next_tokens`, and ``ids`` and ``numbers`` [N] of the rows.
        num_classes: V.
        storage: of them.

    Raises:
        UserError: an answer that is no distribution.
    """
    lengths, probs = labels["lengths"], labels["probs"]
    there = (probs != 0).any(axis=-1)[:, 0]
    parts = {name: torch.from_numpy(labels[name][there]) for name in ("classes", "probs") if name in labels}
    if "classes" in parts:
        parts["classes"] = parts["classes"].int()
        left = 1 - parts["probs"].float().sum(dim=-1, keepdim=True)
        parts["tail"] = left.clamp(0, 1) if storage == "top_k" else left.masked_fill(~left.isnan(), 0)
    check_parts(parts, num_classes, np.repeat(labels["numbers"], lengths)[there], CATEGORICAL)
    table = {TOKEN_IDS: as_lists(labels["classes"], lengths)} if "classes" in labels else {}
    table[PROBS] = as_lists(probs, lengths)
    if "variance" in labels:
        table[VARIANCE] = as_lists(labels["variance"], lengths, summed=True)
    return pa.table(table | {EXAMPLE_ID: pa.array(labels["ids"], pa.int64())})
