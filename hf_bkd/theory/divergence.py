"""The divergence between a student's and its teacher's distribution over weights (arXiv 2605.13143).

The paper relates teacher and student by the *distillation divergence* K = E_D KL(student || teacher), over the weights
that training on a data set D gives; `gap_bounds` has what follows for the student's generalization. Only the paper's
statements and single lines of its proofs could be recovered: what is marked "derived here" follows from those lines,
and the paper's own constants may differ.

Weights are matrices [k, d], of k outputs and d features, with matrix normal distributions MN(M, I_k, S): independent
rows with one covariance S [d, d]. Everything is computed in float64; divergences are in nats.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..utils.checks import check_count, check_positive, check_shape, cholesky
from ..utils.errors import UserError


class Divergence(NamedTuple):
    """The parts of K, in nats.

    bias: >= 0, as the student's mean is not the best one of its rank.
    variance: >= 0, as the student's covariance is not the teacher's.
    rank: >= 0, what no mean of that rank avoids.
    cross: of either sign, as the deviation from the best mean has a component in directions that the rank cuts off; 0
        if it stays within the directions of the best mean.
    """

    bias: float
    variance: float
    rank: float
    cross: float

    @property
    def total(self) -> float:
        """The sum of the parts."""
        return sum(self)


def distillation_divergence(
    teacher_mean: Tensor,
    teacher_covariance: Tensor,
    student_mean: Tensor,
    student_covariance: Tensor | None,
    rank: int | None = None,
) -> Divergence:
    """Split KL(MN(M_S, I, S_S) || MN(M_T, I, S_T)) in four parts (arXiv 2605.13143, linear Gaussian; derived here).

    With A_T = M_T S_T^-1/2, its truncation A_r to the r largest of its singular values s_i, and A_S = M_S S_T^-1/2:

        bias = |A_S - A_r|^2 / 2        variance = k/2 (tr(S_T^-1 S_S) - d - log det(S_T^-1 S_S))
        rank = sum_{i>r} s_i^2 / 2      cross = <A_S - A_r, A_r - A_T>

    Args:
        teacher_mean: M_T [k, d]. Leading dimensions, of all four tensors, are data sets over which K is averaged.
        teacher_covariance: S_T [d, d].
        student_mean: M_S [k, d].
        student_covariance: S_S [d, d].
        rank: r of the student's mean, 1 to min(k, d), the default. The parts add up to the divergence whatever the
            mean's actual rank is.

    Raises:
        UserError: no student covariance, a matrix of another shape or not finite, a covariance that is not symmetric
            and positive definite, or a rank out of its range.
    """
    if student_covariance is None:
        raise UserError(
            "student_covariance is None: the divergence of a deterministic student is infinite, so pass a covariance, "
            "such as that of the student's own Laplace posterior"
        )
    teacher, root = _whitened(teacher_mean, teacher_covariance)
    k, d = teacher.shape[-2:]
    student = _solve(root, _matrix("student_mean", student_mean, k, d))
    student_root = cholesky("student_covariance", _matrix("student_covariance", student_covariance, d, d))
    best = _truncated(teacher, rank)
    relative = torch.linalg.solve_triangular(root, student_root, upper=False)
    log_det = 2 * relative.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    return Divergence(
        bias=_mean_inner(student - best, student - best) / 2,
        variance=k / 2 * (_mean_inner(relative, relative) - d - log_det.mean().item()),
        rank=_mean_inner(teacher - best, teacher - best) / 2,
        cross=_mean_inner(student - best, best - teacher),
    )


def best_student(teacher_mean: Tensor, teacher_covariance: Tensor, rank: int) -> Tensor:
    """Find the mean [k, d] of rank r with the least divergence from the teacher, whose bias and cross parts are 0.

    It is the truncated singular value decomposition in the teacher's metric (Eckart-Young). Arguments and errors are
    those of :func:`distillation_divergence`.
    """
    teacher, root = _whitened(teacher_mean, teacher_covariance)
    return _truncated(teacher, rank) @ root.mT


def conjugate_posterior(inputs: Tensor, labels: Tensor, noise_std: float, prior_std: float) -> tuple[Tensor, Tensor]:
    """Compute the posterior mean [k, d] and covariance [d, d] of a linear model with Gaussian noise and prior.

    S = (X X^T / nu^2 + I / tau^2)^-1 and M = Y X^T S / nu^2.

    Args:
        inputs: X [d, n], one example in each column; leading dimensions are data sets.
        labels: Y [k, n].
        noise_std: nu > 0 of the labels.
        prior_std: tau > 0 of the weights.

    Raises:
        UserError: a standard deviation that is not above 0, or a matrix of another shape or not finite.
    """
    check_positive(noise_std=noise_std, prior_std=prior_std)
    inputs = _matrix("inputs", inputs)
    labels = _matrix("labels", labels, None, inputs.shape[-1])
    identity = torch.eye(inputs.shape[-2]).to(inputs)
    root = torch.linalg.cholesky(inputs @ inputs.mT / noise_std**2 + identity / prior_std**2)
    mean = torch.cholesky_solve(inputs @ labels.mT / noise_std**2, root).mT
    return mean.contiguous(), torch.cholesky_solve(identity.expand_as(root), root).contiguous()


class LabelDivergence(NamedTuple):
    """The parts of a bound on a divergence of labels, in nats, both >= 0."""

    bias: float  # of the teacher's mean
    variance: float  # of the teacher's covariance

    @property
    def total(self) -> float:
        """The sum of the parts."""
        return sum(self)


def label_divergence_bound(
    inputs: Tensor, teacher_mean: Tensor, teacher_covariance: Tensor, true_weights: Tensor, noise_std: float
) -> LabelDivergence:
    """Bound KL(the teacher's labels || true labels) of n inputs from above (arXiv 2605.13143; derived here).

    True labels are MN(W* X, I, nu^2 I). The teacher's are drawn likewise, with weights from its posterior; since KL is
    convex, that of the mixture is at most the mean KL of its components:

        bias = |(M_T - W*) X|^2 / (2 nu^2)        variance = k tr(X^T S_T X) / (2 nu^2)

    Args:
        inputs: X [d, n].
        teacher_mean: M_T [k, d].
        teacher_covariance: S_T [d, d].
        true_weights: W* [k, d].
        noise_std: nu > 0.

    Raises:
        UserError: as :func:`distillation_divergence`, or a standard deviation that is not above 0.
    """
    check_positive(noise_std=noise_std)
    mean = _matrix("teacher_mean", teacher_mean)
    k, d = mean.shape[-2:]
    root = cholesky("teacher_covariance", _matrix("teacher_covariance", teacher_covariance, d, d))
    inputs = _matrix("inputs", inputs, d)
    shift = (mean - _matrix("true_weights", true_weights, k, d)) @ inputs
    spread, scale = root.mT @ inputs, 2 * noise_std**2
    return LabelDivergence(_mean_inner(shift, shift) / scale, k * _mean_inner(spread, spread) / scale)


def _whitened(mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the teacher's M S^-1/2 [..., k, d], and the lower triangular root L of its covariance S = L L^T.

    S^-1/2 is L^-T here; another root of S rotates the rows and changes no part of the divergence.
    """
    mean = _matrix("teacher_mean", mean)
    d = mean.shape[-1]
    root = cholesky("teacher_covariance", _matrix("teacher_covariance", covariance, d, d))
    return _solve(root, mean), root


def _solve(root: Tensor, mean: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(root, mean.mT, upper=False).mT


def _truncated(matrix: Tensor, rank: int | None) -> Tensor:
    most = min(matrix.shape[-2:])
    if rank is None:
        return matrix
    check_count(rank=rank)
    if rank > most:
        raise UserError(f"rank must be at most {most} for means of shape {list(matrix.shape[-2:])}, and it is {rank}")
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left[..., :rank] * values[..., None, :rank] @ right[..., :rank, :]


def _mean_inner(first: Tensor, second: Tensor) -> float:
    """Average the inner product of matrices over data sets."""
    return (first * second).sum(dim=(-2, -1)).mean().item()


def _matrix(name: str, value: Tensor, rows: int | None = None, columns: int | None = None) -> Tensor:
    """Convert matrices [..., rows, columns] to float64; ``None`` stands for any size."""
    check_shape(name, value, *value.shape[:-2], rows, columns)
    if not value.isfinite().all():
        raise UserError(f"{name} must be finite, and it holds {value[~value.isfinite()][0].item()}")
    return value.double()
