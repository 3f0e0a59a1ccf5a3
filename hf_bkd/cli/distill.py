"""`hf-bkd distill`: from a labeled dataset, or a teacher and a dataset, to a saved student."""

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from torch import nn
from transformers import set_seed

from ..data.columns import EXAMPLE_ID, LABEL_COLUMNS, find_label, has_labels
from ..data.preprocessors import class_names
from ..data.preprocessors.content import Content
from ..hub.cards import METRICS
from ..likelihoods import UNLABELED
from ..models.class_names import given_names
from ..models.token_networks import classifies_tokens
from ..soft_labels.columns import read_record, soft_label_columns, teachers_of
from ..soft_labels.identity import Identity
from ..soft_labels.record import LabelRecord
from ..study.arguments import check_training
from ..study.fitting import train_network
from ..study.settings import check_same_settings, decisive
from ..teachers import Teacher
from ..training.arguments import DistillationTrainingArguments
from ..training.problem import Problem
from ..training.saving import name_problem
from ..utils.checks import check_count
from ..utils.command_line import parse_dataclasses
from ..utils.errors import UserError
from ..utils.processes import decided_by_main, processes
from . import options
from .architectures import ImageShape, StandIn, is_architecture, new_image_network, new_perceptron, reads_features
from .arguments import metrics_text, pushing, quiet
from .examples import reader_of
from .finished import SETTINGS, contents, finish
from .label_columns import check_column, names_of, one_column, outputs_of, problem_of, with_labels
from .language import is_language_model, student_and_rows
from .networks import check_is_network, load_for_classes, load_trained, processor_of, saved_kind
from .splits import check_taught, split_to_measure_on, split_to_train_on
from .teacher import ADAPTERS, DEFAULTS, FROM_SCRATCH, OF_LANGUAGE

CHOSEN = (
    "student", "teacher", "dataset", "dataset_config", "train_split", "eval_dataset", "eval_split", "input_column",
    "label_column", "image_size", "ignore_mismatched_sizes",
)  # fmt: skip


def main(argv: list[str], prog: str) -> None:
    """Train the student that the command line asks for, save it and print how good it is.

    Raises:
        UserError: something that is missing, can't be loaded or does not fit together.
    """
    arguments, args = parse_distill(argv, prog)
    quiet()
    output_dir = Path(args.output_dir)
    work = output_dir.with_name(f"{output_dir.name}.training")
    settings = {name: getattr(arguments, name) for name in CHOSEN} | decisive(args) | {"seed": args.seed}
    settings |= {"predict_variance": True} if arguments.predict_variance else {}
    settings |= {name: value for name in OF_LANGUAGE if (value := getattr(arguments, name)) is not None}
    for source in ("student", "teacher", "dataset", "eval_dataset"):
        settings[f"content of {source}"] = getattr(arguments, source) and contents(getattr(arguments, source))
    finish(output_dir, work, settings, lambda: _distilled(arguments, args, work, settings), pushing(args))


def parse_distill(argv: list[str], prog: str) -> tuple[Namespace, DistillationTrainingArguments]:
    """Parse the options and the training arguments, with defaults that suit the student."""

    def parsed(defaults: dict[str, Any]) -> tuple[Namespace, DistillationTrainingArguments]:
        args, arguments = parse_dataclasses((DistillationTrainingArguments,), defaults, argv, options.distill(prog))
        check_training(args)
        return arguments, args

    defaults = DEFAULTS | {"kd_lambda": 1.0}
    arguments, args = parsed(defaults)
    for name in ("student", "dataset"):
        if not getattr(arguments, name):
            raise UserError(f"pass --{name}")
    if not args.output_dir:
        raise UserError("pass --output_dir, a new folder for the student")
    if arguments.image_size is not None:
        check_count(image_size=arguments.image_size)
    if is_architecture(arguments.student) or arguments.lora_rank is not None:
        arguments, args = parsed(defaults | (FROM_SCRATCH if is_architecture(arguments.student) else ADAPTERS))
    args.online_teacher = arguments.teacher is not None
    return arguments, args


