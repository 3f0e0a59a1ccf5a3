"""Measures of predictions: accuracy, calibration, fidelity and the noise of their convergence.

Functions of one class per example take class probabilities [N, C] and labels [N] (integers in [0, C)); those whose
names begin with ``multi_label`` take independent probabilities [N, C] and labels [N, C] of 0 and 1; that of regression
takes means, variances and labels [N, C]. All return Python floats, so that they can be logged, compared and stored as
JSON. :mod:`~hf_bkd.likelihoods` says which of them belong to which problem.
"""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .utils.errors import UserError

NUM_BINS = 10  # of the released code of arXiv 2601.01484
SUMMARY = ("log-likelihood of the label", "whether it is the most probable", "the greatest probability", "Brier")
LEVELS = tuple(
    number / 20 for number in range(1, 20)
)  # of intervals whose coverage is compared with what they promise
LOW_IS_BEST = ("loss", "nll", "ece", "brier", "rmse", "mae", "interval_error")


def accuracy(probs: Tensor, labels: Tensor) -> float:
    """Return the share of examples whose most probable class is the label, in [0, 1]."""
    return (probs.argmax(dim=-1) == labels).double().mean().item()


def nll(probs: Tensor, labels: Tensor) -> float:
    """Return the labels' mean negative log-likelihood, in nats; a probability of 0 counts as the smallest float."""
    picked = probs.double().gather(-1, labels.long().unsqueeze(-1)).squeeze(-1)
    return -picked.clamp_min(torch.finfo(torch.float64).tiny).log().mean().item()


def brier(probs: Tensor, labels: Tensor) -> float:
    """Return the mean squared distance to the one-hot label, summed over classes (Brier 1950), in [0, 2]."""
    probs = probs.double()
    onehot = torch.nn.functional.one_hot(labels.long(), probs.shape[-1])
    return (probs - onehot).square().sum(dim=-1).mean().item()


class Reliability(NamedTuple):
    """The mean confidence, accuracy (both NaN in empty bins) and number of examples per bin of confidence."""

    confidence: Tensor
    accuracy: Tensor
    count: Tensor

    def as_json(self) -> dict[str, list[float | None]]:
        """Return lists by name, with ``None`` for NaN."""
        lists = {name: values.tolist() for name, values in self._asdict().items()}
        return {name: [None if value != value else value for value in values] for name, values in lists.items()}


def reliability(probs: Tensor, labels: Tensor, num_bins: int = NUM_BINS) -> Reliability:
    """Bin examples by the probability of the predicted class, in bins (low, high] of equal width; tensors [num_bins].

    The bins' edges are rounded to the precision of ``probs``, so that a float32 probability of 0.3 is on an edge.
    """
    confidence, predicted = probs.max(dim=-1)
    return _binned(confidence, predicted == labels, num_bins)


def multi_label_reliability(probs: Tensor, labels: Tensor, num_bins: int = NUM_BINS) -> Reliability:
    """Bin all labels of all examples by their probability; ``accuracy`` is the share of a bin's labels that are there.

    Args:
        probs, labels: [N, C], as of :func:`multi_label_metrics`.
        num_bins: of equal width.
    """
    return _binned(probs.flatten(), labels.flatten() > 0.5, num_bins)


def interval_reliability(mean: Tensor, variance: Tensor, labels: Tensor) -> Reliability:
    """Compare central intervals with what they hold; a bin is a level, 0.1 to 0.9, and holds all numbers.

    Args:
        mean, variance, labels: [N, C], as of :func:`regression_metrics`.

    Returns:
        ``confidence``: the levels; ``accuracy``: the share of the labels in such an interval.
    """
    levels = torch.arange(1, 10, dtype=torch.float64, device=mean.device) / 10
    return Reliability(levels, _shares_inside(mean, variance, labels, levels), torch.full_like(levels, labels.numel()))


def _binned(confidence: Tensor, right: Tensor, num_bins: int) -> Reliability:
    edges = torch.arange(1, num_bins, dtype=confidence.dtype, device=confidence.device) / num_bins
    bins, confidence = torch.bucketize(confidence, edges), confidence.double()
    count = torch.bincount(bins, minlength=num_bins)
    correct = torch.bincount(bins, weights=right.double(), minlength=num_bins)
    summed = torch.bincount(bins, weights=confidence, minlength=num_bins)
    return Reliability(summed / count, correct / count, count)


