"""Logits, probabilities or numbers that somebody else computed become soft labels, found by the examples' ids."""

import hashlib
from collections.abc import Hashable, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor

from ..dirichlet import LEAST
from ..dirichlet import mean_log_probs as log_probs_of
from ..likelihoods import CATEGORICAL, Likelihood, likelihood_from
from ..utils.checks import check_choice, check_positive
from ..utils.errors import UserError
from .belonging import NAMED
from .columns import check_reserved
from .identity import Identity, class_names, summarized_ids
from .kinds import check_class_count
from .options import LabelOptions
from .record import make_record
from .storage import chosen_storage
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
    storage: str = "auto",
    top_k: int = 10,
    problem_type: str | None = None,
    noise: np.ndarray | Tensor | None = None,
    mean_log_probs: bool = False,
) -> datasets.Dataset:
    """Give each example the soft labels that arrays of logits, probabilities or numbers hold under its id.

    Args:
        dataset: N examples.
        values: [M, C], or [S, M, C] of S draws (or responses), which are averaged and leave a ``teacher_variance``.
        ids: M ids of the values, each once, in their order; those that the dataset lacks are omitted.
        id_column: the dataset's column with the same ids, such as an accession.
        kind: ``"logits"``, or ``"probs"``, which may be off 1 in sum by a hundredth and are renormalized. Of a
            regression it is not asked: its values are numbers.
        temperature: T > 0 of logits: softmax(z / T), or sigmoid(z / T).
        classes: for each of the C columns the dataset's class, by number or name, where they aren't the same in the
            same order; several may go to the same class, which then has their sum. Not of a regression.
        made_by: what made the values, for the record.
        name, storage, top_k: as for :func:`~hf_bkd.add_soft_labels`.
        problem_type: ``"multi_label_classification"`` of labels that are each there or not, ``"regression"`` of
            numbers; one of C classes if not given.
        mean_log_probs: as for :func:`~hf_bkd.add_soft_labels`, of several draws of classes.
        noise: of a regression [M, C], the variance of a label around the values, where it is known.

    Returns:
        The dataset with ``teacher_probs`` (or ``teacher_mean``), its record and, of draws, ``teacher_variance``.

    Raises:
        UserError: examples without values, with their number and the first of their ids; ids that occur twice or are
            not as many as the values; values that are not finite or no distributions; classes that the dataset doesn't
            have, or another number of them without ``classes``; an unknown kind, a temperature out of range or of a
            regression, a noise that isn't above 0.
    """
    check_reserved(dataset.features)
    likelihood = likelihood_from(problem_type)
    LabelOptions(storage=storage, mean_log_probs=mean_log_probs).of_kind(likelihood)
    storage, values = chosen_storage(storage, likelihood), _numbers(values)
    if values.ndim not in (2, 3) or len(ids) != values.shape[-2]:
        raise UserError(
            f"values must be [M, C] or [S, M, C] with an id for each of M; they are {list(values.shape)}, and there "
            f"are {len(ids)} ids"
        )
    values = values[None] if values.ndim == 2 else values
    if mean_log_probs and len(values) < 2:
        raise UserError("mean_log_probs=True averages over draws, and the values are of one: pass values [S, M, C]")
    rows = _rows(dataset, list(ids), id_column)
    draws = _values(values[:, rows], kind, temperature, likelihood)
    draws = _mapped(draws, classes, dataset.features, likelihood)
    check_class_count("the array", draws.shape[-1], dataset.features, likelihood)
    digest = hashlib.sha256(values[:, rows].contiguous().numpy().tobytes()).hexdigest()[:16]
    teacher = {"method": "imported", "num_classes": draws.shape[-1], "made_by": made_by, "kind": kind}
    teacher |= {"temperature": float(temperature), "tempering": "per_sample", "weights": digest}
    if likelihood != CATEGORICAL:
        teacher |= likelihood.as_json()
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
        least_probability=LEAST if mean_log_probs else None,
    )
    variance = draws.var(dim=0).numpy() if len(draws) > 1 else None
    if noise is not None:
        noise = _numbers(noise).numpy()
        if noise.shape != tuple(values.shape[1:]):
            raise UserError(f"noise is {list(noise.shape)}, and the values of each draw are {list(values.shape[1:])}")
        noise = noise[rows]
    own = {"noise": noise, "log_probs": log_probs_of(draws).numpy() if mean_log_probs else None}
    return attach(dataset, draws.mean(dim=0).numpy(), record, variance, example_ids, storage, name, top_k, **own)


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


def _values(values: Tensor, kind: str, temperature: float, likelihood: Likelihood) -> Tensor:
    """The values [S, N, C] of logits, probabilities or numbers."""
    check_choice(KINDS, kind=kind)
    bad = (~values.isfinite()).any(dim=-1).any(dim=0).nonzero().flatten().tolist()
    if bad:
        raise UserError(f"the values of {len(bad)} examples are not finite (the first: row {bad[0]})")
    if kind == "logits":
        check_positive(temperature=temperature)
        likelihood.check_temperature(temperature)
        return likelihood.values(values, temperature)
    if temperature != 1:
        raise UserError(f"temperature is {temperature:g}: only logits have one; pass those, or omit it")
    if not likelihood.classes_in:
        raise UserError("a regression has numbers, not probabilities: omit kind")
    scaled = likelihood.normalized(values)
    wrong = (values - scaled).abs().sum(dim=-1) > SUM_TOLERANCE
    for problem in likelihood.problems(scaled).values():
        wrong |= problem
    rows = wrong.any(dim=0).nonzero().flatten().tolist()
    if rows:
        first = values[wrong[:, rows[0]], rows[0]][0]
        facts = {"sum": first.sum(), "minimum": first.min(), "maximum": first.max()}
        said = " and ".join(f"the {name} {facts[name].item():g}" for name in likelihood.summaries)
        raise UserError(
            f"the values of {len(rows)} examples are no probabilities (the first: row {rows[0]}, with {said}): pass "
            "kind='logits' if that is what they are"
        )
    return scaled


def _mapped(
    draws: Tensor, classes: Sequence[int | str] | None, features: datasets.Features, likelihood: Likelihood
) -> Tensor:
    """Sum draws [S, N, M] over the columns of each of the dataset's classes, to [S, N, C]."""
    if classes is None:
        return draws
    names = class_names(features, likelihood)
    if len(classes) != draws.shape[-1] or names is None:
        raise UserError(
            f"classes has {len(classes)} entries for {draws.shape[-1]} columns, and the dataset "
            f"{'names no classes' if names is None else f'has {len(names)} classes'}: pass one for each column"
        )
    numbers = [names.index(each) if each in names else each for each in classes]
    unknown = [each for each in numbers if not (isinstance(each, int) and 0 <= each < len(names))]
    if unknown:
        raise UserError(f"the dataset has no class {unknown[0]!r}; it has {', '.join(names)}")
    if likelihood.independent and sorted(numbers) != list(range(len(names))):
        raise UserError(
            f"classes must name each of the {len(names)} labels once: independent probabilities can't be added, nor "
            "made up"
        )
    return draws.new_zeros(*draws.shape[:-1], len(names)).index_add(-1, torch.tensor(numbers), draws)
