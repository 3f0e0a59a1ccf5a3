"""Networks of images, and images of all sizes and modes, some of them unreadable."""

import io
from functools import cache

import datasets
import numpy as np
import timm
import torch
import transformers
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torchvision import transforms

from .brought import class_names, extras, in_order, labels, options, table, with_repeats
from .demands import Case, answer
from .texts import SMALL, named

MODES = ["RGB", "RGB", "L", "P", "RGBA", "LA", "CMYK", "1"]
DEEP = ["I;16", "F", "I"]


class Small(nn.Module):
    """A convolution and a mean over the image, of a person who calls the argument x."""

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.convolution, self.head = nn.Conv2d(channels, 4, 3), nn.Linear(4, classes)

    def forward(self, x):
        return self.head(self.convolution(x).relu().mean((2, 3)))


def encoded(mode: str, size: tuple[int, int], seed: int) -> dict:
    """A file of an image."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    if mode in DEEP:
        image = Image.fromarray(pixels[..., 0].astype({"I;16": "u2", "F": "f4", "I": "i4"}[mode]) * 200)
    else:
        image = Image.fromarray(pixels).convert(mode)
    written = io.BytesIO()
    image.save(written, "TIFF" if mode in ("CMYK", "F", "I") else "PNG")
    return {"bytes": written.getvalue(), "path": None}


@cache
def network_of(kind: str, classes: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    if kind == "vit":
        config = transformers.ViTConfig(image_size=8, patch_size=4, **SMALL, num_labels=classes, initializer_range=0.3)
        return transformers.ViTForImageClassification(config).eval()
    if kind == "gray vit":
        config = transformers.ViTConfig(
            image_size=8, patch_size=4, num_channels=1, **SMALL, num_labels=classes, initializer_range=0.3
        )
        return transformers.ViTForImageClassification(config).eval()
    if kind == "timm":
        network = timm.create_model("resnet20_cifar", num_classes=classes).eval()
        for module in network.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.5)
        return network
    return Small(3, classes).eval()


def transform_of(kind: str, network: nn.Module):
    """What is passed as processing_class, and what becomes of one image of the network's mode."""
    if kind in ("vit", "gray vit"):
        one = {"image_mean": [0.4], "image_std": [0.3]} if kind == "gray vit" else {}
        processor = transformers.ViTImageProcessor(size={"height": 8, "width": 8}, **one)
        return processor, lambda image: processor(image, return_tensors="pt")["pixel_values"][0]
    if kind == "timm":
        config = timm.data.resolve_model_data_config(network)
        return None, timm.data.create_transform(**config, is_training=False)
    steps = [transforms.Resize((9, 9)), transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.25,) * 3)]
    return transforms.Compose(steps), transforms.Compose(steps)


@st.composite
def of_images(draw) -> Case:
    """A network of images with what prepares them, and the dataset that it is to label."""
    kind, classes = draw(st.sampled_from(["vit", "vit", "gray vit", "timm", "transform"])), draw(st.integers(2, 4))
    own, names, places = draw(class_names(classes))
    network = network_of(kind, classes, draw(st.integers(0, 3)))
    if hasattr(network, "config"):
        given = names or [f"LABEL_{number}" for number in range(classes)]
        network.config.id2label = dict(enumerate(given))
    else:
        places = list(range(classes))
    processing_class, prepared = transform_of(kind, network)
    sizes = st.sampled_from([(8, 8), (8, 8), (32, 32), (5, 11), (1, 1), (20, 3)])
    files = draw(
        st.lists(st.builds(encoded, st.sampled_from(MODES), sizes, st.integers(0, 5)), min_size=1, max_size=4)
    )
    strange = draw(st.sampled_from([None, None, None, "missing", "cut", "no image", "deep", "second"]))
    place = draw(st.integers(0, len(files) - 1))
    if strange == "missing":
        files[place] = None
    elif strange == "cut":
        files[place] = {"bytes": files[place]["bytes"][:40], "path": None}
    elif strange == "no image":
        files[place] = {"bytes": b"no image", "path": None}
    elif strange == "deep":
        files[place] = encoded(draw(st.sampled_from(DEEP)), (8, 8), 1)
    files = draw(with_repeats(files))
    column = draw(st.sampled_from(["image", "img", "photo"]))
    parts = [({column: files}, {column: datasets.Image()}), draw(labels(len(files), own)), draw(extras(len(files)))]
    if draw(st.booleans()):
        parts.append(({"caption": ["words"] * len(files)}, {"caption": datasets.Value("string")}))
    dataset = table(draw, *parts)

    def by_hand(file: dict | None) -> np.ndarray | None:
        if file is None or len(file["bytes"]) <= 40:
            return None
        image = Image.open(io.BytesIO(file["bytes"]))
        if image.mode in DEEP or image.mode.startswith("I;16"):
            return None
        pixels = prepared(image.convert("L" if kind == "gray vit" else "RGB"))
        probs = answer(network, pixel_values=pixels[None])
        return in_order(probs, named(places, dataset, classes))

    plain = strange is None and places is not None
    return Case(
        network, dataset, [by_hand(file) for file in files], plain, processing_class, draw(options(len(files)))
    )
