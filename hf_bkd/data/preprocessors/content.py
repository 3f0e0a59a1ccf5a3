"""What the columns of a dataset hold, and which of them a network reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import datasets
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from ...models.calling import argument_names, unwrapped
from ...models.token_networks import classifies_tokens
from ...utils.errors import UserError
from ..columns import RENAMED, is_label, is_soft_label_column

IDS = ("id", "idx", "index", "guid", "uid", "uuid", "__index_level_0__", "Unnamed: 0")
INPUT_NAMES = ("input_ids", "pixel_values", "input_values", "input_features", "inputs_embeds")
TEXTS = ("text", "sentence")  # which of several columns of texts is read
WORDS = ("tokens", "words")  # and of lists of words
PAIRS = (
    ("text", "text_pair"), ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question", "sentence"),
    ("question1", "question2"), ("question", "context"), ("question", "passage"), ("question", "answer"),
    ("sentence_A", "sentence_B"), ("text1", "text2"), ("text_a", "text_b"), ("query", "passage"),
    ("query", "document"),
)  # fmt: skip


@dataclass(frozen=True)
class Content:
    """The columns of a dataset that may be inputs, less labels, soft labels and ids."""

    features: dict[str, Any]
    dataset: Any = None

    @classmethod
    def of(cls, dataset: datasets.Dataset | datasets.IterableDataset) -> Self:
        """Read a dataset's features; UserError if a streamed one doesn't say what its columns are."""
        given = dataset.features  # which are copied each time
        if given is None:
            raise UserError(
                "the streamed dataset doesn't say what its columns are: pass dataset.cast(features), with its "
                "datasets.Features"
            )
        features = {
            name: feature
            for name, feature in given.items()
            if not (is_label(name, feature) or is_soft_label_column(name.removeprefix(RENAMED)) or name in IDS)
        }
        return cls(features, dataset)

    @property
    def has_transform(self) -> bool:
        """Whether the dataset makes inputs itself."""
        return isinstance(self.dataset, datasets.Dataset) and self.dataset.format["type"] == "custom"

    def of_kind(self, kind: str) -> list[str]:
        """Return the names of the columns that hold images, texts, sound or numbers."""
        return [name for name, feature in self.features.items() if _kind(feature) == kind]

    def may_be_tokens(self, name: str) -> bool:
        """Whether a column holds lists of whole numbers."""
        feature = self.features.get(name)
        return _kind(feature) == "features" and _is_list(feature) and _is_whole(feature)

    def only_kind(self, network: nn.Module) -> str:
        """Return what the columns hold that a network is to read which doesn't say what it reads.

        Raises:
            UserError: they hold several kinds of input, or none.
        """
        kinds = [kind for kind in ("image", "text", "audio", "features") if self.of_kind(kind)]
        if not kinds and set(WORDS) & set(self._in_words()):
            return "text"
        if len(kinds) != 1:
            raise UserError(
                f"nothing says which of the columns {', '.join(self.features) or 'of the dataset, which are labels,'} "
                f"{type(network).__name__} reads: pass processing_class= or preprocessor=, a function from rows to "
                "inputs, or remove the others"
            )
        return kinds[0]

    def _in_words(self) -> list[str]:
        return [name for name, feature in self.features.items() if holds_words(feature)]

    def _words(self, network: nn.Module) -> tuple[str, ...]:
        """Return the column of lists of words, if a network of tokens reads it, or there are no other texts.

        Raises:
            UserError: there are several, and nothing says which.
        """
        words = self._in_words()
        if not words or (self.of_kind("text") and not classifies_tokens(network)):
            return ()
        named = [name for name in WORDS if name in words] or words
        if len(named) > 1:
            raise UserError(
                f"the dataset has the columns of words {', '.join(words)}, and nothing says which is read: use "
                f"dataset.rename_column({named[0]!r}, 'tokens')"
            )
        return tuple(named)

    def columns(self, kind: str, network: nn.Module) -> tuple[str, ...]:
        """Return the columns of a kind that a network reads.

        Raises:
            UserError: there is none, or there are several of texts and nothing says which.
        """
        words = self._words(network) if kind == "text" else ()
        if words:
            return words
        names = self.of_kind(kind)
        if kind == "audio" and not names:
            names = [name for name in self.of_kind("features") if _is_list(self.features[name])]
        if not names:
            what = {"image": "images", "text": "texts", "audio": "sound", "features": "numbers"}[kind]
            files = ": cast_column(NAME, datasets.Image()) makes names of files images" if kind == "image" else ""
            raise UserError(
                f"{type(network).__name__} reads {what}, and the dataset has no column of {what}, only "
                f"{', '.join(self.dataset.features)}{files}"
            )
        if kind == "text":
            return _texts(names)
        return tuple(names) if kind == "features" else (names[0],)

    def named(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the columns of these names; UserError if the dataset lacks one."""
        for name in names:
            if name not in self.features:
                raise UserError(
                    f"the network reads the columns {', '.join(names)}, and the dataset has no {name!r}, only "
                    f"{', '.join(self.dataset.features)}"
                )
        return tuple(names)

    def ragged(self, columns: Sequence[str]) -> list[str]:
        """Return those of some columns of lists whose lists have several lengths, as far as that can be seen."""
        return [name for name in columns if self._is_ragged(name)]

    def _is_ragged(self, name: str) -> bool:
        feature = self.features[name]
        if not isinstance(feature, (datasets.List, datasets.LargeList)) or getattr(feature, "length", -1) != -1:
            return False
        if not isinstance(self.dataset, datasets.Dataset):
            return name == "input_ids"  # which usually have; of others it is seen when they are stacked
        column = self.dataset.select_columns([name]).with_format("arrow")
        lengths: set[int | None] = set()
        for start in range(0, len(column), 10_000):
            lengths.update(pc.unique(pc.list_value_length(column[start : start + 10_000][name])).to_pylist())
            if len(lengths) > 1:
                return True
        return False


