"""A teacher's opinion of every example is written into the dataset, once."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from torch import Tensor

from ..data.columns import EXAMPLE_ID
from ..data.preprocessors import Preprocessor, tokenizer_hash
from ..data.views import Views
from ..dirichlet import LEAST
from ..utils.deprecation import renamed_arguments
from ..utils.errors import UserError
from ..utils.files import writing
from ..utils.locks import sole_user
from .asking import Made, as_begun, ask, plan_of
from .batch_answers import check_answers, fitting_batch_size
from .cross_fitting import Fit, cross_fitted
from .examples import AnyDataset, Examples
from .identity import summarized_ids
from .kinds import class_order, is_language_model, kind_of
from .options import LabelingTeacher, LabelOptions
from .record import LabelRecord, description, make_record
from .record_parts import TOKENS
from .shards import Shards, has_begun
from .teacher_rows import check_dataset, examples_of, in_tokens
from .unreadable_rows import check_on_error, first_readable, numbers_left_out
from .writing import attach_table, is_ragged, label_set


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
    storage: str = "auto",
    top_k: int | None = None,
    variance: str = "auto",
    mean_log_probs: bool = False,
    mixed_precision: str | None = None,
    held_out: dict[str, float] | None = None,
    name: str | None = None,
    folder: str | Path | None = None,
    shard_rows: int = 1024,
    progress: bool = True,
    on_error: str = "raise",
    max_length: int | None = None,
) -> datasets.Dataset:
    """Label a dataset with a teacher's averaged class probabilities (arXiv 2601.01484), or what else it predicts.

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
        fit: called as ``fit(rest, fold)`` for each fold; returns a teacher for the examples that ``rest`` lacks, which
            reads them by its own preprocessor unless one is passed.
        batch_size: examples per call of the teacher; halved until they fit on a GPU.
        seed: of the draws (and of the folds). Draws that belong to examples are the same in whatever batch and order
            these are; teachers of different names draw independently.
        storage: ``"float16"``, ``"float32"``, ``"uint8"`` or ``"top_k"``; see `storage` for what they lose, and which
            labels they hold. ``"auto"`` is float16, and float32 for a regression. Of a language model's next tokens it
            is ``"sampled"``, without bias (see `sampling`), or ``"top_k"``, or floats of the whole vocabulary.
        top_k: k >= 1, the classes that ``"top_k"`` keeps, 10 if not given, or the tokens that ``"sampled"`` does, 16.
        variance: which across-draw variance is kept: of each class (``"full"``), their ``"sum"``, or ``"none"``;
            ``"auto"`` is full for float storages and the sum for compact ones.
        mean_log_probs: whether ``teacher_mean_log_probs`` is kept too, of which a student with
            ``distance="dirichlet"`` learns how much the draws disagree: of class probabilities, several draws, and no
            ``"top_k"``. A draw's probability below 2**-25 counts as that. Without it such a student reads the
            variance.
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
        max_length: of a language model that is asked about texts or messages: the tokens after which they are cut.

    Returns:
        The dataset, less rows that were left out, with ``teacher_probs`` of its classes (matched by name with those of
        the teacher's network, where both have names), ``teacher_variance`` where there are several draws,
        ``example_id`` and ``teacher_provenance`` (see ``columns``); of a streamed one these columns alone. A
        regression's have ``teacher_mean`` instead, and ``teacher_noise`` where that is known; a teacher that answers
        for each token gives each row as many answers. A language model's dataset has ``input_ids``, ``labels`` and,
        beside its probabilities, ``teacher_tokens``: entry t of a row is the distribution of its token t + 1.

    Raises:
        UserError: neither or both of teacher and folds, a number below 1, an unknown storage or variance, inputs that
            can't be made from the columns, a teacher that knows another kind of labels or other classes than the
            dataset, or answers with something that is no distribution, or a folder of another labeling, damaged, or
            without space.
    """
    options = LabelOptions(num_samples, batch_size, seed, storage, top_k, variance, mixed_precision, shard_rows)
    options = replace(options, mean_log_probs=mean_log_probs)
    if (teacher is None) == (folds is None) or (folds is None) != (fit is None):
        raise UserError("pass either a teacher, or folds together with fit")
    if None not in (preprocessor, processing_class):
        raise UserError("pass either preprocessor or processing_class: each says how rows become inputs")
    if folds is not None and on_error == "skip" and preprocessor is None:
        raise UserError(
            "with folds and on_error='skip' rows are read before there is a teacher that says how: pass preprocessor="
        )
    check_dataset(dataset)
    streamed = isinstance(dataset, datasets.IterableDataset)
    if folds is not None and streamed:
        raise UserError("a streamed dataset can't be divided into folds: load it without streaming")
    check_on_error(dataset, on_error)
    teachers = _by_name(teacher, name, streamed)
    if len(teachers) == 1 and folds is None:
        teachers = {name: _loaded(each) for name, each in teachers.items()}
    dataset, template = in_tokens(dataset, list(teachers.values()), preprocessor, processing_class, max_length)
    whole, left_out = dataset, []

    def read_by(teacher: Any) -> Examples:
        def examples_in(rows: AnyDataset) -> Examples:
            return examples_of(teacher, rows, preprocessor, processing_class, views)

        return examples_in(whole) if on_error == "raise" else first_readable(whole, examples_in).less(whole, left_out)

    def checked_examples(teacher: Any, folder: str | Path | None) -> Examples:
        examples = read_by(teacher)
        if teacher is not None and not has_begun(folder):
            check_answers(examples, teacher, options.of_kind(kind_of(teacher)[0], is_language_model(teacher)))
        return examples

    with nullcontext() if folder is None else sole_user(folder):
        folders = {each: folder if each == name or folder is None else Path(folder, each) for each in teachers}
        if on_error == "skip":
            teachers = {each: _loaded(teacher) for each, teacher in teachers.items()}
            left_out += numbers_left_out(map(read_by, teachers.values()), len(dataset), folder)
            dataset = dataset.select(np.setdiff1d(np.arange(len(dataset)), left_out)) if left_out else dataset
        for own_name, teacher in teachers.items():
            if len(teachers) > 1 and not isinstance(teacher, (str, Path)):  # a misfit of the last one comes up first
                checked_examples(teacher, folders[own_name])
        for own_name, teacher in teachers.items():
            own_folder, own_options = folders[own_name], replace(options, stream=own_name)
            teacher = _loaded(teacher)
            if folds is None:
                examples = checked_examples(teacher, own_folder)
                made = _labeled(examples, teacher, own_options, own_folder, progress)
            else:
                asks = preprocessor is None and (processing_class is not None or dataset.format["type"] != "custom")
                made = cross_fitted(read_by, asks, dataset, folds, fit, own_options, own_folder, progress)
            table, record = _table_and_record(made, held_out, own_folder, template)
            if streamed:
                return label_set(table, record, own_name)
            dataset = attach_table(dataset, table, record, own_name)
    return dataset


def _by_name(teacher: Any, name: str | None, streamed: bool) -> Mapping[str | None, Any]:
    """Return the teachers by their names, of which a single one may have none."""
    teachers = getattr(teacher, "named_members", teacher)
    if not isinstance(teachers, Mapping):
        return {name: teacher}
    if name is not None or streamed or not teachers:
        raise UserError("several teachers name their labels themselves, and label datasets that aren't streamed")
    return teachers


def _loaded(teacher: LabelingTeacher | str | Path | None) -> LabelingTeacher | None:
    if not isinstance(teacher, (str, Path)):
        return teacher
    from ..teachers import Teacher  # all else here knows teachers by what they answer

    return Teacher.from_pretrained(teacher)


def _labeled(
    examples: Examples, teacher: LabelingTeacher, options: LabelOptions, folder: str | Path | None, progress: bool
) -> Made:
    options = options.of_kind(kind_of(teacher)[0], is_language_model(teacher))
    options = replace(options, batch_size=fitting_batch_size(examples, teacher, options))
    options = replace(options, class_order=class_order(teacher, examples.dataset.features))
    described = description(teacher, options.num_samples)
    shards = Shards(folder, plan_of(examples, options, described, None))
    examples, options = as_begun(examples, options, shards)
    answers = ask(examples, teacher, options, shards, "rows", "labeling" if progress else None)
    source, names = getattr(teacher, "source", None), getattr(teacher, "class_names", None)
    return Made(examples, answers, options, described | ({"source": source} if source else {}), class_names=names)


def _table_and_record(
    made: Made, held_out: dict[str, float] | None, folder: str | Path | None, template: str | None
) -> tuple[pa.Table, LabelRecord]:
    (table, sizes), options, examples = made.answers, made.options, made.examples
    if not examples.has_ids:
        table = table.drop_columns([EXAMPLE_ID])
    with nullcontext() if folder is None else writing(folder):
        ids = summarized_ids(table[EXAMPLE_ID], folder) if examples.has_ids else None
    of_tokens = is_ragged(table, options.likelihood)
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
        positions=options.positions or (TOKENS if of_tokens else None),
        chat_template=template,
        tokenizer=tokenizer_hash(examples.preprocessor) if of_tokens else None,
        least_probability=LEAST if options.mean_log_probs else None,
        **examples.settings,
    )
    return table, record
