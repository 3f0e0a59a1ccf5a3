"""How a study is declared: its arms, its data, and what all of them share."""

from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from typing import Any

from ..teachers import Deterministic, Ensemble, Laplace, TeacherSpec, Variational, spec_by_name
from ..utils.deprecation import renamed_arguments, warn_renamed
from ..utils.errors import UserError
from ..utils.files import distinct_names, slug
from .splits import Splits


@dataclass(frozen=True)
class ExactBayes:
    """The exact class probabilities, where the data has them."""

    method = name = "bayes"


@dataclass(frozen=True)
class Stored:
    """Labels that the data has already, in columns ``teacher_probs__NAME``; see :attr:`Arm.label_name`."""

    method = name = "stored"


@dataclass(frozen=True)
class Several:
    """The teachers of several arms together.

    Args:
        members: arms whose teachers' labels are combined.
        weights, combine: ``teacher_weights`` and ``combine`` of :class:`~hf_bkd.DistillationTrainingArguments`.

    Raises:
        UserError: no members, or one that has no single teacher.
    """

    method = name = "several"

    members: tuple["Arm", ...]
    weights: str = "equal"
    combine: str = "average"

    def __post_init__(self):
        if not self.members:
            raise UserError("several teachers have no members: pass the arms whose labels are combined")
        for member in self.members:
            if not (member.fits_teacher or isinstance(member.teacher, Stored)):
                raise UserError(f"arm {member.name!r} is a member of several, and it has no single teacher")


