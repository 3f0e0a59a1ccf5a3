"""`hf-bkd label`: from a saved teacher and a dataset to soft labels, kept shard by shard until they are done."""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets

from ..data.augmentations import CropAndFlip, RandomResizedCrop
from ..data.columns import has_labels
from ..data.loading import check_split, choose_split, load_splits, load_stream
from ..data.preprocessors import class_names
from ..data.subsets import check_labeled
from ..data.views import Views
from ..models.token_networks import classifies_tokens, predicts_next_tokens
from ..soft_labels import add_soft_labels, only_soft_labels, read
from ..soft_labels.sharing import push_soft_labels
from ..soft_labels.storage import LARGEST
from ..soft_labels.unreadable_rows import LEFT_OUT_FILE
from ..teachers import Teacher, predict_all
from ..training.problem import Problem
from ..utils.checks import check_count
from ..utils.errors import UserError
from ..utils.processes import processes
from . import options
from .architectures import ImageShape
from .arguments import check_seed, quiet, repository
from .examples import examples_of, inputs_of, labeled_batches, reader_of
from .finished import contents, finish
from .language import texts_of
from .networks import load_trained

SHARD_ROWS = 1024
FREE = ("output_dir", "push_to_hub", "hub_private_repo", "license", "batch_size")  # they don't change what is saved


def _parse(argv: list[str], prog: str) -> argparse.Namespace:
    arguments = options.label(prog).read(argv)
    if arguments.temperature is not None and not arguments.temperature > 0:
        raise UserError(f"--temperature must be above 0, and it is {arguments.temperature:g}")
    check_count(num_samples=arguments.num_samples)
    counts = {"num_views": arguments.views, "batch_size": arguments.batch_size, "top_k": arguments.top_k}
    for name, value in counts.items():
        if value is not None:
            check_count(**{name: value})
    check_seed(arguments.seed)
    return arguments


def main(argv: list[str], prog: str = "hf-bkd label") -> None:
    """Label, save, and push if asked to; what is finished when interrupted is kept beside the output folder."""
    arguments = _parse(argv, prog)
    quiet()
    output_dir, name = Path(arguments.output_dir), repository(arguments)
    shards = output_dir.with_name(f"{output_dir.name}.shards")
    settings = {name: value for name, value in vars(arguments).items() if name not in FREE}
    if arguments.max_length is None:  # as earlier versions noted them
        settings = settings | {"top_k": arguments.top_k or LARGEST["top_k"]}
        del settings["max_length"]
    settings |= {f"{name}'s content": contents(getattr(arguments, name)) for name in ("teacher", "dataset")}

    def push() -> str:
        saved = datasets.load_from_disk(output_dir)
        shared = {"private": arguments.hub_private_repo, "license": arguments.license}
        push_soft_labels(saved, name, split=str(saved.split or "train"), **shared)
        return name

    finish(output_dir, shards, settings, lambda: _labeled(arguments, output_dir, shards), push if name else None)


def _labeled(arguments: argparse.Namespace, output_dir: Path, shards: Path) -> Callable[[Path], str]:
    """Label the split shard by shard; return what saves it."""
    teacher = load_trained(arguments.teacher, arguments.problem_type).to(processes().device)
    if arguments.temperature is not None:
        teacher.temperature = arguments.temperature
    if predicts_next_tokens(teacher.network):
        return _language_model_labeled(arguments, teacher, output_dir, shards)
    if arguments.max_length is not None:
        raise UserError(f"--max_length cuts the texts of a language model, and {arguments.teacher} is none: omit it")
    rows, held_out = _rows(arguments, teacher)
    reader = reader_of(teacher.network, rows, teacher.processing_class)
    rows = add_soft_labels(
        rows,
        teacher,
        arguments.num_samples,
        preprocessor=reader,
        views=_views(arguments, reader),
        batch_size=arguments.batch_size or reader.batch_size,
        storage=arguments.storage,
        top_k=arguments.top_k,
        variance=arguments.variance,
        mean_log_probs=arguments.mean_log_probs,
        mixed_precision=arguments.mixed_precision,
        held_out=_measured(arguments, teacher, held_out),
        seed=arguments.seed,
        folder=shards,
        shard_rows=SHARD_ROWS,
        on_error=arguments.on_error,
    )
    left_out = len((read(rows).record.dataset.left_out or ()) if arguments.on_error == "skip" else ())

    def save(folder: Path) -> str:
        (only_soft_labels(rows) if arguments.labels_only else rows).save_to_disk(folder)
        if left_out:
            shutil.copy(shards / LEFT_OUT_FILE, folder)
        said = f" and {left_out} left out that can't be read ({LEFT_OUT_FILE} says why)" if left_out else ""
        return f"{len(rows)} examples labeled{said}, teacher {teacher.method}: {output_dir}"

    return save


