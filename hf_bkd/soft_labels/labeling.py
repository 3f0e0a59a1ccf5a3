"""A teacher's opinion of every example is written into the dataset, once."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from ..data.columns import EXAMPLE_ID
from ..data.preprocessors import Preprocessor
from ..data.views import Views
from ..utils.checks import check_choice, check_count
from ..utils.deprecation import renamed_arguments
from ..utils.errors import UserError
from ..utils.files import writing
from ..utils.locks import sole_user
from ..utils.processes import decided_by_main
from .asked_rows import check_dataset, examples_of
from .asking import (
    Answers,
    LabelingTeacher,
    LabelOptions,
    ask,
    check_answers,
    finished_answers,
    fitting_batch_size,
    shard_name,
)
from .belonging import class_order
from .examples import AnyDataset, Examples
from .identity import Identity, summarized_ids
from .record import LabelRecord, as_json, description, make_record
from .shards import MEMORY, Shards, first_difference, has_begun
from .skipping import ON_ERROR, check_skipping, first_readable, numbers_left_out
from .writing import attach_table, label_set

Fit = Callable[[datasets.Dataset, int], LabelingTeacher]


@renamed_arguments(preprocess="preprocessor")
def add_soft_labels(
    dataset: AnyDataset,
    teacher: LabelingTeacher | Mapping[str, LabelingTeacher] | str | Path | None = None,
    num_samples: int = 10,
    *,
    preprocessor: Preprocessor | Callable[[dict[str, list]], dict[str, Tensor]] | None = None,
    processing_class: Any = None,
    views: Views | None = None,
    folds: int | None = None,
    fit: Fit | None = None,
    batch_size: int = 512,
    seed: int = 0,
    storage: str = "float16",
    top_k: int = 10,
    variance: str = "auto",
    mixed_precision: str | None = None,
    held_out: dict[str, float] | None = None,
    name: str | None = None,
    folder: str | Path | None = None,
    shard_rows: int = 1024,
    progress: bool = True,
    on_error: str = "raise",
) -> datasets.Dataset:
    """Label a dataset with a teacher's averaged class probabilities (arXiv 2601.01484).

    The processes of an accelerate launch share the rows; one process, several, and one that was killed and started
    again with the same ``folder`` give the same columns. With ``folds`` and ``fit`` instead of a teacher the labels
    are cross-fitted: each example is labeled by a teacher that was fitted without it.

    Args:
        dataset: N examples. A streamed one is labeled as it passes by, and the labels are returned without it.
        teacher: labels them, itself or as the folder or name on the Hub of a saved :class:`~hf_bkd.Teacher`; its
            ``temperature`` and ``tempering`` are applied and recorded. Several teachers by name (a mapping, or a
            :class:`~hf_bkd.MultiTeacher`) each add columns that end in their name.
        num_samples: S >= 1, draws from the teacher's posterior per example.
        preprocessor: turns a batch of rows (column name -> list) into the network's inputs. Without one each teacher
            reads the dataset by its own, see :func:`~hf_bkd.data.preprocessors.preprocessor_for`; where the columns
            are the network's inputs already, or the dataset's transform makes them, they go in as they are.
        processing_class: the tokenizer, image processor, feature extractor or transform of an image by which the
            teacher reads the dataset, if not the one that is saved with it.
        views: augmentations under which each image is labeled, so that a student can see the same pictures; needs
            ``views.num_views`` and a teacher or a ``preprocessor`` that reads images.
        folds: number of parts, 2 .. N.
        fit: called as ``fit(rest, fold)`` for each fold; returns a teacher for the examples that ``rest`` lacks. Its
            method ``preprocessor_for(dataset)``, if it has one, makes the preprocessor.
        batch_size: examples per call of the teacher; halved until they fit on a GPU.
        seed: of the draws (and of the folds). Draws that belong to examples are the same in whatever batch and order
            these are; teachers of different names draw independently.
        storage: ``"float16"``, ``"float32"``, ``"uint8"`` or ``"top_k"``; see `storage` for what they lose.
        top_k: k >= 1, the classes that ``"top_k"`` keeps.
        variance: which across-draw variance is kept: of each class (``"full"``), their ``"sum"``, or ``"none"``;
            ``"auto"`` is full for float storages and the sum for compact ones.
        mixed_precision: ``"bf16"`` or ``"fp16"`` passes of the teacher.
        held_out: the teacher's metrics on examples that it was not fitted on, for the record; what the teacher's own
            record says if not given.
        name: the teacher's name, when a dataset carries labels of several.
        folder: where finished shards are kept, so that the same call goes on from them; in memory if not given.
        shard_rows: examples a shard.
        progress: whether to show a bar.
        on_error: what becomes of rows that can't be read (images that are missing or broken, missing values, texts
            without tokens): ``"raise"`` names the first one; ``"skip"`` reads all rows beforehand and labels the
            others. How many were left out is warned of, the record has their numbers (``dataset.left_out``), and
            ``left_out.json`` in the folder has each one's number, column and reason.

    Returns:
        The dataset, less rows that were left out, with ``teacher_probs`` of its classes (matched by name with those of
        the teacher's network, where both have names), ``teacher_variance`` where there are several draws,
        ``example_id`` and ``teacher_provenance`` (see ``columns``); of a streamed one these columns alone.

    Raises:
        UserError: neither or both of teacher and folds, a number below 1, an unknown storage or variance, inputs that
            can't be made from the columns, a teacher that knows other classes than the dataset or answers with
            something that is no distribution, or a folder of another labeling, damaged, or without space.
    """
    options = LabelOptions(num_samples, batch_size, seed, storage, top_k, variance, mixed_precision, shard_rows)
    if (teacher is None) == (folds is None) or (folds is None) != (fit is None):
        raise UserError("pass either a teacher, or folds together with fit")
    if None not in (preprocessor, processing_class):
        raise UserError("pass either preprocessor or processing_class: each says how rows become inputs")
    if folds is not None and processing_class is not None:
        raise UserError(
            "with folds there is no network yet that a processing_class could be for: pass "
            "preprocessor=preprocessor_for(network, dataset, processing_class), of hf_bkd.data.preprocessors"
        )
    check_dataset(dataset)
    check_choice(ON_ERROR, on_error=on_error)
    check_skipping(dataset, on_error)
    original, streamed = dataset, isinstance(dataset, datasets.IterableDataset)
    teachers = getattr(teacher, "named_members", teacher)
    if not isinstance(teachers, Mapping):
        teachers = {name: teacher}
    elif name is not None or streamed or not teachers:
        raise UserError("several teachers name their labels themselves, and label datasets that aren't streamed")

    left_out: list[int] = []

    def read_by(asked: Any) -> Examples:
        def made(rows: AnyDataset) -> Examples:
            return examples_of(fit if asked is None else asked, rows, preprocessor, processing_class, views)

        return made(original) if on_error == "raise" else first_readable(original, made).less(original, left_out)

    def examples_for(asked: Any, own_folder: str | Path | None) -> Examples:
        examples = read_by(asked)
        if asked is not None and not has_begun(own_folder):
            check_answers(examples, asked, options)
        return examples

    with nullcontext() if folder is None else sole_user(folder):
        folders = {each: folder if each == name or folder is None else Path(folder, each) for each in teachers}
        if on_error == "skip":
            teachers = {own_name: _loaded(each) for own_name, each in teachers.items()}
            left_out += numbers_left_out(map(read_by, teachers.values()), len(dataset), folder)
            dataset = dataset.select(np.setdiff1d(np.arange(len(dataset)), left_out)) if left_out else dataset
        for own_name, each in teachers.items():
            if len(teachers) > 1 and not isinstance(each, (str, Path)):  # a misfit of the last one comes up first
                examples_for(each, folders[own_name])
        for own_name, each in teachers.items():
            own_folder = folders[own_name]
            each, named = _loaded(each), replace(options, stream=own_name)
            examples = examples_for(each, own_folder)
            if folds is None:
                made = _labeled(examples, each, named, own_folder, progress)
            else:
                made = _cross_fitted(examples, folds, fit, named, own_folder, progress)
            table, record = _table_and_record(made, held_out, own_folder)
            if streamed:
                return label_set(table, record, own_name)
            dataset = attach_table(dataset, table, record, own_name)
    return dataset


class Made(NamedTuple):
    """What a labeling made: of which examples, the columns, how and by whom; how they were cross-fitted, if so.

    ``class_names`` are the teacher's, where it knows them.
    """

    examples: Examples
    answers: Answers
    options: LabelOptions
    teacher: dict[str, Any]
    folds: dict[str, Any] | None = None
    class_names: list[str] | None = None


def _loaded(teacher: LabelingTeacher | str | Path | None) -> LabelingTeacher | None:
    if not isinstance(teacher, (str, Path)):
        return teacher
    from ..teachers import Teacher  # all else here knows teachers by what they answer

    return Teacher.from_pretrained(teacher)


def _labeled(
    examples: Examples, teacher: LabelingTeacher, options: LabelOptions, folder: str | Path | None, progress: bool
) -> Made:
    options = replace(options, batch_size=fitting_batch_size(examples, teacher, options))
    options = replace(options, class_order=class_order(teacher, examples.dataset.features))
    described = description(teacher, options.num_samples)
    shards = Shards(folder, _plan(examples, options, described, None))
    examples, options = _as_begun(examples, options, shards)
    answers = ask(examples, teacher, options, shards, "rows", "labeling" if progress else None)
    source, names = getattr(teacher, "source", None), getattr(teacher, "class_names", None)
    return Made(examples, answers, options, described | ({"source": source} if source else {}), class_names=names)


def _cross_fitted(
    examples: Examples, folds: int, fit: Fit, options: LabelOptions, folder: str | Path | None, progress: bool
) -> Made:
    """Label each fold by a teacher of its own; finished folds are not fitted again."""
    if examples.streamed:
        raise UserError("a streamed dataset can't be divided into folds: load it without streaming")
    shards = Shards(folder, _plan(examples, options, None, folds))
    examples, options = _as_begun(examples, options, shards)
    parts, tables, teachers = _fold_indices(examples.num_rows, folds, options.seed), [], []
    sizes: set[tuple[int, ...]] = set()
    for fold, part in enumerate(parts):
        own, name = examples.select(part), f"fold-{fold:04d}"
        shard_names = [shard_name(name, number) for number in range(-(-len(part) // options.shard_rows))]
        described = decided_by_main(lambda: shards.recall(name))  # noqa: B023
        finished = decided_by_main(lambda: all(each in shards for each in shard_names))  # noqa: B023
        if described and finished:
            table, own_sizes = finished_answers(own, options, shards, name)
        else:
            rest = np.setdiff1d(np.arange(examples.num_rows), part)
            teacher = fit(examples.dataset.select(rest), fold)
            described = _remembered(shards, name, fold, described, as_json(description(teacher, options.num_samples)))
            bar_name = f"labeling fold {fold + 1} of {folds}" if progress else None
            fitting = replace(options, batch_size=fitting_batch_size(own, teacher, options))
            table, own_sizes = ask(own, teacher, fitting, shards, name, bar_name)
        tables.append(deque(table.to_batches()))
        sizes |= own_sizes
        teachers.append(described)
    del table  # what stands in order is let go of
    shards.forget()
    whole = Answers(shards.assembled(_in_order(tables, parts, options.shard_rows)), sizes)
    weights = [each["weights"] for each in teachers]
    return Made(examples, whole, options, teachers[0], {"number": folds, "seed": options.seed, "weights": weights})


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


def _as_begun(examples: Examples, options: LabelOptions, shards: Shards) -> tuple[Examples, LabelOptions]:
    """Examples and options as those shards know them: in a folder of an earlier version by its ids and draws."""
    if not shards.unsaid:
        return examples, options
    identity = examples.identity
    if "identity" in shards.unsaid:
        identity = Identity(() if examples.content is None else (examples.content,), form=1)
    if "stream" in shards.unsaid:
        options = replace(options, stream=None)
    return examples.known_by(identity, draws_by_number="draws" in shards.unsaid), options


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


def _plan(
    examples: Examples, options: LabelOptions, teacher: dict[str, Any] | None, folds: int | None
) -> dict[str, Any]:
    """All that decides the labels, as JSON; ``teacher`` is ``None`` where each fold has its own."""
    dataset = examples.dataset
    return {
        "teacher": teacher,
        "folds": folds,
        "rows": examples.num_rows,
        "dataset": dataset.info.dataset_name,
        "split": None if dataset.split is None else str(dataset.split),
        "identity": examples.identity.to_json() if examples.has_ids else None,
        "draws": "by id" if examples.has_ids else "by number",
        **asdict(options),
        **examples.settings,
    }


def _table_and_record(
    made: Made, held_out: dict[str, float] | None, folder: str | Path | None
) -> tuple[pa.Table, LabelRecord]:
    (table, sizes), options, examples = made.answers, made.options, made.examples
    if not examples.has_ids:
        table = table.drop_columns([EXAMPLE_ID])
    with nullcontext() if folder is None else writing(folder):
        ids = summarized_ids(table[EXAMPLE_ID], folder) if examples.has_ids else None
    record = make_record(
        made.teacher,
        examples.dataset,
        num_samples=options.num_samples,
        seed=options.seed,
        stream=options.stream,
        storage=options.storage,
        identity=examples.identity if examples.has_ids else None,
        ids=ids,
        rows=len(table),
        image_size=list(*sizes) if len(sizes) == 1 else None,
        folds=made.folds,
        mixed_precision=options.mixed_precision,
        held_out=held_out,
        names=made.class_names,
        **examples.settings,
    )
    return table, record
