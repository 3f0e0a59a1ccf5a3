"""How good, how calibrated and how aware of what it does not know a saved teacher or student is."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..data.columns import as_classification, as_inputs
from ..data.loading import load_splits
from ..data.reading import class_names, kind_of, reader_for
from ..data.subsets import check_labeled
from ..metrics import auroc, classification_metrics, entropy
from ..teachers import predict_all
from ..teachers.deterministic import best_temperature
from ..teachers.loading import load_teacher
from ..utils.errors import UserError
from ..utils.processes import processes


def evaluate(
    model: str,
    dataset: str,
    split: str,
    num_samples: int,
    ood: str | None = None,
    ood_split: str | None = None,
    input_column: str | None = None,
    label_column: str | None = None,
) -> Iterator[str]:
    """Measure a teacher, or a classifier, on a labeled split.

    Args:
        model, dataset: folders, or names on the Hub.
        num_samples: S >= 1, draws from a teacher's posterior.
        ood, ood_split: a dataset of other classes, whose labels are not read.
        input_column, label_column: see :func:`hf_bkd.data.columns.as_classification`.

    Yields:
        Lines: what was measured; accuracy, NLL, ECE and Brier score; the same after the probabilities were tempered
        (p^(1/T), renormalized) by what is best on the validation split, if the dataset has one; and the probability
        that the entropy of a out-of-distribution example is higher than that of one of the split.

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
    yield f"{model} ({teacher.method}) on {len(labels)} examples of {dataset}, {split}:"
    yield _told(classification_metrics(probs, labels))
    if "validation" in splits and split != "validation":
        held_out, held_out_labels = predict("validation")
        temperature = best_temperature(_log(held_out), held_out_labels)
        tempered = torch.softmax(_log(probs) / temperature, dim=-1)
        yield f"after temperature scaling, T = {temperature:.2f} chosen on {len(held_out)} validation examples:"
        yield _told(classification_metrics(tempered, labels))
    if ood is not None:
        rows = as_inputs(load_splits(ood, needed=(ood_split,))[ood_split], kind)
        if not len(rows):
            raise UserError(f"the split {ood_split} of {ood} is empty")
        generator = torch.Generator().manual_seed(0)
        batches = reader_for(network, folder, rows).batches(rows, "predicting")
        found = torch.cat([entropy(teacher.predict(batch, num_samples, generator).mean).cpu() for batch in batches])
        yield f"entropy tells {len(found)} examples of {ood}, {ood_split} apart:"
        yield f"auroc {auroc(entropy(probs), found):.4f}"


def _log(probs: Tensor) -> Tensor:
    return probs.double().clamp_min(torch.finfo(torch.float64).tiny).log()


def _told(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
