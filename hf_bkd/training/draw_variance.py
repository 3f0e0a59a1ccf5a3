"""The variance between a teacher's draws, stored with its labels, as a measure of how far to trust it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data.columns import NOISE, VARIANCE
from ..soft_labels.in_memory import SoftLabels
from ..soft_labels.layout import Layout
from ..soft_labels.reading import Stored, read
from ..targets import adaptive_lambda, exact_lambda, inverse_variance_weights, noise_ratio, summed_variance
from ..utils.errors import UserError


class DrawVariance(NamedTuple):
    """The variance of a teacher's draws over a whole dataset.

    ``mean`` is that of sum_k Var_s[p_k^(s)]; ``ratio`` is rho of :func:`~hf_bkd.targets.noise_ratio`.
    """

    mean: float
    ratio: float


def draw_variance(dataset: Any, layout: Layout) -> DrawVariance:
    """Measure one teacher's labels, which have a variance and a record of their number of draws."""
    labels, likelihood = read(dataset, layout.teacher), layout.likelihood
    summed = summed_variance(labels.probs, labels.variance)
    target = likelihood.target(labels.probs, labels.variance, labels.noise)
    label_variance = likelihood.scattered_variance(target, summed, layout.num_draws)
    return DrawVariance(summed.mean().item(), noise_ratio(labels.probs, summed, layout.num_draws, label_variance))


def known_variances(dataset: Any, stored: Mapping[str, Stored]) -> dict[str, list[str]]:
    """Return the columns that together hold the variance of a number beside each column of means.

    Args:
        dataset: the training set.
        stored: its labels, by column.

    Returns:
        Of the teachers' columns, those of the draws' variance and of the noise that are there; nothing if one teacher
        has neither.

    Raises:
        UserError: a variance that is summed over several numbers, or not above 0.
    """
    columns = {}
    for name, labels in stored.items():
        there = [each for each in map(labels.layout.beside, (VARIANCE, NOISE)) if each in dataset.column_names]
        if not there:
            return {}
        columns[name] = there
        if hasattr(dataset, "__len__"):
            _check_variances(read(dataset, labels.layout.teacher), there)
    return columns


def _check_variances(labels: SoftLabels, names: list[str]) -> None:
    known = [each for each in (labels.variance, labels.noise) if each is not None]
    check_whole(known, labels.probs, names)
    wrong = (~(sum(known) > 0)).flatten(1).any(dim=1).nonzero()[:, 0]
    if len(wrong):
        raise UserError(
            f"row {int(wrong[0])} has a variance in {' + '.join(names)} that is not above 0 ({len(wrong)} such rows), "
            "and a teacher that is certain leaves nothing to weigh: label with more draws or an observation_variance, "
            "or remove these columns to take all rows alike"
        )


def check_whole(variances: Sequence[Tensor], values: Tensor, names: Sequence[str]) -> None:
    """Raise a UserError if the variances in some columns are sums over several numbers, whose units may differ."""
    if any(each.shape != values.shape for each in variances):
        raise UserError(
            f"column {names[0]} holds the sum of the variances of several numbers, and each number's own is needed: "
            "label again with variance='full'"
        )


def from_batch(batch: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a column of a batch, or raise a UserError that names those it has."""
    if name not in batch:
        raise UserError(
            f"the batches lack {name} (only {', '.join(batch)}): the transform or collator must pass it on"
        )
    return batch[name]


def check_temperature_of_draws(labels: Stored, needed_for: str) -> None:
    """Raise a UserError if labels are wanted at another temperature than the draws whose moments are stored."""
    record = labels.layout.record
    untempered = labels.wanted == 1 or record is None or record.tempering == "per_sample"
    if labels.wanted != labels.temperature or not untempered:
        raise UserError(
            f"{needed_for} needs labels at the temperature of their draws, whose variance is stored: omit "
            "teacher_temperature, and label at 1 or with tempering='per_sample'"
        )


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
        self.layout, self.column = labels.layout, labels.layout.beside(VARIANCE)
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
        check_temperature_of_draws(labels, needed_for)

    def of(self, batch: Mapping[str, Tensor], probs: Tensor) -> Tensor:
        """Return the variance summed over the values [...], of labels [..., C]; UserError if the batch lacks it."""
        return summed_variance(probs, torch.as_tensor(from_batch(batch, self.column)).to(probs))


class AdaptiveLambda:
    """The lambda of each example: ``kd_lambda`` times :func:`~hf_bkd.targets.adaptive_lambda` of its labels.

    Of a regression whose variance is known in closed form it is :func:`~hf_bkd.targets.exact_lambda`.

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
        self.likelihood, self.num_values = labels.layout.likelihood, labels.layout.num_classes
        noise = labels.layout.beside(NOISE)
        if self.likelihood.target_has_variance and noise not in dataset.column_names:
            raise UserError(
                f"{asked} needs the column {noise}, the noise of a number given the draw: label with a teacher that "
                "knows its observation_variance or predicts it"
            )
        self.exact = self.likelihood.exact and self.num_samples == 1  # in closed form, for one draw has no variance
        self.ratio = None if self.exact else draw_variance(dataset, labels.layout).ratio

    @property
    def variances(self) -> list[StoredVariance]:
        """The columns that are read."""
        return [self.variance]

    def __call__(self, batch: Mapping[str, Tensor], target: Tensor) -> Tensor:
        """Return lambda [...] of targets [..., K]."""
        values = target[..., : self.num_values]
        variance = self.variance.of(batch, values)
        label_variance = self.likelihood.scattered_variance(target, variance, self.num_samples)
        if self.exact:
            return self.kd_lambda * exact_lambda(variance, label_variance)
        return self.kd_lambda * adaptive_lambda(values, variance, self.num_samples, self.ratio, label_variance)


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
        self.likelihood = next(iter(stored.values())).layout.likelihood

    def __call__(self, batch: Mapping[str, Tensor], probs: Tensor) -> Tensor:
        """Return the weights [..., M] of labels [..., M, C]."""
        values = [p[..., : each.layout.num_classes] for each, p in zip(self.variances, probs.unbind(-2), strict=True)]
        of_draws = [torch.as_tensor(from_batch(batch, each.column)).to(probs) for each in self.variances]
        if any(v.ndim < p.ndim for v, p in zip(of_draws, values, strict=True)):
            of_draws = [summed_variance(p, v).unsqueeze(-1) for v, p in zip(of_draws, values, strict=True)]
        of_means = [v / each.layout.num_draws for v, each in zip(of_draws, self.variances, strict=True)]
        return inverse_variance_weights(self.likelihood.summed_variances(torch.stack(of_means, dim=-2)))
