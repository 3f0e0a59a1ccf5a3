"""Sets of classes that hold the label as often as they say, whatever network made the probabilities: split conformal.

A score of each class is compared with the scores of n held-out examples' labels: a set holds the classes that score at
most their ceil((n + 1) level)-th smallest. If the examples are exchangeable with those, a set holds the label with at
least the level's probability, and with at most 1 / (n + 1) more where no scores are equal (Vovk et al. 2005).

| method  | score of class c                                        | source                            |
| ------- | ------------------------------------------------------- | --------------------------------- |
| ``lac`` | 1 - p_c                                                 | Sadinle et al. 2019               |
| ``aps`` | the probability of all likelier classes, and u p_c      | Romano et al. 2020, eq. 5         |

u is uniform in [0, 1], an example's own, without which sets would be larger than they say. The coverage is over all
examples and not for each class; ``lac`` has the smallest sets, some of which may be empty, and ``aps`` adapts them to
how difficult an example is.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .uncertainty import credible_sets
from .utils.checks import check_choice, check_count, check_probabilities, check_shape
from .utils.errors import UserError

METHODS = ("lac", "aps")


class SetQuality(NamedTuple):
    """The share of examples whose set holds their label (``coverage``), and how many classes a set has (``size``)."""

    coverage: float
    size: float


def conformal_sets(
    calibration: Tensor, labels: Tensor, probs: Tensor, level: float = 0.9, method: str = "lac", seed: int = 0
) -> Tensor:
    """Return which classes [N, C] are in the sets of examples with probabilities ``probs`` [N, C].

    Args:
        calibration: class probabilities [n, C] of examples that nothing was trained or chosen on.
        labels: class indices [n] of these.
        probs: class probabilities [N, C].
        level: of the coverage, in (0, 1).
        method: ``"lac"`` or ``"aps"``.
        seed: of ``"aps"``.

    Raises:
        UserError: rows that are no distributions, labels outside the classes, an unknown method, a level that is not
            between 0 and 1, or one that so few examples can't reach.
    """
    check_choice(METHODS, method=method)
    check_shape("probs", probs, None, None)
    check_shape("calibration", calibration, None, probs.shape[1])
    check_shape("labels", labels, len(calibration))
    check_probabilities(calibration=calibration, probs=probs)
    if not 0 < level < 1:
        raise UserError(f"a level must be between 0 and 1, and it is {level:g}")
    if labels.is_floating_point() or (
        len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < probs.shape[1]
    ):
        raise UserError(
            f"labels must be class indices in 0 to {probs.shape[1] - 1}, and they are {labels.unique().tolist()[:9]}"
        )
    generator = torch.Generator().manual_seed(seed)
    own, others = (_scores(each.double(), method, generator) for each in (calibration, probs))
    of_labels = own.gather(1, labels.long()[:, None]).squeeze(1)
    return others <= of_labels.sort().values[_rank(len(labels), level) - 1]


def set_quality(sets: Tensor, labels: Tensor) -> SetQuality:
    """Measure sets [N, C] against labels [N]."""
    held = sets.gather(1, labels.long()[:, None]).double().mean().item()
    return SetQuality(held, sets.sum(dim=1).double().mean().item())


def conformal_report(
    probs: Tensor, labels: Tensor, level: float = 0.9, splits: int = 20, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Measure conformal sets on random halves of held-out examples, beside credible sets of the probabilities alone.

    One half calibrates what the other measures; a single split's coverage is uncertain by the choice of both halves,
    its standard deviation is about sqrt(2 level (1 - level) / n) for halves of n.

    Args:
        probs: class probabilities [N, C] of examples that nothing was trained or chosen on.
        labels: class indices [N].
        level: of all sets.
        splits: into halves, over which coverage and size are averaged.
        seed: of the splits.

    Returns:
        ``lac``, ``aps`` and ``credible``, each with ``coverage`` and ``size``.

    Raises:
        UserError: see :func:`conformal_sets`.
    """
    check_count(splits=splits)
    measured: dict[str, list[SetQuality]] = {method: [] for method in METHODS}
    for number in range(splits):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(splits * seed + number))
        one, other = order.chunk(2) if len(order) > 1 else (order, order)
        for method, each in measured.items():
            sets = conformal_sets(probs[one], labels[one], probs[other], level, method, splits * seed + number)
            each.append(set_quality(sets, labels[other]))
    means = {method: SetQuality(*torch.tensor(each).mean(dim=0).tolist()) for method, each in measured.items()}
    means["credible"] = set_quality(credible_sets(probs, level), labels)
    return {method: each._asdict() for method, each in means.items()}


def _rank(count: int, level: float) -> int:
    rank = math.ceil((count + 1) * level - 1e-9)  # of a product that rounding may leave above a whole number
    if rank > count:
        raise UserError(
            f"{count} examples can't calibrate sets of level {level:g}: pass at least "
            f"{math.ceil(level / (1 - level) - 1e-9)}, or a lower level"
        )
    return rank


def _scores(probs: Tensor, method: str, generator: torch.Generator) -> Tensor:
    """Return the score of each class [N, C]."""
    if method == "lac":
        return 1 - probs
    ordered, classes = probs.sort(dim=1, descending=True, stable=True)
    uniform = torch.rand(len(probs), 1, generator=generator, dtype=probs.dtype).to(probs.device)
    scores = ordered.cumsum(dim=1) - (1 - uniform) * ordered
    return torch.empty_like(scores).scatter(1, classes, scores)
