"""Measures of a classifier: accuracy, calibration, fidelity and the noise of its convergence.

All functions take class probabilities [N, C] and labels [N] (integers in [0, C)) and return Python floats, so that
they can be logged, compared and stored as JSON.
"""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .utils.errors import UserError

NUM_BINS = 10  # of the released code of arXiv 2601.01484


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
    edges = torch.arange(1, num_bins, dtype=probs.dtype, device=probs.device) / num_bins
    bins, confidence = torch.bucketize(confidence, edges), confidence.double()
    count = torch.bincount(bins, minlength=num_bins)
    correct = torch.bincount(bins, weights=(predicted == labels).double(), minlength=num_bins)
    summed = torch.bincount(bins, weights=confidence, minlength=num_bins)
    return Reliability(summed / count, correct / count, count)


def ece(probs: Tensor, labels: Tensor, num_bins: int = NUM_BINS) -> float:
    """Return the expected calibration error of the top class (Guo et al. 2017), bins weighted by share, in [0, 1]."""
    bins = reliability(probs, labels, num_bins)
    gaps = (bins.confidence - bins.accuracy).abs() * bins.count
    return (gaps[bins.count > 0].sum() / bins.count.sum()).item()


def classification_metrics(probs: Tensor, labels: Tensor) -> dict[str, float]:
    """Compute ``{"accuracy", "nll", "ece", "brier"}`` of probabilities [N, C] against labels [N]."""
    return {f.__name__: f(probs, labels) for f in (accuracy, nll, ece, brier)}


def agreement(probs: Tensor, other: Tensor) -> float:
    """Return the share of examples for which two classifiers predict the same class (Stanton et al. 2021)."""
    return (probs.argmax(dim=-1) == other.argmax(dim=-1)).double().mean().item()


def convergence_noise(accuracies: Sequence[float], last: int = 50) -> float:
    """Return the standard deviation (ddof 1) of accuracy over the last epochs (arXiv 2601.01484, section 5).

    Args:
        accuracies: one evaluation accuracy per epoch, in [0, 1], in order.
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
