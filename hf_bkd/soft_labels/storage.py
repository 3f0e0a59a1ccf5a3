"""How the values of soft labels are stored, and what that loses.

| storage   | per view of C values                  | p' that is read back for p                             |
| --------- | ------------------------------------- | ------------------------------------------------------ |
| `float32` | `probs` [C]                           | p                                                      |
| `float16` | `probs` [C]                           | abs(p' - p) <= 2**-11 abs(p) + 2**-25                  |
| `uint8`   | classes: `probs` [C],                 | abs(sqrt(p') - sqrt(p)) <= 1/510 (*)                   |
|           | round(255 sqrt(p))                    |                                                        |
|           | labels: `probs` [C],                  | abs(arcsin(sqrt(p')) - arcsin(sqrt(p))) <= pi/1020,    |
|           | round(510/pi arcsin(sqrt(p)))         | and so abs(p' - p) <= pi/1020                          |
| `top_k`   | the largest: `classes` [k] and        | as float16 (*); the others share equally what is left: |
|           | their `probs` [k]; `tail` [1]         | `tail`, their sum                                      |
| `sampled` | `classes` [k] and `probs` [k], by     | p' is random with mean p but for float16's rounding;   |
|           | sampling (see `sampling`)             | 0 for all but k classes                                |

(*) before p' is divided by its sum. Steps of equal size in sqrt(p) are equal in the Hellinger distance, which is below
sqrt(C)/360 after that division; a top-k label is within `tail` + 2**-9 of p in total variation. `classes` are uint8
for up to 256 classes, else int32; `probs` and `tail` of `top_k` are float16.

Of a language model's next tokens `classes` stand in a column of their own, `teacher_tokens`, as uint16 for up to 2**16
tokens, so that each column is a list of as many entries as the row has tokens, and what packs rows packs them alike.
The `tail` of their `top_k` is what is missing to one. Positions whose next token isn't taught have zeros.

Class probabilities (`Categorical`) have all four; labels that are each there or not (`Bernoulli`) have no `top_k`, for
what it omits could be anything; numbers (`Gaussian`) are stored as `float32`, or as `float16` up to 65504.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..likelihoods import CATEGORICAL, SUM_TOLERANCE, Likelihood
from ..utils.checks import check_choice, check_count
from ..utils.errors import UserError

STORAGES = ("float16", "float32", "uint8", "top_k")
OF_NEXT_TOKENS = ("sampled", "top_k", "float16", "float32")
LARGEST = {"top_k": 10, "sampled": 16}  # k, if nobody says it
AUTO = "auto"
EXACT = "float32"
CHECKED_AT_ONCE = 8192  # rows
COARSE = 1 / 64  # of a number's standard deviation over the rows

Parts = dict[str, Any]  # arrays or tensors [..., L] by name


def chosen_storage(storage: str, likelihood: Likelihood) -> str:
    """Return a likelihood's own storage for ``"auto"``, or else the one that was asked for.

    Raises:
        UserError: an unknown storage, or one that such labels can't have.
    """
    if storage == AUTO:
        return likelihood.storages[0]
    check_choice((*STORAGES, OF_NEXT_TOKENS[0]), storage=storage)
    if storage == OF_NEXT_TOKENS[0]:
        raise UserError(
            "storage='sampled' is for the vocabularies of language models, and the soft labels are of "
            f"{likelihood.problem_type}: use {' or '.join(likelihood.storages)}"
        )
    if storage not in likelihood.storages:
        raise UserError(
            f"storage={storage!r} holds class probabilities alone, and the soft labels are of "
            f"{likelihood.problem_type}: use {' or '.join(likelihood.storages)}"
        )
    return storage


def encode(
    values: np.ndarray, storage: str, top_k: int = 10, likelihood: Likelihood = CATEGORICAL
) -> dict[str, np.ndarray]:
    """The arrays [..., L] that are stored for values [..., C].

    Args:
        values: class probabilities, or what else the likelihood says.
        storage: one of ``STORAGES``.
        top_k: k >= 1, how many classes ``"top_k"`` keeps; all of them if there are no more.
        likelihood: of the values.

    Raises:
        UserError: an unknown storage, ``top_k`` below 1, a distribution too flat for uint8, or a number too large for
            float16.
    """
    storage, values = chosen_storage(storage, likelihood), np.asarray(values)
    if storage == "uint8":
        return {"probs": likelihood.to_bytes(torch.from_numpy(values.astype(np.float64))).numpy()}
    if storage != "top_k":
        return {"probs": _as_floats(values, storage, likelihood)}
    check_count(top_k=top_k)
    classes = np.argsort(-values, axis=-1, kind="stable")[..., :top_k]
    largest = np.take_along_axis(values.astype(np.float64), classes, axis=-1)
    tail = (values.sum(axis=-1, dtype=np.float64, keepdims=True) - largest.sum(axis=-1, keepdims=True)).clip(0, 1)
    return {
        "classes": classes.astype(np.uint8 if values.shape[-1] <= 256 else np.int32),
        "probs": largest.astype(np.float16),
        "tail": tail.astype(np.float16),
    }


def _as_floats(values: np.ndarray, storage: str, likelihood: Likelihood) -> np.ndarray:
    """Return the values as a type of floats; UserError if it can't hold one, and a warning where it loses much."""
    with np.errstate(over="ignore"):
        stored = values.astype(storage)
    if storage == EXACT or likelihood.smallest:  # of probabilities, which all fit
        return stored
    if not np.isfinite(stored).all():
        raise UserError(
            f"storage='float16' holds numbers up to 65504, and one is {np.abs(values).max():g}: use float32"
        )
    flat, lost = (each.reshape(-1, values.shape[-1]) for each in (values, np.abs(stored - values)))
    spread = flat.std(axis=0)
    if (lost.max(axis=0, initial=0) > COARSE * spread)[spread > 0].any():
        warnings.warn(
            "storage='float16' rounds the numbers to more than 1/64 of their standard deviation: use float32, or "
            "subtract their mean",
            stacklevel=2,
        )
    return stored


