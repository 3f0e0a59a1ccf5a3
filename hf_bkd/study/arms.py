"""How a study is declared."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np

from ..utils.errors import UserError
from .inputs import Images, Texts, Vectors

TEACHERS = (
    "none", "deterministic", "laplace", "variational", "mc_dropout", "ensemble", "bayes", "stored", "several",
)  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One way to teach a student.

    Args:
        name: what the report calls it.
        teacher: one of ``TEACHERS``; ``"bayes"`` stands for the exact class probabilities, where the data has them,
            ``"stored"`` for labels that the data brings in columns ``teacher_probs__NAME`` (see :attr:`label_name`),
            and ``"several"`` for those of ``members`` together.
        architecture, architecture_args: of the teacher's network; the study's if not given.
        members: arms whose teachers' labels are combined.
        teacher_weights, combine: how, as in :class:`~hf_bkd.DistillationTrainingArguments`.
        strengths: candidates for the strength s > 0 of the teachers' prior on each example, in examples (lambda in
            arXiv 2605.27967): ``prior_strength`` s and ``kd_lambda`` s / (1 + s). The student that is best by the
            study's measure on the validation split decides, as for temperatures.
        temperatures: candidates for the teacher's temperature.
        scaled: set the teacher's temperature by validation NLL instead (Guo et al. 2017).
        folds: label each example by a teacher fitted on the other folds, which did not see it; 0 for not.
        label_smoothing: of a student without a teacher.
        views: how many augmented views of each image are labeled, where networks are trained on such; 0 for one label
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
    architecture: str = ""
    architecture_args: dict[str, Any] = field(default_factory=dict)
    members: tuple["Arm", ...] = ()
    teacher_weights: str = "equal"
    combine: str = "average"
    strengths: tuple[float, ...] = ()
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
        if self.online and (self.folds or not self.fits_teacher):
            raise UserError(f"arm {self.name!r} is online, which needs a teacher that answers for all examples")
        if (self.teacher == "several") != bool(self.members):
            raise UserError(f"arm {self.name!r} has the teacher {self.teacher!r} and {len(self.members)} members")
        if not all(member.fits_teacher or member.teacher == "stored" for member in self.members):
            raise UserError(f"arm {self.name!r} has a member that is no single teacher")
        if self.temperatures != (1.0,) and any(part.teacher == "stored" for part in self.parts):
            raise UserError(f"arm {self.name!r} has temperatures, and stored labels have one already")

    @property
    def parts(self) -> tuple["Arm", ...]:
        """The arms whose teachers it has: its members, or itself."""
        return self.members or (self,)

    @property
    def candidates(self) -> list[tuple[float, float | None]]:
        """Temperatures and strengths of the students that are trained for it; a strength of ``None`` is not set."""
        return [(temperature, strength) for temperature in self.temperatures for strength in self.strengths or (None,)]

    @property
    def fits_teacher(self) -> bool:
        """Whether its teacher is a network that the study trains, and that labels what it is asked to."""
        return self.teacher not in ("none", "bayes", "stored", "several")

    @property
    def label_name(self) -> str:
        """What its teacher's labels are called beside others': the arm's name, words joined by underscores."""
        return slug(self.name).replace("-", "_")

    def labels_name(self, temperature: float) -> str:
        """What its soft labels are called: the same for arms that need the same."""
        if self.teacher == "stored":
            return self.label_name
        if self.members:
            return "+".join(member.labels_name(temperature) for member in self.members)
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
        how = [slug(f"{name} {value}") for name, value in self.how.items()]
        return "-".join([*filter(None, [self.network_name]), self.teacher, *how])

    @property
    def network_name(self) -> str:
        """What its teacher's network is called, if it is not the study's."""
        args = [slug(f"{name} {value}") for name, value in self.architecture_args.items()]
        return "-".join([slug(self.architecture), *args]) if self.architecture else ""


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


def combined(members: tuple[Arm, ...], strengths: tuple[float, ...] = ()) -> tuple[Arm, ...]:
    """The ways to teach with several teachers: averages and mixtures, by weights that all or each example have."""
    ways = {
        "average": {},
        "average, entropy weights": {"teacher_weights": "entropy"},
        "average, inverse variance": {"teacher_weights": "inverse_variance"},
        "mixture": {"combine": "mixture"},
        "mixture, entropy weights": {"combine": "mixture", "teacher_weights": "entropy"},
    }
    return tuple(
        Arm(name, teacher="several", members=members, strengths=strengths, **how) for name, how in ways.items()
    )


@dataclass
class Splits:
    """The data of one condition and seed: datasets with the column that ``inputs`` reads, and ``label``.

    Args:
        train, validation, test: nothing is chosen on ``test``.
        inputs: how networks read them.
        bayes: exact class probabilities [N, C] of ``train``, where they are known.
        ood: examples of no class, or of several, to be unsure of.
        transfer: what teachers label and students are taught on (Hinton et al. 2015), if not ``train``: it may be
            larger, and its ``label`` counts only where lambda is below 1. An epoch stays as long as one of ``train``.
    """

    train: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset
    inputs: Images | Texts | Vectors
    bayes: np.ndarray | None = None
    ood: datasets.Dataset | None = None
    transfer: datasets.Dataset | None = None

    @property
    def taught(self) -> datasets.Dataset:
        """What students with a teacher are trained on."""
        return self.train if self.transfer is None else self.transfer


@dataclass(frozen=True)
class Study:
    """What to run.

    Args:
        name: of the recipe.
        arms: in the order of the report; those with ``"bayes"`` are left out of conditions that don't know it.
        conditions: name -> function from the study's arguments and a seed to the data. A study with a single
            condition calls it ``""``.
        views: how many augmented views of each image are labeled, unless an arm says otherwise.
        students: whether students are trained and measured, or else the teachers themselves.
        epochs: factor on the number of epochs, for conditions that need more or fewer.
        teacher_args, student_args: of their networks, beside the architecture.
        from_teacher: whether students are parts of the deterministic teacher's network, and start from its weights.
        reference: name of the arm that all others are compared with.
        measure: ``"accuracy"`` or ``"nll"``, in which they are compared, and by which candidates are chosen.
        posterior: arguments of ``LangevinTeacher.fit`` to sample each student's posterior with, ``prior_precision`` a
            tuple of candidates; ``None`` for not.
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
    reference: str = "deterministic"
    measure: str = "accuracy"
    posterior: dict[str, Any] | None = None
    note: str = ""


def slug(name: str) -> str:
    """A name as part of a path: lower case, words joined by hyphens."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
