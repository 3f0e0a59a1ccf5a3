"""Saved networks and teachers that a command names: loaded as they are, or as classifiers of its data's classes."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from textwrap import shorten
from typing import Any

import timm
import transformers
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES as AUDIO_MODELS
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as IMAGE_MODELS
from transformers.utils import logging

from ..data.labels import in_words
from ..data.preprocessing import timm_settings
from ..data.preprocessors import class_names
from ..data.preprocessors.saved import NAMES, SOURCES, folders_of, network_kind, saved_processor
from ..hub.transfer import local_folder
from ..models.class_names import both_name
from ..models.heads import classification_head, num_classes_of
from ..models.problem_types import stated_problem_type
from ..models.saving import (
    check_loadable,
    damage_refused,
    holds_network,
    is_adapted_language_model,
    load_network,
)
from ..models.token_networks import classifies_tokens
from ..teachers import Teacher
from ..teachers.loading import load_teacher
from ..training.problem import Problem
from ..utils.errors import UserError
from ..utils.files import read_json

PLAIN = Problem()  # one class for each example
CLASSIFIERS = {
    "image": transformers.AutoModelForImageClassification,
    "text": transformers.AutoModelForSequenceClassification,
    "audio": transformers.AutoModelForAudioClassification,
}
HEADS = (
    "ForImageClassification", "ForSequenceClassification", "ForAudioClassification", "ForTokenClassification",
)  # fmt: skip


def has_head(folder: Path) -> bool:
    """Say whether a folder's network is a classifier already, and no pretrained encoder without a head for classes."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    names = config.get("architectures") or []
    return not names or any(name.endswith(HEADS) for name in names)


def load_for_classes(
    name: str,
    kind: str,
    classes: list[str] | None,
    num_classes: int,
    new_head: bool = False,
    problem: Problem = PLAIN,
) -> nn.Module:
    """Load a saved network as a classifier of some classes, to be trained.

    A pretrained network without a head for classes gets one, with random weights.

    Args:
        name: folder, or name on the Hub, of a network or of a teacher that has one.
        kind: what it is to read: ``"image"``, ``"text"``, ``"audio"`` or ``"features"``.
        classes: C names in order, where they are known.
        num_classes: C.
        new_head: whether a network of other classes gets a new head too.
        problem: that it is to answer.

    Raises:
        UserError: it can't be loaded, is of other classes, or answers another problem.
    """
    folder = network_folder(name)
    with damage_refused(f"the network in {folder}"):
        if has_head(folder):
            network = load_network(folder)
            own = class_names(network)
            predicts, wanted = _in_words(network, problem), _in_words(None, problem)
            if predicts != wanted:
                misfit = f"{name} predicts {predicts}, and the labels are {wanted}"
            elif num_classes_of(network) == num_classes and not _differ(own, classes):
                return network.train()
            else:
                misfit = (
                    f"{name} knows {len(own)} classes ({shorten(', '.join(own), 40)}) and the labels are of "
                    f"{num_classes} ({shorten(', '.join(classes or ()), 40)})"
                )
            if kind not in CLASSIFIERS:
                raise UserError(f"{misfit}: pass an architecture, as --student mlp-64-64, or another network")
            if not new_head:
                raise UserError(f"{misfit}: pass --ignore_mismatched_sizes for a new head, or another network")
        classes = classes or [f"LABEL_{number}" for number in range(num_classes)]
        return _with_new_head(folder, kind, classes, problem)


def check_is_network(name: str) -> None:
    """Raise a UserError if a folder or a repository of the Hub is not there, or holds no network."""
    check_loadable(network_folder(name))


def is_encoder(name: str) -> bool:
    """Say whether a saved network is a pretrained one of transformers that has no head for classes."""
    folder = _folder(name)
    return not (folder / "teacher.json").is_file() and not has_head(folder)


@contextmanager
def _near_names(name: str) -> Iterator[None]:
    """Say which architectures are called like a network that is not there."""
    try:
        yield
    except UserError as error:
        near = get_close_matches(name.lower(), [*timm.list_models(), "mlp-64", "mlp-64-64"])
        raise UserError(
            f"{error}; architectures with such a name: {', '.join(near)}" if near else str(error)
        ) from None


def _folder(name: str) -> Path:
    with _near_names(name):
        return local_folder(name)


