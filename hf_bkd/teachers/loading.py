"""Load a saved teacher, or any saved classifier as a teacher."""

from pathlib import Path

from torch import nn
from transformers.utils import logging

from ..hub.transfer import local_folder, source_of
from ..models.saving import damage_refused, holds_network, load_network
from .base import Teacher
from .deterministic import DeterministicTeacher


def load_teacher(name_or_path: str, network: nn.Module | None = None) -> tuple[Teacher, Path]:
    """Load a saved teacher, or any saved classifier as a deterministic one; return it with its folder.

    Args:
        name_or_path: a folder, or a name on the Hub.
        network: built as the saved one was, which a plain ``nn.Module`` needs.

    Raises:
        UserError: there is neither, or it can't be loaded.
    """
    logging.disable_progress_bar()  # of loading weights
    folder = local_folder(name_or_path)
    if (folder / "teacher.json").is_file():
        return Teacher.from_pretrained(folder, network), folder
    if (folder / "adapter_config.json").is_file() or holds_network(folder):
        with damage_refused(f"the network in {folder}"):
            teacher = DeterministicTeacher(load_network(folder, network))
        teacher.source = source_of(name_or_path, folder)
        return teacher, folder
    return Teacher.from_pretrained(folder, network), folder  # which says that there is none