def _language_model_labeled(
    arguments: argparse.Namespace, teacher: Teacher, output_dir: Path, shards: Path
) -> Callable[[Path], str]:
    """Label the split's next tokens shard by shard; return what saves it."""
    asked = {"views": arguments.views, "streaming": arguments.streaming, "held_out": arguments.held_out}
    asked |= {"labels_only": arguments.labels_only, "on_error": arguments.on_error != "raise"}
    asked |= {"mean_log_probs": arguments.mean_log_probs}
    for name in (name for name, value in asked.items() if value):
        raise UserError(f"--{name} is not for language models: omit it")
    splits = load_splits(arguments.dataset, configuration=arguments.dataset_config)
    rows = texts_of(splits[choose_split(splits, arguments.split, ("train",), arguments.dataset)], arguments)
    rows = add_soft_labels(
        rows,
        teacher,
        arguments.num_samples,
        batch_size=arguments.batch_size or SHARD_ROWS,
        storage=arguments.storage,
        top_k=arguments.top_k,
        variance=arguments.variance,
        mixed_precision=arguments.mixed_precision,
        seed=arguments.seed,
        folder=shards,
        shard_rows=SHARD_ROWS,
        max_length=arguments.max_length,
    )

    def save(folder: Path) -> str:
        rows.save_to_disk(folder)
        return f"{len(rows)} texts labeled, teacher {teacher.method}: {output_dir}"

    return save


def _rows(arguments: argparse.Namespace, teacher: Teacher) -> tuple[Any, datasets.Dataset | None]:
    """The examples to label, and those that the teacher is measured on."""
    network, processing = teacher.network, teacher.processing_class
    columns = arguments.input_column, arguments.label_column or ()
    problem = Problem(teacher.likelihood, classifies_tokens(network))
    if arguments.streaming:
        stream = load_stream(arguments.dataset, arguments.split or "train")
        return inputs_of(stream, network, *columns, processing), None
    splits = load_splits(arguments.dataset, configuration=arguments.dataset_config)
    split = choose_split(splits, arguments.split, ("train",), arguments.dataset)
    rows = splits[split]
    if not len(rows):
        raise UserError(f"the split {split!r} of {arguments.dataset} is empty: there is nothing to label")
    if not (arguments.label_column or has_labels(rows)):
        return inputs_of(rows, network, *columns, processing), None
    if arguments.held_out is not None:
        check_split(splits, arguments.held_out, arguments.dataset)
    classes = class_names(network)
    name = arguments.held_out or ("validation" if "validation" in splits else None)
    if name in (None, split):
        return examples_of(rows, network, classes, arguments, processing, problem), None
    held_out = examples_of(splits[name], network, classes, arguments, processing, problem)
    check_labeled(held_out, name)
    return examples_of(rows, network, classes, arguments, processing, problem), held_out


def _views(arguments: argparse.Namespace, reader: Any) -> Views | None:
    if arguments.views is None:
        return None
    if reader.kind != "image":
        raise UserError(f"--views are looks of an image, and this teacher reads {reader.kind}: leave it out")
    if arguments.augmentation == "crop_and_flip":
        return Views(CropAndFlip(), num_views=arguments.views, seed=arguments.seed)
    shape = ImageShape.of_settings(reader.settings, None, None)
    if shape is None:
        raise UserError("this network doesn't say what size of images it takes: use --augmentation crop_and_flip")
    return Views(RandomResizedCrop(shape.size), num_views=arguments.views, seed=arguments.seed)


def _measured(
    arguments: argparse.Namespace, teacher: Teacher, held_out: datasets.Dataset | None
) -> dict[str, float] | None:
    if held_out is None:
        return None
    problem = Problem(teacher.likelihood, classifies_tokens(teacher.network))
    batches = labeled_batches(teacher.network, held_out, teacher.processing_class, problem, "measuring")
    return teacher.likelihood.measures(*predict_all(teacher, batches, arguments.num_samples))