@dataclass(frozen=True)
class Arm:
    """One way to teach a student.

    Args:
        name: of the arm in the report.
        teacher: the specification of one that the study fits, :class:`Stored`, :class:`ExactBayes`, :class:`Several`,
            or ``None`` for a student that learns from the labels alone.
        architecture, architecture_args: of the teacher's network; the study's if not given, with these further
            arguments.
        temperatures: candidates for the teacher's temperature, of which the study's measure on the validation split
            chooses.
        folds: label each example by a teacher fitted on the other folds, which did not see it; 0 for one teacher that
            saw all.
        num_views: how many augmented views of each image are labeled, where networks are trained on such; 0 for one
            label of the image as it is, which the student never sees; the study's own number if not given.
        online: the teacher is asked at each step and nothing is stored.
        storage: of the soft labels.
        kd_lambda: the study's own if not given.
        lambda_schedule: ``"adaptive"`` or ``"bias_aware"``, which needs ``folds``, sets lambda by example.
        strengths: candidates for the strength s > 0 of the teachers' prior on each example, in examples (lambda in
            arXiv 2605.27967): ``prior_strength`` s and ``kd_lambda`` s / (1 + s), chosen as temperatures are.
        label_smoothing: of a student without a teacher.
        student_args: of the student's network, beside the study's; with ``{"predict_variance": True}`` a regression
            predicts a log-variance of each number too.
        distance: of the student from its target; the study's own if not given.
        mean_log_probs: keep the mean logarithms of the teacher's draws, by which ``"dirichlet"`` learns.
        how: options of a teacher that is given by its kind as a string, which works for another release.

    Raises:
        UserError: parts that don't go together.
    """

    name: str
    teacher: TeacherSpec | Stored | ExactBayes | Several | None = None
    architecture: str = ""
    architecture_args: dict[str, Any] = field(default_factory=dict)
    temperatures: tuple[float, ...] = (1.0,)
    folds: int = 0
    num_views: int | None = None
    online: bool = False
    storage: str = "float16"
    kd_lambda: float | None = None
    lambda_schedule: str = "fixed"
    strengths: tuple[float, ...] = ()
    label_smoothing: float = 0.0
    distance: str | None = field(default=None, repr=False)
    mean_log_probs: bool = field(default=False, repr=False)
    student_args: dict[str, Any] = field(default_factory=dict, repr=False)
    how: InitVar[dict[str, Any] | None] = None

    def __post_init__(self, how: dict[str, Any] | None):
        if isinstance(self.teacher, str):
            object.__setattr__(self, "teacher", _teacher_by_name(self.name, self.teacher, how or {}))
        if self.online and (self.folds or not self.fits_teacher):
            raise UserError(f"arm {self.name!r} is online, which needs a teacher that answers for all examples")
        if self.lambda_schedule == "bias_aware" and not (self.folds or isinstance(self.teacher, Stored)):
            raise UserError(f"arm {self.name!r} is bias-aware, which needs labels that are cross-fitted: pass folds=3")
        if self.mean_log_probs and not self.fits_teacher:
            raise UserError(f"arm {self.name!r} keeps the logarithms of draws, which needs a teacher that draws")
        if self.temperatures != (1.0,) and any(part.has_temperature for part in self.parts):
            raise UserError(f"arm {self.name!r} has temperatures, and its teacher or its labels have one already")

    @property
    def method(self) -> str:
        """The kind of its teacher, as records have it."""
        return "none" if self.teacher is None else self.teacher.method

    @property
    def fits_teacher(self) -> bool:
        """Whether its teacher is one that the study fits, and that labels what it is asked to."""
        return isinstance(self.teacher, TeacherSpec)

    @property
    def has_temperature(self) -> bool:
        """Whether its labels have a temperature that no candidate can change."""
        return isinstance(self.teacher, Stored) or (self.fits_teacher and self.teacher.sets_temperature)

    @property
    def members(self) -> tuple["Arm", ...]:
        """The arms whose teachers' labels it combines."""
        return self.teacher.members if isinstance(self.teacher, Several) else ()

    @property
    def parts(self) -> tuple["Arm", ...]:
        """The arms whose teachers it has: its members, or itself."""
        return self.members or (self,)

    @property
    def settings(self) -> str:
        """All of it in words, as folders have it; what earlier versions had no word for is said where it is used."""
        said = {"distance": self.distance, "mean_log_probs": self.mean_log_probs or None}
        said["student_args"] = self.student_args or None
        return repr(self) + "".join(f" {name}={value}" for name, value in said.items() if value is not None)

    @property
    def candidates(self) -> list[tuple[float, float | None]]:
        """Temperatures and strengths of the students that are trained for it; a strength of ``None`` is not set."""
        return [(temperature, strength) for temperature in self.temperatures for strength in self.strengths or (None,)]

    @property
    def label_name(self) -> str:
        """The name of its teacher's labels beside others': the arm's name, words joined by underscores."""
        return slug(self.name).replace("-", "_")

    @property
    def network_name(self) -> str:
        """The name of its teacher's network as part of a path, empty if it is the study's."""
        settings = [slug(f"{name} {value}") for name, value in self.architecture_args.items()]
        return "-".join(filter(None, [slug(self.architecture), *settings]))

    def labels_name(self, temperature: float) -> str:
        """The name of its soft labels as part of a path: the same for arms that need the same."""
        if isinstance(self.teacher, Stored):
            return self.label_name
        if self.members:
            return "+".join(member.labels_name(temperature) for member in self.members)
        parts = [
            self.network_name,
            "none" if self.teacher is None else self.teacher.name,
            f"{self.folds}-folds" if self.folds else "",
            "" if self.has_temperature else f"T{temperature:g}",
            "" if self.num_views is None else f"{self.num_views}-views",
            "online" if self.online else "",
            "" if self.storage == "float16" else slug(self.storage),
            "logs" if self.mean_log_probs else "",
        ]
        return "-".join(filter(None, parts))


Arm.__init__ = renamed_arguments(views="num_views")(Arm.__init__)


def _teacher_by_name(arm: str, kind: str, options: dict[str, Any]) -> TeacherSpec | Stored | ExactBayes | None:
    warn_renamed(f"the teacher {kind!r} of an arm", "a specification, such as teacher=Laplace(link='mc')", 6)
    others = {"none": None, "bayes": ExactBayes(), "stored": Stored()}
    try:
        return others[kind] if kind in others else spec_by_name(kind, **options)
    except (UserError, TypeError) as error:
        raise UserError(f"arm {arm!r} has the teacher {kind!r}, which can't be: {error}") from None


ONE_HOT = Arm("one-hot")
LABEL_SMOOTHING = Arm("label smoothing", label_smoothing=0.1)
DETERMINISTIC = Arm("deterministic", Deterministic())
TUNED = Arm("deterministic, best T", Deterministic(), temperatures=(1.0, 2.0, 4.0))
SCALED = Arm("deterministic, scaled", Deterministic(scaled=True))
LAPLACE = Arm("Laplace", Laplace())
VARIATIONAL = Arm("variational head", Variational())
WHOLE_NETWORK = Arm("variational, whole network", Variational(posterior="full"))
ENSEMBLE = Arm("ensemble", Ensemble())
CROSS_FITTED = Arm("ensemble, cross-fitted", Ensemble(), folds=3)
BAYES = Arm("exact Bayes", ExactBayes())

