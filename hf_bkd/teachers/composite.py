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
    tempered_draws = member.tempering == "per_sample" or member.temperature == 1
    return (prediction.samples if tempered_draws else prediction.mean[None]).log()


def _reads(preprocessor: Any) -> Any:
    return None if preprocessor is None else (preprocessor.columns, preprocessor.to_dict())


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

    def preprocessor_for(self, dataset: Any, processing_class: Any = None) -> Any:
        """Make the preprocessor by which all parts read a dataset; UserError if they would read it differently."""
        own = self.processing_class if processing_class is None else processing_class
        first, *others = [part.preprocessor_for(dataset, own) for part in self.parts]
        for other in others:
            if _reads(other) != _reads(first):
                raise UserError(
                    f"the members of this {type(self).__name__} prepare examples differently ({_reads(first)} and "
                    f"{_reads(other)}), and get the same inputs: pass processing_class= for all, or label with each "
                    "of them by itself, as add_soft_labels does with a mapping of teachers"
                )
        return first

    def _save_processing_class(self, folder: Path) -> None:
        """Nothing: each part saves its own, and what was set for all of them."""

    def _load_processing_class(self, folder: Path) -> None:
        """Nothing: each part has loaded its own."""

    def _save_networks(self, folder: Path) -> None:
        for number, part in enumerate(self.parts):
            own = part.processing_class
            part.processing_class = self.processing_class if own is None else own
            try:
                part.save_pretrained(folder / "members" / str(number))
            finally:
                part.processing_class = own

    @classmethod
    def _load_networks(cls, folder: Path, network: nn.Module | None) -> list[Teacher]:
        descriptions = (folder / "members").glob(f"[0-9]*/{DESCRIPTION}")
        paths = sorted((file.parent for file in descriptions), key=lambda path: int(path.name))
        if not paths:
            raise UserError(f"the teacher in {folder} cannot be loaded, for its members are gone: save it again")
        return [Teacher.from_pretrained(path, deepcopy(network)) for path in paths]
