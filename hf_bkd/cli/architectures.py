"""Architectures that a command names, timm's and perceptrons, built for its data with random weights."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import timm
from PIL import Image, UnidentifiedImageError
from torch import nn

from ..data.preprocessors.features import feature_preprocessor
from ..data.rows import check_eight_bits
from ..likelihoods import CATEGORICAL, Likelihood
from ..models.classifier import create_classifier
from ..models.perceptron import Perceptron
from ..utils.errors import UserError

PERCEPTRON = re.compile(r"mlp((?:-[1-9]\d*)*)")
RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # PIL's numbers, as image processors have them


def is_architecture(name: str) -> bool:
    """Say whether a network's name is that of a timm architecture or a perceptron, and no folder.

    Raises:
        UserError: it is that of an architecture with weights, which would be built without them.
    """
    if Path(name).is_dir():
        return False
    if timm.is_model(name) and "." in name:
        raise UserError(
            f"{name} is an architecture with weights: pass timm/{name}, where the Hub has them, or "
            f"{name.partition('.')[0]} to begin with random ones"
        )
    return timm.is_model(name) or PERCEPTRON.fullmatch(name) is not None


def reads_features(name: str) -> bool:
    """Say whether an architecture is a perceptron, which reads numbers in columns."""
    return PERCEPTRON.fullmatch(name) is not None


class StandIn:
    """What will be built or loaded, in the place of a network whose columns are to be found.

    Args:
        name: that messages have for it.
        kind: what it reads: ``"image"``, ``"text"``, ``"audio"`` or ``"features"``.
    """

    def __init__(self, name: str, kind: str):
        self.kind, self.__class__ = kind, type(name, (StandIn,), {})


@dataclass(frozen=True)
class ImageShape:
    """How a new network of images reads them, by timm's names for it.

    Args:
        channels, size: C and the height and width of the network's input.
        mean, std: C numbers each, of pixels in [0, 1].
        further: ``crop_pct``, ``crop_mode`` and ``interpolation``, where they are not those of whole images.
    """

    channels: int
    size: int
    mean: Sequence[float]
    std: Sequence[float]
    further: dict[str, Any]

    @classmethod
    def of_architecture(cls, name: str, size: int | None, channels: int = 3) -> "ImageShape":
        """Return what timm says of an architecture, for another image size if one is given."""
        config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict(), args={})
        mean, std = (_of_channels(config[key], channels) for key in ("mean", "std"))
        further = {key: config[key] for key in ("crop_pct", "crop_mode", "interpolation")}
        return cls(channels, size or config["input_size"][-1], mean, std, further)

    @classmethod
    def of_settings(cls, settings: dict[str, Any], image_size: int | None, size: int | None) -> "ImageShape | None":
        """Return what the settings of an image preprocessor say: timm's, transformers' or plain mean and deviation.

        Args:
            settings: as labels record them.
            image_size: of the images that the labels were made for, where they have one.
            size: another one that was asked for.
        """
        mean, std = (settings.get(key) or settings.get(f"image_{key}") for key in ("mean", "std"))
        if not mean or not std:
            return None
        sides = settings.get("crop_size") or settings.get("size") or {}
        sides = sides if isinstance(sides, dict) else {"height": sides}
        own = sides.get("height") or sides.get("shortest_edge")
        further = {key: settings[key] for key in ("crop_pct", "crop_mode", "interpolation") if key in settings}
        if "image_mean" in settings:
            edge = (settings.get("size") or {}).get("shortest_edge")
            further |= {"crop_pct": own / edge} if edge and own else {"crop_mode": "squash", "crop_pct": 1.0}
            further["interpolation"] = RESAMPLING.get(settings.get("resample"), "bilinear")
        own = settings["input_size"][-1] if "input_size" in settings else own or image_size
        return None if size is None and own is None else cls(len(mean), size or own, mean, std, further)


def _of_channels(values: Sequence[float], channels: int) -> Sequence[float]:
    return values if len(values) == channels else [sum(values) / len(values)] * channels


def new_image_network(
    architecture: str, classes: list[str], shape: ImageShape, likelihood: Likelihood = CATEGORICAL, **settings: Any
) -> nn.Module:
    """Build a timm network for images, with random weights, whose outputs mean what a likelihood says.

    Raises:
        UserError: its constructor doesn't take the settings.
    """
    arguments = {"in_chans": shape.channels, "image_size": shape.size, "mean": shape.mean, "std": shape.std}
    try:
        said = likelihood.problem_type if likelihood.independent else None
        names = {"label_names": classes, "problem_type": said}
        network = create_classifier(architecture, len(classes), **names, **arguments, **settings)
    except TypeError as error:
        raise UserError(f"{architecture} can't be built with {', '.join([*arguments, *settings])} ({error})") from None
    network.config.pretrained_cfg |= shape.further
    return network


def new_perceptron(
    name: str,
    classes: list[str],
    rows: datasets.Dataset,
    columns: Sequence[str],
    drop_rate: float = 0.0,
) -> Perceptron:
    """Build a perceptron for columns of numbers, on the scale of the rows that it will be trained on.

    Raises:
        UserError: columns that don't become numbers.
    """
    hidden = [int(width) for width in PERCEPTRON.fullmatch(name)[1].split("-")[1:]]
    (features,) = feature_preprocessor(nn.Identity(), tuple(columns))(rows.with_format(None)[:]).values()
    names = {"label_names": classes, "feature_names": [*columns]}
    network = Perceptron(features.shape[1], len(classes), hidden, drop_rate, **names)
    network.standardize(features)
    return network


def image_shapes(rows: datasets.Dataset, column: str = "image") -> set[tuple[str, int, int]]:
    """Return the modes and sizes (mode, height, width) of all images, by their files' headers.

    Raises:
        UserError: an image of more than 8 bits a channel, or one that can't be read.
    """
    shapes = set()
    for number, image in enumerate(rows.cast_column(column, datasets.Image(decode=False))[column]):
        try:
            with Image.open(_file(image)) as opened:
                check_eight_bits([opened])
                shapes.add((opened.mode, opened.height, opened.width))
        except UserError as error:
            raise UserError(
                f"row {number} of column {column} ({image['path'] or 'in the dataset'}): {error}"
            ) from None
        except (OSError, TypeError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise UserError(f"row {number} of column {column} holds no image that can be read ({error})") from None
    return shapes


def _file(image: Any) -> Any:
    if image is None:
        raise TypeError("it is missing")
    return io.BytesIO(image["bytes"]) if image["bytes"] is not None else image["path"]
