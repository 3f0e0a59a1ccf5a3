"""The ensemble teacher: deep ensembles (Lakshminarayanan et al. 2017), or any other teachers with equal weights."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from ..hub.transfer import local_folder, source_of
from ..models.adapter_bases import base_name, base_revision, loaded_base
from ..models.adapters import config_of, each_adapter, is_adapted, over
from ..models.calling import Inputs
from ..utils.checks import check_count
from ..utils.errors import UserError
from .base import Teacher
from .composite import Composite, joined
from .deterministic import Deterministic, DeterministicTeacher
from .predictive import Draws
from .specification import FitContext, TeacherSpec, option

logger = logging.getLogger(__name__)


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
        networks = [id(member.network) for member in members if len(getattr(member.network, "peft_config", ())) > 1]
        if len(set(networks)) < len(networks):
            raise UserError(
                "several members are one network of PEFT's, of which one adapter is active at a time: pass "
                "EnsembleTeacher.from_adapters(network), which takes all of its adapters"
            )

    @classmethod
    def from_adapters(
        cls,
        adapters: Sequence[str | Path] | nn.Module,
        base: nn.Module | None = None,
        temperature: float = 1.0,
        tempering: str = "post_average",
    ) -> Self:
        """Make an ensemble of PEFT's adapters of one causal language model, whose weights are in memory once.

        Args:
            adapters: M folders, or names on the Hub; or a network of PEFT's with M adapters.
            base: the language model; loaded by the name that the adapters have for it if not given.
            temperature, tempering: see the class.

        Returns:
            An ensemble that is saved as its adapters, with the name of the base model and a hash of its weights.

        Raises:
            UserError: no adapters, or ones of another task, of different base models or tokenizers, that are merged
                or change their base model; a base model that can't be loaded.
        """
        if isinstance(adapters, nn.Module):
            if not is_adapted(adapters):
                raise UserError(
                    f"the {type(adapters).__name__} has no adapters of PEFT around a causal language model: pass "
                    "folders that hold some, or a network that get_peft_model made"
                )
            members = [DeterministicTeacher(each) for each in each_adapter(adapters)]
            return cls(members, temperature, tempering)
        names = [adapters] if isinstance(adapters, str | Path) else list(adapters)
        if not names:
            raise UserError("an ensemble needs at least one member, and there are no adapters: pass their folders")
        folders = [local_folder(name) for name in names]
        for folder in folders:
            config_of(folder)
        if base is not None:
            _warn_of_another_base(base, folders)
        else:
            base = loaded_base(_common_base(folders), revision=base_revision(folders[0]))
        processor = _common_tokenizer(folders)
        members = [DeterministicTeacher(over(base, folder)) for folder in folders]
        for member, name, folder in zip(members, names, folders, strict=True):
            member.processing_class, member.source = processor, source_of(name, folder)
        return cls(members, temperature, tempering)

    @property
    def parts(self) -> list[Teacher]:
        return self.members

    def draws(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Draws:
        return joined(self.part_draws(inputs, num_samples, [generator] * len(self.members)))

    def fingerprint(self) -> str:
        orders = self.orders()
        content = "".join(member.fingerprint() for member in self.members) + (str(orders) if any(orders) else "")
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def _common_base(folders: list[Path]) -> str:
    """Return what adapters call their base model; UserError if they don't, or have several names for it."""
    names = {name: folder for folder in folders if (name := base_name(folder)) is not None}
    if not names:
        raise UserError(f"the adapters in {folders[0]} don't name their base model: pass it as base=")
    if len(names) > 1:
        named = ", ".join(f"{name} of {folder}" for name, folder in names.items())
        raise UserError(
            f"the adapters are of different base models ({named}), and an ensemble of adapters shares one: make an "
            "EnsembleTeacher of teachers, or pass base= if these are names of one"
        )
    return next(iter(names))


def _warn_of_another_base(base: nn.Module, folders: list[Path]) -> None:
    """Log a warning if a base model was loaded by another name than the one that adapters have for theirs."""
    own = getattr(getattr(base, "config", None), "_name_or_path", None)
    names = {name for folder in folders if (name := base_name(folder)) is not None}
    others = sorted(name for name in names if own and Path(name).name != Path(own).name)
    if others:
        logger.warning(
            "the base model was loaded from %s, and the adapters were trained over %s, of which they hold no hash: "
            "make sure that these are one",
            own,
            ", ".join(others),
        )


def _common_tokenizer(folders: list[Path]) -> Any:
    """Return the tokenizer that was saved beside adapters, if there was one; UserError if they have different ones."""
    from ..data.preprocessors.saved import saved_processor
    from ..language import same_tokens

    first = whose = None
    for folder in folders:
        own = saved_processor("text", folder)
        if first is not None and own is not None and not same_tokens(first, own):
            raise UserError(
                f"the adapters in {folder} have another tokenizer or chat template than those in {whose}, and get the "
                "same tokens: pass adapters that were trained on the same"
            )
        if first is None and own is not None:
            first, whose = own, folder
    return first


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
