"""The files of a student: they load where this library is not, with the classes' names and the images' preparation."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer

from ..data.preprocessing import ImagePreprocessor
from ..models.calling import unwrapped
from ..models.heads import classification_head
from ..models.loading_code import AUTOMATIC
from ..models.plain_networks import DESCRIPTION, described
from ..models.rebuilding import difference_when_loaded
from ..models.saving import save_description, storable, timms_names
from ..models.timm_networks import IMAGES, is_timm, refresh_label_names, wraps_timm
from ..models.token_networks import predicts_next_tokens
from ..utils.files import write_json
from ..utils.seeding import unmoved_randomness

logger = logging.getLogger(__name__)


def _saves_itself(student: nn.Module) -> bool:
    """Whether the Trainer saves a student by the student's own ``save_pretrained``: transformers' and PEFT's."""
    return isinstance(student, PreTrainedModel) or hasattr(student, "peft_config")


def state_to_save(model: nn.Module, state: dict[str, Tensor] | None, for_resume: bool) -> dict[str, Tensor] | None:
    """Return the state that the Trainer is to save, by the student's own names; ``None`` leaves it to the Trainer.

    Args:
        model: the trainer's.
        state: gathered from several processes, if it is.
        for_resume: whether it is a checkpoint's, which the Trainer reads by the model's names.
    """
    student = unwrapped(model, keep_adapters=True)
    if wraps_timm(student) and not for_resume:
        return timms_names(student, student.state_dict() if state is None else state)
    if state is None and (student is not model or not _saves_itself(student)):
        state = student.state_dict()
    return state if _saves_itself(student) else storable(state)


def save_student_files(trainer: Trainer, folder: str | Path, names: Sequence[str] | None) -> None:
    """Write what a student's weights in ``folder`` need to be loaded, where transformers does not.

    Args:
        trainer: of the student.
        folder: with the student's weights.
        names: of the student's classes in the order of its outputs, where they are known.
    """
    student = unwrapped(trainer.model, keep_adapters=True)
    if difference_when_loaded(student) is not None:
        write_json(Path(folder) / DESCRIPTION, described(student))  # so that it isn't loaded without its own code
    elif _saves_itself(student):
        (Path(folder) / DESCRIPTION).unlink(missing_ok=True)  # an older student's
    if not _saves_itself(student):
        images = _images_seen(trainer) if is_timm(student) else None
        save_description(student, folder, None if names is None else list(names), images)


def warn_if_not_rebuilt(student: nn.Module) -> None:
    """Log a warning if a transformers model is another than its class makes from its config.

    A head that was put in by hand would be random in what ``from_pretrained`` loads, and an activation the old one.
    """
    if hasattr(student, "peft_config"):
        _warn_if_head_is_lost(student)
        _warn_if_base_is_trained(student)
    difference = difference_when_loaded(student)
    if difference is not None:
        logger.warning(
            "%s can't be made anew from its config (%s), and from_pretrained will load another network: build the "
            "student by its config, or load it with hf_bkd.models.saving.load_network(folder, network=...), built as "
            "this one",
            type(student).__name__,
            difference,
        )


def _warn_if_head_is_lost(student: nn.Module) -> None:
    """Log a warning if the head of a student with adapters of PEFT is new, and they neither train nor save it."""
    network = unwrapped(student)
    if predicts_next_tokens(network):
        return
    if any(name.endswith(AUTOMATIC) for name in getattr(network.config, "architectures", None) or ()):
        return  # it was loaded with its head
    name, head = classification_head(network)
    if not any(weight.requires_grad for weight in head.parameters()):
        logger.warning(
            "the head %s is new, and the adapters neither train nor save it: what is loaded from them would have "
            "another, random one; give the adapters' config modules_to_save=[%r]",
            name,
            name.rpartition(".")[2],
        )


def _warn_if_base_is_trained(student: nn.Module) -> None:
    """Log a warning if weights are trained that are no adapter's of PEFT, which saves adapters alone."""
    adapters, biases = (
        set(student.peft_config),
        {getattr(each, "bias", "none") for each in student.peft_config.values()},
    )
    trained = (name for name, weight in student.named_parameters() if weight.requires_grad)
    lost = [name for name in trained if not adapters & {*name.split(".")}]
    lost = [name for name in lost if not (name.endswith(".bias") and biases - {"none"})]
    if lost:
        logger.warning(
            "%d weights beside the adapters are trained, and only adapters are saved, so that what is loaded again "
            "would be another student (%s): freeze them, or name their layers in the adapters' "
            "modules_to_save",
            len(lost),
            lost[0],
        )


def name_classes(model: nn.Module, names: Sequence[str] | None) -> None:
    """Write the names of the classes into a transformers model's config, if it has none but LABEL_0 and so on."""
    model = unwrapped(model, keep_adapters=True)
    config = getattr(model, "config", None)
    own = getattr(config, "id2label", None)
    if names and own and len(own) == len(names) and all(own.get(i) == f"LABEL_{i}" for i in range(len(own))):
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}
    refresh_label_names(model)


def name_problem(model: nn.Module, problem_type: str) -> None:
    """Write what its outputs mean into a network or its config, if it doesn't say it, so that others read them alike.

    The attribute ``problem_type`` of one without transformers' config is saved with it.
    """
    network = unwrapped(model, keep_adapters=True)
    config = getattr(network, "config", None)
    says = config if hasattr(config, "problem_type") else network
    if getattr(says, "problem_type", None) is None:
        says.problem_type = problem_type


def _images_seen(trainer: Any) -> dict[str, Any]:
    """Return what is known of the images that a student was trained on, by timm's names.

    Where its preprocessor doesn't say which size they have, the first image of the training set does.
    """
    loaded = getattr(trainer, "_train", None)
    dataset, prepare = (getattr(loaded, name, None) for name in ("dataset", "prepare"))
    reader = getattr(dataset, "preprocessor", None)
    settings = reader.to_dict() if isinstance(reader, ImagePreprocessor) else getattr(prepare, "settings", {})
    known = {name: settings[name] for name in IMAGES if name in settings}
    if "input_size" not in known and hasattr(dataset, "__getitems__"):
        with unmoved_randomness():
            image = trainer.batch_of([0]).get("pixel_values")
        if image is not None and image.ndim == 4:
            known |= {"input_size": list(image.shape[1:]), "crop_pct": 1.0}
    if "mean" not in known:
        _warn_of_normalization()
    return known


@functools.cache
def _warn_of_normalization() -> None:
    logger.warning(
        "nothing says how the images of the training set were normalized, and the student's config.json will name the "
        "mean and std of its pretrained_cfg: if these are not the images', set them there before saving"
    )
