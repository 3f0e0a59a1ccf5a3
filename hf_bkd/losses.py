"""The distance between a student and its target, with every convention's scale spelled out.

    loss = (1 - lambda) * CE(y, softmax(z))  +  lambda * scale * KL(target || softmax(z / T_s))

| ``temperature_scale`` | scale      | used by                                                                |
| --------------------- | ---------- | ---------------------------------------------------------------------- |
| ``"product"``         | T_t * T_s  | arXiv 2601.01484 (its released code)                                   |
| ``"squared"``         | T_s ** 2   | Hinton et al. 2015, torchdistill, mdistiller, timm (all with T_t = T_s) |
| ``"none"``            | 1          | trl                                                                    |

The divergence is summed over classes and averaged over examples ("batchmean"), never over classes. Of other
`likelihoods` than one of C classes, their own losses and divergences take the places of CE and KL.
"""

from typing import NamedTuple

from torch import Tensor

from .distances import Distance
from .likelihoods import CATEGORICAL, Likelihood
from .utils.checks import check_choice

TEMPERATURE_SCALES = ("product", "squared", "none")


def temperature_factor(temperature_scale: str, teacher_temperature: float, student_temperature: float) -> float:
    """Return the factor on the KL term by the table at the top of this module; UserError for an unknown name."""
    check_choice(TEMPERATURE_SCALES, temperature_scale=temperature_scale)
    product = teacher_temperature * student_temperature
    return {"product": product, "squared": student_temperature**2, "none": 1.0}[temperature_scale]


def kl_to_target(target: Tensor, logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute KL(target || softmax(logits / T)) per example, in nats.

    Args:
        target: class probabilities [..., C]; zeros are allowed.
        logits: unnormalized log-probabilities [..., C].
        temperature: T > 0 of the student.

    Returns:
        Divergences [...], >= 0 up to rounding, in float32 or wider.
    """
    return CATEGORICAL.divergence(target, logits, temperature)


class LossParts(NamedTuple):
    """The ``total`` to minimize and its two terms before they are weighted; scalars, ``None`` if not computed.

    With a lambda above 1, ``unbounded`` is the share of examples whose loss has no lower bound, see
    :meth:`~hf_bkd.likelihoods.Likelihood.unbounded`. With one per example, ``kd_lambda`` is its mean.
    """

    total: Tensor
    cross_entropy: Tensor | None
    distillation: Tensor | None
    unbounded: Tensor | None = None
    kd_lambda: Tensor | None = None


def mean_of(passes: list[LossParts]) -> LossParts:
    """Average the losses of several passes of the same batch."""
    return LossParts(*(None if each[0] is None else sum(each) / len(each) for each in zip(*passes, strict=True)))


def at_least_one(num_items: Tensor | float) -> Tensor | float:
    """Return the number that a sum of losses is divided by, 1 where nothing counts."""
    return num_items.clamp_min(1) if isinstance(num_items, Tensor) else max(num_items, 1)


def distillation_loss(
    logits: Tensor,
    labels: Tensor | None,
    target: Tensor | None,
    kd_lambda: float | Tensor,
    student_temperature: float = 1.0,
    scale: float = 1.0,
    label_smoothing: float = 0.0,
    num_items: Tensor | float | None = None,
    likelihood: Likelihood = CATEGORICAL,
    distance: Distance | None = None,
) -> LossParts:
    """Compute (1 - lambda) CE + lambda * scale * KL, each summed over the examples and divided by ``num_items``.

    A term of weight zero is not computed and what it would read may be ``None``: lambda = 0 is plain training towards
    the labels, lambda = 1 never reads one. Above 1 the label is subtracted (Das and Sanghavi 2023): the target
    (1 - lambda) onehot(y) + lambda p has a negative entry, and no lower bound is left where p_y < 1 - 1 / lambda.

    Args:
        logits: student's outputs [B, K], or of positions, such as tokens [B, L, K].
        labels: class indices [...], or [..., C] of a likelihood with C labels an example; -100, or NaN, is no label.
            An example [B] without one is taught by its soft label alone, as with lambda = 1; positions without one
            don't count, in either term (with lambda = 1 too, where labels are given).
        target: teacher's class probabilities [..., C], at the teacher's temperature already, or the likelihood's
            target; zeros at positions that don't count.
        kd_lambda: lambda in [0, 2], one number; or one in [0, 1] per example [...].
        student_temperature: T_s > 0, for the KL term only.
        scale: factor on the KL term, see :func:`temperature_factor`.
        label_smoothing: epsilon in [0, 1) of the cross-entropy term.
        num_items: what the sums are divided by, at least 1; the number of examples that count if not given. A step
            that accumulates gradients passes the number of examples of all its micro-batches.
        likelihood: what the outputs mean; its ``label_loss`` and ``divergence`` are the two terms.
        distance: takes the place of the divergence, see `distances`.

    Returns:
        LossParts.
    """
    each, positions = isinstance(kd_lambda, Tensor), logits.ndim > 2
    reads_labels, reads_target = each or kd_lambda != 1, each or kd_lambda > 0
    labeled = likelihood.labeled(labels) if reads_labels or (positions and labels is not None) else None
    taught = reads_labels and reads_target and not positions  # by their soft labels, also without a label
    if num_items is None:
        num_items = logits[..., 0].numel() if labeled is None or taught else labeled.sum()
    num_items = at_least_one(num_items)
    cross_entropy = distillation = unbounded = mean_lambda = None
    total = 0.0
    if reads_labels:
        losses = likelihood.label_loss(logits, labels, label_smoothing, target if reads_target else None)
        total, cross_entropy = _weighted(losses, 1 - kd_lambda, num_items)
    if reads_target:
        if positions and labeled is not None:
            target = target.masked_fill(~labeled.unsqueeze(-1), 0)
        if distance is None:
            losses = likelihood.divergence(target, logits, student_temperature)
        else:
            losses = distance(target, logits, labels, student_temperature)
        if positions:
            losses = losses.masked_fill(~target.ne(0).any(dim=-1), 0)
        weighted, distillation = _weighted(losses, kd_lambda, num_items)
        if taught:
            weighted = weighted + ((1 - kd_lambda) * losses).masked_fill(labeled, 0).sum() / num_items
        total = total + scale * weighted
    if each:
        counted = kd_lambda.masked_fill(~labeled, 0) if positions else kd_lambda
        mean_lambda = counted.sum() / num_items
    elif kd_lambda > 1 and distance is None:
        without_bound = likelihood.unbounded(target, labels, kd_lambda, scale / student_temperature)
        unbounded = (without_bound & labeled).sum() / num_items
    return LossParts(total, cross_entropy, distillation, unbounded, mean_lambda)


def _weighted(losses: Tensor, weight: float | Tensor, num_items: Tensor | float) -> tuple[Tensor, Tensor]:
    """Sum over the examples, with their weight and without it, and divide by ``num_items``."""
    plain = losses.sum() / num_items
    return (losses * weight).sum() / num_items if isinstance(weight, Tensor) else weight * plain, plain
