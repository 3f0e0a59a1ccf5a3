"""The ensemble teacher: deep ensembles (Lakshminarayanan et al. 2017), or any other teachers with equal weights."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ..models.calling import Inputs
from ..utils.checks import check_count
from ..utils.errors import UserError
from .base import Teacher
from .composite import Composite, joined
from .deterministic import Deterministic
from .predictive import Draws
from .specification import FitContext, TeacherSpec, option


class EnsembleTeacher(Composite):
    """Several teachers as one, whose draws are those of all members.

    M deterministic members make M draws; if any member has a posterior there are M * S, for which a member with a
    single draw repeats it, so that members count equally. The variance is that between the members' means, and
    ``num_draws`` is M: what two draws of one member have in common, averaging more of them does not remove.

    Args:
        members: teachers with the same classes, which are matched by name where their networks name them; each applies
            its own temperature.
        temperature, tempering: of the average, on top of the members' own.

    Its ``network`` is the first member's, by which inputs are prepared for all.

    Raises:
        UserError: no members, or members with different numbers or names of classes, or of different problem types.
    """

    method = "ensemble"

    def __init__(self, members: Sequence[Teacher], temperature: float = 1.0, tempering: str = "post_average"):
        if not members:
            raise UserError("an ensemble needs at least one member")
        super().__init__(members, temperature, tempering)
        sizes = sorted({member.num_classes for member in members})
        if len(sizes) > 1:
            raise UserError(f"an ensemble's members must know the same classes; these have {sizes} of them")
        self.members = list(members)
        self.orders()  # refuses other classes

    @property
    def parts(self) -> list[Teacher]:
        return self.members

    def draws(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Draws:
        return joined(self.part_draws(inputs, num_samples, [generator] * len(self.members)))

    def fingerprint(self) -> str:
        orders = self.orders()
        content = "".join(member.fingerprint() for member in self.members) + (str(orders) if any(orders) else "")
        return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Ensemble(TeacherSpec):
    """Teachers of one kind, each from a network of its own.

    Args:
        of: the members' specification.
        members: M >= 1; as many as the study or the command line has networks for if not given.
    """

    kind = method = "ensemble"
    kept = False

    of: TeacherSpec = field(default_factory=Deterministic)
    members: int | None = option(None, "networks of one architecture, trained with a seed each", from_scratch=5)

    def __post_init__(self):
        super().__post_init__()
        if self.members is not None:
            check_count(members=self.members)

    @property
    def parts(self) -> tuple[TeacherSpec, ...]:
        return (self.of,)

    def fit(self, context: FitContext) -> Teacher:
        return EnsembleTeacher([member.fitted(self.of) for member in context.members(self.members)])
