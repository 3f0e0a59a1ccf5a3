"""Checks of arguments: each raises a UserError that names the argument, its value and what it must be."""

import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .errors import UserError

SUM_TOLERANCE = 1e-4  # of probabilities in float32 over many classes
SYMMETRY_TOLERANCE = 1e-5  # relative, of an inverse in float32


def check_positive(**arguments: float | Tensor) -> None:
    """Check that all numbers of each argument are finite and above 0."""
    for name, value in arguments.items():
        _check_all(name, value, "above 0", lambda numbers: numbers > 0)


def check_not_negative(**arguments: float | Tensor) -> None:
    """Check that all numbers of each argument are finite and at least 0."""
    for name, value in arguments.items():
        _check_all(name, value, "at least 0", lambda numbers: numbers >= 0)


def _check_all(name: str, value: float | Tensor, what: str, allowed: Callable[[Tensor], Tensor]) -> None:
    try:
        flat = torch.as_tensor(value, dtype=torch.float64).flatten()
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{name} must be {what} and finite, and it is {value!r}") from None
    bad = flat[~(allowed(flat) & (flat < math.inf))]
    if len(bad):
        raise UserError(f"{name} must be {what} and finite, and it is {bad[0].item():g}")


def check_share(**arguments: float) -> None:
    """Check that each argument is in [0, 1]."""
    check_between(0, 1, **arguments)


def check_between(lowest: float, highest: float, **arguments: float) -> None:
    """Check that each argument is in [lowest, highest]."""
    for name, value in arguments.items():
        if not lowest <= value <= highest:
            raise UserError(f"{name} must be between {lowest:g} and {highest:g}, and it is {value:g}")


def check_count(least: int = 1, **arguments: int) -> None:
    """Check that each argument is a whole number of at least ``least``."""
    for name, value in arguments.items():
        whole = isinstance(value, numbers.Real) and not isinstance(value, bool) and value % 1 == 0
        if not (whole and value >= least):
            shown = f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else repr(value)
            raise UserError(f"{name} must be a whole number of at least {least}, and it is {shown}")


def check_choice(choices: Iterable[Any], **arguments: Any) -> None:
    """Check that each argument is one of ``choices``."""
    choices = tuple(choices)
    for name, value in arguments.items():
        if value not in choices:
            raise UserError(f"{name} is {value!r}; it must be one of {', '.join(map(str, choices))}")


def check_shape(name: str, value: Tensor, *shape: int | None) -> None:
    """Check that ``value`` has this shape; ``None`` stands for any size."""
    if value.ndim != len(shape) or any(s not in (None, n) for s, n in zip(shape, value.shape, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise UserError(f"{name} must have the shape [{wanted}], and it has {list(value.shape)}")


def check_probabilities(**arguments: Tensor) -> None:
    """Check that each argument [..., C] holds distributions over its last dimension."""
    for name, value in arguments.items():
        least, sums = value.min().item(), value.sum(dim=-1)
        if not least >= 0:
            raise UserError(f"{name} must be at least 0 everywhere, and its least value is {least:g}")
        worst = sums.flatten()[(sums - 1).abs().argmax()].item()
        if not abs(worst - 1) <= SUM_TOLERANCE:
            raise UserError(f"{name} must sum to one over the classes, and one row sums to {worst:g}")


def cholesky(name: str, covariance: Tensor) -> Tensor:
    """Factorize a symmetric, positive definite matrix [..., d, d], or raise; returns the lower factor in float64."""
    covariance = covariance.double()
    if covariance.ndim < 2 or covariance.shape[-1] != covariance.shape[-2]:
        raise UserError(f"{name} must be a square matrix, and its shape is {list(covariance.shape)}")
    asymmetry = (covariance - covariance.mT).abs().max().item()
    if not asymmetry <= SYMMETRY_TOLERANCE * covariance.abs().max().item():
        raise UserError(f"{name} must be symmetric, and it differs from its transpose by {asymmetry:g}")
    factor, info = torch.linalg.cholesky_ex(covariance)
    if info.any():
        least = torch.linalg.eigvalsh(covariance).min().item()
        raise UserError(f"{name} must be positive definite, and its least eigenvalue is {least:g}")
    return factor
