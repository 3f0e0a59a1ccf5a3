"""The tokenizer, image processor or feature extractor that lies beside a network's weights."""

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, NoReturn, Self

from torch import nn

from ...models.calling import argument_names, unwrapped
from ...utils.errors import UserError
from ..preprocessing import ImagePreprocessor, timm_settings
from .base import Preprocessor
from .images import timm_data_config

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model",
    "sentencepiece.bpe.model",
)  # fmt: skip
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
SOURCES = {"text": TOKENIZER_FILES, "image": PROCESSOR_FILES, "audio": PROCESSOR_FILES}
CLASSES = {"text": "AutoTokenizer", "image": "AutoImageProcessor", "audio": "AutoFeatureExtractor"}
KINDS = {"pixel_values": "image", "input_ids": "text", "input_values": "audio", "input_features": "audio"}
ONLY_NORMALIZES = {
    "image_processor_type": "ViTImageProcessor", "do_resize": False, "do_rescale": True, "rescale_factor": 1 / 255,
    "do_normalize": True,
}  # fmt: skip
NAMES = {"text": "tokenizer", "image": "image processor", "audio": "feature extractor"}


def network_kind(network: nn.Module) -> str | None:
    """Return what a network reads; ``None`` of plain modules, which don't say."""
    kind = KINDS.get(getattr(network, "main_input_name", ""))
    if kind is None and timm_settings(network) is not None:
        return "image"
    if kind is None:
        names = [KINDS[name] for name in argument_names(network) if name in KINDS]
        return names[0] if names else None
    return kind


def processor_beside(network: nn.Module, *folders: Path) -> Any:
    """Load the tokenizer, image processor or feature extractor of a network from the first folder that has one.

    Raises:
        UserError: its files are damaged.
    """
    kind = network_kind(unwrapped(network))
    processors = (saved_processor(each, *folders) for each in ([kind] if kind else SOURCES))
    return next((processor for processor in processors if processor is not None), None)


def processor_of(network: nn.Module) -> Any:
    """Return what lies beside the weights of a network that was loaded; ``None`` without any, or if it is damaged."""
    try:
        return processor_beside(network, *folders_of(network))
    except UserError:
        return None


def saved_processor(kind: str, *folders: Path) -> Any:
    """Load the tokenizer (``kind`` "text"), image processor or feature extractor from the first folder that has one.

    Returns:
        It, or ``None`` if none of the folders has its files: transformers would make one up.

    Raises:
        UserError: the files are damaged.
    """
    folder = next((folder for folder in folders if _holds(folder, kind)), None)
    if folder is None:
        return None
    plain = _only_normalizes(folder) if kind == "image" else None
    if plain is not None:
        return plain
    import transformers

    try:
        return getattr(transformers, CLASSES[kind]).from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        reason = shorten(f"{type(error).__name__}: {error}", 200)
        raise UserError(f"the {NAMES[kind]} in {folder} cannot be loaded ({reason})") from error


def save_processor(processor: Any, folder: Path) -> None:
    """Save the files of a processor beside a network, which its library, or :func:`saved_processor`, reads.

    An :class:`ImagePreprocessor` is saved as the image processor of transformers that does the same. Functions and
    transforms are not saved: that would be somebody's code (see :class:`NotSaved`).
    """
    processor = processor.processor if isinstance(processor, Preprocessor) else processor
    if isinstance(processor, ImagePreprocessor):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PROCESSOR_FILES[0]).write_text(json.dumps(_as_settings(processor), indent=2) + "\n")
    elif hasattr(processor, "save_pretrained") and not hasattr(processor, "data_config"):
        processor.save_pretrained(folder)


@dataclass(frozen=True)
class NotSaved:
    """The place of a function or transform that read a teacher's examples, and wasn't saved with the teacher.

    Args:
        name: of it.
    """

    name: str

    def refuse(self, network: nn.Module) -> NoReturn:
        """Raise the UserError that asks for it."""
        raise UserError(
            f"what makes the inputs of this {type(network).__name__}, {self.name}, was not saved with the teacher, as "
            "it is somebody's code: set teacher.processing_class to it, or pass processing_class="
        )

    @classmethod
    def of(cls, processor: Any, network: nn.Module) -> Self | None:
        """Return the place of a network's ``processing_class``; ``None`` if :func:`save_processor` saves it."""
        if isinstance(processor, NotSaved):
            return processor
        if isinstance(processor, Preprocessor):
            if processor.processor is not None:
                return cls.of(processor.processor, network)
            return None if processor.kind != "image" or _is_timms(processor, network) else cls("another network's")
        saved = processor is None or isinstance(processor, ImagePreprocessor) or hasattr(processor, "save_pretrained")
        return None if saved else cls(_in_brief(processor))


def _is_timms(preprocessor: Preprocessor, network: nn.Module) -> bool:
    """Whether a preprocessor is what a timm network's own configuration says, which is saved in the network's."""
    own = timm_settings(unwrapped(network)) is not None and timm_data_config(unwrapped(network))
    return preprocessor.settings == json.loads(json.dumps(own, default=str))


def _in_brief(processor: Any) -> str:
    """Return the name of a function, or a transform as it is printed, in one line without addresses."""
    processor = processor.func if isinstance(processor, functools.partial) else processor
    name = getattr(processor, "__qualname__", None)
    printed = f"{processor.__module__}.{name}" if name else re.sub(r" at 0x[0-9a-f]+", "", str(processor))
    return shorten(printed, 200)


def _as_settings(processor: ImagePreprocessor) -> dict[str, Any]:
    return ONLY_NORMALIZES | {"image_mean": list(processor.mean), "image_std": list(processor.std)}


def _only_normalizes(folder: Path) -> ImagePreprocessor | None:
    """Return what :func:`save_processor` saved of an ``ImagePreprocessor``, if it was one."""
    try:
        settings = json.loads((folder / PROCESSOR_FILES[0]).read_text())
        made = ImagePreprocessor(tuple(settings["image_mean"]), tuple(settings["image_std"]))
        return made if settings == _as_settings(made) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _holds(folder: Path, kind: str) -> bool:
    if kind == "text":
        return any((folder / name).is_file() for name in TOKENIZER_FILES)
    for file in (folder / name for name in PROCESSOR_FILES):
        try:
            settings = json.loads(file.read_text())
        except (OSError, ValueError):
            if file.is_file():
                return True  # damaged, which loading it says
            continue
        others = {
            "image": ("feature_extractor_type", "sampling_rate"),
            "audio": ("image_processor_type", "image_mean"),
        }
        if not any(name in settings for name in others[kind]):
            return True
    return False


def folders_of(network: nn.Module) -> Iterator[Path]:
    """Yield the folder that a network of transformers was loaded from, or where the Hub's cache keeps its files."""
    config = getattr(unwrapped(network), "config", None)
    name = getattr(config, "_name_or_path", None)
    if not name:
        return
    folder = Path(name)
    if folder.is_dir():
        yield folder
        if folder.name == "network" and (folder.parent / "teacher.json").is_file():
            yield folder.parent  # where earlier versions kept it
        return
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for file in {*TOKENIZER_FILES, *PROCESSOR_FILES}:
        try:
            cached = try_to_load_from_cache(name, file, revision=getattr(config, "_commit_hash", None))
        except HFValidationError:  # a folder that is gone
            return
        if isinstance(cached, str):
            yield Path(cached).parent
            return
