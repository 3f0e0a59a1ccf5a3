"""Images of any size and mode as a network's own image processor, or timm's data configuration, makes them.

An image is first converted to the channels that the network reads, as PIL does: palettes and CMYK become RGB, and of
an image with an alpha channel the colors are kept and the transparency is ignored. Then it goes through the
processor's own transform, or, where that would change neither size nor crop, is only normalized, with the same result.
Images turned by their EXIF orientation are upright already: ``datasets.Image`` decodes them so.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL.Image import Image, fromarray
from PIL.Image import new as new_image
from torch import Tensor, nn

from ...utils.errors import UserError
from ..preprocessing import ImagePreprocessor, Images, in_mode, timm_settings
from ..rows import reason
from .base import Preprocessor

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
UNCROPPED = ("center", "border", "squash")  # of timm's crop_mode: they leave an image of the right size as it is


def image_preprocessor(network: nn.Module, columns: tuple[str, ...], processor: Any) -> Preprocessor:
    """Make the preprocessor of an image column.

    Args:
        network: reads the images.
        columns: the image column, of PIL images of any size and mode.
        processor: an image processor of transformers, a transform of one PIL image (torchvision's or timm's), or
            ``None`` for timm's data configuration of the network.

    Raises:
        UserError: nothing says how images become inputs, or a network of 2, 5 or more channels.
    """
    if _is_transformers(processor):
        if hasattr(processor, "data_config"):  # of timm's networks: all of it is in the network's config
            return _timm_preprocessor(network, columns, dict(processor.data_config))
        return _processed(network, columns, processor)
    if processor is not None:
        return _transformed(columns, processor, MODES[3], {"transform": str(processor)}, kept=processor)
    if timm_settings(network) is not None:
        return _timm_preprocessor(network, columns, timm_data_config(network))
    raise UserError(
        f"nothing says how images become the inputs of {type(network).__name__}: pass processing_class=, an image "
        "processor, a torchvision transform or ImagePreprocessor(mean=..., std=...)"
    )


def timm_data_config(network: nn.Module) -> dict[str, Any]:
    """Return timm's data configuration of one of its networks: input size, crop, interpolation, mean and std.

    It is ``timm.data.resolve_model_data_config(network)``, with two corrections by the network itself: the image size
    that a network of a fixed size was made with (``img_size=``), and its number of channels (``in_chans=``). A
    grayscale network of a color configuration gets the average of the channels' means and standard deviations.
    """
    import timm

    config = timm.data.resolve_data_config(pretrained_cfg=dict(timm_settings(network)), args={})
    inner = getattr(network, "timm_model", network)
    channels, height, width = config["input_size"]
    size = getattr(getattr(inner, "patch_embed", None), "img_size", None)
    if size is not None:
        height, width = size if isinstance(size, tuple | list) else (size, size)
    channels = _channels_of(inner, timm_settings(network).get("first_conv")) or channels
    if channels == 1:
        config |= {name: (float(np.mean(config[name])),) for name in ("mean", "std")}
    return config | {"input_size": (channels, height, width)}


def _channels_of(network: nn.Module, first: str | tuple | None) -> int | None:
    """Return how many channels a timm network reads, by the first convolution that its configuration names."""
    name = first[0] if isinstance(first, tuple | list) else first
    module = dict(network.named_modules()).get(name)
    return getattr(module, "in_channels", None)


def _timm_preprocessor(network: nn.Module, columns: tuple[str, ...], config: dict[str, Any]) -> Preprocessor:
    import timm

    channels, height, width = config["input_size"]
    normalization = ImagePreprocessor(tuple(config["mean"]), tuple(config["std"]))
    if len(normalization.mean) != channels:
        raise UserError(
            f"{type(network).__name__} reads {channels} channels, and its data configuration has the means of "
            f"{len(normalization.mean)}: pass processing_class=ImagePreprocessor(mean=..., std=...)"
        )
    uncropped = config["crop_pct"] == 1 and config["crop_mode"] in UNCROPPED
    return _transformed(
        columns,
        timm.data.create_transform(**config, is_training=False),
        _mode(network, channels),
        config,
        normalization if uncropped else None,
        (height, width),
    )


def _processed(network: nn.Module, columns: tuple[str, ...], processor: Any) -> Preprocessor:
    mode = _mode(network, getattr(getattr(network, "config", None), "num_channels", None) or 3)
    try:
        _of_one(processor, new_image(mode, (64, 64)))
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(
            f"{type(network).__name__} reads images of mode {mode}, and the {type(processor).__name__} does not "
            f"({reason(error)}): pass the processing_class that the network was trained with"
        ) from error
    return _transformed(columns, partial(_of_one, processor), mode, processor.to_dict(), kept=processor)


def _of_one(processor: Any, image: Image) -> Tensor:
    """Return what an image processor of transformers makes of an image."""
    return torch.as_tensor(processor(image, return_tensors="pt")["pixel_values"])[0]


def _transformed(
    columns: tuple[str, ...],
    transform: Callable[[Image], Tensor],
    mode: str,
    settings: dict[str, Any],
    normalization: ImagePreprocessor | None = None,
    size: tuple[int, int] | None = None,
    kept: Any = None,
) -> Preprocessor:
    """Make a preprocessor of a transform of one image; those of ``size`` need no more than ``normalization``."""
    prepare = ImagePreparation(columns[0], transform, mode, normalization, size)
    return Preprocessor(
        "image",
        columns,
        prepare,
        json.loads(json.dumps(settings, default=str)),
        processor=kept,
        normalization=normalization,
        mode=mode,
        of_pictures=prepare.of_pictures,
    )


@dataclass(frozen=True)
class ImagePreparation:
    """A preparation of images, which worker processes can have.

    Args:
        column: of images.
        transform: of one image.
        mode: of PIL, to which images are converted.
        normalization: all that images of ``size``, height and width, need.
        size: see there; ``None`` if it is not known.
    """

    column: str
    transform: Callable[[Image], Tensor]
    mode: str
    normalization: ImagePreprocessor | None = None
    size: tuple[int, int] | None = None

    def __call__(self, rows: dict[str, list]) -> dict[str, Tensor]:
        """Turn the images of rows into inputs."""
        return self._of_images(in_mode(rows[self.column], self.mode))

    def of_pictures(self, images: Images) -> dict[str, Tensor]:
        """Turn decoded images into inputs."""
        if self.normalization is not None and isinstance(images, Tensor) and tuple(images.shape[2:]) == self.size:
            return {"pixel_values": self.normalization.normalize(images)}
        return self._of_images([in_mode([_as_image(image)], self.mode)[0] for image in images])

    def _of_images(self, images: list[Image]) -> dict[str, Tensor]:
        normalization = self.normalization
        ready = [normalization is not None and (image.height, image.width) == self.size for image in images]
        if images and all(ready):
            return {"pixel_values": normalization({"image": images})["pixel_values"]}
        prepared = [
            normalization({"image": [image]})["pixel_values"][0] if is_ready else self.transform(image)
            for image, is_ready in zip(images, ready, strict=True)
        ]
        shapes = sorted({tuple(each.shape) for each in prepared})
        if len(shapes) > 1:
            raise UserError(
                f"images of several sizes become inputs of several sizes ({shapes[:3]}): pass processing_class=, an "
                "image processor or a transform that brings all images to one size"
            )
        return {"pixel_values": torch.stack(prepared)}


def _as_image(picture: Tensor) -> Image:
    """Return uint8 [C, H, W] as the PIL image with these pixels."""
    pixels = picture.cpu().numpy()
    return fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _mode(network: nn.Module, channels: int) -> str:
    if channels not in MODES:
        raise UserError(
            f"{type(network).__name__} reads images of {channels} channels, and files of images have 1, 3 or 4: pass "
            "preprocessor=, a function from rows to inputs"
        )
    return MODES[channels]


def _is_transformers(processor: Any) -> bool:
    from transformers.image_processing_base import ImageProcessingMixin

    return isinstance(processor, ImageProcessingMixin)
