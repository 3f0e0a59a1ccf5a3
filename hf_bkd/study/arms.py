"""How a study is declared."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np

from ..errors import UserError
from .inputs import Images, Texts

TEACHERS = ("none", "deterministic", "laplace", "variational", "mc_dropout", "ensemble", "bayes")


@dataclass(frozen=True)
class Arm:
    """One way to teach a student.

    Args:
        name: what the report calls it.
        teacher: one of ``TEACHERS``; ``"bayes"`` stands for the exact class probabilities, where the data has them.
        temperatures: candidates for the teacher's temperature; the student with the best validation accuracy decides.
        scaled: set the teacher's temperature by validation NLL instead (Guo et al. 2017).
        folds: label each example by a teacher fitted on the other folds, which did not see it; 0 for not.
        label_smoothing: of a student without a teacher.
        views: how many augmented views of each image are labelled, where networks are trained on such; 0 for one label
            of the image as it is, which the student never sees; the study's own number if not given.
        online: the teacher is asked at each step and nothing is stored.
        storage: of the soft labels.
        kd_lambda: the study's own if not given.
        lambda_schedule: ``"adaptive"`` sets lambda by example.
        how: the teacher is fitted: for ``laplace`` arguments of ``LaplaceTeacher.fit``; for ``variational`` those of
            ``make_variational``, or ``posterior="ivon"`` and arguments of ``IVON``, with ``initial_std`` for
            ``hess_init``; for ``mc_dropout`` further
            arguments of the network, with its dropout.
    """

    name: str
    teacher: str = "none"
    temperatures: tuple[float, ...] = (1.0,)
    scaled: bool = False
    folds: int = 0
    label_smoothing: float = 0.0
    views: int | None = None
    online: bool = False
    storage: str = "float16"
    kd_lambda: float | None = None
    lambda_schedule: str = "fixed"
    how: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.teacher not in TEACHERS:
            raise UserError(f"arm {self.name!r} has the teacher {self.teacher!r}; it must be of {', '.join(TEACHERS)}")
        if self.scaled and self.teacher != "deterministic":
            raise UserError(f"arm {self.name!r} is scaled, which only a deterministic teacher can be")
        if self.online and (self.folds or self.teacher in ("none", "bayes")):
            raise UserError(f"arm {self.name!r} is online, which needs a teacher that answers for all examples")

    def labels_name(self, temperature: float) -> str:
        """What its soft labels are called: the same for arms that need the same."""
        parts = [self.teacher_name, f"{self.folds}-folds" if self.folds else ""]
        parts += [
            "scaled" if self.scaled else f"T{temperature:g}",
            "" if self.views is None else f"{self.views}-views",
        ]
        parts += ["online" if self.online else "", "" if self.storage == "float16" else slug(self.storage)]
        return "-".join(part for part in parts if part)

    @property
    def teacher_name(self) -> str:
        """What its teacher is called, as part of a path: the same for arms that need the same."""
        return "-".join([self.teacher, *(slug(f"{name} {value}") for name, value in self.how.items())])


ONE_HOT = Arm("one-hot")
LABEL_SMOOTHING = Arm("label smoothing", label_smoothing=0.1)
DETERMINISTIC = Arm("deterministic", teacher="deterministic")
TUNED = Arm("deterministic, best T", teacher="deterministic", temperatures=(1.0, 2.0, 4.0))
SCALED = Arm("deterministic, scaled", teacher="deterministic", scaled=True)
LAPLACE = Arm("Laplace", teacher="laplace")
VARIATIONAL = Arm("variational head", teacher="variational")
WHOLE_NETWORK = Arm("variational, whole network", teacher="variational", how={"posterior": "full"})
ENSEMBLE = Arm("ensemble", teacher="ensemble")
CROSS_FITTED = Arm("ensemble, cross-fitted", teacher="ensemble", folds=3)
BAYES = Arm("exact Bayes", teacher="bayes")

CONTROLS = (ONE_HOT, LABEL_SMOOTHING, DETERMINISTIC, TUNED, SCALED, ENSEMBLE)
"""Without these beside it, a Bayesian teacher's result says little."""


@dataclass
class Splits:
    """The data of one condition and seed: datasets with columns ``image`` or ``text``, and ``label``.

    Args:
        train, validation, test: nothing is chosen on ``test``.
        inputs: how networks read them.
        bayes: exact class probabilities [N, C] of ``train``, where they are known.
        foreign: images of no class at all, for teachers to be unsure of.
    """

    train: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset
    inputs: Images | Texts
    bayes: np.ndarray | None = None
    foreign: datasets.Dataset | None = None


@dataclass(frozen=True)
class Study:
    """What to run.

    Args:
        name: of the recipe.
        arms: in the order of the report; those with ``"bayes"`` are left out of conditions that don't know it.
        conditions: name -> function from the study's arguments and a seed to the data. A study with a single
            condition calls it ``""``.
        views: how many augmented views of each image are labelled, unless an arm says otherwise.
        students: whether students are trained and measured, or else the teachers themselves.
        epochs: factor on the number of epochs, for conditions that need more or fewer.
        teacher_args, student_args: of their networks, beside the architecture.
        from_teacher: whether students are parts of the deterministic teacher's network, and start from its weights.
        note: what a reader of the report has to know of the data.
    """

    name: str
    arms: tuple[Arm, ...]
    conditions: dict[str, Callable[[Any, int], Splits]]
    views: int = 0
    students: bool = True
    epochs: dict[str, float] = field(default_factory=dict)
    teacher_args: dict[str, Any] = field(default_factory=dict)
    student_args: dict[str, Any] = field(default_factory=dict)
    from_teacher: bool = False
    note: str = ""


def slug(name: str) -> str:
    """A name as part of a path: lower case, words joined by hyphens."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
