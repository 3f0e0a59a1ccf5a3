"""A kind of teacher as a declaration: its options, and how it is fitted from what its surroundings offer.

A new kind is one frozen dataclass that subclasses :class:`TeacherSpec`, beside its teacher and imported by
`teachers/__init__.py`. The command line builds ``--method`` and its options from the fields, and arms of a study take
an object of it: ``Arm("Laplace, 10 draws", teacher=Laplace(link="mc"))``.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from ..utils.checks import check_choice
from ..utils.deprecation import warn_renamed
from ..utils.errors import UserError
from ..utils.files import slug
from .base import Teacher

SPECIFICATIONS: dict[str, type["TeacherSpec"]] = {}
"""All kinds of teachers that can be fitted, by the name that ``--method`` has for them."""


class FitContext(Protocol):
    """What a specification may ask for while it is fitted: networks, their training, examples, other teachers.

    Attributes:
        num_samples: S, the draws that labels will be made with.
        num_train: N, the examples that networks are trained on.
        learning_rate: that of the training.
        seed: of what is drawn beside a training's own randomness.
        problem_type: what the networks' outputs mean, where they don't say it.
    """

    num_samples: int
    learning_rate: float
    seed: int
    problem_type: str | None = None

    @property
    def num_train(self) -> int: ...

    @abstractmethod
    def network(self, **settings: Any) -> nn.Module:
        """Return a network to train: a new one with these settings, or the trained one that was supplied."""

    @abstractmethod
    def train(
        self, network: nn.Module, optimizer: Optimizer | None = None, callbacks: Sequence[Any] = (), masks: int = 1
    ) -> nn.Module:
        """Train a network of :meth:`network` in place, with the Trainer's callbacks, and return it.

        Each batch is passed ``masks`` times, with the network's dropout drawn anew.
        """

    @abstractmethod
    def trained(self, **settings: Any) -> Teacher:
        """Return a teacher of a trained network: the one that was supplied, or a new one's, trained once for all."""

    @abstractmethod
    def fitted(self, spec: "TeacherSpec") -> Teacher:
        """Return the teacher of another specification, from the same networks."""

    @abstractmethod
    def members(self, number: int | None) -> list["FitContext"]:
        """Return a context for each member of an ensemble of ``number``, or of as many as were asked for."""

    @abstractmethod
    def train_batches(self) -> Iterator[dict[str, Tensor]]:
        """Iterate over the training examples, not augmented."""

    def train_rows(self) -> Any:
        """Return the training examples as rows of a dataset; UserError where they are none of a table."""
        raise UserError(
            "a forest is fitted on a table, and this is a study of networks: use hf-bkd teacher fit --method forest, "
            "or SklearnTeacher.fit(estimator, dataset)"
        )

    @abstractmethod
    def validation_batches(self) -> Iterator[dict[str, Tensor]]:
        """Iterate over examples to choose on."""


def option(
    default: Any,
    text: str | None = None,
    choices: tuple[Any, ...] | None = None,
    *,
    kind: type | None = None,
    command_line: Any = None,
    from_scratch: Any = None,
) -> Any:
    """Declare a field of a specification.

    Args:
        default: of studies and of Python.
        text: help on the command line, which offers the fields that have one.
        choices: the values that it may have.
        kind: type of the words on the command line, where the field's own says more.
        command_line: default there, if it is another one.
        from_scratch: default there for networks that are not trained yet.
    """
    names = {"text": text, "choices": choices, "kind": kind}
    return field(default=default, metadata=names | {"command_line": command_line, "from_scratch": from_scratch})


@dataclass(frozen=True)
class TeacherSpec(ABC):
    """A kind of teacher with its options; see the module.

    Class attributes:
        kind: its name on the command line and in paths.
        method: of the teachers that it makes, as records have it.
        reads_tables: whether it is fitted on a table itself, without any network.
        kept: whether a fitted teacher is more than the trained networks that it is made of, which are kept anyway.
        learning_rates: on the command line, where those of the optimizer don't suit: of a network from scratch, and
            of one that is trained further.
    """

    kind: ClassVar[str]
    method: ClassVar[str]
    reads_tables: ClassVar[bool] = False
    kept: ClassVar[bool] = True
    learning_rates: ClassVar[tuple[float, float] | None] = None

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "kind" in vars(cls):
            SPECIFICATIONS[cls.kind] = cls

    def __post_init__(self):
        for each in fields(self):
            if each.metadata.get("choices"):
                check_choice(each.metadata["choices"], **{each.name: getattr(self, each.name)})

    @abstractmethod
    def fit(self, context: FitContext) -> Teacher:
        """Fit a teacher."""

    @property
    def name(self) -> str:
        """The kind and what differs from its defaults, as part of a path."""
        values = [(each.name, getattr(self, each.name)) for each in fields(self) if not self._is_default(each)]
        parts = [name if value is True else f"{name} {getattr(value, 'name', value)}" for name, value in values]
        return "-".join([self.kind, *map(slug, parts)])

    def _is_default(self, declared: Field) -> bool:
        default = declared.default_factory() if declared.default is MISSING else declared.default
        return getattr(self, declared.name) == default

    @property
    def parts(self) -> tuple["TeacherSpec", ...]:
        """The specifications of the teachers that it is made from."""
        return ()

    @property
    def methods(self) -> set[str]:
        """The methods of its teacher and of those that it is made from."""
        return {self.method}.union(*(part.methods for part in self.parts))

    @property
    def sets_temperature(self) -> bool:
        """Whether the fit chooses the teacher's temperature, so that no other is to be set."""
        return False

    def facts(self) -> dict[str, Any]:
        """What the card of a teacher should say beyond the teacher's own record."""
        return {}


def spec_by_name(kind: str, **options: Any) -> TeacherSpec:
    """A specification by its name, with options.

    Raises:
        UserError: no such kind, or an option out of its range.
    """
    spec, options = resolved(kind, options)
    return spec(**options)


def resolved(kind: str, options: dict[str, Any]) -> tuple[type[TeacherSpec], dict[str, Any]]:
    """The class of a kind and its options; IVON is also found as a variational posterior, its name of old."""
    check_choice(sorted(SPECIFICATIONS), method=kind)
    if (kind, options.get("posterior")) == ("variational", "ivon"):
        warn_renamed("the variational teacher with the posterior ivon", "the teacher ivon")
        kind, options = "ivon", {name: value for name, value in options.items() if name != "posterior"}
    return SPECIFICATIONS[kind], options
