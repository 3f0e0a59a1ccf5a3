"""A teacher's folder: its networks, its posterior, how it reads examples, and the description of them all."""

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from safetensors.torch import load_file, save_file
from torch import nn

from ..hub.cards import has_card_of_another, write_teacher_card
from ..hub.transfer import local_folder, source_of
from ..models.adapter_bases import Base, checked_base, named_base
from ..models.adapters import is_adapted, lost_when_merged, save_adapters
from ..models.calling import unwrapped
from ..models.loading_code import task_of
from ..models.saving import damage_refused, needed_network
from ..utils.errors import UserError
from ..utils.files import digests, whole_folder
from .description import DESCRIPTION, TEACHER_FILES, Description, check_files, is_description, read_description

if TYPE_CHECKING:
    from .base import Teacher

T = TypeVar("T", bound="Teacher")


def save(teacher: "Teacher", folder: Path, license: str | None, with_processor: bool = True) -> None:
    """Write a teacher's folder, as ``Teacher.save_pretrained`` says, if need be without what makes its inputs."""
    older = folder / DESCRIPTION
    if older.exists() and not is_description(older):
        raise UserError(f"{older} does not describe a teacher, and would be replaced: pass another folder")
    base = base_apart(teacher)
    settings, tensors = teacher.get_state()
    if base is None and lost_when_merged(teacher.network, tensors, teacher.method == "mc_dropout"):
        kind = type(unwrapped(teacher.network)).__name__
        raise UserError(
            f"a {teacher.method} teacher's adapters are saved merged into a {kind}, and its posterior is of the "
            "adapters, which would be lost: label with it as it is, or fit one of the network that "
            "model.merge_and_unload() returns"
        )
    settings = settings | {"temperature": teacher.temperature, "tempering": teacher.tempering}
    with whole_folder(folder, last=DESCRIPTION, stale=TEACHER_FILES) as temporary:
        if base is None:
            teacher._save_networks(temporary)
        else:
            save_adapters(teacher.network, temporary / "network")
        if with_processor and (base is None or not _reads_as_base(teacher)):
            teacher._save_processing_class(temporary)
        if tensors:
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            save_file(tensors, temporary / "posterior.safetensors")
        description = {"format": 1, "method": teacher.method, "num_classes": teacher.num_classes, "settings": settings}
        said = teacher._likelihood_as_json()
        description |= {"record": teacher.record} | ({"likelihood": said} if said else {}) | teacher._reading()
        description |= {} if base is None else {"base": base._asdict()}
        description["files"] = digests(temporary, DESCRIPTION)
        (temporary / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
        if not has_card_of_another(folder):
            needed = needed_network(temporary)
            write_teacher_card(temporary, description, task_of(unwrapped(teacher.network)), license, needed)


def base_apart(teacher: "Teacher") -> Base | None:
    """Return the base model of a teacher that is saved as its adapters alone; else they are merged into it.

    Raises:
        UserError: adapters that a teacher of its kind can't be saved without, and that can't be saved apart.
    """
    if hasattr(teacher, "parts") or not is_adapted(teacher.network):  # parts have their own
        return None
    is_same_merged = teacher.method == "deterministic" and hasattr(teacher.network, "merge_and_unload")
    try:
        base = named_base(teacher.network)
    except UserError:
        if not is_same_merged:
            raise
        return None
    if base is None and not is_same_merged:
        raise UserError(
            f"a {teacher.method} teacher is saved with its adapters apart, and nobody says where its base model is: "
            "save this by network.get_base_model().save_pretrained(folder) before it has adapters, and load it"
        )
    return base


def _reads_as_base(teacher: "Teacher") -> bool:
    """Whether a language model with adapters has the tokenizer that lies beside its base model."""
    from ..data.preprocessors import tokenizer_of
    from ..language import same_tokens

    own, bases = tokenizer_of(teacher.network, teacher.processing_class), tokenizer_of(teacher.network)
    return own is not None and bases is not None and same_tokens(own, bases)


def load(
    cls: type[T],
    base: type["Teacher"],
    name_or_path: str | Path,
    network: nn.Module | None,
    revision: str | None,
) -> T:
    """Load a saved teacher, as ``Teacher.from_pretrained`` says.

    Args:
        cls: of which it must be an instance.
        base: of all kinds of teachers.
        name_or_path, network, revision: as there.
    """
    folder = local_folder(name_or_path, revision)
    description = read_description(folder, name_or_path)
    kinds = {kind.method: kind for kind in _subclasses(base) if "method" in vars(kind)}
    kind = kinds.get(description.method)
    if kind is None:
        raise UserError(
            f"{name_or_path} holds a teacher of the unknown method {description.method!r}; known are "
            f"{', '.join(kinds)} (import the module that defines it)"
        )
    if not issubclass(kind, cls):
        raise UserError(f"{name_or_path} holds a {kind.__name__}, not a {cls.__name__}")
    teacher = _loaded(kind, folder, description, network)
    teacher.source = source_of(name_or_path, folder)
    return teacher


def _subclasses(cls: type) -> list[type]:
    return [kind for sub in cls.__subclasses__() for kind in (sub, *_subclasses(sub))]


def _loaded(kind: type[T], folder: Path, description: Description, network: nn.Module | None) -> T:
    posterior = folder / "posterior.safetensors"
    with damage_refused(f"the teacher in {folder}"):
        tensors = load_file(posterior) if posterior.is_file() else {}
        settings, likelihood = description.settings, description.likelihood
        if description.base is not None:
            network = checked_base(description.base, network, folder)
        if likelihood is not None and "likelihood" in inspect.signature(kind).parameters:  # composites have theirs
            settings = settings | {"likelihood": likelihood}
        teacher = kind.from_state(kind._load_networks(folder, network), settings, tensors)
        teacher.likelihood = likelihood or teacher.likelihood
    check_files(folder, description.files)
    teacher.record = description.record
    teacher._load_processing_class(folder, description)
    return teacher
