"""Soft labels as weighted rows, from which any estimator with ``sample_weight`` learns what a network would."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import datasets
import numpy as np
import pandas as pd

from ..data.columns import LABEL_COLUMNS, find_label, numbered_labels
from ..data.labels import read_labels
from ..data.tables import table_and_columns
from ..likelihoods import Bernoulli, Gaussian
from ..models.class_names import given_names
from ..utils.checks import check_share
from ..utils.errors import UserError
from .in_memory import SoftLabels
from .reading import read, stored_labels

LEAST_VARIANCE = 0.01  # of the rows' mean variance: where all trees agree by chance


class WeightedRows(NamedTuple):
    """What ``estimator.fit(features, labels, sample_weight=weights)`` takes.

    features: a table of M rows.
    labels: classes [M] as the dataset's label column holds them, their numbers if there is none; of labels that are
        each there or not zeros and ones [M, C]; of a regression numbers, [M] or [M, C].
    weights: float64 [M], above 0.
    """

    features: pd.DataFrame
    labels: np.ndarray
    weights: np.ndarray


def weighted_rows(
    dataset: datasets.Dataset,
    kd_lambda: float = 1.0,
    *,
    name: str | None = None,
    label_column: str | None = None,
    feature_names: Sequence[str] | None = None,
    least_weight: float = 1e-3,
    seed: int = 0,
    allow_unrecorded_labels: bool = False,
) -> WeightedRows:
    """Repeat each row for each class, weighed by t_c = (1 - lambda) onehot(y)_c + lambda p_c.

    A weighted log-loss of these rows is the cross-entropy with the target t, to which logistic regressions, boosted
    and single trees and all others that weigh rows are so fitted; the weights of a row sum to one. A class with a
    weight below ``least_weight`` is kept with the probability weight / least_weight, and then weighs ``least_weight``:
    there are fewer rows, and the mean of each weight is as it was.

    A row of C labels that are each there or not is repeated for the k likeliest of its labels, k = 0 .. C, which weigh
    what the k-th target exceeds the next one by. The weights with a label then sum to its target, so that
    what treats labels one by one (trees, forests, networks, ``MultiOutputClassifier``; no ``ClassifierChain``) learns
    the binary cross-entropy with the targets.

    Of a regression each row stays one: its label is the teacher's mean, mixed with the row's own as above, and its
    weight 1 / variance, at most 100 times that of a row of average variance, and 1 on average.

    Args:
        dataset: N rows with soft labels.
        kd_lambda: lambda in [0, 1]; rows without a label have lambda 1.
        name: the teacher's, where there are labels of several.
        label_column: by default ``label``, ``labels`` or ``fine_label``; none is needed for a lambda of 1.
        feature_names: the columns of the table; all of numbers and words if not given, less labels and ids.
        least_weight: in [0, 1]; 0 keeps all classes with any weight.
        seed: of what is kept.
        allow_unrecorded_labels: whether labels may be used that don't say what they were made for.

    Raises:
        UserError: no soft labels, labels of other examples, of several views or of tokens, no label column though
            lambda is below 1, or a number out of range.
    """
    check_share(kd_lambda=kd_lambda, least_weight=least_weight)
    stored_labels(dataset, None, None, allow_unrecorded_labels)
    labels = read(dataset, name)
    if labels.num_views > 1:
        raise UserError(
            "the soft labels are of several views of each row, and a table has one: label it without views"
        )
    column = label_column or next((each for each in LABEL_COLUMNS if each in dataset.features), None)
    names = None if labels.record is None else labels.record.class_names
    likelihood = labels.layout.likelihood
    if labels.lengths is not None:
        raise UserError(
            "these soft labels are of the tokens of each row, and a table has one label a row: teach a network"
        )
    if likelihood.problem_type == Gaussian.problem_type:
        return _numbers(dataset, labels, kd_lambda, column, feature_names)
    if likelihood.problem_type == Bernoulli.problem_type:
        target = _mixed_values(dataset, labels, labels.probs.double().numpy(), kd_lambda, column, names)
        weights, ranks = _likeliest(target)
        weights = _without_small(weights, least_weight, seed)
        rows, numbers = np.nonzero(weights)
        values = (ranks[rows] < numbers[:, None]).astype(np.int64)
        table, _ = table_and_columns(dataset, feature_names, column)
        return WeightedRows(table.iloc[rows].reset_index(drop=True), values, weights[rows, numbers])
    target = labels.probs.double().numpy()
    target = target / target.sum(axis=1, keepdims=True)
    if kd_lambda < 1:
        if column is None:
            raise UserError(f"kd_lambda is {kd_lambda:g}, and the dataset has no label column: use 1, or add one")
        target = _mixed(target, numbered_labels(dataset, column, names)[1], kd_lambda)
    weights = _without_small(target, least_weight, seed)
    rows, classes = np.nonzero(weights)
    table, _ = table_and_columns(dataset, feature_names, column)
    values = _class_values(dataset.features.get(column), names, labels.num_classes)
    return WeightedRows(table.iloc[rows].reset_index(drop=True), values[classes], weights[rows, classes])


def _numbers(
    dataset: datasets.Dataset,
    labels: SoftLabels,
    kd_lambda: float,
    column: str | None,
    feature_names: Sequence[str] | None,
) -> WeightedRows:
    """Return each row once, with its mean and 1 / variance."""
    target = _mixed_values(dataset, labels, labels.values.double().numpy(), kd_lambda, column)
    known = [each.double().reshape(len(target), -1) for each in (labels.variance, labels.noise) if each is not None]
    variance = np.ones(len(target))
    if known:  # in units of each number's average, for numbers may have different ones
        summed = sum(known)
        average = summed.mean(dim=0, keepdim=True)
        variance = (summed / average.where(average > 0, 1.0)).mean(dim=1).numpy()
    variance = np.maximum(variance, LEAST_VARIANCE * variance.mean())
    weights = 1 / variance if variance.any() else np.ones(len(target))
    table, _ = table_and_columns(dataset, feature_names, column)
    target = target[:, 0] if target.shape[1] == 1 else target
    return WeightedRows(table, target, weights / weights.mean())


def _mixed_values(
    dataset: datasets.Dataset,
    labels: SoftLabels,
    target: np.ndarray,
    kd_lambda: float,
    column: str | None,
    names: Sequence[str] | None = None,
) -> np.ndarray:
    """Return targets [N, C] mixed with the rows' own values, where they have some."""
    if kd_lambda == 1:
        return target
    column = column or find_label(dataset)
    read = read_labels(dataset, column, labels.layout.likelihood, labels.num_classes, names)
    own = read(dataset.with_format(None)[column][:]).double().numpy()
    return np.where(np.isnan(own), target, kd_lambda * target + (1 - kd_lambda) * own)


