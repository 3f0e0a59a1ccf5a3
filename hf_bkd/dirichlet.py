"""A Dirichlet distribution over class probabilities: what one pass of a student can say of many draws of its teacher.

alpha = exp(z) > 0 are its concentrations [..., C] and z the student's logits (Malinin et al. 2020, arXiv 1905.00076),
so that softmax(z) = alpha / alpha_0 is its mean, alpha_0 = sum_c alpha_c its precision, and a network that was trained
so is like any other to whoever reads classes or probabilities alone. It is trained by the likelihood of the teacher's
S draws p_s (Malinin et al. 2020, eq. 9; Nemani et al. 2025):

    -mean_s log Dir(p_s; alpha) = -log Gamma(alpha_0) + sum_c log Gamma(alpha_c) - sum_c (alpha_c - 1) t_c

in which the draws are nothing but t_c = mean_s log p_s,c. Nemani et al. take alpha = 1 + softplus(z), by which a class
that the draws exclude (t_c far below 0) loses its gradient: where teachers were sure, networks so trained ended at
alpha = 1 for all classes. Computations are in float64.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .metrics import entropy
from .uncertainty import EntropyParts
from .utils.errors import UserError

LEAST = 2**-25  # what a probability below it counts as in logarithms: half of the smallest one in float16
LEAST_PRECISION, LARGEST_PRECISION = 2.0**-6, 2.0**20  # of what draws that disagree, or agree, completely are matched
SHARED = 2**-9  # by how much rounding in float16 may bring sum_c exp(t_c) above 1


def mean_log_probs(samples: Tensor, weights: Tensor | None = None) -> Tensor:
    """Compute t = mean_s log max(p_s, 2**-25).

    The clip keeps an excluded class from hiding all others' draws: t is that of probabilities which differ from those
    drawn by less than 2**-25 each.

    Args:
        samples: class probabilities [S, ..., C].
        weights: what each draw counts [S, ...], with a sum of 1 over the draws; equal if not given.

    Returns:
        Logarithms [..., C] in [log 2**-25, 0].
    """
    logs = samples.clamp_min(LEAST).log().clamp_max(0)
    return logs.mean(dim=0) if weights is None else (weights[..., None] * logs).sum(dim=0)


def negative_log_likelihood(logs: Tensor, logits: Tensor) -> Tensor:
    """Compute -mean_s log Dir(p_s; exp(z)) [...] of draws with mean logarithms t [..., C] and logits z [..., C].

    It is a density's, and so below 0 where draws agree.
    """
    alpha, logs = _concentrations(logits), _wide(logs)
    normalizer = alpha.lgamma().sum(dim=-1) - alpha.sum(dim=-1).lgamma()
    return normalizer - ((alpha - 1) * logs).sum(dim=-1)


def student_loss(target: Tensor, logits: Tensor, labels: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """Return :func:`negative_log_likelihood` [...] as one of the `distances`, in the logits' type, at least float32.

    ``target`` are mean logarithms; labels and the temperature, which is 1, are not read.
    """
    return negative_log_likelihood(target, logits).to(torch.promote_types(logits.dtype, torch.float32))


def matched_log_probs(mean: Tensor, variance: Tensor, label_variance: Tensor) -> Tensor:
    """Compute E log p [..., C] of the Dirichlet with a mean and a variance: what takes t's place where t is unknown.

    Of the draws' spread only its sum over the classes remains, in one precision alpha_0 (Minka 2000, eq. 19 and 20):

        Var p_c = m_c (1 - m_c) / (alpha_0 + 1),   alpha_0 = sum_c m_c (1 - m_c) / sum_c v_c - 1

    Draws that are not spread as a Dirichlet's, such as of two classes that are confused while the others are sure,
    lose their form. alpha_0 is kept within 2**-6 and 2**20, and logarithms above log 2**-25.

    Args:
        mean: m [..., C], class probabilities.
        variance: v summed over the classes [...], between the draws (ddof 1).
        label_variance: sum_c m_c (1 - m_c) [...] without the bias that few draws have, see
            :meth:`~hf_bkd.likelihoods.Likelihood.scattered_variance`.
    """
    mean, variance, label_variance = _wide(mean), _wide(variance), _wide(label_variance)
    precision = label_variance / variance.clamp_min(torch.finfo(variance.dtype).tiny) - 1
    precision = precision.clamp(LEAST_PRECISION, LARGEST_PRECISION).unsqueeze(-1)
    expected = torch.digamma(mean.clamp_min(LEAST) * precision) - torch.digamma(precision)
    return expected.clamp(math.log(LEAST), 0)


def dirichlet_parts(logits: Tensor) -> EntropyParts:
    """Split the entropy of each prediction [...] in closed form, for logits z [..., C] of concentrations exp(z).

    aleatoric = E H(p) = sum_c m_c (digamma(alpha_0 + 1) - digamma(alpha_c + 1)), total = H(m), and epistemic, the
    mutual information of the label and p, is the rest (Malinin and Gales 2018, eq. 16).
    """
    alpha, mean = _concentrations(logits), _wide(logits).softmax(dim=-1)
    of_all = torch.digamma(alpha.sum(dim=-1, keepdim=True) + 1)
    aleatoric = (mean * (of_all - torch.digamma(alpha + 1))).sum(dim=-1)
    total = entropy(mean)
    return EntropyParts(total, aleatoric, (total - aleatoric).clamp_min(0))


def dirichlet_variance(logits: Tensor) -> Tensor:
    """Compute Var p_c = m_c (1 - m_c) / (alpha_0 + 1) [..., C] for logits of concentrations exp(z)."""
    mean = _wide(logits).softmax(dim=-1)
    return mean * (1 - mean) / (_concentrations(logits).sum(dim=-1, keepdim=True) + 1)


def check_log_probs(logs: Tensor, name: str, numbers: Sequence[int] | None = None) -> None:
    """Refuse rows [N, ..., C] that are no mean logarithms of probabilities, for which sum_c exp(t_c) <= 1.

    Args:
        logs: of N rows.
        name: of what holds them.
        numbers: of the rows; 0, 1, ... if not given.

    Raises:
        UserError: a number that is not finite or above 0, or logarithms whose exponentials sum to more than 1.
    """
    logs = logs.float()
    wrong = ~logs.isfinite() | (logs > 0)
    wrong = wrong.any(dim=-1) | (logs.logsumexp(dim=-1) > SHARED)
    if wrong.any():
        row = int(wrong.reshape(len(wrong), -1).any(dim=1).nonzero()[0])
        raise UserError(
            f"row {row if numbers is None else numbers[row]} of {name} holds no mean logarithms of class "
            "probabilities, which are at most 0 and whose exponentials sum to at most 1: label again with "
            "mean_log_probs=True"
        )


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.device.type == "mps" else values.double()  # which has no float64


def _concentrations(logits: Tensor) -> Tensor:
    return _wide(logits).exp()
