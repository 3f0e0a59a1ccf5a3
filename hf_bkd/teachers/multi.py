"""Several named teachers as one (arXiv 2605.27967), and teachers whose classes are not the data's."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from ..likelihoods import CATEGORICAL
from ..models.calling import Inputs
from ..targets import TEACHER_WEIGHTS, inverse_variance_weights, weights_by_entropy
from ..utils.checks import check_choice
from ..utils.errors import UserError
from ..utils.random import named_generator
from .base import Teacher
from .composite import Composite, alike, joined, member_draws
from .predictive import Draws, predictive_of

TINY = 1e-30  # least probability whose logarithm is taken


class MultiTeacher(Composite):
    """Named teachers, each of which labels a dataset under its name, and whose weighted mean is their joint answer.

    ``add_soft_labels`` writes ``teacher_probs__NAME`` of each, which the trainer weighs. As an online teacher it
    predicts the weighted mean.

    Args:
        members: name -> teacher; each applies its own temperature and may read its own network's inputs.
        weights: ``"equal"``, ``"entropy"`` (:func:`~hf_bkd.targets.entropy_weights`, refused for a regression) or
            ``"inverse_variance"`` (of the members' means; :func:`~hf_bkd.targets.inverse_variance_weights`), the
            latter two for each example.
        temperature: of the weighted mean, on top of the members' own.

    Its ``network`` is the first member's, by which inputs are prepared for all.

    Raises:
        UserError: no members, a name that can't be part of a column's, unknown weights, or members of different
            classes, which are matched by name where their networks name them; in ``predict``: inverse variances of a
            member that doesn't draw.
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
        super().__init__(list(members.values()), temperature, tempering)
        counts = {name: member.num_classes for name, member in members.items()}
        if len(set(counts.values())) > 1:
            raise UserError(
                f"the members know different numbers of classes ({counts}): wrap those of others than the data's as "
                "ClassMap(teacher, classes, num_classes)"
            )
        if weights == "entropy":
            self.likelihood.entropy(torch.full((1, 2), 0.5))  # refuses a regression
        self.members, self.weights = dict(members), weights
        self.orders()  # refuses other classes

    @property
    def parts(self) -> list[Teacher]:
        return list(self.members.values())

    @property
    def named_members(self) -> dict[str, Teacher]:
        """The members by name, whose labels are written one by one."""
        return self.members

    def preprocessor_for(self, dataset: Any, processing_class: Any = None) -> Any:
        """Make the preprocessor by which the members read a dataset, each by its own where they read differently.

        Raises:
            UserError: members that read different columns, or of which some take the columns as they are.
        """
        own = self._preprocessors(dataset, processing_class)
        if None in own or len({each.columns for each in own}) > 1 or all(alike(own[0], each) for each in own):
            return super().preprocessor_for(dataset, processing_class)
        from ..data.preprocessors import several

        return several(dict(zip(self.members, own, strict=True)))

    def draws(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Draws:
        """Draw from each member, with randomness of its own; a draw counts its share of its member's weight."""
        draws = self.part_draws(inputs, num_samples, [named_generator(generator, name) for name in self.members])
        return joined(draws, self._weights(draws))

    def _weights(self, draws: list[Draws]) -> Tensor | None:
        """Compute the members' weights [M, B]; ``None`` if equal."""
        if self.weights == "equal":
            return None
        answers = [predictive_of(each, 1.0, "per_sample", False, self.likelihood) for each in draws]
        if self.weights == "entropy":
            entropies = self.likelihood.entropy(torch.stack([answer.mean for answer in answers]))
            return weights_by_entropy(entropies.movedim(0, -1)).movedim(-1, 0)
        single = [name for name, answer in zip(self.members, answers, strict=True) if answer.variance is None]
        if single:
            raise UserError(f"inverse variances need teachers that draw, and these don't: {', '.join(single)}")
        variances = [a.variance.sum(dim=-1) / d.num_independent for a, d in zip(answers, draws, strict=True)]
        return inverse_variance_weights(torch.stack(variances, dim=-1)).movedim(-1, 0)

    def fingerprint(self) -> str:
        orders = self.orders()
        content = self.weights + "".join(name + member.fingerprint() for name, member in self.members.items())
        content += str(orders) if any(orders) else ""
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
        super().__init__([member], temperature, tempering)
        if self.likelihood != CATEGORICAL:
            raise UserError(
                f"a ClassMap adds probabilities of classes of which one is right, and this teacher's problem type is "
                f"{self.likelihood.problem_type}: take a teacher of the data's labels"
            )
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
    def class_names(self) -> None:
        """Nothing: the data's classes have no names here."""

    @property
    def num_classes(self) -> int:
        return self._num_classes

    def draws(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Draws:
        drawn = member_draws(self.member, inputs, num_samples, generator)
        probs = drawn.logits.exp()
        mapped = probs.new_zeros(*probs.shape[:-1], self._num_classes)
        mapped = mapped.index_add(-1, torch.tensor(self.classes, device=probs.device), probs)
        return drawn._replace(logits=mapped.clamp_min(TINY).log())

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.member.fingerprint()}{self.classes}".encode()).hexdigest()[:16]

    def get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {"classes": self.classes, "num_classes": self._num_classes}, {}

    @classmethod
    def from_state(cls, network: Any, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        return cls(*network, **settings)
