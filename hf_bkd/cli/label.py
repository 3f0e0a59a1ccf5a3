"""`hf-bkd label`: from a saved teacher and a dataset to soft labels, kept shard by shard until they are done."""

import argparse
import shutil
from pathlib import Path
from typing import Any

import datasets

from ..data.augmentations import CropAndFlip, RandomResizedCrop
from ..data.columns import as_classification, as_inputs, has_labels
from ..data.loading import check_split, load_splits, load_stream
from ..data.preprocessors import Reader, class_names, kind_of, reader_for
from ..data.subsets import check_labeled
from ..data.views import Views
from ..metrics import classification_metrics
from ..soft_labels import add_soft_labels, only_soft_labels
from ..soft_labels.asking import PRECISIONS, VARIANCES
from ..soft_labels.sharing import push_soft_labels
from ..soft_labels.storage import STORAGES
from ..teachers import Teacher, predict_all
from ..teachers.loading import load_teacher
from ..utils.checks import check_count
from ..utils.command_line import Parser
from ..utils.errors import UserError
from ..utils.files import tidy, whole_folder, writable_folder
from ..utils.locks import sole_user
from ..utils.processes import decided_by_main, processes
from .arguments import add_dataset, check_seed
from .finished import contents, is_finished, mark_finished, remove_unused

AUGMENTATIONS = ("crop_and_flip", "resized_crop")
SHARD_ROWS = 1024
FREE = (
    "output_dir",
    "push_to_hub",
    "private",
    "license",
    "batch_size",
)  # of the arguments: they don't change what is saved


def _parse(argv: list[str], prog: str) -> argparse.Namespace:
    label = Parser(prog=prog, description="Add a teacher's soft labels to a dataset.")
    label.add_argument("--teacher", required=True, help="folder or name on the Hub of a saved teacher or classifier")
    label.add_argument("--output_dir", required=True, help="where the labeled dataset is saved")
    label.add_argument("--temperature", type=float, help="of the probabilities; the teacher's own if not given")
    label.add_argument("--views", type=int, help="how many augmented views of each image to label; the image as it is")
    label.add_argument("--augmentation", choices=AUGMENTATIONS, default="crop_and_flip", help="default: %(default)s")
    label.add_argument("--storage", choices=STORAGES, default="float16", help="default: %(default)s")
    label.add_argument("--top_k", type=int, default=10, help="classes that top_k keeps (default: %(default)s)")
    label.add_argument("--variance", choices=VARIANCES, default="auto", help="across draws (default: %(default)s)")
    label.add_argument("--batch_size", type=int, help="examples per call of the teacher")
    label.add_argument("--mixed_precision", choices=[name for name in PRECISIONS if name])
    label.add_argument("--streaming", action="store_true", help="don't load the dataset; saves the labels alone")
    label.add_argument("--labels_only", action="store_true", help="save the labels and example ids alone")
    label.add_argument("--held_out", metavar="SPLIT", help="to measure the teacher on; validation, if there is one")
    label.add_argument("--push_to_hub", metavar="REPOSITORY", help="push the labels and a card there")
    label.add_argument("--private", action="store_true", help="make a new repository private")
    label.add_argument("--license", help="that the card names, such as cc-by-4.0; none if not given")
    label.add_argument("--seed", type=int, default=0)
    add_dataset(label, "train")
    arguments = label.read(argv)
    if arguments.temperature is not None and not arguments.temperature > 0:
        raise UserError(f"--temperature must be above 0, and it is {arguments.temperature:g}")
    check_count(num_samples=arguments.num_samples, top_k=arguments.top_k)
    for name, value in (("num_views", arguments.views), ("batch_size", arguments.batch_size)):
        if value is not None:
            check_count(**{name: value})
    check_seed(arguments.seed)
    return arguments


def main(argv: list[str], prog: str = "hf-bkd label") -> None:
    """Label, save, and push if asked to; what is finished when interrupted is kept beside the output folder."""
    arguments, state = _parse(argv, prog), processes()
    output_dir = Path(arguments.output_dir)
    shards = output_dir.with_name(f"{output_dir.name}.shards")
    settings = {name: value for name, value in vars(arguments).items() if name not in FREE}
    settings |= {f"{name}'s content": contents(getattr(arguments, name)) for name in ("teacher", "dataset")}
    writable_folder(output_dir.parent)
    with sole_user(shards):
        try:
            done = decided_by_main(lambda: is_finished(output_dir, settings))
            decided_by_main(lambda: tidy(output_dir))
            if not done:
                _label(arguments, output_dir, shards, settings)
            state.wait_for_everyone()  # until all have read what the main process removes
            if state.is_main_process:
                shutil.rmtree(shards, ignore_errors=True)
        finally:
            if state.is_main_process:
                remove_unused(shards)
    if done and state.is_main_process:
        print(f"{output_dir} is finished already, by the same command")
    if arguments.push_to_hub:
        decided_by_main(lambda: _push(arguments, output_dir))
    state.destroy_process_group()


