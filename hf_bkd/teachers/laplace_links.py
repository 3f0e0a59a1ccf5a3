"""Links of a Laplace posterior: from the Gaussian over a network's outputs to the values that it predicts."""

import math

import torch
from torch import Tensor

from ..likelihoods import CATEGORICAL, Likelihood
from ..utils.checks import check_choice
from ..utils.errors import UserError
from .curvature import LogitCovariance

LINKS = ("mc", "probit", "bridge")


def check_link(link: str, likelihood: Likelihood) -> None:
    """Raise a UserError for an unknown link, or the bridge of another likelihood than one of C classes."""
    check_choice(LINKS, link=link)
    if link == "bridge" and likelihood != CATEGORICAL:
        raise UserError(
            "the Laplace bridge is to a distribution over classes, and the problem type is "
            f"{likelihood.problem_type}: use link='probit' or 'mc'"
        )


def linked(
    link: str, outputs: Tensor, covariance: LogitCovariance, noise: Tensor | None, likelihood: Likelihood = CATEGORICAL
) -> Tensor:
    """Return outputs [S, B, C] whose mean values are the predictive; S is 1 where the link is in closed form."""
    if link == "mc":
        return outputs + covariance.correlate(noise)
    if link == "probit":
        return likelihood.integrated(outputs, covariance.variance())[None]
    return _bridge(outputs, covariance)[None]


def _bridge(logits: Tensor, covariance: LogitCovariance) -> Tensor:
    """Map N(logits, covariance) to the log Dirichlet parameters of the Laplace bridge, up to a constant.

    The Gaussian is first conditioned on logits that sum to zero (Hobbhahn et al. 2022, section 3); then
    alpha_k = (1 - 2/C + exp(z_k) / C^2 * sum_l exp(-z_l)) / var_k. All is in float64: with a small prior precision
    nearly all of the variance is that of the sum, and what remains would be float32's rounding error.
    """
    covariance, logits = covariance.to(torch.float64), logits.double()
    sums, classes = covariance.row_sums(), logits.shape[-1]
    total = sums.sum(dim=-1, keepdim=True).clamp_min(1e-30)  # 0 for features 0 without a bias
    mean = logits - sums * logits.sum(dim=-1, keepdim=True) / total
    variance = covariance.variance() - sums.square() / total
    constant = mean.new_full((), 1 - 2 / classes).log()
    peaked = mean + (-mean).logsumexp(dim=-1, keepdim=True) - 2 * math.log(classes)
    return torch.logaddexp(peaked, constant) - variance.clamp_min(1e-30).log()
