"""What students and their teachers know of their limits: entropies and their parts, and sets that hold the label."""

from typing import Any

from torch import Tensor, nn

from ..conformal import conformal_report
from ..metrics import auroc
from ..models.problem_types import is_dirichlet
from ..teachers import DeterministicTeacher, DirichletStudent, Teacher, entropies_of_all
from ..training.batched_dataset import BatchedDataset
from ..uncertainty import EntropyParts
from .cell import Cell

LEVEL = 0.9  # of the sets
SPLITS = 20


def measured_limits(cell: Cell, student: nn.Module, prediction: Tensor, teacher: Teacher | None) -> dict[str, Any]:
    """Measure a student, and its teacher, on the test split and on out-of-distribution examples.

    Args:
        cell: of the study.
        student: the trained network.
        prediction: its class probabilities for the test split.
        teacher: that taught it, if one did.

    Returns:
        ``entropy``, the student's parts averaged over the test split, in nats; ``ood_auroc``, for each set of
        out-of-distribution examples how well the entropy and, where there are draws or a Dirichlet, its epistemic part
        tell them from the test split's, the student's and the ``teacher``'s; ``sets`` of
        :func:`~hf_bkd.conformal.conformal_report` at the level of 90 %.
    """
    kind = DirichletStudent if is_dirichlet(student) else DeterministicTeacher
    own = {"": kind(student)} | ({} if teacher is None else {"teacher ": teacher})
    others = {name: cell.batched(rows) for name, rows in cell.splits.oods.items()}
    inside = {who: _parts(cell, each, cell.test) for who, each in own.items()}
    ood = {
        name: {
            f"{who}{part}": value
            for who, each in own.items()
            for part, value in _aurocs(inside[who], _parts(cell, each, rows), each.num_draws(2) > 1).items()
        }
        for name, rows in others.items()
    }
    return {
        "entropy": {name: value.mean().item() for name, value in inside[""]._asdict().items()},
        "ood_auroc": ood,
        "level": LEVEL,
        "sets": conformal_report(prediction, cell.test.values["labels"].cpu(), LEVEL, SPLITS, cell.seed),
    }


def _parts(cell: Cell, teacher: Teacher, dataset: BatchedDataset) -> EntropyParts:
    return entropies_of_all(teacher, dataset.batches(), cell.options.num_samples, cell.seed)


def _aurocs(inside: EntropyParts, outside: EntropyParts, has_draws: bool) -> dict[str, float]:
    scores = {"entropy": (inside.total, outside.total)}
    if has_draws:
        scores["epistemic"] = (inside.epistemic, outside.epistemic)
    return {name: auroc(*each) for name, each in scores.items()}
