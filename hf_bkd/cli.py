"""`hf-bkd`: what can be done without writing Python."""

import argparse
import json
from pathlib import Path

from .errors import UserError, told_in_a_sentence


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="hf-bkd", description="Bayesian knowledge distillation.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    label = commands.add_parser("label", help="add a saved teacher's soft labels to a dataset of images")
    label.add_argument("--teacher", required=True, help="folder or name on the Hub of a saved teacher")
    label.add_argument("--dataset", required=True, help="folder or name on the Hub")
    label.add_argument("--split", default="train")
    label.add_argument("--output_dir", required=True, help="where the labelled dataset is saved")
    label.add_argument("--num_samples", type=int, default=10, help="draws from the teacher's posterior")
    label.add_argument("--seed", type=int, default=0)
    label.set_defaults(run=_label)

    evaluate = commands.add_parser("evaluate", help="accuracy, NLL, ECE and Brier score of a teacher or a student")
    evaluate.add_argument("model", help="folder or name on the Hub of a saved teacher or image classifier")
    evaluate.add_argument("--dataset", required=True, help="folder or name on the Hub")
    evaluate.add_argument("--split", default="test")
    evaluate.add_argument("--num_samples", type=int, default=10, help="draws from a teacher's posterior")
    evaluate.set_defaults(run=_evaluate)

    report = commands.add_parser("report", help="write a run's report anew from its results.json")
    report.add_argument("output_dir", help="folder of a recipe's run")
    report.set_defaults(run=_report)

    arguments = parser.parse_args(argv)
    with told_in_a_sentence():
        arguments.run(arguments)


def _label(arguments: argparse.Namespace) -> None:
    from .data import as_image_classification
    from .files import whole_folder, writable_folder
    from .resident import ImagePreprocessor
    from .soft_labels import add_soft_labels

    output_dir = Path(arguments.output_dir)
    if output_dir.exists():
        raise UserError(f"{output_dir} is there already: pass a new --output_dir")
    writable_folder(output_dir.parent)
    teacher = _load_teacher(arguments.teacher)
    labelled = add_soft_labels(
        as_image_classification(_load_split(arguments)),
        teacher,
        arguments.num_samples,
        preprocess=ImagePreprocessor.for_model(teacher.network),
        seed=arguments.seed,
    )
    with whole_folder(output_dir) as temporary:
        labelled.save_to_disk(temporary)
    print(f"{len(labelled)} examples labelled by a {teacher.method} teacher: {output_dir}")


def _evaluate(arguments: argparse.Namespace) -> None:
    from .data import as_image_classification
    from .metrics import classification_metrics
    from .resident import ImagePreprocessor, ResidentDataset
    from .teachers import predict_all

    teacher = _load_teacher(arguments.model)
    dataset = as_image_classification(_load_split(arguments))
    resident = ResidentDataset.from_images(dataset, ImagePreprocessor.for_model(teacher.network))
    metrics = classification_metrics(*predict_all(teacher, resident.batches(), arguments.num_samples))
    print(
        f"{arguments.model} ({teacher.method}) on {len(dataset)} examples of {arguments.dataset}, {arguments.split}:"
    )
    print("  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))


def _load_teacher(name_or_path: str):
    """A saved teacher, or a plain image classifier as a deterministic one."""
    from transformers.utils import logging

    from .hub import local_folder
    from .teachers import DeterministicTeacher, Teacher
    from .teachers.network import load_network

    logging.disable_progress_bar()
    folder = local_folder(name_or_path)
    if (folder / "teacher.json").is_file() or not (folder / "config.json").is_file():
        return Teacher.from_pretrained(folder)
    return DeterministicTeacher(load_network(folder))


def _load_split(arguments: argparse.Namespace):
    from .data import load_splits

    return load_splits(arguments.dataset, needed=(arguments.split,))[arguments.split]


def _report(arguments: argparse.Namespace) -> None:
    from .report import print_summary, write_report

    file = Path(arguments.output_dir, "results.json")
    try:
        results = json.loads(file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None
    report = write_report(results, arguments.output_dir)
    print_summary(results)
    print(f"report: {report}")
