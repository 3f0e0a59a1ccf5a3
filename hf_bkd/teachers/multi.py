"""Several named teachers as one (arXiv 2605.27967), and teachers whose classes are not the data's."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from ..models.calling import Inputs
from ..targets import TEACHER_WEIGHTS, entropy_weights, inverse_variance_weights, mix_teachers, temper
from ..utils.checks import check_choice
from ..utils.errors import UserError
from .base import Predictive, Teacher
from .composite import Composite, log_draws

TINY = 1e-30  # least probability whose logarithm is taken


class MultiTeacher(Composite):
    """Named teachers, each of which labels a dataset under its name, and whose weighted mean is their joint answer.

    ``add_soft_labels`` writes ``teacher_probs__NAME`` of each, which the trainer weighs. As an online teacher it
    predicts the weighted mean.

    Args:
        members: name -> teacher; each applies its own temperature and may read its own network's inputs.
        weights: ``"equal"``, ``"entropy"`` (:func:`~hf_bkd.targets.entropy_weights`) or ``"inverse_variance"`` (of
            the members' means; :func:`~hf_bkd.targets.inverse_variance_weights`), the latter two for each example.
        temperature: of the weighted mean, on top of the members' own.

    Its ``network`` is the first member's, by which inputs are prepared for all.

    Raises:
        UserError: no members, a name that can't be part of a column's, unknown weights, or members of different
            classes; in ``predict``: inverse variances of a member that doesn't draw.
    """

    method = "multi"

    def __init__(
        self,
        members: Mapping[str, Teacher],
        weights: str = "equal",
        temperature: float = 1.0,
        tempering: str = "post_average",
    ):
        if not members:
            raise UserError("a MultiTeacher needs at least one member")
        for name in members:
            if not name.isidentifier() or "__" in name:
                raise UserError(f"a member is called {name!r}; names are letters, digits and single underscores")
        check_choice(TEACHER_WEIGHTS, weights=weights)
        super().__init__(next(iter(members.values())).network, temperature, tempering)
        counts = {name: member.num_classes for name, member in members.items()}
        if len(set(counts.values())) > 1:
            raise UserError(
                f"the members know different numbers of classes ({counts}): wrap those of others than the data's as "
                "ClassMap(teacher, classes, num_classes)"
            )
        self.members, self.weights = dict(members), weights

    @property
    def parts(self) -> list[Teacher]:
        return list(self.members.values())

    @property
    def named_members(self) -> dict[str, Teacher]:
        """The members by name, whose labels are written one by one."""
        return self.members

    @property
    def num_classes(self) -> int:
        return next(iter(self.members.values())).num_classes

    @torch.no_grad()
    def predict(
        self,
        inputs: Inputs,
        num_samples: int = 10,
        generator: torch.Generator | None = None,
        return_samples: bool = False,
    ) -> Predictive:
        """Predict the weighted mean [B, C], and the variance of the mixture: within the members, and between them.

        ``samples`` are the draws of all members, [sum of S, B, C], which count equally whatever the weights.
        """
        answers = [member.predict(inputs, num_samples, generator, True) for member in self.members.values()]
        means = torch.stack([answer.mean for answer in answers], dim=-2)
        weights = self._weights(means, answers)
        mean = mix_teachers(means, weights)
        within = torch.stack([torch.zeros_like(mean) if a.variance is None else a.variance for a in answers], dim=-2)
        variance = mix_teachers(within + (means - mean.unsqueeze(-2)).square(), weights)
        samples = torch.cat([answer.samples for answer in answers]) if return_samples else None
        return Predictive(temper(mean, self.temperature), variance, samples)

    def _weights(self, means: Tensor, answers: list[Predictive]) -> Tensor | None:
        if self.weights == "equal":
            return None
        if self.weights == "entropy":
            return entropy_weights(means)
        if any(answer.variance is None for answer in answers):
            single = [n for n, a in zip(self.members, answers, strict=True) if a.variance is None]
            raise UserError(f"inverse variances need teachers that draw, and these don't: {', '.join(single)}")
        variances = [answer.variance.sum(dim=-1) / len(answer.samples) for answer in answers]
        return inverse_variance_weights(torch.stack(variances, dim=-1))

    def draw_logits(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Tensor:
        """Return the weighted mean as a single draw."""
        return self.predict(inputs, num_samples, generator).mean.clamp_min(TINY).log()[None]

    def fingerprint(self) -> str:
        content = self.weights + "".join(name + member.fingerprint() for name, member in self.members.items())
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {"weights": self.weights, "names": list(self.members)}, {}

    @classmethod
    def from_state(cls, network: Any, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        settings = dict(settings)
        return cls(dict(zip(settings.pop("names"), network, strict=True)), **settings)


class ClassMap(Composite):
    """A teacher whose classes are mapped to the data's, where these are fewer, more, or in another order.

    Args:
        member: the teacher.
        classes: for each of its classes the data's; where several are mapped to one, this has their sum.
        num_classes: number of the data's classes; those that none is mapped to have no probability.

    Raises:
        UserError: ``classes`` of another length than the member's, or with one that the data doesn't have.
    """

    method = "class_map"

    def __init__(
        self,
        member: Teacher,
        classes: Sequence[int],
        num_classes: int,
        temperature: float = 1.0,
        tempering: str = "post_average",
    ):
        super().__init__(member.network, temperature, tempering)
        if len(classes) != member.num_classes:
            raise UserError(f"classes has {len(classes)} entries, and the teacher knows {member.num_classes} classes")
        wrong = [each for each in classes if not 0 <= each < num_classes]
        if wrong:
            raise UserError(f"classes must be in 0 to {num_classes - 1}, and one of them is {wrong[0]}")
        self.member, self.classes, self._num_classes = member, list(classes), num_classes

    @property
    def parts(self) -> list[Teacher]:
        return [self.member]

    @property
    def num_classes(self) -> int:
        return self._num_classes

    def draw_logits(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Tensor:
        draws = log_draws(self.member, inputs, num_samples, generator).exp()
        mapped = draws.new_zeros(*draws.shape[:-1], self._num_classes)
        return mapped.index_add(-1, torch.tensor(self.classes, device=draws.device), draws).clamp_min(TINY).log()

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.member.fingerprint()}{self.classes}".encode()).hexdigest()[:16]

    def get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {"classes": self.classes, "num_classes": self._num_classes}, {}

    @classmethod
    def from_state(cls, network: Any, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        return cls(*network, **settings)