def _distilled(
    arguments: Namespace, args: DistillationTrainingArguments, work: Path, settings: dict[str, Any]
) -> Callable[[Path], str]:
    """Train the student; return what saves it and says how good it is."""
    if not is_architecture(arguments.student):
        check_is_network(arguments.student)
    teacher = None if arguments.teacher is None else load_trained(arguments.teacher).to(args.device)
    if not is_architecture(arguments.student) and is_language_model(arguments.student):
        set_seed(args.seed)
        student, processing_class, rows, evaluated = student_and_rows(arguments, args)
    else:
        for name in (name for name in OF_LANGUAGE if getattr(arguments, name) is not None):
            raise UserError(f"--{name} is for language models, and {arguments.student} is none: omit it")
        rows, evaluated, taught = _rows(arguments, args, teacher)
        set_seed(args.seed)
        student, processing_class = _student(arguments, rows, teacher, taught)
    _say_if_measured_on_its_own(rows, evaluated)
    remedy = "go on with the same, or delete that folder"
    decided_by_main(lambda: check_same_settings(work / SETTINGS, settings, "a training", remedy))
    given = {"evaluated": evaluated, "teacher": teacher, "processing_class": processing_class}
    trainer = train_network(student, args, rows, folder=work / "0", **given)
    metrics = {} if evaluated is None else trainer.evaluate()
    measured = {name: metrics[f"eval_{name}"] for name in METRICS if f"eval_{name}" in metrics}

    def save(folder: Path) -> str:
        output_dir = Path(args.output_dir)
        trainer.args.output_dir = str(folder)  # where the card goes
        trainer.save_model(folder)
        trainer.create_model_card(output_dir.name)
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle, with paths of this machine
        if evaluated is None:
            return f"student in {output_dir}; it was not measured: pass --eval_dataset with examples it has not seen"
        return f"student in {output_dir}; on {len(evaluated)} examples: {metrics_text(measured)}"

    return save


class Taught(NamedTuple):
    """What the student is taught: a problem, and the names and the number of its values, as far as they are known."""

    problem: Problem
    classes: list[str] | None
    number: int


def _say_if_measured_on_its_own(rows: datasets.Dataset, evaluated: datasets.Dataset | None) -> None:
    """Print how many examples the student is both trained and measured on, where labels know their examples."""
    identity = None
    if evaluated is not None and EXAMPLE_ID in rows.column_names and (record := _record(rows)) is not None:
        identity = Identity.of(record.dataset, evaluated.features)
    if identity is None:
        return
    shared = int(np.isin(identity.of_dataset(evaluated), rows.with_format(None)[EXAMPLE_ID][:]).sum())
    if shared and processes().is_main_process:
        print(
            f"note: {shared} of the {len(evaluated)} examples that the student is measured on are among those that it "
            "is trained on; pass an --eval_split of others",
            file=sys.stderr,
        )


def _rows(
    arguments: Namespace, args: DistillationTrainingArguments, teacher: Teacher | None
) -> tuple[datasets.Dataset, datasets.Dataset | None, Taught]:
    """The examples that the student is trained on, those that it is measured on, if any, and what it is taught."""
    split, rows, others = split_to_train_on(arguments)
    if not len(rows):
        raise UserError(f"the split {split!r} of {arguments.dataset} is empty: there is nothing to train on")
    if set(rows.column_names) == set(soft_label_columns(rows)):
        raise UserError(
            f"{arguments.dataset} holds labels without the examples that they are of: join them in Python with "
            "hf_bkd.join_soft_labels(examples, labels) and save the result, or label without --labels_only"
        )
    check_taught(rows, arguments, args.kd_lambda)
    if args.kd_lambda != 1 and not _labels_of(rows, arguments):
        find_label(rows)  # which says that there is none
    taught = _taught(rows, arguments, args, teacher)
    measured_on = split_to_measure_on(arguments, others, lambda rows: not _hides(rows, arguments))
    if measured_on is None:
        return _selected(rows, arguments, taught), None, taught
    chosen, evaluated = measured_on
    if not len(evaluated):
        raise UserError(f"the split {chosen!r} is empty: there is nothing to measure the student on")
    if not _labels_of(evaluated, arguments):
        find_label(evaluated)
    if _hides(evaluated, arguments):
        raise UserError(
            f"no row of the split {chosen!r} has a label to measure the student by: pass another one as --eval_split"
        )
    return _selected(rows, arguments, taught), _selected(evaluated, arguments, taught), taught


def _hides(rows: datasets.Dataset, arguments: Namespace) -> bool:
    """Say whether a split has a column of labels without any, as the test splits of benchmarks."""
    labels = _labels_of(rows, arguments)
    return bool(labels) and all(value in (None, -1, UNLABELED) for name in labels for value in rows[name][:])


