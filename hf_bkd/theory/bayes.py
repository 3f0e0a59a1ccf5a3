"""Tasks whose class probabilities are known exactly, and supervision around them whose noise is known too.

:class:`hf_bkd.OracleTeacher` makes teachers of them.
"""

import torch
from torch import Tensor, nn

from ..utils.checks import check_count, check_positive, check_probabilities, check_shape, cholesky
from ..utils.random import categories, example_normal, log_gamma_draws, standard_normal


class GaussianMixture(nn.Module):
    """A mixture of Gaussians x | y ~ N(mean_y, covariance_y), y ~ priors, with p(y|x) in closed form.

    As a module it is the network that computes p(y|x): its logits are log p(x, y) up to a constant.

    Args:
        means: [C, d].
        covariance: [d, d], shared by all classes, or [C, d, d].
        priors: p(y) [C]; equal if not given.

    Raises:
        UserError: shapes that don't fit, a covariance that is not symmetric and positive definite, or priors that are
            not a distribution.
    """

    def __init__(self, means: Tensor, covariance: Tensor, priors: Tensor | None = None):
        super().__init__()
        check_shape("means", means, None, None)
        classes, width = means.shape
        check_shape("covariance", covariance, *(() if covariance.ndim == 2 else (classes,)), width, width)
        priors = torch.full((classes,), 1 / classes, device=means.device) if priors is None else priors
        check_shape("priors", priors, classes)
        check_probabilities(priors=priors)
        self.num_classes = classes
        factor = cholesky("covariance", covariance)
        for name, value in (("means", means), ("priors", priors), ("factor", factor)):
            self.register_parameter(name, nn.Parameter(value.double(), requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits [..., C] of points [..., d], log p(x, y) less a constant, in the points' precision."""
        centered = x.double().unsqueeze(-2) - self.means
        whitened = torch.linalg.solve_triangular(self.factor, centered.unsqueeze(-1), upper=False).squeeze(-1)
        log_volume = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        return (self.priors.log() - log_volume - whitened.square().sum(dim=-1) / 2).to(x.dtype)

    def posterior(self, x: Tensor) -> Tensor:
        """Compute p(y|x) [..., C] of points [..., d]."""
        return self(x.double()).softmax(dim=-1).to(x.dtype)

    def sample(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw ``count`` points [N, d] (float64) and their labels [N]; UserError for a count below 1."""
        check_count(count=count)
        labels = categories(self.priors, count, generator)
        noise = standard_normal((count, self.means.shape[1], 1), self.means, generator, torch.float64)
        factor = self.factor if self.factor.ndim == 2 else self.factor[labels]
        return self.means[labels] + (factor @ noise).squeeze(-1), labels

    def linear_student(self) -> tuple[Tensor, Tensor]:
        """Return weight [C, d] and bias [C] of the linear softmax that equals p(y|x) (AS4 of arXiv 2601.01484 holds).

        Raises:
            UserError: the classes have different covariances, for which no linear softmax is exact.
        """
        check_shape("covariance, of a task with an exact linear student,", self.factor, None, None)
        weight = torch.cholesky_solve(self.means.T, self.factor).T
        return weight, self.priors.log() - (weight * self.means).sum(dim=-1) / 2


def sample_labels(probs: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw labels [...] from class probabilities [..., C]."""
    check_probabilities(probs=probs)
    flat = categories(probs.flatten(0, -2), 1, generator, replacement=False)
    return flat.reshape(probs.shape[:-1])


def dirichlet_draws(
    probs: Tensor, concentration: float, num_samples: int, generator: torch.Generator | None = None
) -> Tensor:
    """Draw from Dirichlet(a p), [S, B, C]: unbiased, on the simplex, with covariance (diag p - p p^T) / (a + 1).

    This is the noise of synthetic teachers in arXiv 2601.01484, with a = 5 ("less noisy") and 0.5 ("more noisy").

    Args:
        probs: p [B, C].
        concentration: a > 0.
        num_samples: S >= 1.
        generator: an `ExampleGenerator` gives each example its own draws.

    Raises:
        UserError: a number out of range, or rows that are no distributions.
    """
    check_probabilities(probs=probs)
    check_positive(concentration=concentration)
    check_count(num_samples=num_samples)
    return log_gamma_draws(concentration * probs, num_samples, generator).softmax(dim=-1)


def additive_draws(
    probs: Tensor, variance: float, num_samples: int, generator: torch.Generator | None = None
) -> Tensor:
    """Draw p + eps, [S, B, C], with independent eps ~ N(0, nu) for each class (arXiv 2601.01484, proposition 3).

    Draws leave the simplex, as in the paper's model: some are negative, and they don't sum to one.

    Args:
        probs: p [B, C].
        variance: nu > 0.
        num_samples: S >= 1.
        generator: an `ExampleGenerator` gives each example its own draws.

    Raises:
        UserError: a number out of range, or rows that are no distributions.
    """
    check_probabilities(probs=probs)
    check_positive(variance=variance)
    check_count(num_samples=num_samples)
    return probs + variance**0.5 * example_normal((num_samples, *probs.shape), probs, generator)