CONTROLS = (ONE_HOT, LABEL_SMOOTHING, DETERMINISTIC, TUNED, SCALED, ENSEMBLE)
"""The arms without which a Bayesian teacher's result says little."""


def combined(members: tuple[Arm, ...], strengths: tuple[float, ...] = ()) -> tuple[Arm, ...]:
    """Return the ways to teach with several teachers: averages and mixtures, by equal weights or by example."""
    ways = {
        "average": Several(members),
        "average, entropy weights": Several(members, "entropy"),
        "average, inverse variance": Several(members, "inverse_variance"),
        "mixture": Several(members, combine="mixture"),
        "mixture, entropy weights": Several(members, "entropy", "mixture"),
    }
    return tuple(Arm(name, teacher, strengths=strengths) for name, teacher in ways.items())


@dataclass(frozen=True)
class Study:
    """A list of arms, and what they are run on.

    Args:
        name: of the recipe.
        arms: in the order of the report; those of :class:`ExactBayes` are omitted where the data doesn't know it.
        conditions: name -> function from the study's arguments and a seed to the data. A study with a single
            condition calls it ``""``.
        num_views: how many augmented views of each image are labeled, unless an arm says otherwise.
        students: whether students are trained and measured, or else the teachers themselves.
        num_seeds: of the seeds asked for, how many conditions take, the first; all if not given.
        epochs: factor on the number of epochs, for conditions that need more or fewer, or a pair of students' and
            teachers'.
        teacher_args, student_args: of their networks, beside the architecture.
        from_teacher: whether students are parts of the deterministic teacher's network, and start from its weights.
        reference: name of the arm that all others are compared with.
        measure: ``"accuracy"`` or ``"nll"``, of labels also ``"mean_average_precision"``, of numbers ``"rmse"``,
            in which they are compared, and by which candidates are chosen.
        limits: whether students, of one of C classes, are measured by their entropies on the out-of-distribution
            examples beside their teachers', and by conformal sets.
        posterior: arguments of ``LangevinTeacher.fit`` to sample each student's posterior with, ``prior_precision`` a
            tuple of candidates; ``None`` for no such posterior.
        note: what a reader of the report has to know of the data.

    Raises:
        UserError: two arms, conditions, networks, teachers, temperatures or strengths that would share a file's name.
    """

    name: str
    arms: tuple[Arm, ...]
    conditions: dict[str, Callable[[Any, int], Splits]]
    num_views: int = 0
    students: bool = True
    num_seeds: dict[str, int] = field(default_factory=dict)
    epochs: dict[str, float | tuple[float, float]] = field(default_factory=dict)
    teacher_args: dict[str, Any] = field(default_factory=dict)
    student_args: dict[str, Any] = field(default_factory=dict)
    from_teacher: bool = False
    reference: str = "deterministic"
    measure: str = "accuracy"
    limits: bool = False
    posterior: dict[str, Any] | None = None
    note: str = ""

    def __post_init__(self):
        names = [arm.name for arm in self.arms]
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise UserError(f"two arms have the name {repeated[0]!r}: rename one")
        distinct_names("the arms", ((slug(name), name) for name in names))
        distinct_names("the conditions", ((slug(name) or "all", name) for name in self.conditions))
        parts = [part for arm in self.arms for part in arm.parts]
        networks = ((part.network_name, (part.architecture, part.architecture_args)) for part in parts)
        distinct_names("the networks", (pair for pair in networks if pair[0]))
        distinct_names("the teachers", ((part.teacher.name, part.teacher) for part in parts if part.fits_teacher))
        temperatures = {temperature for arm in self.arms for temperature in arm.temperatures}
        distinct_names("the temperatures", ((f"T{temperature:g}", temperature) for temperature in temperatures))
        strengths = {strength for arm in self.arms for strength in arm.strengths}
        distinct_names("the strengths", ((f"s{strength:g}", strength) for strength in strengths))


Study.__init__ = renamed_arguments(views="num_views")(Study.__init__)
