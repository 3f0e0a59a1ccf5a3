"""Teachers inside a teacher: asking them, and keeping them in its folder."""

from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from .base import Teacher
from .network import Inputs


def log_draws(member: Teacher, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Tensor:
    """A member's tempered draws [S, B, C] as log-probabilities; one tempered after averaging has a single one."""
    prediction = member.predict(inputs, num_samples, generator, return_samples=True)
    tempered_draws = member.tempering == "per_sample" or member.temperature == 1
    return (prediction.samples if tempered_draws else prediction.mean[None]).log()


def save_members(members: Iterable[Teacher], folder: Path) -> None:
    """As ``members/0``, ``members/1`` and so on."""
    for number, member in enumerate(members):
        member.save_pretrained(folder / "members" / str(number))


def load_members(folder: Path, network: nn.Module | None) -> list[Teacher]:
    """What :func:`save_members` wrote; each has a copy of the network, if one is given."""
    paths = sorted((folder / "members").iterdir(), key=lambda path: int(path.name))
    return [Teacher.from_pretrained(path, deepcopy(network)) for path in paths]
