"""The base class of teachers that are made of other teachers, and how these are asked."""

from abc import abstractmethod
from copy import deepcopy
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..models.calling import Inputs
from ..utils.errors import UserError
from .base import DESCRIPTION, Teacher


def log_draws(member: Teacher, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Tensor:
    """Return a member's tempered draws [S, B, C] as log-probabilities; S is 1 where it tempers their average."""
    prediction = member.predict(inputs, num_samples, generator, return_samples=True)
    return (prediction.mean[None] if tempers_its_average(member) else prediction.samples).log()


def tempers_its_average(member: Teacher) -> bool:
    """Whether a member's temperature changes the mean of its draws, which then is one draw of a composite."""
    return member.tempering != "per_sample" and member.temperature != 1


class Composite(Teacher):
    """A teacher made of others, which are moved, described and saved with it."""

    @property
    @abstractmethod
    def parts(self) -> list[Teacher]:
        """The teachers that it is made of."""

    def to(self, device: torch.device | str) -> Self:
        for part in self.parts:
            part.to(device)
        return self

    def num_draws(self, num_samples: int) -> int:
        return len(self.parts) * max(part.num_draws(num_samples) for part in self.parts)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"members": [part.describe() for part in self.parts]}

    def _save_networks(self, folder: Path) -> None:
        for number, part in enumerate(self.parts):
            part.save_pretrained(folder / "members" / str(number))

    @classmethod
    def _load_networks(cls, folder: Path, network: nn.Module | None) -> list[Teacher]:
        descriptions = (folder / "members").glob(f"[0-9]*/{DESCRIPTION}")
        paths = sorted((file.parent for file in descriptions), key=lambda path: int(path.name))
        if not paths:
            raise UserError(f"the teacher in {folder} cannot be loaded, for its members are gone: save it again")
        return [Teacher.from_pretrained(path, deepcopy(network)) for path in paths]