def network_folder(name: str) -> Path:
    """Return the folder of a saved network, within that of a teacher whose only one it is."""
    folder = _folder(name)
    own = folder / "network"
    holds = holds_network(own) or is_adapted_language_model(own)
    return own if (folder / "teacher.json").is_file() and holds else folder


def _differ(own: list[str], classes: list[str] | None) -> bool:
    """Whether both are names that somebody gave, and not the same ones in the same order."""
    return both_name(own, classes) and [name.lower() for name in own] != [name.lower() for name in classes]


def _in_words(network: nn.Module | None, problem: Problem) -> str:
    """Say what a network predicts as far as it says it itself, or what a problem asks for."""
    per_token = problem.per_token if network is None else classifies_tokens(network)
    stated = None if network is None else stated_problem_type(network)
    return in_words(stated or problem.likelihood.problem_type, per_token)


def _with_new_head(folder: Path, kind: str, classes: list[str], problem: Problem) -> nn.Module:
    network = _with_head_of(folder, kind, classes, problem)
    with suppress(UserError):  # of a head that is no linear layer
        classification_head(network)[1].reset_parameters()  # one of as many classes has the weights of the others
    return network


def _with_head_of(folder: Path, kind: str, classes: list[str], problem: Problem) -> nn.Module:
    config = read_json(folder / "config.json")
    if kind == "image" and "architecture" in config and "architectures" not in config:  # timm's own files
        network = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=len(classes))
        network.pretrained_cfg["label_names"] = classes
        return network
    if kind not in CLASSIFIERS:
        raise UserError(f"{folder} holds no network for numbers in columns: pass an architecture such as mlp-64-64")
    loader = transformers.AutoModelForTokenClassification if problem.per_token else CLASSIFIERS[kind]
    names: dict[str, Any] = {
        "id2label": dict(enumerate(classes)),
        "label2id": {name: number for number, name in enumerate(classes)},
    }
    names["problem_type"] = problem.likelihood.problem_type if problem.likelihood.independent else None
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # that the head is new is what was asked for
    try:
        return loader.from_pretrained(
            folder, num_labels=len(classes), ignore_mismatched_sizes=True, trust_remote_code=False, **names
        )
    finally:
        logging.set_verbosity(verbosity)


def load_trained(name: str, problem_type: str | None = None) -> Teacher:
    """Load a saved teacher, or a trained classifier as one.

    Args:
        name: folder, or name on the Hub.
        problem_type: what a classifier's outputs mean, if it doesn't say it.

    Raises:
        UserError: there is neither (timm's names that are like it are said), or no tokenizer, image processor or
            feature extractor that the network needs.
    """
    with _near_names(name):
        teacher, folder = load_teacher(name, problem_type=problem_type)
    parts = [teacher, *getattr(teacher, "parts", ())]
    if timm_settings(teacher.network) is None and not any(map(_has_processor, parts)):
        processor_of(name, network_kind(teacher.network))  # which says that there is none
    return teacher


def _has_processor(teacher: Teacher) -> bool:
    """Whether a teacher has a tokenizer or other processor, or its network's weights lie beside one."""
    kind = network_kind(teacher.network)
    return teacher.processing_class is not None or (
        kind in SOURCES and saved_processor(kind, *folders_of(teacher.network)) is not None
    )


def saved_kind(name: str) -> str:
    """Return what a saved network reads: ``"image"``, ``"audio"``, ``"text"`` or ``"features"``."""
    folder = network_folder(name)
    if _is_timm(folder):
        return "image"
    file = folder / "config.json"
    config = read_json(file) if file.is_file() else {}
    known = {"image": IMAGE_MODELS, "audio": AUDIO_MODELS}
    other = "text" if "model_type" in config else "features"
    return next((kind for kind, names in known.items() if config.get("model_type") in names), other)


def processor_of(name: str, kind: str | None) -> Any:
    """Return the tokenizer, image processor or feature extractor beside a saved network; ``None`` if it needs none.

    Raises:
        UserError: there are none of its files.
    """
    folder = _folder(name)
    if kind not in SOURCES or (kind == "image" and _is_timm(network_folder(name))):
        return None
    inner = ("", "network", "members/0", "members/0/network")
    processor = saved_processor(kind, *(folder / place for place in inner))
    if processor is None:
        raise UserError(
            f"{folder} holds no {NAMES[kind]} ({SOURCES[kind][0]}): put the files of the one that the network was "
            "trained with there"
        )
    return processor


def _is_timm(folder: Path) -> bool:
    file = folder / "config.json"
    return file.is_file() and "architecture" in read_json(file)
