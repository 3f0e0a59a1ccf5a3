"""Hashes of what rows become before a teacher sees them, by which a labeling recognizes another preprocessing."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from ..data.preprocessing import ImagePreprocessor
from ..utils.errors import UserError
from .examples import CPU, Examples
from .lists import combined

SAMPLED = 6  # rows of a shard, evenly spaced, and as many of its largest
NAME = b"inputs"  # of the hashes, beside a shard's columns


def input_digests(
    examples: Examples, piece: datasets.Dataset, first: int, rows: Sequence[int] | None = None
) -> dict[int, str]:
    """Return hashes of the inputs that some rows of a piece become, by row.

    None where the plan of the labeling says how images are prepared, or where the first of the rows becomes something
    else each time.

    Args:
        examples: of which the piece is a part.
        piece: some rows.
        first: the number of its first row.
        rows: which of them; ``SAMPLED`` evenly spaced ones and the ``SAMPLED`` largest, which are the first to become
            something else (by another truncation or size), if not given.
    """
    if examples.views is not None or isinstance(getattr(examples.preprocessor, "processor", None), ImagePreprocessor):
        return {}

    def made(row: int) -> str:
        return _digest(next(examples.batches(piece.select([row]), first + row, 1, CPU)).inputs(0))

    digests = {row: made(row) for row in (_sampled(examples, piece) if rows is None else rows)}
    return digests if all(made(row) == digests[row] for row in list(digests)[:1]) else {}


def check_inputs(examples: Examples, piece: datasets.Dataset, first: int, shard: pa.Table, folder: Any) -> None:
    """UserError if rows of a finished shard become other inputs now; arguments as for :func:`input_digests`."""
    stored = (shard.schema.metadata or {}).get(NAME, b"{}").decode()
    # a bare hash is of the first row alone
    before = {int(r): each for r, each in json.loads(stored).items()} if stored.startswith("{") else {0: stored}
    now = input_digests(examples, piece, first, list(before))
    row = next((row for row in now if now[row] != before[row]), None)
    if row is not None:
        raise UserError(
            f"{folder} holds an unfinished labeling with another preprocessing (row {first + row} became inputs with "
            f"the hash {before[row]} there, {now[row]} here): pass another folder, or the preprocessor that began it"
        )


def same_inputs(first: Any, second: Any) -> bool:
    """Whether two makings of inputs from the same rows came to the same."""
    return _digest(first) == _digest(second)


def _sampled(examples: Examples, piece: datasets.Dataset) -> list[int]:
    columns = [] if examples.identity is None else list(examples.identity.columns)
    table = piece.with_format("arrow", columns=columns)[:] if columns else {}
    sizes = sum((_sizes(combined(table[name])) for name in columns), np.zeros(len(piece)))
    even = np.linspace(0, len(piece) - 1, SAMPLED).round().astype(int)
    return np.union1d(even, np.argsort(-sizes, kind="stable")[:SAMPLED]).tolist()


def _sizes(values: pa.Array) -> np.ndarray:
    """Lengths of texts, lists and files of images, [N]; 0 for what has none."""
    kind = values.type
    if pa.types.is_struct(kind):
        return sum((_sizes(part) for part in values.flatten()), np.zeros(len(values)))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = pc.list_value_length(values)
    elif any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)):
        lengths = pc.binary_length(values)
    else:
        return np.zeros(len(values))
    return lengths.fill_null(0).to_numpy(zero_copy_only=False)


def _digest(inputs: Any) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(inputs.items()) if isinstance(inputs, Mapping) else [("", inputs)]:
        value = value.detach().cpu() if isinstance(value, Tensor) else value
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            packed = value.flatten().clone(memory_format=torch.contiguous_format)  # also of expanded inputs
            digest.update(packed.view(torch.uint8).numpy().data if value.numel() else b"")
    return digest.hexdigest()
