"""The sharpness of the loss around a model's weights: the Hessian's largest eigenvalue and its trace.

The Hessian is only ever multiplied by vectors, by differentiating twice backwards (Pearlmutter 1994). The products of
curvlinops 3.0, forwards over backwards, are wrong for the weights of layer norms (in torch 2.15).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..data.columns import is_soft_label_column
from ..models.calling import Inputs, call_network, evaluation_mode, logits_of, split, to_network
from ..utils.checks import check_count, check_probabilities
from ..utils.errors import UserError

TOLERANCE = 1e-5  # of the eigenvalue, relative
MOST_RESTARTS = 100


class Sharpness(NamedTuple):
    """A Hessian's largest eigenvalue and an estimate of its trace, in nats per squared unit of weight.

    ``trace_error`` is the estimate's standard error, NaN of a single sample.
    """

    largest_eigenvalue: float
    trace: float
    trace_error: float


def sharpness(
    model: nn.Module,
    data: Iterable[Mapping | tuple],
    *,
    target: str = "labels",
    num_samples: int = 100,
    seed: int = 0,
) -> Sharpness:
    """Measure the sharpness of the mean cross-entropy over ``data``, in the weights that require a gradient.

    Args:
        model: a transformers or timm model or a plain module that returns logits; in evaluation mode meanwhile, and as
            before afterwards.
        data: batches: dicts with the ``target``, or (inputs, target) pairs. Read once and kept in memory; each product
            goes through all of them, so pass a few thousand examples of a large set.
        target: the entry of dicts that holds the cross-entropy's target: class indices [B], or probabilities [B, C]
            such as ``teacher_probs``, for the loss that a student is trained with.
        num_samples: random vectors that the trace is estimated with (Hutchinson 1989), each one product. The largest
            eigenvalue takes about 20 to 60 further ones (Lanczos), to 1e-5 of its size.
        seed: of those vectors; the same seed gives the same result.

    Raises:
        UserError: ``num_samples`` below 1, no examples, batches without the target, a target that doesn't fit the
            logits, a model without trainable weights, or a Hessian that is not finite or whose largest eigenvalue is
            lost in rounding errors.
    """
    check_count(num_samples=num_samples)
    batches = [_pair(batch, target) for batch in data]
    if not sum(len(targets) for _, targets in batches):
        raise UserError("data holds no examples to measure the sharpness on")
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not weights:
        raise UserError(f"no weight of the {type(model).__name__} requires a gradient: model.requires_grad_(True)")
    generator = torch.Generator().manual_seed(seed)
    # attention's fast kernels can be differentiated but once
    with evaluation_mode(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        product = partial(_product, model, weights, batches)
        like = nn.utils.parameters_to_vector(weights).detach()
        trace, error = _trace(product, like, num_samples, generator)
        return Sharpness(_largest_eigenvalue(product, like, generator), trace, error)


def _pair(batch: Mapping | tuple, target: str) -> tuple[Inputs, Tensor]:
    if not isinstance(batch, Mapping):
        return split(batch)
    if target not in batch:
        raise UserError(f"target is {target!r}, and the batches hold only {', '.join(batch)}")
    targets = {name for name in batch if name in (target, "labels") or is_soft_label_column(name)}
    return {name: value for name, value in batch.items() if name not in targets}, batch[target]


def _product(model: nn.Module, weights: list[Tensor], batches: list[tuple[Inputs, Tensor]], vector: Tensor) -> Tensor:
    """Multiply the Hessian of the mean cross-entropy by ``vector`` [P]."""
    count = sum(len(targets) for _, targets in batches)
    parts = [part.view_as(w) for part, w in zip(vector.split([w.numel() for w in weights]), weights, strict=True)]
    total = torch.zeros_like(vector)
    for inputs, targets in batches:
        logits = logits_of(call_network(model, to_network(inputs, model)))
        loss = _cross_entropy(logits, targets.to(logits.device)) / count
        gradient = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
        slope = sum((g * part).sum() for g, part in zip(gradient, parts, strict=True))
        second = torch.autograd.grad(slope, weights, materialize_grads=True)
        total += torch.cat([part.flatten() for part in second])
    return total


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    classes = logits.shape[-1]
    if targets.is_floating_point():
        if targets.shape != logits.shape:
            raise UserError(f"target has the shape {list(targets.shape)}, and the logits have {list(logits.shape)}")
        check_probabilities(target=targets)
        return F.cross_entropy(logits, targets.to(logits.dtype), reduction="sum")
    if targets.ndim != 1 or targets.min() < 0 or targets.max() >= classes:
        low, high = int(targets.min()), int(targets.max())
        raise UserError(
            f"target must be class indices [B] in 0 to {classes - 1} or probabilities [B, {classes}]; it is of the "
            f"shape {list(targets.shape)}, from {low} to {high}"
        )
    return F.cross_entropy(logits, targets.long(), reduction="sum")


def _trace(
    product: Callable[[Tensor], Tensor], like: Tensor, num_samples: int, generator: torch.Generator
) -> tuple[float, float]:
    """Return the mean of v^T H v over random signs v, and its standard error."""
    samples = torch.empty(num_samples, dtype=torch.float64)
    for i in range(num_samples):
        signs = torch.randint(2, like.shape, generator=generator).to(like) * 2 - 1
        samples[i] = signs.double() @ product(signs).double()
    if not samples.isfinite().all():
        raise UserError("the Hessian is not finite: look for NaN in the data, or for logits that overflow")
    error = samples.std().item() / math.sqrt(num_samples) if num_samples > 1 else math.nan
    return samples.mean().item(), error


def _largest_eigenvalue(product: Callable[[Tensor], Tensor], like: Tensor, generator: torch.Generator) -> float:
    def multiply(vector: np.ndarray) -> np.ndarray:
        return product(torch.from_numpy(vector).to(like).flatten()).double().cpu().numpy()

    operator = LinearOperator((len(like), len(like)), multiply, dtype="float64")
    start = torch.randn(len(like), generator=generator, dtype=torch.float64).numpy()
    if not multiply(start).any():
        return 0.0  # ARPACK would find no vector to start with
    try:
        settings = {"v0": start, "tol": TOLERANCE, "maxiter": MOST_RESTARTS, "return_eigenvectors": False}
        return eigsh(operator, 1, which="LA", **settings).item()
    except ArpackNoConvergence:
        raise UserError("the largest eigenvalue is lost in rounding errors: pass model.double()") from None
