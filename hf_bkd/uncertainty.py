"""The uncertainty of predictions by a posterior's samples, and how well it is calibrated.

``samples`` are class probabilities [S, N, C] of S draws from the posterior; all is computed in float64.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .metrics import auroc, classification_metrics, entropy
from .utils.checks import check_probabilities, check_shape
from .utils.deprecation import renamed_arguments
from .utils.errors import UserError


class EntropyParts(NamedTuple):
    """The entropy of each example's prediction [N], in nats: ``total`` = ``aleatoric`` + ``epistemic``.

    total: entropy of the mean probabilities. aleatoric: mean entropy of the draws, which more data would not remove.
    epistemic: the rest, the mutual information of label and weights (BALD, Houlsby et al. 2011), >= 0.
    """

    total: Tensor
    aleatoric: Tensor
    epistemic: Tensor


def entropy_parts(samples: Tensor, weights: Tensor | None = None) -> EntropyParts:
    """Split the entropy into that within the draws and that between them.

    Args:
        samples: [S, N, C].
        weights: what each draw counts [S, N], with a sum of 1 over the draws; equal if not given.

    Raises:
        UserError: samples that are no distributions.
    """
    samples = _checked(samples)
    if weights is None:
        weights = samples.new_full(samples.shape[:2], 1 / len(samples))
    mean = (weights.unsqueeze(-1) * samples).sum(dim=0)
    total, aleatoric = entropy(mean), (weights * entropy(samples)).sum(dim=0)
    return EntropyParts(total, aleatoric, total - aleatoric)


def mean_deviance(samples: Tensor) -> Tensor:
    """Compute E_s[-2 sum_k p_k log p_k] [N], in nats (arXiv 2605.27967): twice the aleatoric entropy."""
    return 2 * entropy_parts(samples).aleatoric


def deviance_threshold(samples: Tensor, level: float) -> Tensor:
    """Solve E_s sum_k p_k 1{p_k >= u} = ``level`` for u [N] (arXiv 2605.27967), the largest that reaches it.

    A class that the predictive draws has a deviance -2 log p_k <= -2 log u with this probability.

    Raises:
        UserError: samples that are no distributions, or a level that is not between 0 and 1.
    """
    samples = _checked(samples)
    _check_level(level)
    ordered = samples.transpose(0, 1).flatten(1).sort(dim=1, descending=True).values
    mass = ordered.cumsum(dim=1) / len(samples)
    reached = (mass < level - 1e-12).sum(dim=1, keepdim=True)  # rounding may leave the last mass below a level near 1
    return ordered.gather(1, reached.clamp_max(ordered.shape[1] - 1)).squeeze(1)


def credible_sets(probs: Tensor, level: float) -> Tensor:
    """Return which classes [N, C] are in the smallest set that has at least probability ``level`` by ``probs`` [N, C].

    Raises:
        UserError: rows that are no distributions, or a level that is not between 0 and 1.
    """
    check_shape("probs", probs, None, None)
    check_probabilities(probs=probs)
    _check_level(level)
    ordered, classes = probs.double().sort(dim=1, descending=True, stable=True)
    before = ordered.cumsum(dim=1) - ordered
    return torch.zeros_like(ordered, dtype=torch.bool).scatter(1, classes, before < level - 1e-12)


@renamed_arguments(uncertain_samples="ood_samples")
def uncertainty_report(
    samples: Tensor,
    labels: Tensor,
    map_probs: Tensor,
    ood_samples: Tensor | None = None,
    levels: Sequence[float] = (0.8, 0.9, 0.95),
) -> dict[str, Any]:
    """Compare a posterior's mean with a single network, and measure the calibration of its uncertainty.

    Args:
        samples: [S, N, C].
        labels: class indices [N].
        map_probs: probabilities [N, C] of the mode, the student as it was trained.
        ood_samples: [S', M, C] of examples that are known to be uncertain, such as those with several labels.
        levels: of the credible sets, each in (0, 1).

    Returns:
        What JSON can hold:

        - ``posterior_mean``, ``map``: accuracy, NLL, ECE and Brier score;
        - ``mean_deviance``, and ``entropy`` with its parts, averaged over the examples, in nats;
        - ``credible_sets``, a list with an entry a level: the share of labels that are in the :func:`credible_sets` of
          the mean (``coverage``, nominally ``level`` or more), how many classes those have (``size``), and the
          probability, given the label, of a draw with a deviance within -2 log u (``deviance_coverage``, nominally
          ``level``: our reading of the paper's bound). A draw s counts by p_s[y], for the label belongs to the draw
          that it came from;
        - ``auroc`` of detecting ``ood_samples`` by their deviance, entropy, and epistemic entropy.

    Raises:
        UserError: shapes that don't fit, rows that are no distributions, labels outside the classes, or a level that
            is not between 0 and 1.
    """
    samples = _checked(samples)
    _, count, classes = samples.shape
    check_shape("labels", labels, count)
    if labels.is_floating_point() or labels.min() < 0 or labels.max() >= classes:
        raise UserError(
            f"labels must be class indices in 0 to {classes - 1}, and they are {labels.unique().tolist()[:9]}"
        )
    check_shape("map_probs", map_probs, count, classes)
    check_probabilities(map_probs=map_probs)
    parts, mean = entropy_parts(samples), samples.mean(dim=0)
    report = {
        "posterior_mean": classification_metrics(mean, labels),
        "map": classification_metrics(map_probs.double(), labels),
        "mean_deviance": 2 * parts.aleatoric.mean().item(),
        "entropy": {name: value.mean().item() for name, value in parts._asdict().items()},
        "credible_sets": [_coverage(samples, labels.long(), level) for level in levels],
    }
    if ood_samples is not None:
        check_shape("ood_samples", ood_samples, None, None, classes)
        ood = entropy_parts(ood_samples)
        scores = {"mean_deviance": "aleatoric", "entropy": "total", "epistemic": "epistemic"}
        report["auroc"] = {name: auroc(getattr(parts, of), getattr(ood, of)) for name, of in scores.items()}
    return report


def _coverage(samples: Tensor, labels: Tensor, level: float) -> dict[str, float]:
    sets, threshold = credible_sets(samples.mean(dim=0), level), deviance_threshold(samples, level)
    of_label = samples.gather(2, labels.expand(len(samples), -1)[..., None]).squeeze(2)
    return {
        "level": level,
        "coverage": sets.gather(1, labels[:, None]).double().mean().item(),
        "size": sets.sum(dim=1).double().mean().item(),
        "deviance_coverage": (_shares(of_label) * (of_label >= threshold)).sum(dim=0).mean().item(),
    }


def _shares(of_label: Tensor) -> Tensor:
    """Return p(s | y) [S, N] for p_s[y] [S, N]; all draws alike where none of them has the label."""
    total = of_label.sum(dim=0)
    return torch.where(total > 0, of_label / total, 1 / len(of_label))


def _checked(samples: Tensor) -> Tensor:
    check_shape("samples", samples, None, None, None)
    if not samples.numel():
        raise UserError(f"samples hold nothing: their shape is {list(samples.shape)}")
    check_probabilities(samples=samples)
    return samples.double()


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise UserError(f"a level must be between 0 and 1, and it is {level:g}")