def _push(arguments: argparse.Namespace, output_dir: Path) -> None:
    saved = datasets.load_from_disk(output_dir)
    shared = {"split": arguments.split, "private": arguments.private or None, "license": arguments.license}
    push_soft_labels(saved, arguments.push_to_hub, **shared)
    print(f"pushed: {arguments.push_to_hub}")


def _label(arguments: argparse.Namespace, output_dir: Path, shards: Path, settings: dict[str, Any]) -> None:
    """Label the split shard by shard and save it."""
    state = processes()
    teacher, folder = load_teacher(arguments.teacher)
    teacher.to(state.device)
    if arguments.temperature is not None:
        teacher.temperature = arguments.temperature
    rows, held_out = _rows(arguments, teacher)
    views = _views(arguments, teacher)
    reader = reader_for(teacher.network, folder, rows)
    rows = add_soft_labels(
        rows,
        teacher,
        arguments.num_samples,
        preprocessor=reader,
        views=views,
        batch_size=arguments.batch_size or reader.batch_size,
        storage=arguments.storage,
        top_k=arguments.top_k,
        variance=arguments.variance,
        mixed_precision=arguments.mixed_precision,
        held_out=_measured(arguments, teacher, folder, held_out),
        seed=arguments.seed,
        folder=shards,
        shard_rows=SHARD_ROWS,
    )
    rows = only_soft_labels(rows) if arguments.labels_only else rows
    decided_by_main(lambda: _save(rows, output_dir, settings))
    if state.is_main_process:
        print(f"{len(rows)} examples labeled, teacher {teacher.method}: {output_dir}")


def _save(rows: datasets.Dataset, output_dir: Path, settings: dict[str, Any]) -> None:
    with whole_folder(output_dir) as temporary:
        rows.save_to_disk(temporary)
        mark_finished(temporary, settings)


def _rows(arguments: argparse.Namespace, teacher: Teacher) -> tuple[Any, datasets.Dataset | None]:
    """The examples to label, and those that the teacher is measured on."""
    kind, classes = kind_of(teacher.network), class_names(teacher.network)
    columns = arguments.input_column, arguments.label_column
    if arguments.streaming:
        return as_inputs(load_stream(arguments.dataset, arguments.split), kind, columns[0]), None
    splits = load_splits(arguments.dataset, needed=(arguments.split,))
    rows = splits[arguments.split]
    if not (arguments.label_column or has_labels(rows)):
        return as_inputs(rows, kind, columns[0]), None
    if arguments.held_out is not None:
        check_split(splits, arguments.held_out, arguments.dataset)
    name = arguments.held_out or ("validation" if "validation" in splits else None)
    held_out = None if name in (None, arguments.split) else as_classification(splits[name], kind, classes, *columns)
    if held_out is not None:
        check_labeled(held_out, name)
    return as_classification(rows, kind, classes, *columns), held_out


def _views(arguments: argparse.Namespace, teacher: Teacher) -> Views | None:
    if arguments.views is None:
        return None
    if kind_of(teacher.network) != "image":
        raise UserError("--views are looks of an image, and this teacher reads texts: leave it out")
    if arguments.augmentation == "crop_and_flip":
        return Views(CropAndFlip(), num_views=arguments.views, seed=arguments.seed)
    config = getattr(teacher.network.config, "pretrained_cfg", None) or {}
    if "input_size" not in config:
        raise UserError("this network doesn't say what size of images it takes: use --augmentation crop_and_flip")
    return Views(RandomResizedCrop(config["input_size"][-1]), num_views=arguments.views, seed=arguments.seed)


def _measured(
    arguments: argparse.Namespace, teacher: Teacher, folder: Path, held_out: datasets.Dataset | None
) -> dict[str, float] | None:
    if held_out is None:
        return None
    reader: Reader = reader_for(teacher.network, folder, held_out)
    return classification_metrics(*predict_all(teacher, reader.batches(held_out, "measuring"), arguments.num_samples))