def _likeliest(target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what the k likeliest of C labels weigh, k = 0 .. C: [N, C + 1], and each label's rank [N, C]."""
    order = np.argsort(-target, axis=1, kind="stable")
    bounds = np.pad(np.take_along_axis(target, order, axis=1), ((0, 0), (1, 0)), constant_values=1.0)
    weights = -np.diff(bounds, axis=1, append=0.0)
    return weights, np.argsort(order, axis=1)


def _mixed(probs: np.ndarray, numbers: Sequence[int], kd_lambda: float) -> np.ndarray:
    numbers = np.asarray(numbers)
    labeled = np.flatnonzero(numbers >= 0)
    mixed = probs.copy()
    mixed[labeled] *= kd_lambda
    mixed[labeled, numbers[labeled]] += 1 - kd_lambda
    return mixed


def _without_small(weights: np.ndarray, least: float, seed: int) -> np.ndarray:
    if least == 0:
        return weights
    small = weights < least
    drawn = np.random.default_rng(seed).random(weights.shape) * least < weights
    return np.where(small, np.where(drawn, least, 0.0), weights)


def _class_values(feature: Any, names: Sequence[str] | None, number: int) -> np.ndarray:
    """Return the classes as a label column holds them, by name or by number; by number where there is no column."""
    dtype, names = str(getattr(feature, "dtype", "")), given_names(names)
    if names is None or feature is None or isinstance(feature, datasets.ClassLabel):
        return np.arange(number)
    if dtype.startswith(("int", "uint", "float", "double")):
        try:
            return np.asarray([int(name) for name in names])
        except ValueError:
            return np.arange(number)
    if dtype == "bool" and set(names) <= {"True", "False"}:
        return np.asarray([name == "True" for name in names])
    return np.asarray(names)
