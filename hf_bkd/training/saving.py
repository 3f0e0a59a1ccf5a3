"""The files of a student: they load where this library is not, with the classes' names and the images' preparation."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer

from ..data.preprocessing import ImagePreprocessor
from ..models.saving import save_description, storable
from ..models.timm_networks import IMAGES, is_timm, num_outputs
from ..soft_labels.identity import class_names
from .supervision import OnlineTeacher, StoredLabels


def student_of(model: nn.Module) -> nn.Module:
    """Return the student that is to be saved: what `torch.compile` has compiled; of PEFT, the model with adapters."""
    return getattr(model, "_orig_mod", model)


def saves_itself(student: nn.Module) -> bool:
    """Whether the Trainer saves a student by the student's own ``save_pretrained``: transformers' and PEFT's."""
    return isinstance(student, PreTrainedModel) or hasattr(student, "peft_config")


def state_to_save(model: nn.Module, state: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
    """Return the state that the Trainer is to save, by the student's own names; ``None`` leaves it to the Trainer.

    Args:
        model: the trainer's.
        state: gathered from several processes, if it is.
    """
    student = student_of(model)
    if state is None and (student is not model or not saves_itself(student)):
        state = student.state_dict()
    return state if saves_itself(student) else storable(state)


def save_student_files(trainer: Trainer, source: StoredLabels | OnlineTeacher | None, folder: str | Path) -> None:
    """Write what a student's weights in ``folder`` need to be loaded, where transformers does not."""
    student = student_of(trainer.model)
    if not saves_itself(student):
        save_description(student, folder, names_to_save(trainer, source), images_seen(trainer))


def names_to_save(trainer: Trainer, source: StoredLabels | OnlineTeacher | None) -> list[str] | None:
    """Return the names of the student's classes in order, from the training set or from the record of its labels."""
    names = class_names(getattr(trainer.train_dataset, "features", None) or {})
    if names is None and isinstance(source, StoredLabels):
        record = next(iter(source.stored.values())).layout.record
        names = record and record.class_names
    student = student_of(trainer.model)
    outputs = num_outputs(student) if is_timm(student) else getattr(student, "num_classes", None)
    return names if names and outputs in (None, len(names)) else None


def name_classes(model: nn.Module, names: list[str] | None) -> None:
    """Write the names of the classes into a transformers model's config, if it has none but LABEL_0 and so on."""
    config = getattr(student_of(model), "config", None)
    own = getattr(config, "id2label", None)
    if names and own and len(own) == len(names) and all(own.get(i) == f"LABEL_{i}" for i in range(len(own))):
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}


def images_seen(trainer: Trainer) -> dict[str, Any]:
    """Return what is known of the images that a student was trained on, by timm's names."""
    dataset = trainer.train_dataset
    preprocessor = getattr(dataset, "preprocessor", None)
    if isinstance(preprocessor, ImagePreprocessor):
        size = list(dataset[[0]]["pixel_values"].shape[1:])
        return preprocessor.to_dict() | {"input_size": size, "crop_pct": 1.0}
    settings = getattr(getattr(trainer, "preprocessor", None), "settings", None) or {}
    return {name: settings[name] for name in IMAGES if name in settings}
