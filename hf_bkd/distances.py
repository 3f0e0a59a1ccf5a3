"""Distances of a student from its target in the place of the Kullback-Leibler divergence, by their papers' names.

| ``distance``       | source                                       | per example                                     |
| ------------------ | -------------------------------------------- | ----------------------------------------------- |
| ``"kl"``           | Hinton et al. 2015                           | KL(p, q)                                        |
| ``"dkd"``          | Zhao et al. 2022 (arXiv 2203.08679), eq. 7   | alpha TCKD + beta NCKD                          |
| ``"dist"``         | Huang et al. 2022 (arXiv 2205.10536), eq. 10 | beta (1 - correlation over the classes) + gamma |
|                    |                                              | (1 - mean correlation over the examples)        |
| ``"standardized"`` | Sun et al. 2024 (arXiv 2403.01427), alg. 1   | KL of the z-scores' distributions               |
| ``"dirichlet"``    | Malinin et al. 2020 (arXiv 1905.00076)       | -mean_s log Dir(p_s; exp(z)), see `dirichlet`   |

p is the target at its temperature, q = softmax(z / T_s). All but the first mean something for one of C classes only.
Each takes ``(target, logits, labels, temperature)``: probabilities [..., C], logits [..., C], class indices [...]
(which only ``"dkd"`` reads) and T_s, and returns [...], at least in float32. A target of zeros is a position that
doesn't count. That of ``"dirichlet"`` are the mean logarithms of the teacher's draws.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .dirichlet import LEAST, student_loss
from .likelihoods import UNLABELED, Categorical
from .utils.checks import check_choice

Distance = Callable[[Tensor, Tensor, Tensor | None, float], Tensor]
DISTANCES = ("kl", "dkd", "dist", "standardized", "dirichlet")
EPS = 1e-8  # of a correlation
EPS_OF_DEVIATION = 1e-7


def distance_of(
    name: str, dkd_alpha: float = 1.0, dkd_beta: float = 8.0, dist_beta: float = 1.0, dist_gamma: float = 1.0
) -> Distance | None:
    """Return the distance of a name, with its paper's weights; ``None`` for ``"kl"``, the likelihood's own.

    Raises:
        UserError: an unknown name.
    """
    check_choice(DISTANCES, distance=name)
    return {
        "kl": None,
        "dkd": partial(decoupled, alpha=dkd_alpha, beta=dkd_beta),
        "dist": partial(correlation, beta=dist_beta, gamma=dist_gamma),
        "standardized": standardized,
        "dirichlet": student_loss,
    }[name]


def decoupled(
    target: Tensor, logits: Tensor, labels: Tensor, temperature: float = 1.0, alpha: float = 1.0, beta: float = 8.0
) -> Tensor:
    """Weigh the label's probability and the distribution over the other classes apart: alpha TCKD + beta NCKD.

    KL(p, q) = TCKD + (1 - p_y) NCKD. An example without a label (-100) has the divergence as it is.
    """
    log_student = _log_softmax(logits, temperature)
    target, known = target.to(log_student.dtype), labels != UNLABELED
    of_label = torch.nn.functional.one_hot(labels.where(known, 0), target.shape[-1]).bool()
    others = target.masked_fill(of_label, 0)
    rest = others.sum(dim=-1)
    log_others = log_student.masked_fill(of_label, -torch.inf)
    log_rest = log_others.logsumexp(dim=-1)
    picked = target.masked_fill(~of_label, 0).sum(dim=-1), log_student.masked_fill(~of_label, 0).sum(dim=-1)
    tckd = _relative(picked[0], picked[1]) + _relative(rest, log_rest)
    shares = others / rest.clamp_min(torch.finfo(target.dtype).tiny).unsqueeze(-1)
    nckd = _relative(shares, (log_others - log_rest.unsqueeze(-1)).masked_fill(of_label, 0)).sum(dim=-1)
    return torch.where(known, alpha * tckd + beta * nckd, _relative(target, log_student).sum(dim=-1))


def correlation(
    target: Tensor,
    logits: Tensor,
    labels: Tensor | None,
    temperature: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> Tensor:
    """Compare the order and not the size of probabilities: beta (1 - r over classes) + gamma (1 - r over examples).

    The second term relates the examples of one micro-batch to each other, so that steps of accumulated micro-batches
    are not those of one batch.
    """
    student = _log_softmax(logits, temperature).exp()
    target = target.to(student.dtype)
    counted = target.ne(0).any(dim=-1, keepdim=True)
    between_classes = 1 - _pearson(student, target, torch.ones_like(target), dim=-1)
    rows = student.flatten(0, -2), target.flatten(0, -2), counted.flatten(0, -2).to(student.dtype)
    between_examples = 1 - _pearson(*rows, dim=0).mean()
    return beta * between_classes + gamma * between_examples


def standardized(target: Tensor, logits: Tensor, labels: Tensor | None, temperature: float = 1.0) -> Tensor:
    """Compute KL of softmax(zscore(log p) / T) and softmax(zscore(z) / T), both at the student's temperature.

    The logarithms of probabilities are logits less a constant, over their temperature; a z-score takes both away. A
    class of probability zero counts as the least one of its row, and no more than 2**-25.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    target = target.to(logits.dtype)
    least = target.where(target > 0, LEAST).amin(dim=-1, keepdim=True).clamp_max(LEAST)
    scores = _standardize(torch.where(target > 0, target, least).log())
    return Categorical().divergence((scores / temperature).softmax(dim=-1), _standardize(logits), temperature)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return (logits / temperature).log_softmax(dim=-1)


def _relative(target: Tensor, log_student: Tensor) -> Tensor:
    """Compute p log(p / q), zero where p is."""
    return torch.xlogy(target, target) - target * log_student


def _standardize(logits: Tensor) -> Tensor:
    centered = logits - logits.mean(dim=-1, keepdim=True)
    return centered / (EPS_OF_DEVIATION + logits.std(dim=-1, keepdim=True))


def _pearson(one: Tensor, other: Tensor, counted: Tensor, dim: int) -> Tensor:
    """Return the correlations along a dimension over what counts (1, and 0 for what doesn't)."""
    number = counted.sum(dim=dim, keepdim=True).clamp_min(1)
    centered = [(each - (each * counted).sum(dim=dim, keepdim=True) / number) * counted for each in (one, other)]
    return torch.nn.functional.cosine_similarity(*centered, dim=dim, eps=EPS)
