"""The tokenizer, image processor or feature extractor that lies beside a network's weights."""

import json
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten
from typing import Any

from torch import nn

from ...utils.errors import UserError

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model",
    "sentencepiece.bpe.model",
)  # fmt: skip
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
SOURCES = {"text": TOKENIZER_FILES, "image": PROCESSOR_FILES, "audio": PROCESSOR_FILES}
CLASSES = {"text": "AutoTokenizer", "image": "AutoImageProcessor", "audio": "AutoFeatureExtractor"}
NAMES = {"text": "tokenizer", "image": "image processor", "audio": "feature extractor"}


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
    import transformers

    try:
        return getattr(transformers, CLASSES[kind]).from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        reason = shorten(f"{type(error).__name__}: {error}", 200)
        raise UserError(f"the {NAMES[kind]} in {folder} cannot be loaded ({reason})") from error


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
    config = getattr(network, "config", None)
    name = getattr(config, "_name_or_path", None)
    if not name:
        return
    if Path(name).is_dir():
        yield Path(name)
        yield Path(name).parent  # of a saved teacher, where earlier versions kept it
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
