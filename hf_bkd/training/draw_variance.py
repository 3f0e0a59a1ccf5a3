"""The variance between a teacher's draws, stored with its labels, as a measure of how far to trust it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..soft_labels.columns import Layout, stacked_lists
from ..soft_labels.reading import Stored, read
from ..targets import adaptive_lambda, inverse_variance_weights, noise_ratio, summed_variance
from ..utils.errors import UserError


class DrawVariance(NamedTuple):
    """The variance of a teacher's draws over a whole dataset.

    ``mean`` is that of sum_k Var_s[p_k^(s)]; ``ratio`` is rho of :func:`~hf_bkd.targets.noise_ratio`.
    """

    mean: float
    ratio: float


def draw_variance(dataset: Any, layout: Layout) -> DrawVariance:
    """Measure one teacher's labels, which have a variance and a record of their number of draws."""
    labels = read(dataset, layout.teacher)
    summed = summed_variance(labels.probs, labels.variance)
    return DrawVariance(summed.mean().item(), noise_ratio(labels.probs, summed, layout.num_draws))


def from_batch(batch: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a column of a batch, or raise a UserError that names those it has."""
    if name not in batch:
        raise UserError(
            f"the batches lack {name} (only {', '.join(batch)}): the transform or collator must pass it on"
        )
    return batch[name]


class StoredVariance:
    """A teacher's ``teacher_variance`` column, after checking that it belongs to its probabilities.

    Args:
        dataset: the training set.
        labels: the teacher's.
        needed_for: the argument that asks for it, named in errors.

    Raises:
        UserError: no such column, no record of how many draws there were, or labels at another temperature than their
            variance.
    """

    def __init__(self, dataset: Any, labels: Stored, needed_for: str):
        self.layout, self.column = labels.layout, labels.layout.variance_name
        if self.column not in (dataset.column_names or ()):
            raise UserError(
                f"{needed_for} needs the column {self.column}, the variance between the teacher's draws: label with a "
                "teacher that draws (LaplaceTeacher with link='mc', VariationalTeacher, an ensemble), num_samples of "
                "at least 2 and variance='full' or 'sum'"
            )
        if self.layout.num_draws is None:
            raise UserError(
                f"{needed_for} needs labels whose record tells how many draws they average: use add_soft_labels"
            )
        untempered = labels.wanted == 1 or self.layout.record.tempering == "per_sample"
        if labels.wanted != labels.temperature or not untempered:
            raise UserError(
                f"{needed_for} needs labels at the temperature of their draws, whose variance is stored: omit "
                "teacher_temperature, and label at 1 or with tempering='per_sample'"
            )

    def decoded(self, rows: Mapping[str, Any], view: int = 0) -> dict[str, Tensor]:
        """Decode ``teacher_variance`` [B, C] or [B] of some rows, column name -> B values, in a view."""
        flat = stacked_lists(list(rows[self.column]), self.column)
        variance = self.layout.variance(flat)[:, view]
        return {self.column: variance[:, 0] if variance.shape[-1] == 1 else variance}

    def of(self, batch: Mapping[str, Tensor], probs: Tensor) -> Tensor:
        """Return the variance summed over the classes [B], of labels [B, C]; UserError if the batch lacks it."""
        return summed_variance(probs, torch.as_tensor(from_batch(batch, self.column)).to(probs))


class AdaptiveLambda:
    """The lambda of each example: ``kd_lambda`` times :func:`~hf_bkd.targets.adaptive_lambda` of its labels.

    Args:
        dataset: the training set.
        stored: its labels, by column.
        kd_lambda: the largest lambda, in [0, 1].

    Raises:
        UserError: labels of several teachers, streamed, or without a usable variance.
    """

    def __init__(self, dataset: Any, stored: Mapping[str, Stored], kd_lambda: float):
        asked = "lambda_schedule='adaptive'"
        if len(stored) > 1:
            raise UserError(
                f"{asked} needs the labels of one teacher, and there are {', '.join(stored)}: remove the others"
            )
        (labels,) = stored.values()
        self.kd_lambda, self.variance = kd_lambda, StoredVariance(dataset, labels, asked)
        self.num_samples = labels.layout.num_draws
        if not hasattr(dataset, "__len__"):
            raise UserError(f"{asked} needs to read all labels before the first step: load them without streaming")
        self.ratio = draw_variance(dataset, labels.layout).ratio

    @property
    def variances(self) -> list[StoredVariance]:
        """The columns that are read."""
        return [self.variance]

    def __call__(self, batch: Mapping[str, Tensor], probs: Tensor) -> Tensor:
        """Return lambda [B] of labels [B, C]."""
        variance = self.variance.of(batch, probs)
        return self.kd_lambda * adaptive_lambda(probs, variance, self.num_samples, self.ratio)


class InverseVariance:
    """Several teachers' weights by the variances of their means, :func:`~hf_bkd.targets.inverse_variance_weights`.

    Args:
        dataset: the training set.
        stored: its labels, by column.

    Raises:
        UserError: labels without a usable variance.
    """

    def __init__(self, dataset: Any, stored: Mapping[str, Stored]):
        asked = "teacher_weights='inverse_variance'"
        self.variances = [StoredVariance(dataset, labels, asked) for labels in stored.values()]

    def __call__(self, batch: Mapping[str, Tensor], probs: Tensor) -> Tensor:
        """Return the weights [B, M] of labels [B, M, C]."""
        of_means = [
            each.of(batch, p) / each.layout.num_draws
            for each, p in zip(self.variances, probs.unbind(dim=-2), strict=True)
        ]
        return inverse_variance_weights(torch.stack(of_means, dim=-1))