def _selected(rows: datasets.Dataset, arguments: Namespace, taught: Taught) -> datasets.Dataset:
    """The rows with the columns that were asked for, as far as they have them, their labels and their soft labels."""
    soft, labels = soft_label_columns(rows), _labels_of(rows, arguments)
    if not soft:  # else the names may be those of the dataset that was labeled
        for name in arguments.input_column or ():
            check_column(rows, name)
    inputs = [name for name in arguments.input_column or () if name in rows.column_names]
    others = [name for name in rows.column_names if name not in (*LABEL_COLUMNS, *labels, *soft)]
    selected = rows.select_columns([*(inputs or others), *soft])
    if not labels:
        return selected
    if len(labels) == 1 and taught.problem.is_plain:
        selected = rows.select_columns([*(inputs or others), *labels, *soft])
        return selected if labels == ["label"] else selected.rename_column(labels[0], "label")
    joined = one_column(rows, labels, taught.classes)
    return with_labels(selected, *joined, taught.classes, taught.problem)


def _labels_of(rows: datasets.Dataset, arguments: Namespace) -> list[str]:
    """The names of the label columns, if there are some; UserError if one that was asked for is not there."""
    asked = arguments.label_column or []
    if asked and set(asked) <= set(rows.column_names):
        return asked
    if has_labels(rows):
        return [find_label(rows)]
    for name in asked:
        check_column(rows, name)
    return []


def _student(
    arguments: Namespace, rows: datasets.Dataset, teacher: Teacher | None, taught: Taught
) -> tuple[nn.Module, Any]:
    """The network to train, new or loaded, and its tokenizer or image processor where it is loaded with one."""
    record = None if teacher is not None else _record(rows)
    (problem, classes, number), name = taught, arguments.student
    made_up = [f"LABEL_{each}" for each in range(number)]
    outputs = outputs_of(classes or made_up, problem, arguments.predict_variance)
    if not is_architecture(name):
        kind, known = saved_kind(name), outputs if classes or arguments.predict_variance else None
        network = load_for_classes(name, kind, known, len(outputs), arguments.ignore_mismatched_sizes, problem)
        return network, processor_of(name, kind)
    if reads_features(name):
        columns = (record and record.preprocessing or {}).get("features")
        columns = columns or Content.of(rows).columns("features", StandIn(name, "features"))
        network: nn.Module = new_perceptron(name, outputs, rows, columns)
    else:
        shape = _image_shape(arguments, rows, teacher, record)
        network = new_image_network(name, outputs, shape, problem.likelihood)
    if problem.likelihood.independent:
        name_problem(network, problem.likelihood.problem_type)
    return network, None


def _record(rows: datasets.Dataset) -> LabelRecord | None:
    """The record of the first teacher's labels, if there is one."""
    return next((read_record(rows.features, teacher) for teacher in teachers_of(rows.column_names)), None)


def _taught(
    rows: datasets.Dataset, arguments: Namespace, args: DistillationTrainingArguments, teacher: Teacher | None
) -> Taught:
    """What a teacher, soft labels or labels say of what the student is taught."""
    record, labels = _record(rows) if teacher is None else None, _labels_of(rows, arguments)
    if teacher is not None:
        problem, names = Problem(teacher.likelihood, classifies_tokens(teacher.network)), class_names(teacher.network)
        number = teacher.num_classes
    elif record is not None:
        problem, names = Problem(record.likelihood, record.positions is not None), record.class_names
        number = record.teacher.num_classes
    elif labels:
        problem, names, number = problem_of(rows, *one_column(rows, labels, None)[:2], args.problem_type), None, None
    else:
        find_label(rows)  # which says that there is none
    if given_names(names) is None and labels:
        joined = one_column(rows, labels, None)
        of_rows = names_of(
            with_labels(datasets.Dataset.from_dict({"row": range(len(rows))}), *joined, None, problem),
            problem,
            joined[2],
        )
        if len(of_rows) == (number or len(of_rows)) and (teacher is not None or not names):
            names = of_rows
    return Taught(problem, names, number or len(names))


def _image_shape(
    arguments: Namespace, rows: datasets.Dataset, teacher: Teacher | None, record: LabelRecord | None
) -> ImageShape:
    """How a new student reads images: as the teacher does, or as its architecture wants them if that isn't known."""
    Content.of(rows).columns("image", StandIn(arguments.student, "image"))  # which says that there are none
    size, settings, image_size = arguments.image_size, {}, None
    if teacher is not None:
        settings = reader_of(teacher.network, rows, teacher.processing_class).settings
    elif record is not None:
        transforms = (record.views or {}).get("transforms", ())
        cropped = next((each["size"] for each in transforms if "size" in each), None)
        settings, image_size = record.preprocessing or {}, cropped or (record.dataset.image_size or [None])[-1]
    return ImageShape.of_settings(settings, image_size, size) or ImageShape.of_architecture(arguments.student, size)
