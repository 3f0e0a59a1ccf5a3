"""The base class of teachers that are made of other teachers, and how these are asked."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..likelihoods import Likelihood
from ..models.adapter_bases import Base
from ..models.calling import Inputs, evaluation_mode, to_network
from ..models.class_names import given_names, order_by_name
from ..models.token_networks import predicts_next_tokens
from ..utils.errors import UserError
from .base import Teacher
from .description import DESCRIPTION, Description, read_description
from .predictive import Draws
from .saving import base_apart, save


def first_tokenizer(teacher: Teacher, processing_class: Any = None) -> Any:
    """Return the tokenizer that was passed, or the first that a teacher or one of its parts has, if any."""
    from ..data.preprocessors import tokenizer_of

    given = teacher.processing_class if processing_class is None else processing_class
    asked = [(teacher.network, given), *((p.network, p.processing_class) for p in getattr(teacher, "parts", ()))]
    tokenizers = (tokenizer_of(*each) for each in asked)
    return next((each for each in tokenizers if each is not None), None)


def check_members(members: Iterable[Any]) -> None:
    """Raise a UserError if one of the members is no teacher but, for example, a network."""
    for member in members:
        if not isinstance(member, Teacher):
            raise UserError(
                f"the members must be teachers, and one is a {type(member).__name__}: pass "
                "DeterministicTeacher(network) for a network"
            )


def joint_likelihood(members: Iterable[Teacher]) -> Likelihood:
    """Return the likelihood of what several teachers say together; UserError if they predict different things."""
    first, *others = [member.likelihood for member in members]
    kinds = {each.problem_type for each in (first, *others)}
    if len(kinds) > 1:
        raise UserError(f"the members must predict the same, and their problem types are {', '.join(sorted(kinds))}")
    return first.joint(others)


def member_draws(member: Teacher, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Draws:
    """Return a member's tempered draws, of classes as log-probabilities; a single one if it tempers their average."""
    if tempers_average(member):
        mean = member.predict(inputs, num_samples, generator).mean
        return Draws(member.likelihood.outputs_of(mean)[None])
    with evaluation_mode(member.network):
        drawn = member.draws(to_network(inputs, member.network), num_samples, generator)
    return drawn._replace(logits=member.likelihood.tempered(drawn.logits.float(), member.temperature))


def tempers_average(member: Teacher) -> bool:
    """Return whether a member hands out a tempered average, which has no draws."""
    return member.tempering != "per_sample" and member.temperature != 1


def joined(draws: Sequence[Draws], shares: Tensor | None = None) -> Draws:
    """Join the draws of M teachers, each of which is one unit.

    Args:
        draws: of each teacher; one with a single draw repeats it as often as the others draw.
        shares: what each teacher counts, [M, B], with a sum of 1; ``None`` if they count equally.
    """
    most = max(len(each.logits) for each in draws)
    sizes = tuple(most if len(each.logits) == 1 else len(each.logits) for each in draws)
    examples = draws[0].logits.shape[1:-1]
    logits = torch.cat([each.logits.expand(n, *examples, -1) for each, n in zip(draws, sizes, strict=True)])
    if shares is None and len(set(sizes)) == 1 and all(each.weights is None for each in draws):
        return Draws(logits, None, sizes, draws[0].variance if len(draws) == 1 else None)
    if shares is None:
        shares = logits.new_full((len(draws), *examples), 1 / len(draws))
    within = [
        share.expand(n, *examples) / n if each.weights is None else share * each.weights
        for each, share, n in zip(draws, shares, sizes, strict=True)
    ]
    return Draws(logits, torch.cat(within), sizes)


def _said_jointly(drawn: Draws, own: Likelihood, joint: Likelihood, order: list[int] | None) -> Draws:
    """Return a member's draws as outputs of the joint likelihood, their values in another order.

    The variance that a member has in closed form is, to the others, part of what a number varies given that member.
    """
    outputs, variance = drawn.logits, drawn.variance
    if own != joint:
        values, noise = own.values(outputs), own.noise(outputs)
        within = noise if noise is None or variance is None else noise + variance
        outputs = joint.outputs_of(values, within)
    if order is not None:
        outputs = outputs.unflatten(-1, (-1, len(order)))[..., order].flatten(-2)
        variance = None if variance is None else variance[..., order]
    return drawn._replace(logits=outputs, variance=variance)


def alike(one: Any, other: Any) -> bool:
    """Return whether two parts' preprocessors of a dataset make the same inputs of it."""
    return one is other or (None not in (one, other) and one.reads_as(other))


def _reads(preprocessor: Any) -> Any:
    if preprocessor is None:
        return None
    return preprocessor.columns, preprocessor.to_dict() or getattr(preprocessor.processor, "__qualname__", "function")


