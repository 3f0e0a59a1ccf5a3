"""Cross-fitting: each example is labeled by a teacher that was fitted without it."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..likelihoods import likelihood_from
from ..utils.checks import check_count
from ..utils.errors import UserError
from ..utils.processes import decided_by_main
from .asking import Answers, Made, as_begun, ask, finished_answers, plan_of, shard_name
from .batch_answers import check_answers, fitting_batch_size
from .examples import Examples
from .kinds import is_language_model
from .options import LabelingTeacher, LabelOptions
from .record import as_json, description
from .shards import MEMORY, Shards, first_difference, has_begun

Fit = Callable[[datasets.Dataset, int], LabelingTeacher]


def cross_fitted(
    read_by: Callable[[Any], Examples],
    asks: bool,
    dataset: datasets.Dataset,
    folds: int,
    fit: Fit,
    options: LabelOptions,
    folder: str | Path | None,
    progress: bool,
) -> Made:
    """Label each fold by a teacher of its own; finished folds are not fitted again.

    ``asks`` is whether the teachers say how rows are read: then the first is fitted in any case.
    """
    parts = _fold_indices(len(dataset), folds, options.seed)

    def fitted(fold: int) -> LabelingTeacher:
        return fit(dataset.select(np.setdiff1d(np.arange(len(dataset)), parts[fold])), fold)

    first = fitted(0) if asks else None
    examples = read_by(first)
    begun = has_begun(folder)
    shards = Shards(folder, plan_of(examples, options, None, folds))
    examples, options = as_begun(examples, options, shards)
    tables, teachers = [], []
    sizes: set[tuple[int, ...]] = set()
    for fold, part in enumerate(parts):
        own, name = examples.select(part), f"fold-{fold:04d}"
        shard_names = [shard_name(name, number) for number in range(-(-len(part) // options.shard_rows))]
        described = decided_by_main(lambda: shards.recall(name))  # noqa: B023
        kind = _of_kind(options, described or {}, *teachers[:1])
        finished = decided_by_main(lambda: all(each in shards for each in shard_names))  # noqa: B023
        if described and finished:
            table, own_sizes = finished_answers(own, kind, shards, name)
        else:
            teacher = first if asks and fold == 0 else fitted(fold)
            if is_language_model(teacher):
                raise UserError("language models are not cross-fitted: pass a teacher instead of folds and fit")
            if asks:
                _check_reading(examples, read_by(teacher), fold)
            now = as_json(description(teacher, options.num_samples))
            kind = _of_kind(options, now, *teachers[:1])
            _check_classes(now, fold, *teachers[:1])
            if not begun:
                check_answers(own, teacher, kind)
            described = _remembered(shards, name, fold, described, now)
            bar_name = f"labeling fold {fold + 1} of {folds}" if progress else None
            fitting = replace(kind, batch_size=fitting_batch_size(own, teacher, kind))
            table, own_sizes = ask(own, teacher, fitting, shards, name, bar_name)
        tables.append(deque(table.to_batches()))
        sizes |= own_sizes
        teachers.append(described)
    del table  # what stands in order is let go of
    shards.forget()
    whole = Answers(shards.assembled(_in_order(tables, parts, options.shard_rows)), sizes)
    weights = [each["weights"] for each in teachers]
    return Made(examples, whole, kind, teachers[0], {"number": folds, "seed": options.seed, "weights": weights})


def _of_kind(options: LabelOptions, described: dict[str, Any], first: dict[str, Any] | None = None) -> LabelOptions:
    """The options for a teacher's kind; UserError if the teacher of the ``first`` fold is of another."""
    own, firsts = (likelihood_from((each or described).get("problem_type")) for each in (described, first))
    if described and own.problem_type != firsts.problem_type:
        raise UserError(
            f"fit gave a teacher of {firsts.problem_type} for the first fold, and now one of {own.problem_type}: let "
            "it give teachers of one kind"
        )
    return options.of_kind(own)


def _check_classes(described: dict[str, Any], fold: int, first: dict[str, Any] | None = None) -> None:
    """Raise a UserError if the teacher of a fold says that it knows other classes than that of the ``first`` one."""
    own, firsts = ((each.get("num_classes"), each.get("class_names")) for each in (described, first or described))
    if own != firsts:
        raise UserError(
            f"the teacher of fold {fold + 1} knows the classes {own[1] or own[0]}, and that of the first "
            f"{firsts[1] or firsts[0]}, since a fold lacks some: give all of them to each, by class_names or "
            "dataset.class_encode_column('label')"
        )


def _check_reading(first: Examples, own: Examples, fold: int) -> None:
    """Raise a UserError if the teacher of a fold reads rows in another way than that of the first."""
    (columns, settings), (own_columns, own_settings) = ((each.identity, each.settings) for each in (first, own))
    if (columns, settings) != (own_columns, own_settings):
        raise UserError(
            f"the teacher of fold {fold + 1} prepares examples differently ({own_columns}, {own_settings}) than that "
            f"of the first ({columns}, {settings}): let fit build them alike, or pass preprocessor="
        )


def _in_order(tables: list[deque[pa.RecordBatch]], parts: list[np.ndarray], size: int) -> Iterator[pa.Table]:
    """The rows of several tables in the order of their numbers, ``size`` at a time; each part's numbers are sorted.

    The tables are emptied.
    """
    for start in range(0, sum(map(len, parts)), size):
        places = [np.searchsorted(part, (start, start + size)) for part in parts]
        numbers = np.concatenate([part[low:high] for part, (low, high) in zip(parts, places, strict=True)])
        first = [
            batch for table, (low, high) in zip(tables, places, strict=True) for batch in _taken(table, high - low)
        ]
        rows = pa.Table.from_batches(first).combine_chunks(memory_pool=MEMORY)
        yield pc.take(rows, pa.array(np.argsort(numbers)), memory_pool=MEMORY)


def _taken(table: deque[pa.RecordBatch], count: int) -> Iterator[pa.RecordBatch]:
    """The first ``count`` rows of a table, which it loses."""
    while count:
        batch = table.popleft()
        if len(batch) > count:
            table.appendleft(batch.slice(count))
            batch = batch.slice(0, count)
        count -= len(batch)
        yield batch


def _remembered(shards: Shards, name: str, fold: int, before: dict | None, now: dict) -> dict:
    """Keep a fold's teacher's description beside the shards; UserError if another teacher began to label the fold."""
    difference = before and first_difference(before, now, "teacher")
    if difference:
        raise UserError(
            f"fold {fold + 1} is labeled in part by a teacher of another {difference}: fit must give the "
            f"same teacher again; pass another folder, or delete {shards.folder}"
        )
    shards.remember(name, now)
    return now


def _fold_indices(num_rows: int, folds: int, seed: int) -> list[np.ndarray]:
    check_count(2, folds=folds)
    if folds > num_rows:
        raise UserError(f"folds must be between 2 and the number of rows ({num_rows}), and it is {folds}")
    order = np.random.default_rng(seed).permutation(num_rows)
    return [np.sort(part) for part in np.array_split(order, folds)]
