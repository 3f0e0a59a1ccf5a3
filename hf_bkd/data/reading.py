"""The preprocessing of a saved network, images or texts to tensors, by the files beside its weights."""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import datasets
import torch
import transformers
from PIL.Image import Image
from torch import Tensor, nn

from ..models.calling import num_classes_of
from ..utils.errors import UserError
from ..utils.progress import track
from .preprocessing import ImagePreprocessor

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model",
    "sentencepiece.bpe.model",
)  # fmt: skip
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Reader:
    """The preprocessor of a network: rows with a column ``image`` or ``text`` to its inputs.

    Args:
        kind: the column, ``"image"`` or ``"text"``.
        prepare: its values to keyword arguments of the network's forward.
        settings: the preprocessing as JSON: two networks with the same settings read the same.
        normalization: the whole preprocessing, where images need no more than that.
        processor: the tokenizer or image processor that has to be kept with the network.
    """

    kind: str
    prepare: Callable[[list], dict[str, Tensor]]
    settings: dict[str, Any]
    normalization: ImagePreprocessor | None = None
    processor: Any = None

    def __call__(self, rows: dict[str, list]) -> dict[str, Tensor]:
        """Turn a batch of rows into inputs."""
        return self.prepare(rows[self.kind])

    def to_dict(self) -> dict[str, Any]:
        """Return what is recorded with labels of these inputs."""
        return self.settings

    @property
    def batch_size(self) -> int:
        """The number of rows in a batch of a pass without gradients."""
        return 512 if self.normalization else 64

    def batches(self, dataset: datasets.Dataset, progress: str | None = None) -> Iterator[dict[str, Tensor]]:
        """Yield inputs, and ``labels`` if there are any, in order and un-augmented; ``progress`` names a bar."""
        starts = range(0, len(dataset), self.batch_size)
        for start in track(starts, progress if len(starts) > 5 else None):
            rows = dataset[start : start + self.batch_size]
            yield self(rows) | ({"labels": torch.tensor(rows["label"])} if "label" in rows else {})

    def save(self, folder: Path) -> None:
        """Save the files that :func:`reader_for` needs."""
        if self.processor is not None:
            self.processor.save_pretrained(folder)


def class_names(network: nn.Module) -> list[str]:
    """Return the names of a network's classes in order, from its config."""
    names = getattr(network.config, "id2label", None) or {}
    return [str(names.get(number, f"LABEL_{number}")) for number in range(num_classes_of(network))]


def kind_of(network: nn.Module) -> str:
    """Return what a network reads, ``"image"`` or ``"text"``; UserError if it is neither."""
    kinds = {"pixel_values": "image", "input_ids": "text"}
    taken = getattr(network, "main_input_name", "tensors")
    if taken not in kinds:
        raise UserError(f"{type(network).__name__} reads {taken}: only classifiers of images and of texts can be used")
    return kinds[taken]


def reader_for(
    network: nn.Module, folder: Path | None, dataset: datasets.Dataset | datasets.IterableDataset
) -> Reader:
    """Make the preprocessor by which ``network``, saved in ``folder``, reads the ``image`` or ``text`` of ``dataset``.

    Images of the size and channels that a timm network was made for are only normalized; all others go through the
    network's image processor, which resizes them.

    Raises:
        UserError: the folder has no tokenizer, or no image processor.
    """
    if kind_of(network) == "text":
        return _text_reader(network, folder)
    config = getattr(network.config, "pretrained_cfg", None) or {}
    first = next(iter(dataset), None)
    if config and first is not None and _is_ready(first["image"], *config["input_size"]):
        preprocessor = ImagePreprocessor.for_model(network)
        return Reader("image", lambda images: preprocessor({"image": images}), preprocessor.to_dict(), preprocessor)
    return _image_reader(network, folder)


def _is_ready(image: Image, channels: int, height: int, width: int) -> bool:
    return (image.mode, image.height, image.width) == (MODES.get(channels), height, width)


def _image_reader(network: nn.Module, folder: Path | None) -> Reader:
    config = getattr(network.config, "pretrained_cfg", None)
    if config:
        channels = config["input_size"][0]
        processor, saved = transformers.TimmWrapperImageProcessor(config), None  # all of it is in the network's config
        settings = processor.data_config
    else:
        channels = getattr(network.config, "num_channels", 3)
        processor = saved = _from_files(transformers.AutoImageProcessor, folder, ("preprocessor_config.json",))
        settings = processor.to_dict()

    def prepare(images: list[Image]) -> dict[str, Tensor]:
        deep = {image.mode for image in images if image.mode.startswith(("I", "F"))}
        if deep:
            raise UserError(
                f"images of mode {deep.pop()} can't be read as 8-bit channels: scale and save them as such"
            )
        images = [image.convert(MODES[channels]) for image in images]
        return {"pixel_values": processor(images, return_tensors="pt")["pixel_values"]}

    return Reader("image", prepare, json.loads(json.dumps(settings, default=str)), processor=saved)


def _text_reader(network: nn.Module, folder: Path | None) -> Reader:
    tokenizer = _from_files(transformers.AutoTokenizer, folder, TOKENIZER_FILES)
    if tokenizer.pad_token is None and network.config.pad_token_id is not None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(network.config.pad_token_id)
    if tokenizer.pad_token is None:
        raise UserError(f"the tokenizer in {folder} has no token to pad texts with: set its pad_token")
    longest = min(tokenizer.model_max_length, getattr(network.config, "max_position_embeddings", None) or 10**6)
    taken = inspect.signature(network.forward).parameters

    def prepare(texts: list[str | None]) -> dict[str, Tensor]:
        texts = [text or "" for text in texts]
        batch = tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        return {name: value for name, value in batch.items() if name in taken}

    vocabulary = hashlib.sha256(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode()).hexdigest()[:16]
    settings = {"tokenizer": type(tokenizer).__name__, "vocabulary": vocabulary, "max_length": longest}
    return Reader("text", prepare, settings, processor=tokenizer)


def _from_files(kind: Any, folder: Path | None, names: tuple[str, ...]) -> Any:
    """Load a tokenizer or image processor; transformers would make up one for a folder that has none."""
    what = "tokenizer" if len(names) > 1 else "image processor"
    if folder is None or not any((folder / name).is_file() for name in names):
        raise UserError(
            f"{folder} holds no {what} ({names[0]}): put the files of the one that the network was trained with there"
        )
    try:
        return kind.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        reason = shorten(f"{type(error).__name__}: {error}", 200)
        raise UserError(f"the {what} in {folder} cannot be loaded ({reason})") from error