class Composite(Teacher):
    """A teacher made of others, which are moved, described and saved with it."""

    def __init__(self, members: Sequence[Teacher], temperature: float, tempering: str):
        check_members(members)
        super().__init__(members[0].network, temperature, tempering, members[0].likelihood)
        self.likelihood = joint_likelihood(members)

    @property
    @abstractmethod
    def parts(self) -> list[Teacher]:
        """The teachers that it is made of."""

    def to(self, device: torch.device | str) -> Self:
        for part in self.parts:
            part.to(device)
        return self

    @property
    def num_classes(self) -> int:
        return self.parts[0].num_classes

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes, of the first part that has some, to whose order the others' answers are brought.

        Numbers are names only where no part has others.
        """
        stated = [names for part in self.parts if (names := part.class_names) is not None]
        return next((names for names in stated if given_names(names) is not None), next(iter(stated), None))

    def orders(self) -> list[list[int] | None]:
        """Return the order in which each part's answers are in that of :attr:`class_names`; ``None`` as they are.

        Raises:
            UserError: parts of other classes.
        """
        remedy = "give their networks the same config.id2label (or label_names, where they are plain ones)"
        named = [(part.class_names, f"member {number}") for number, part in enumerate(self.parts)]
        classes = self.class_names
        first = next((whose for names, whose in named if names == classes), "")
        return [order_by_name(names, classes, whose, first, remedy) for names, whose in named]

    def part_draws(
        self, inputs: Inputs, num_samples: int, generators: Sequence[torch.Generator | None]
    ) -> list[Draws]:
        """Return the tempered draws of each part, asked with a generator each, all in one order of classes.

        Inputs are the same for all, or a mapping of mappings, each part's own in their order.
        """
        values = list(inputs.values()) if isinstance(inputs, Mapping) else []
        own = values if values and all(isinstance(each, Mapping) for each in values) else [inputs] * len(self.parts)
        drawn = [
            member_draws(part, each, num_samples, generator)
            for part, each, generator in zip(self.parts, own, generators, strict=True)
        ]
        return [
            _said_jointly(each, part.likelihood, self.likelihood, order)
            for part, each, order in zip(self.parts, drawn, self.orders(), strict=True)
        ]

    def num_draws(self, num_samples: int) -> int:
        """How many independent draws there are: a teacher each, or those of the only one."""
        if len(self.parts) > 1:
            return len(self.parts)
        return 1 if tempers_average(self.parts[0]) else self.parts[0].num_draws(num_samples)

    def draw_logits(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Tensor:
        return self.draws(inputs, num_samples, generator).logits

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"members": [part.describe() for part in self.parts]}

    def preprocessor_for(self, dataset: Any, processing_class: Any = None) -> Any:
        """Make the preprocessor by which all parts read a dataset; UserError if they would read it differently."""
        first, *others = self._preprocessors(dataset, processing_class)
        for other in others:
            if not alike(first, other):
                raise UserError(
                    f"the members of this {type(self).__name__} prepare examples differently ({_reads(first)} and "
                    f"{_reads(other)}), and get the same inputs: pass processing_class= for all, or label with each "
                    "of them by itself, as add_soft_labels does with a mapping of teachers"
                )
        return first

    def _preprocessors(self, dataset: Any, processing_class: Any) -> list[Any]:
        own = self.processing_class if processing_class is None else processing_class
        return [
            part.preprocessor_for(dataset, self._tokenizer_for(part) if own is None else own) for part in self.parts
        ]

    def _tokenizer_for(self, part: Teacher) -> Any:
        """Return the tokenizer of the first language model that has one, for a part of the same tokens without one."""
        from ..data.preprocessors import tokenizer_of

        if not predicts_next_tokens(part.network) or tokenizer_of(part.network, part.processing_class) is not None:
            return None
        return first_tokenizer(self)

    def _save_processing_class(self, folder: Path) -> None:
        """Nothing: each part saves its own, and what was set for all of them."""

    def _reading(self) -> dict[str, Any]:
        """Nothing: each part says it."""
        return {}

    def _load_processing_class(self, folder: Path, description: Description) -> None:
        """Nothing: each part has loaded its own."""

    def _save_networks(self, folder: Path) -> None:
        tokenizers: dict[Base, Any] = {}
        for number, part in enumerate(self.parts):
            own, base = part.processing_class, base_apart(part)
            part.processing_class = self.processing_class if own is None else own
            same = base in tokenizers and tokenizers[base] is part.processing_class
            if base is not None:
                tokenizers.setdefault(base, part.processing_class)
            try:
                save(part, folder / "members" / str(number), None, with_processor=not same)
            finally:
                part.processing_class = own

    @classmethod
    def _load_networks(cls, folder: Path, network: nn.Module | None) -> list[Teacher]:
        descriptions = (folder / "members").glob(f"[0-9]*/{DESCRIPTION}")
        paths = sorted((file.parent for file in descriptions), key=lambda path: int(path.name))
        if not paths:
            raise UserError(f"the teacher in {folder} cannot be loaded, for its members are gone: save it again")
        from ..data.preprocessors.saved import saved_processor

        members: list[Teacher] = []
        first: dict[Base, Teacher] = {}  # of the adapters over a base model, which the others share with it
        for path in paths:
            base = read_description(path, path).base
            if base is None:
                members.append(Teacher.from_pretrained(path, deepcopy(network)))
                continue
            known = first[base].network if base in first else network
            members.append(Teacher.from_pretrained(path, known))
            first.setdefault(base, members[-1])
            if saved_processor("text", path / "network") is None:
                members[-1].processing_class = first[base].processing_class
        return members
