"""Logits or probabilities that somebody else computed become soft labels, found by the ids of the examples."""

import hashlib
from collections.abc import Hashable, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor

from ..utils.checks import check_choice, check_positive
from ..utils.errors import UserError
from .belonging import NAMED
from .columns import check_reserved
from .identity import Identity, class_names, summarized_ids
from .kinds import check_class_count
from .record import make_record
from .writing import attach

KINDS = ("logits", "probs")
SUM_TOLERANCE = 1e-2  # of probabilities that somebody rounded


def import_soft_labels(
    dataset: datasets.Dataset,
    values: np.ndarray | Tensor,
    ids: Sequence,
    id_column: str,
    *,
    kind: str = "logits",
    temperature: float = 1.0,
    classes: Sequence[int | str] | None = None,
    made_by: str = "",
    name: str | None = None,
    storage: str = "float16",
    top_k: int = 10,
) -> datasets.Dataset:
    """Give each example the soft labels that arrays of logits or probabilities hold under its id.

    Args:
        dataset: N examples.
        values: [M, C], or [S, M, C] of S draws (or responses), which are averaged and leave a ``teacher_variance``.
        ids: M ids of the values, each once, in their order; those that the dataset lacks are omitted.
        id_column: the dataset's column with the same ids, such as an accession.
        kind: ``"logits"``, or ``"probs"``, which may be off 1 in sum by a hundredth and are renormalized.
        temperature: T > 0 of logits: softmax(z / T).
        classes: for each of the C columns the dataset's class, by number or name, where they aren't the same in the
            same order; several may go to the same class, which then has their sum.
        made_by: what made the values, for the record.
        name, storage, top_k: as for :func:`~hf_bkd.add_soft_labels`.

    Returns:
        The dataset with ``teacher_probs``, its record and, of draws, ``teacher_variance``.

    Raises:
        UserError: examples without values, with their number and the first of their ids; ids that occur twice or are
            not as many as the values; values that are not finite or no distributions; classes that the dataset doesn't
            have, or another number of them without ``classes``; an unknown kind, a temperature out of range.
    """
    check_reserved(dataset.features)
    values = _numbers(values)
    if values.ndim not in (2, 3) or len(ids) != values.shape[-2]:
        raise UserError(
            f"values must be [M, C] or [S, M, C] with an id for each of M; they are {list(values.shape)}, and there "
            f"are {len(ids)} ids"
        )
    values = values[None] if values.ndim == 2 else values
    rows = _rows(dataset, list(ids), id_column)
    draws = _mapped(_probabilities(values[:, rows], kind, temperature), classes, dataset.features)
    check_class_count("the array", draws.shape[-1], dataset.features)
    digest = hashlib.sha256(values[:, rows].contiguous().numpy().tobytes()).hexdigest()[:16]
    teacher = {"method": "imported", "num_classes": draws.shape[-1], "made_by": made_by, "kind": kind}
    teacher |= {"temperature": float(temperature), "tempering": "per_sample", "weights": digest}
    identity = Identity.of_features(dataset.features)
    example_ids = None if identity is None else identity.of_dataset(dataset)
    record = make_record(
        teacher,
        dataset,
        num_samples=len(draws),
        seed=0,
        storage=storage,
        identity=identity,
        ids=None if example_ids is None else summarized_ids(example_ids),
    )
    variance = draws.var(dim=0).numpy() if len(draws) > 1 else None
    return attach(dataset, draws.mean(dim=0).numpy(), record, variance, example_ids, storage, name, top_k)


def _numbers(values: Any) -> Tensor:
    """Arrays, tensors (also of bfloat16) or lists of numbers as float64; UserError for anything else."""
    try:
        array = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            "values must be an array of numbers, and their rows differ in length: pass a float array [M, C]"
        ) from error
    if array.dtype.kind not in "biuf":
        raise UserError(f"values must be an array of numbers, and they are {array.dtype}: pass a float array [M, C]")
    return torch.from_numpy(array.astype(np.float64))


def _rows(dataset: datasets.Dataset, ids: list[Any], id_column: str) -> list[int]:
    """The row of the values that belongs to each example."""
    if id_column not in dataset.column_names:
        raise UserError(f"the dataset has no column {id_column!r}; it has {', '.join(dataset.column_names)}")
    ids = [each.item() if isinstance(each, (np.generic, Tensor)) else each for each in ids]
    odd = next((each for each in ids if not isinstance(each, Hashable)), None)
    if odd is not None:
        raise UserError(f"an id is {odd!r}, of type {type(odd).__name__}: pass texts or whole numbers")
    place = {each: row for row, each in enumerate(ids)}
    if len(place) < len(ids):
        twice = next(each for row, each in enumerate(ids) if place[each] != row)
        raise UserError(f"{len(ids) - len(place)} of the ids occur more than once (the first: {twice!r})")
    wanted = dataset.with_format(None)[id_column][:]
    missing = [each for each in wanted if each not in place]
    if missing:
        first = ", ".join(map(repr, missing[:NAMED]))
        raise UserError(f"{len(missing)} of {len(wanted)} examples have no values (the first ids: {first})")
    return [place[each] for each in wanted]


def _probabilities(values: Tensor, kind: str, temperature: float) -> Tensor:
    check_choice(KINDS, kind=kind)
    bad = (~values.isfinite()).any(dim=-1).any(dim=0).nonzero().flatten().tolist()
    if bad:
        raise UserError(f"the values of {len(bad)} examples are not finite (the first: row {bad[0]})")
    if kind == "logits":
        check_positive(temperature=temperature)
        return (values / temperature).softmax(dim=-1)
    if temperature != 1:
        raise UserError(f"temperature is {temperature:g}: only logits have one; pass those, or omit it")
    sums = values.sum(dim=-1)
    wrong = ((values < 0).any(dim=-1) | ((sums - 1).abs() > SUM_TOLERANCE)).any(dim=0).nonzero().flatten().tolist()
    if wrong:
        raise UserError(
            f"the values of {len(wrong)} examples are no probabilities (the first: row {wrong[0]}, with the sum "
            f"{sums[:, wrong[0]].mean().item():g}): pass kind='logits' if that is what they are"
        )
    return values / sums.unsqueeze(-1)


def _mapped(draws: Tensor, classes: Sequence[int | str] | None, features: datasets.Features) -> Tensor:
    """Sum draws [S, N, M] over the columns of each of the dataset's classes, to [S, N, C]."""
    if classes is None:
        return draws
    names = class_names(features)
    if len(classes) != draws.shape[-1] or names is None:
        raise UserError(
            f"classes has {len(classes)} entries for {draws.shape[-1]} columns, and the dataset "
            f"{'names no classes' if names is None else f'has {len(names)} classes'}: pass one for each column"
        )
    numbers = [names.index(each) if each in names else each for each in classes]
    unknown = [each for each in numbers if not (isinstance(each, int) and 0 <= each < len(names))]
    if unknown:
        raise UserError(f"the dataset has no class {unknown[0]!r}; it has {', '.join(names)}")
    return draws.new_zeros(*draws.shape[:-1], len(names)).index_add(-1, torch.tensor(numbers), draws)
