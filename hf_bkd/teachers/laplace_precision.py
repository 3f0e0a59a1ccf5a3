"""The prior precision of a Laplace posterior: of least validation NLL, or of greatest evidence."""

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..likelihoods import Likelihood
from ..models.heads import HeadData
from ..utils.checks import check_count
from ..utils.random import standard_normal
from .curvature import Curvature
from .laplace_links import linked

PRECISION_RANGE = (1e-4, 1e6)  # of numbers it is one over their variance's
UNLIKE = 10.0  # standard deviations of numbers differ so much that no delta is right for all
POINTS = 2.3  # of the grid for each power of ten
SEARCH_DRAWS = 64
CHUNK = 2**24  # how many numbers the search for a precision holds at a time
LEAST_SHARE = 1e-6  # of squared errors, that is noise
ROUNDS = 100


def by_validation(curvature: Curvature, data: HeadData, link: str, num_samples: int) -> float:
    """Find delta of least negative log-likelihood on what the head saw of held-out examples.

    The likelihood is that of the mean of ``num_samples`` draws, averaged over several such means, or that in closed
    form. All candidates share one set of draws, so that their difference is not noise, and half of the draws mirror
    the others, so that odd moments vanish, which would otherwise decide between nearly equal candidates.

    Raises:
        UserError: ``num_samples`` below 1.
    """
    check_count(num_samples=num_samples)
    projected = curvature.project(data.features)

    def nll(precision: float) -> float:
        likelihood, outputs = predictive(curvature, projected, data, link, precision, num_samples)
        labels = data.labels.expand(len(outputs), *data.labels.shape)
        return likelihood.label_loss(outputs.double(), labels).mean().item()

    return least(nll, precision_range(data))


def predictive(
    curvature: Curvature, projected: Tensor, data: HeadData, link: str, precision: float, num_samples: int
) -> tuple[Likelihood, Tensor]:
    """Compute outputs [R, N, K] of R means of S draws, by some examples at a time, and what they mean.

    The draws are the same at every call, and those of the second half of the R means mirror those of the first; R is 1
    where the link is in closed form.
    """
    likelihood, pairs = data.likelihood, math.ceil(SEARCH_DRAWS / (2 * num_samples))
    size = max(1, CHUNK // (2 * pairs * num_samples * data.logits.shape[-1]))
    generator = torch.Generator(data.logits.device).manual_seed(0)
    draws, kind, parts = link == "mc" and not likelihood.exact, likelihood, []
    for part, outputs in zip(projected.split(size), data.logits.split(size), strict=True):
        covariance, noise = curvature.covariance(part, precision), None
        if draws:
            noise = standard_normal((pairs * num_samples, *outputs.shape), outputs, generator)
            noise = torch.cat([noise, -noise])
        if likelihood.exact:
            kind, total = likelihood.marginal(outputs, covariance.variance())
            parts.append(total[None])
        else:
            drawn = linked(link, outputs, covariance, noise, likelihood).unflatten(
                0, (-1, num_samples if draws else 1)
            )
            parts.append(likelihood.averaged_outputs(drawn.transpose(0, 1)))
    return kind, torch.cat(parts, dim=1)


def calibrated_noise(curvature: Curvature, projected: Tensor, data: HeadData, precision: float) -> Tensor:
    """Find sigma^2 [C] > 0 such that squared errors of held-out numbers are on average what is predicted.

    That is mean_n r_nc^2 / (v_nc + sigma_c^2) = 1 for errors r and the posterior's variances v, which depend on sigma.
    At the precision of least negative log-likelihood these are sigma's most likely values.

    Args:
        curvature: at the likelihood's own variance.
        projected: what it made of the features.
        data: of held-out examples.
        precision: delta.
    """
    squares = (data.labels - data.logits).double().square()
    own, most = data.likelihood.noise(data.logits)[0].double(), squares.mean(dim=0)
    noise = most
    for _ in range(ROUNDS):  # decreases from the mean squared error towards the largest solution
        variance = curvature.scaled(own / noise).covariance(projected, precision).variance().double()
        last, noise = noise, (squares / (variance / noise + 1)).mean(dim=0).maximum(LEAST_SHARE * most)
        if torch.allclose(last, noise, rtol=1e-7, atol=0):
            break
    return noise


def by_validation_with_noise(curvature: Curvature, data: HeadData) -> float:
    """Find delta of least negative log-likelihood of held-out numbers, at its :func:`calibrated_noise`."""
    projected = curvature.project(data.features)
    squares, own = (data.labels - data.logits).double().square(), data.likelihood.noise(data.logits)[0].double()

    def nll(precision: float) -> float:
        noise = calibrated_noise(curvature, projected, data, precision)
        total = noise + curvature.scaled(own / noise).covariance(projected, precision).variance().double()
        return ((squares / total + total.log()) / 2).mean().item()

    return least(nll, precision_range(data))


def by_evidence(curvature: Curvature, data: HeadData, head: nn.Linear) -> float:
    """Find delta of greatest marginal likelihood, -(log det(H + delta I) - P log delta + delta |w|^2) / 2."""
    eigenvalues = curvature.eigenvalues().double()
    norm = sum(parameter.detach().double().square().sum().item() for parameter in head.parameters())

    def cost(delta: float) -> float:
        return (torch.log1p(eigenvalues / delta).sum().item() + delta * norm) / len(data.labels)

    return least(cost, precision_range(data))


def precision_range(data: HeadData) -> tuple[float, float]:
    """Return where to look for delta: the weights of a head that predicts numbers grow with the numbers' unit."""
    low, high = PRECISION_RANGE
    if not data.likelihood.target_has_variance:
        return low, high
    variances = data.labels.double().var(dim=0, correction=0)
    variances = variances[variances > 0].tolist() or [1.0]
    if max(variances) > UNLIKE**2 * min(variances):
        warnings.warn(
            f"the numbers to predict have standard deviations from {math.sqrt(min(variances)):.3g} to "
            f"{math.sqrt(max(variances)):.3g}, and one prior precision for all of their weights makes some posteriors "
            "too narrow or too wide: divide each number by its own standard deviation before the network is trained",
            stacklevel=2,
        )
    return low / max(variances), high / min(variances)


def least(cost: Callable[[float], float], bounds: tuple[float, float] = PRECISION_RANGE) -> float:
    """Find delta within bounds of least cost on a logarithmic grid, then by a search around its best."""
    from scipy.optimize import minimize_scalar

    low, high = map(math.log, bounds)
    points = 1 + round(POINTS * (high - low) / math.log(10))
    grid = torch.linspace(low, high, points, dtype=torch.float64).tolist()
    costs = [cost(math.exp(point)) for point in grid]
    best = min(range(len(grid)), key=costs.__getitem__)
    around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    minimum = minimize_scalar(lambda point: cost(math.exp(point)), bounds=around, method="bounded")
    return math.exp(minimum.x if minimum.fun < costs[best] else grid[best])
