"""How class probabilities are stored, and what that loses.

| storage   | per view of C classes               | p' that is read back for p                             |
| --------- | ----------------------------------- | ------------------------------------------------------ |
| `float32` | `probs` [C]                         | p                                                      |
| `float16` | `probs` [C]                         | abs(p' - p) <= 2**-11 p + 2**-25                       |
| `uint8`   | `probs` [C], round(255 sqrt(p))     | abs(sqrt(p') - sqrt(p)) <= 1/510 (*)                   |
| `top_k`   | the largest: `classes` [k] and      | as float16 (*); the others share equally what is left: |
|           | their `probs` [k]; `tail` [1]       | `tail`, their sum                                      |

(*) before p' is divided by its sum. Steps of equal size in sqrt(p) are equal in the Hellinger distance, which is below
sqrt(C)/360 after that division; a top-k label is within `tail` + 2**-9 of p in total variation. `classes` are uint8
for up to 256 classes, else int32; `probs` and `tail` of `top_k` are float16.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..utils.checks import check_choice, check_count
from ..utils.errors import UserError

STORAGES = ("float16", "float32", "uint8", "top_k")
EXACT = "float32"
SUM_TOLERANCE = 5e-3
CHECKED_AT_ONCE = 8192  # rows

Parts = dict[str, Any]  # arrays or tensors [..., L] by name


def encode(probs: np.ndarray, storage: str, top_k: int = 10) -> dict[str, np.ndarray]:
    """The arrays [..., L] that are stored for probabilities [..., C].

    Args:
        probs: distributions over C classes.
        storage: one of ``STORAGES``.
        top_k: k >= 1, how many classes ``"top_k"`` keeps; all of them if there are no more.

    Raises:
        UserError: an unknown storage, ``top_k`` below 1, or a distribution too flat for uint8.
    """
    check_choice(STORAGES, storage=storage)
    probs = np.asarray(probs)
    if storage == "uint8":
        roots = np.rint(255 * np.sqrt(probs.astype(np.float64))).clip(0, 255).astype(np.uint8)
        if not roots.any(axis=-1).all():
            raise UserError(
                "storage='uint8' can't hold a distribution in which each class has less than 1 / 260,100: use float16 "
                "or top_k"
            )
        return {"probs": roots}
    if storage != "top_k":
        return {"probs": probs.astype(storage)}
    check_count(top_k=top_k)
    classes = np.argsort(-probs, axis=-1, kind="stable")[..., :top_k]
    largest = np.take_along_axis(probs.astype(np.float64), classes, axis=-1)
    tail = (probs.sum(axis=-1, dtype=np.float64, keepdims=True) - largest.sum(axis=-1, keepdims=True)).clip(0, 1)
    return {
        "classes": classes.astype(np.uint8 if probs.shape[-1] <= 256 else np.int32),
        "probs": largest.astype(np.float16),
        "tail": tail.astype(np.float16),
    }


def decode(parts: Mapping[str, Tensor], num_classes: int) -> Tensor:
    """Probabilities float32 [..., C] of the stored tensors [..., L], on their device.

    Those of ``float32`` and ``float16`` are returned as they are stored; the others sum to one.
    """
    if "classes" in parts:
        largest, tail, classes = parts["probs"].float(), parts["tail"].float(), parts["classes"].long()
        share = tail / max(num_classes - classes.shape[-1], 1)
        probs = share.expand(*classes.shape[:-1], num_classes).scatter(-1, classes, largest)
    elif parts["probs"].dtype == torch.uint8:
        probs = parts["probs"].float().square()
    else:
        return parts["probs"].float()
    return probs / probs.sum(dim=-1, keepdim=True)


def check_parts(parts: Mapping[str, Tensor], num_classes: int, numbers: np.ndarray | None = None) -> None:
    """Refuse rows [N, ...] that don't hold one distribution, or one for each view, with a UserError on the first.

    The rows are checked block by block, and called by their ``numbers`` [N], or 0, 1, ... if these are not given.
    """
    count = len(parts["probs"])
    for start in range(0, max(count, 1), CHECKED_AT_ONCE):
        block = {name: part[start : start + CHECKED_AT_ONCE] for name, part in parts.items()}
        names = range(start, count) if numbers is None else numbers[start:]
        _check_block(block, num_classes, names)


def _check_block(parts: Mapping[str, Tensor], num_classes: int, names: Sequence[int]) -> None:
    probs = parts["probs"]
    if num_classes < 2 or ("classes" not in parts and probs.shape[-1] != num_classes):
        raise UserError(
            f"soft labels must be [rows, classes] with at least two classes, and these are {list(probs.shape)}"
        )
    if probs.dtype == torch.uint8 and "classes" not in parts:
        sums = probs.float().square().sum(dim=-1) / 255**2
        tolerance = (1 + num_classes**0.5 / 510) ** 2 - 1 + SUM_TOLERANCE  # each root is off by 1/510 at most
        _refuse_where(names, {"does not sum to one": ~((sums > 0) & ((sums - 1).abs() <= tolerance))}, sums)
        return
    if "classes" in parts:
        classes = parts["classes"].long()
        ordered = classes.sort(dim=-1).values
        unknown = ((classes < 0) | (classes >= num_classes) | (classes != parts["classes"])).any(dim=-1)
        twice = (ordered[..., 1:] == ordered[..., :-1]).any(dim=-1)
        probs = torch.cat([probs, parts["tail"]], dim=-1)
        _refuse_where(names, {f"names a class outside 0 to {num_classes - 1}": unknown, "names a class twice": twice})
        crowded = (parts["tail"] > SUM_TOLERANCE).any(dim=-1) & (classes.shape[-1] >= num_classes)
        _refuse_where(names, {"leaves something to other classes though it names all of them": crowded})
    probs = probs.float()
    sums = probs.sum(dim=-1)
    problems = {
        "holds a value that is not a finite number": ~probs.isfinite().all(dim=-1),
        "holds a negative probability": (probs < 0).any(dim=-1),
        "does not sum to one": ~((sums - 1).abs() <= SUM_TOLERANCE),
    }
    _refuse_where(names, problems, sums, probs.amin(dim=-1))


def _refuse_where(
    names: Sequence[int], problems: dict[str, Tensor], sums: Tensor | None = None, lowest: Tensor | None = None
) -> None:
    for problem, wrong in problems.items():
        if not wrong.any():
            continue
        at = tuple(torch.nonzero(wrong)[0].tolist())
        view = f", view {at[1]}," if len(at) > 1 and wrong.shape[1] > 1 else ""
        numbers = {"sum": sums, "minimum": lowest}
        details = [f"{name} {values[at].item():.4g}" for name, values in numbers.items() if values is not None]
        details.append(f"{int(wrong.reshape(len(wrong), -1).any(dim=1).sum())} such rows")
        raise UserError(
            f"row {names[at[0]]}{view} of the soft labels {problem} ({', '.join(details)}): pass class probabilities, "
            "not logits or counts, and label again"
        )