def ready_columns(network: nn.Module, dataset: Any, kind: str | None = None) -> tuple[str, ...] | None:
    """Return the columns that are a network's inputs as they are; ``None`` if there are none.

    They are the columns of numbers whose names are arguments of its forward, or else, for a network that takes one
    tensor, a column that has the name of an input (``pixel_values``), or the only one of lists of numbers.

    Args:
        network: whose inputs they are to be.
        dataset: its columns.
        kind: what the network reads, if that is known.
    """
    network, content = unwrapped(network), Content.of(dataset)
    if content.has_transform:
        return None
    numbers = content.of_kind("features")
    taken, needed = argument_names(network), argument_names(network, required=True)
    main = getattr(network, "main_input_name", None)
    named = [name for name in numbers if name in taken]
    if named and set(needed) <= set(named) and (main is None or {main, *INPUT_NAMES} & set(named)):
        return tuple(named)
    if len(needed) > 1:
        return None
    usual = [name for name in numbers if name in INPUT_NAMES]
    if usual:
        return (usual[0],)
    if kind is not None and (kind in ("text", "audio") or content.of_kind(kind)):
        return None
    feature = content.features[numbers[0]] if len(numbers) == 1 else None
    if feature is None or not _is_list(feature) or (_is_whole(feature) and not _looks_up(network)):
        return None
    return (numbers[0],)


def columns_as_inputs(rows: Mapping[str, Any], features: Mapping[str, Any], columns: Any = None) -> dict[str, Tensor]:
    """Return the tensors among columns as inputs: those of rows in torch's format, or of a dataset's transform.

    Args:
        rows: column name -> tensor [B, ...], or a list of B tensors of one shape; all else is omitted.
        features: of the dataset.
        columns: the names to take; all but labels and soft labels if not given.

    Raises:
        UserError: there are no tensors, or undecoded images.
    """
    inputs = {}
    for name, value in rows.items():
        if is_label(name, features.get(name)) or is_soft_label_column(name) or (columns and name not in columns):
            continue
        if isinstance(value, list) and all(isinstance(x, Tensor) and x.shape == value[0].shape for x in value):
            value = torch.stack(value)
        if isinstance(value, Tensor):
            inputs[name] = value
    if not inputs or any(isinstance(features.get(name), datasets.Image) for name in inputs):
        raise UserError(
            f"the columns {', '.join(rows)} are not a network's inputs as they are; pass preprocessor=, a function "
            "from rows to inputs (for images: preprocessor=ImagePreprocessor.for_model(network))"
        )
    return inputs


def _texts(names: list[str]) -> tuple[str, ...]:
    pair = next((pair for pair in PAIRS if set(pair) <= set(names)), None)
    if pair is not None:
        return pair
    usual = [name for name in TEXTS if name in names]
    if len(names) > 1 and len(usual) != 1:
        first, second, *_ = names
        raise UserError(
            f"the dataset has the columns of texts {', '.join(names)}, and nothing says which the network reads: use "
            f"dataset.rename_columns({{{first!r}: 'text'}}), or {{{first!r}: 'text', {second!r}: 'text_pair'}} for "
            "pairs"
        )
    return tuple(usual or names)


def holds_words(feature: Any) -> bool:
    """Return whether a column holds texts that are divided into words: lists of strings."""
    is_list = isinstance(feature, (datasets.List, datasets.LargeList))
    return is_list and getattr(feature.feature, "dtype", "") in ("string", "large_string")


def _kind(feature: Any) -> str | None:
    if isinstance(feature, datasets.Image):
        return "image"
    if isinstance(feature, datasets.Audio) or (
        isinstance(feature, dict) and {"array", "sampling_rate"} <= set(feature)
    ):
        return "audio"
    if getattr(feature, "dtype", "") in ("string", "large_string"):
        return "text"
    return "features" if _number_type(feature) else None


def _number_type(feature: Any) -> str | None:
    """Return the type of the numbers that a column or its lists, of any depth, are made of."""
    while isinstance(feature, (datasets.List, datasets.LargeList)):
        feature = feature.feature
    dtype = str(getattr(feature, "dtype", ""))
    return dtype if dtype.startswith(("int", "uint", "float", "bool", "double")) else None


def _is_list(feature: Any) -> bool:
    return isinstance(feature, (datasets.List, datasets.LargeList)) or hasattr(feature, "shape")


def _is_whole(feature: Any) -> bool:
    return not _number_type(feature).startswith(("float", "double"))


def _looks_up(network: nn.Module) -> bool:
    """Whether a network reads whole numbers, such as tokens."""
    return any(isinstance(module, (nn.Embedding, nn.EmbeddingBag)) for module in network.modules())
