"""Load a saved teacher, or any saved classifier as a teacher."""

from pathlib import Path

from torch import nn
from transformers.utils import logging

from ..hub.transfer import local_folder, source_of
from ..models.problem_types import is_dirichlet, likelihood_of
from ..models.saving import damage_refused, holds_network, load_network
from ..utils.errors import UserError
from .base import Teacher
from .deterministic import DeterministicTeacher
from .dirichlet import DirichletStudent


def load_teacher(
    name_or_path: str, network: nn.Module | None = None, problem_type: str | None = None
) -> tuple[Teacher, Path]:
    """Load a saved teacher, or any saved classifier as a deterministic one; return it with its folder.

    A student that says that its outputs are a Dirichlet's becomes a :class:`~hf_bkd.DirichletStudent`.

    Args:
        name_or_path: a folder, or a name on the Hub.
        network: built as the saved one was, which a plain ``nn.Module`` needs.
        problem_type: what a classifier's outputs mean, if it doesn't say it.

    Raises:
        UserError: there is neither, or it can't be loaded.
    """
    logging.disable_progress_bar()  # of loading weights
    folder = local_folder(name_or_path)
    if (folder / "teacher.json").is_file():
        teacher = Teacher.from_pretrained(folder, network)
        if problem_type not in (None, teacher.likelihood.problem_type):
            raise UserError(
                f"problem_type is {problem_type!r}, and the teacher in {folder} was saved as one of "
                f"{teacher.likelihood.problem_type!r}: leave it out"
            )
        return teacher, folder
    if (folder / "adapter_config.json").is_file() or holds_network(folder):
        with damage_refused(f"the network in {folder}"):
            network = load_network(folder, network)
            kind = DirichletStudent if is_dirichlet(network) else DeterministicTeacher
            teacher = kind(network, likelihood=likelihood_of(network, problem_type))
        teacher.source = source_of(name_or_path, folder)
        return teacher, folder
    return Teacher.from_pretrained(folder, network), folder  # which says that there is none