def decode(parts: Mapping[str, Tensor], num_classes: int, likelihood: Likelihood = CATEGORICAL) -> Tensor:
    """Values float32 [..., C] of the stored tensors [..., L], on their device.

    Those of ``float32`` and ``float16`` are returned as they are stored; those of classes in others sum to one.
    """
    if "classes" in parts:
        largest, tail, classes = parts["probs"].float(), parts["tail"].float(), parts["classes"].long()
        share = tail / max(num_classes - classes.shape[-1], 1)
        probs = share.expand(*classes.shape[:-1], num_classes).scatter(-1, classes, largest)
        return probs / probs.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(probs.dtype).tiny)  # of none: zeros
    if parts["probs"].dtype == torch.uint8:
        return likelihood.from_bytes(parts["probs"])
    return parts["probs"].float()


def check_parts(
    parts: Mapping[str, Tensor],
    num_classes: int,
    numbers: Sequence[int] | np.ndarray | None = None,
    likelihood: Likelihood = CATEGORICAL,
) -> None:
    """Refuse rows [N, ...] that don't hold one answer, or one for each view, with a UserError on the first.

    The rows are checked block by block, and called by their ``numbers`` [N], or 0, 1, ... if these are not given.
    """
    count = len(parts["probs"])
    for start in range(0, max(count, 1), CHECKED_AT_ONCE):
        block = {name: part[start : start + CHECKED_AT_ONCE] for name, part in parts.items()}
        names = range(start, count) if numbers is None else numbers[start:]
        _check_block(block, num_classes, names, likelihood)


def shape_error(shape: Sequence[int], likelihood: Likelihood) -> UserError:
    """The error of soft labels of another shape than they must have."""
    least = f" with at least two {likelihood.called}" * (likelihood.least_values > 1)
    return UserError(
        f"soft labels must be [rows, {likelihood.called}] or [rows, views, {likelihood.called}]{least}, and these are "
        f"{list(shape)}"
    )


def _check_block(parts: Mapping[str, Tensor], num_classes: int, names: Sequence[int], likelihood: Likelihood) -> None:
    values, in_bytes = parts["probs"], parts["probs"].dtype == torch.uint8
    if num_classes < likelihood.least_values or ("classes" not in parts and values.shape[-1] != num_classes):
        raise shape_error(list(values.shape), likelihood)
    if "classes" in parts:
        _check_classes(parts, num_classes, names, likelihood)
        values = torch.cat([values, parts["tail"]], dim=-1)
    elif in_bytes:
        sums = values.float().square().sum(dim=-1) / 255**2
        _refuse_where(names, likelihood.problems_of_bytes(values), likelihood, {"sum": sums})
        return
    values = values.float()
    all_details = {"sum": values.sum(dim=-1), "minimum": values.amin(dim=-1), "maximum": values.amax(dim=-1)}
    details = {name: all_details[name] for name in likelihood.summaries}
    _refuse_where(names, likelihood.problems(values), likelihood, details)


def _check_classes(
    parts: Mapping[str, Tensor], num_classes: int, names: Sequence[int], likelihood: Likelihood
) -> None:
    """Refuse rows of ``top_k`` that name classes which there can't be."""
    classes = parts["classes"].long()
    ordered = classes.sort(dim=-1).values
    unknown = ((classes < 0) | (classes >= num_classes) | (classes != parts["classes"])).any(dim=-1)
    twice = (ordered[..., 1:] == ordered[..., :-1]).any(dim=-1)
    crowded = (parts["tail"] > SUM_TOLERANCE).any(dim=-1) & (classes.shape[-1] >= num_classes)
    problems = {
        f"names a class outside 0 to {num_classes - 1}": unknown,
        "names a class twice": twice,
        "leaves something to other classes though it names all of them": crowded,
    }
    _refuse_where(names, problems, likelihood, {})


def _refuse_where(
    names: Sequence[int], problems: dict[str, Tensor], likelihood: Likelihood, details: Mapping[str, Tensor]
) -> None:
    for problem, wrong in problems.items():
        if not wrong.any():
            continue
        at = tuple(torch.nonzero(wrong)[0].tolist())
        view = f", view {at[1]}," if len(at) > 1 and wrong.shape[1] > 1 else ""
        facts = [f"{name} {values[at].item():.4g}" for name, values in details.items()]
        facts.append(f"{int(wrong.reshape(len(wrong), -1).any(dim=1).sum())} such rows")
        raise UserError(
            f"row {names[at[0]]}{view} of the soft labels {problem} ({', '.join(facts)}): {likelihood.remedy}, and "
            "label again"
        )