def ece(probs: Tensor, labels: Tensor, num_bins: int = NUM_BINS) -> float:
    """Return the expected calibration error of the top class (Guo et al. 2017), bins weighted by share, in [0, 1]."""
    return _calibration_error(reliability(probs, labels, num_bins))


def _calibration_error(bins: Reliability) -> float:
    gaps = (bins.confidence - bins.accuracy).abs() * bins.count
    return (gaps[bins.count > 0].sum() / bins.count.sum()).item()


def classification_metrics(probs: Tensor, labels: Tensor) -> dict[str, float]:
    """Compute ``{"accuracy", "nll", "ece", "brier"}`` of probabilities [N, C] against labels [N]."""
    return {f.__name__: f(probs, labels) for f in (accuracy, nll, ece, brier)}


def summary(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Return what :func:`summarized_metrics` reads of log-probabilities [N, C] and class indices [N]: [N, 4]."""
    likely = log_probs.gather(-1, labels[:, None])[:, 0]
    highest, predicted = log_probs.max(dim=-1)
    score = (2 * log_probs).exp().sum(dim=-1) - 2 * likely.exp() + 1
    return torch.stack([likely, (predicted == labels).to(likely), highest.exp(), score], dim=-1)


def summarized_metrics(rows: Tensor) -> dict[str, float]:
    """Compute :func:`classification_metrics` of examples whose probabilities nobody holds; none without any.

    Args:
        rows: [N, 4], see ``SUMMARY``.
    """
    if not len(rows):
        return {}
    likely, right, _, score = rows.T.contiguous()
    means = {"accuracy": right, "nll": -likely, "brier": score}
    measures = {name: values.double().mean().item() for name, values in means.items()}
    return measures | {"ece": _calibration_error(summarized_reliability(rows))}


def summarized_reliability(rows: Tensor) -> Reliability:
    """Bin examples as :func:`reliability` does, by what :func:`summarized_metrics` reads of them [N, 4]."""
    _, right, confidence, _ = rows.T.contiguous()
    return _binned(confidence, right > 0.5, NUM_BINS)


def multi_label_metrics(probs: Tensor, labels: Tensor) -> dict[str, float]:
    """Compute the measures of C labels, each of which is there or isn't.

    Args:
        probs: independent probabilities [N, C].
        labels: 0 or 1 [N, C].

    Returns:
        ``accuracy``: the share of examples all of whose labels are right at the threshold 1/2, in [0, 1]; ``nll``: the
        mean binary cross-entropy of a label, in nats; ``ece``: the expected calibration error of each label's
        probability, averaged over the labels; ``brier``: the mean squared error of a label's probability, in [0, 1];
        ``mean_average_precision``: over the labels that are there at least once (absent if none is); ``micro_f1``,
        ``macro_f1``: at the threshold 1/2, zero where no label is there and none predicted.
    """
    probs, labels = probs.double(), labels.double()
    there = labels > 0.5
    likely = torch.where(there, probs, 1 - probs).clamp_min(torch.finfo(torch.float64).tiny)
    precision = multi_label_average_precision(probs, there)
    predicted = probs > 0.5
    hits, marked = (predicted & there).sum(dim=0).double(), (predicted.sum(dim=0) + there.sum(dim=0)).double()
    averages = {} if precision.isnan().all() else {"mean_average_precision": precision.nanmean().item()}
    return {
        "accuracy": (predicted == there).all(dim=-1).double().mean().item(),
        "nll": -likely.log().mean().item(),
        "ece": multi_label_ece(probs, there).mean().item(),
        "brier": (probs - labels).square().mean().item(),
        **averages,
        "micro_f1": (2 * hits.sum() / marked.sum().clamp_min(1)).item(),
        "macro_f1": (2 * hits / marked.clamp_min(1)).mean().item(),
    }


def multi_label_ece(probs: Tensor, labels: Tensor, num_bins: int = NUM_BINS) -> Tensor:
    """Return the expected calibration error [C] of each label's probability, in bins (low, high] of equal width."""
    edges = torch.arange(1, num_bins, dtype=probs.dtype, device=probs.device) / num_bins
    bins = torch.bucketize(probs.contiguous(), edges)
    gaps = torch.zeros(num_bins, probs.shape[-1], dtype=torch.float64, device=probs.device)
    return gaps.scatter_add(0, bins, probs.double() - labels.double()).abs().sum(dim=0) / len(probs)


def multi_label_average_precision(probs: Tensor, labels: Tensor) -> Tensor:
    """Return the average precision [C] of each label, NaN for one that no example has.

    It is sum_n (R_n - R_(n-1)) P_n over the thresholds, as scikit-learn's; examples of one probability share one.
    """
    return torch.stack([_average_precision(*pair) for pair in zip(probs.unbind(-1), labels.unbind(-1), strict=True)])


def _average_precision(scores: Tensor, there: Tensor) -> Tensor:
    scores, order = scores.sort(descending=True)
    hits = there[order].double().cumsum(dim=0)
    last = torch.ones_like(there, dtype=torch.bool)  # of those examples that share a threshold
    last[:-1] = scores[1:] != scores[:-1]
    hits, rank = hits[last], (last.nonzero()[:, 0] + 1).double()
    gained = hits.diff(prepend=hits.new_zeros(1))
    return (gained * hits / rank).sum() / hits[-1]


def regression_metrics(mean: Tensor, labels: Tensor, variance: Tensor | None = None) -> dict[str, float]:
    """Compute the measures of C numbers, averaged over the examples and the numbers.

    Args:
        mean: [N, C].
        labels: [N, C].
        variance: of a label given the example, above 0 [N, C]; ``None`` if it is unknown.

    Returns:
        ``rmse`` and ``mae`` in the unit of the labels; where the variance is known also ``nll``, in nats;
        ``coverage``: the share of labels in the central interval that holds 90 % of the normal distribution;
        ``interval_error``: the mean over the levels 0.05, 0.1, ..., 0.95 of abs(share of labels in the interval -
        level) (as the calibration error of Kuleshov et al. 2018, of central intervals and without the square).
    """
    mean, labels = mean.double(), labels.double()
    errors = (mean - labels).abs()
    measures = {"rmse": errors.square().mean().sqrt().item(), "mae": errors.mean().item()}
    if variance is None:
        return measures
    variance = variance.double()
    levels = torch.tensor(LEVELS, dtype=torch.float64, device=mean.device)
    shares = _shares_inside(mean, variance, labels, levels)
    return measures | {
        "nll": ((errors.square() / variance + (2 * torch.pi * variance).log()) / 2).mean().item(),
        "coverage": shares[LEVELS.index(0.9)].item(),
        "interval_error": (shares - levels).abs().mean().item(),
    }


def _shares_inside(mean: Tensor, variance: Tensor, labels: Tensor, levels: Tensor) -> Tensor:
    """Return the shares of labels in the central intervals of some levels [L]."""
    errors = (mean.double() - labels.double()).abs()
    inside = torch.erf(errors / (2 * variance.double()).sqrt()).flatten()  # level of the interval that ends at a label
    return torch.searchsorted(inside.sort().values, levels, right=True) / inside.numel()


def agreement(probs: Tensor, other: Tensor) -> float:
    """Return the share of examples for which two classifiers predict the same class (Stanton et al. 2021)."""
    return (probs.argmax(dim=-1) == other.argmax(dim=-1)).double().mean().item()


def convergence_noise(accuracies: Sequence[float], last: int = 50) -> float:
    """Return the standard deviation (ddof 1) of accuracy over the last epochs (arXiv 2601.01484, section 5).

    Args:
        accuracies: one evaluation accuracy per epoch, in [0, 1], in order; or another measure.
        last: how many of the last ones count, at least 2.

    Returns:
        The standard deviation, in units of accuracy.

    Raises:
        UserError: fewer than ``last`` accuracies, or ``last`` below 2.
    """
    if last < 2:
        raise UserError(f"convergence noise needs at least 2 evaluations, and last is {last}")
    if len(accuracies) < last:
        raise UserError(f"convergence noise over the last {last} evaluations asked of {len(accuracies)} evaluations")
    return statistics.stdev(accuracies[-last:])


def entropy(probs: Tensor) -> Tensor:
    """Return the entropy of each row of class probabilities [..., C], [...], in nats: from 0 to log C."""
    return -torch.xlogy(probs, probs).sum(dim=-1)


def auroc(negatives: Tensor, positives: Tensor) -> float:
    """Return the area under the ROC: the probability that a positive's score [M] exceeds a negative's [N].

    Ties count half.

    Raises:
        UserError: there are no scores on either side.
    """
    if not len(negatives) or not len(positives):
        raise UserError(f"AUROC needs scores on both sides; there are {len(negatives)} and {len(positives)}")
    ordered = negatives.double().sort().values
    below = torch.searchsorted(ordered, positives.double(), right=False)
    not_above = torch.searchsorted(ordered, positives.double(), right=True)
    return ((below + not_above).double().mean() / (2 * len(ordered))).item()
