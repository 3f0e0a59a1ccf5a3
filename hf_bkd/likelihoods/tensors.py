"""The arithmetic that likelihoods share, and their checks of labels and probabilities."""

import math

import torch
from torch import Tensor

from ..utils.errors import UserError


def averaged(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Average values [S, ..., C] over S draws with weights [S, ...] that sum to one (equal if not given)."""
    if weights is None:
        return values[0] if len(values) == 1 else values.mean(dim=0)
    return (weights[..., None] * values).sum(dim=0)


def wide(outputs: Tensor) -> Tensor:
    """Return outputs at least in float32."""
    return outputs if outputs.dtype == torch.float64 else outputs.float()


def log_mean(logs: Tensor, weights: Tensor | None) -> Tensor:
    """Return the logarithm of the mean [..., C] of what ``logs`` [S, ..., C] are the logarithms of."""
    weighted = logs - math.log(len(logs)) if weights is None else logs + weights[..., None].log()
    return weighted.logsumexp(dim=0)


def label_matrix(labels: Tensor, num_values: int, wanted: str, single: bool) -> Tensor:
    """Return labels [N, C] in float32 or float64; those of a ``single`` value may lack their last dimension."""
    if labels.ndim == 1 and single:
        labels = labels[:, None]
    if labels.ndim != 2:
        raise UserError(
            f"labels must be {wanted}, and they are {labels.dtype} of shape {list(labels.shape)}: for class indices "
            "pass problem_type='single_label_classification'"
        )
    if labels.shape[1] != num_values:
        raise UserError(
            f"an example has {labels.shape[1]} labels, and the network predicts {num_values}: take a network that "
            "predicts as many"
        )
    return wide(labels)


def without_nan(labels: Tensor) -> Tensor:
    """Return which rows of labels [..., C] hold none that is missing: bool [...]."""
    return (
        ~labels.isnan().any(dim=-1)
        if labels.is_floating_point()
        else torch.ones(labels.shape[:-1], dtype=torch.bool, device=labels.device)
    )


def probability_problems(values: Tensor) -> dict[str, Tensor]:
    """Return what no probabilities [..., C] are, and where it is so: sentence -> bool [...]."""
    return {
        "holds a value that is not a finite number": ~values.isfinite().all(dim=-1),
        "holds a negative probability": (values < 0).any(dim=-1),
    }
