"""`hf-bkd evaluate`: how good and how calibrated a saved teacher or student is, and how well it knows its limits."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..data.columns import as_classification, as_inputs
from ..data.loading import load_splits
from ..data.preprocessors import class_names, kind_of, reader_for
from ..data.subsets import check_labeled
from ..metrics import auroc, classification_metrics, entropy
from ..teachers import predict_all
from ..teachers.deterministic import best_temperature
from ..teachers.loading import load_teacher
from ..utils.checks import check_count
from ..utils.command_line import Parser
from ..utils.errors import UserError
from ..utils.processes import processes
from .arguments import add_dataset, metrics_text


class Tempered(NamedTuple):
    """The measures of probabilities p^(1/T), renormalized, with the T that is best on validation examples."""

    temperature: float
    num_validation: int
    metrics: dict[str, float]


class OutOfDistribution(NamedTuple):
    """The probability that an out-of-distribution example has the higher entropy than one of the split."""

    num_examples: int
    auroc: float


class Evaluation(NamedTuple):
    """The measures of a teacher on a split; ``tempered`` where there is a validation split, ``ood`` if asked for."""

    method: str
    num_examples: int
    metrics: dict[str, float]
    tempered: Tempered | None
    ood: OutOfDistribution | None


def evaluate(
    model: str,
    dataset: str,
    split: str,
    num_samples: int,
    ood: str | None = None,
    ood_split: str | None = None,
    input_column: str | None = None,
    label_column: str | None = None,
) -> Evaluation:
    """Measure a teacher, or a classifier, on a labeled split.

    Args:
        model, dataset: folders, or names on the Hub.
        num_samples: S >= 1, draws from a teacher's posterior.
        ood, ood_split: a dataset of other classes, whose labels are not read.
        input_column, label_column: see :func:`hf_bkd.data.columns.as_classification`.

    Raises:
        UserError: something can't be loaded or does not fit together, or there are no labels.
    """
    teacher, folder = load_teacher(model)
    teacher.to(processes().device)
    network = teacher.network
    splits = load_splits(dataset, needed=(split,))
    kind, classes = kind_of(network), class_names(network)

    def predict(name: str) -> tuple[Tensor, Tensor]:
        rows = as_classification(splits[name], kind, classes, input_column, label_column)
        check_labeled(rows, name)
        return predict_all(teacher, reader_for(network, folder, rows).batches(rows, "predicting"), num_samples)

    probs, labels = predict(split)
    tempered = outside = None
    if "validation" in splits and split != "validation":
        held_out, held_out_labels = predict("validation")
        temperature = best_temperature(_log(held_out), held_out_labels)
        metrics = classification_metrics(torch.softmax(_log(probs) / temperature, dim=-1), labels)
        tempered = Tempered(temperature, len(held_out), metrics)
    if ood is not None:
        rows = as_inputs(load_splits(ood, needed=(ood_split,))[ood_split], kind)
        if not len(rows):
            raise UserError(f"the split {ood_split} of {ood} is empty")
        generator = torch.Generator().manual_seed(0)
        batches = reader_for(network, folder, rows).batches(rows, "predicting")
        entropies = [entropy(teacher.predict(batch, num_samples, generator).mean).cpu() for batch in batches]
        outside = OutOfDistribution(len(rows), auroc(entropy(probs), torch.cat(entropies)))
    return Evaluation(teacher.method, len(labels), classification_metrics(probs, labels), tempered, outside)


def main(argv: list[str], prog: str) -> None:
    """Measure a saved teacher or student and print what was measured."""
    description = "Accuracy, NLL, ECE and Brier score of a teacher or a student."
    parser = Parser(prog=prog, description=description)
    parser.add_argument("model", help="folder or name on the Hub of a saved teacher or classifier")
    add_dataset(parser, "test")
    parser.add_argument(
        "--ood", metavar="DATASET", help="out-of-distribution examples, of other classes: does entropy detect them?"
    )
    parser.add_argument("--ood_split", help="of that dataset; the same as --split if not given")
    options = parser.read(argv)
    check_count(num_samples=options.num_samples)
    options.ood_split = options.ood_split or options.split
    measured = evaluate(**vars(options))
    place = f"{options.dataset}, {options.split}"
    print(f"{options.model} ({measured.method}) on {measured.num_examples} examples of {place}:")
    print(metrics_text(measured.metrics))
    if measured.tempered is not None:
        temperature, number, metrics = measured.tempered
        print(f"after temperature scaling, T = {temperature:.2f} chosen on {number} validation examples:")
        print(metrics_text(metrics))
    if measured.ood is not None:
        print(f"entropy tells {measured.ood.num_examples} examples of {options.ood}, {options.ood_split} apart:")
        print(f"auroc {measured.ood.auroc:.4f}")


def _log(probs: Tensor) -> Tensor:
    return probs.double().clamp_min(torch.finfo(torch.float64).tiny).log()
