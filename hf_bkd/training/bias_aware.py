"""The lambda of each example by what a cross-fitted teacher got wrong, against the labels of the training set."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..soft_labels.layout import Layout
from ..soft_labels.reading import Stored, read
from ..targets import bias_aware_lambda, error_by_confidence
from ..utils.errors import UserError
from .arguments import DistillationTrainingArguments
from .classes import label_column, read_column
from .draw_variance import StoredVariance
from .given import own_dataset
from .problem import Problem

ASKED = "lambda_schedule='bias_aware'"


class BiasAwareLambda:
    """The lambda of each example: ``kd_lambda`` times :func:`~hf_bkd.targets.bias_aware_lambda` of its soft label.

    Args:
        dataset: the training set.
        stored: its soft labels, by column.
        args: the trainer's.
        classes: names of the student's classes in the order of its outputs, where they are known.
        orders: of the soft labels' classes in the student's, by column, where they differ.

    Raises:
        UserError: soft labels of several teachers, of a teacher that saw the labels, of tokens or numbers, streamed or
            tempered; fewer labels than their noise shows in.
    """

    variances: Sequence[StoredVariance] = ()

    def __init__(
        self,
        dataset: Any,
        stored: Mapping[str, Stored],
        args: DistillationTrainingArguments,
        classes: Sequence[str] | None,
        orders: Mapping[str, Sequence[int] | None],
    ):
        if len(stored) > 1:
            raise UserError(
                f"{ASKED} needs the labels of one teacher, and there are {', '.join(stored)}: remove the others"
            )
        ((name, labels),) = stored.items()
        _check_out_of_fold(name, labels)
        if not hasattr(dataset, "__len__"):
            raise UserError(f"{ASKED} needs to read all labels before the first step: load them without streaming")
        self.kd_lambda, self.likelihood = args.kd_lambda, labels.layout.likelihood
        probs = self.likelihood.normalized(read(dataset, labels.layout.teacher).probs.float())
        probs = probs if orders[name] is None else probs[..., orders[name]]
        known = _labels_of(dataset, labels.layout, args, classes).to(probs.device)
        there = self.likelihood.labeled(known)
        probs, known = probs[there], known[there]
        several = probs.ndim == 3  # views, which have the label of their example
        claimed = self.likelihood.label_variance(probs)
        squares = self.likelihood.squared_error(probs, known.unsqueeze(1) if several else known)
        if several:
            claimed, squares = claimed.mean(dim=1), squares.mean(dim=1)
        largest = probs.shape[-1] if self.likelihood.independent else 2.0
        self.error = error_by_confidence(claimed, squares, largest)

    def __call__(self, batch: Mapping[str, Tensor], target: Tensor) -> Tensor:
        """Return lambda [...] of targets [..., C]."""
        error = type(self.error)(*(each.to(target.device) for each in self.error))
        return self.kd_lambda * bias_aware_lambda(self.likelihood.label_variance(target), error)


def _check_out_of_fold(name: str, labels: Stored) -> None:
    """Raise a UserError if errors of soft labels don't say what their teacher doesn't know."""
    layout = labels.layout
    if layout.record is None or (layout.record.folds or {}).get("number", 0) < 2:
        raise UserError(
            f"{ASKED} measures what a teacher that has not seen the labels gets wrong, and {name} is not "
            "cross-fitted: label with add_soft_labels(dataset, folds=5, fit=...), or pass lambda_schedule='fixed'"
        )
    if layout.likelihood.target_has_variance or layout.ragged:
        what = "of tokens" if layout.ragged else "numbers of a regression, which have no confidence"
        raise UserError(f"{ASKED} is for classes or labels of examples, and {name} holds {what}: take a fixed lambda")
    if labels.wanted != 1 or labels.temperature != 1:
        raise UserError(
            f"{ASKED} takes soft labels for probabilities, and a temperature of "
            f"{labels.wanted if labels.wanted != 1 else labels.temperature:g} changes them: label at 1, and omit "
            "teacher_temperature"
        )


def _labels_of(
    dataset: Any, layout: Layout, args: DistillationTrainingArguments, classes: Sequence[str] | None
) -> Tensor:
    """Return the labels of a training set's rows, [N] or [N, C], as the student numbers them."""
    if hasattr(dataset, "values"):
        labels = own_dataset(dataset, args, classes).values.get("labels")
    else:
        name = label_column(dataset.features, args.label_names)
        problem = Problem(layout.likelihood, num_values=layout.num_classes)
        rows = dataset.with_format(None)
        labels = None if name is None else read_column(dataset, name, classes, problem)(rows[name][:])
    if labels is None:
        raise UserError(
            f"{ASKED} compares soft labels with labels, and the training set has no labels column (only "
            f"{', '.join(dataset.column_names)}): name it 'label' or 'labels', or pass label_names"
        )
    return labels
