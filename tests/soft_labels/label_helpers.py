"""Teachers and datasets that the tests of soft labels share."""

import hashlib
from typing import NamedTuple

import datasets
import numpy as np
import torch
from PIL import Image

from hf_bkd import CropAndFlip, ImagePreprocessor, Views
from hf_bkd.soft_labels import add_soft_labels
from hf_bkd.soft_labels.columns import soft_label_columns
from hf_bkd.utils.random import example_normal

RECORD = {"format": 1, "temperature": 1.0, "tempering": "post_average"}
PREPROCESS = ImagePreprocessor((0.5, 0.25, 0.125), (1.0, 0.5, 0.25))
VIEWS = Views(CropAndFlip(padding=1), num_views=3, seed=5)
STORAGES = ("float16", "float32", "uint8", "top_k")


class Answer(NamedTuple):
    mean: torch.Tensor
    variance: torch.Tensor | None
    noise: torch.Tensor | None = None


class Teacher:
    """Adds noise of each example's own to a linear map of its one input, and remembers its calls."""

    def __init__(self, num_classes=4, num_features=3, input_name="x", temperature=1.0, name="weights"):
        self.num_classes, self.input_name, self.temperature, self.name = num_classes, input_name, temperature, name
        self.weight = torch.randn(num_features, num_classes, generator=torch.Generator().manual_seed(0))
        self.calls = []

    def predict(self, inputs, num_samples, generator):
        assert list(inputs) == [self.input_name], list(inputs)
        self.calls.append(inputs)
        logits = self.logits(inputs[self.input_name].float().flatten(1))
        draws = torch.softmax(logits + example_normal((num_samples, *logits.shape), logits, generator), dim=-1)
        return Answer(draws.mean(dim=0), draws.var(dim=0) if num_samples > 1 else None)

    def logits(self, x):
        """Summed up example by example: a matrix product's last bits depend on the size of the batch."""
        return (x[:, :, None] * self.weight).sum(dim=1)

    def describe(self):
        return {
            "method": "stub",
            "num_classes": self.num_classes,
            "temperature": self.temperature,
            "tempering": "post_average",
            "weights": self.name,
        }


class KindTeacher(Teacher):
    """A teacher of another likelihood, whose draws are its values of noisy outputs."""

    def __init__(self, likelihood, noise=None, **how):
        super().__init__(**how)
        self.likelihood, self.noise = likelihood, noise

    def predict(self, inputs, num_samples, generator):
        self.calls.append(inputs)
        outputs = self.logits(inputs[self.input_name].float().flatten(1))
        draws = outputs + example_normal((num_samples, *outputs.shape), outputs, generator)
        values = self.likelihood.values(draws.double())  # a sigmoid's last bits depend on the size of the batch
        noise = None if self.noise is None else torch.full_like(outputs, self.noise)
        variance = values.var(dim=0).float() if num_samples > 1 else None
        return Answer(values.mean(dim=0).float(), variance, noise)


class TokenTeacher(Teacher):
    """Answers for each token by its number alone, with a noise of each example's own."""

    per_token = True

    def __init__(self, num_classes=3, **how):
        super().__init__(num_classes, 50, "input_ids", **how)

    def predict(self, inputs, num_samples, generator):
        self.calls.append(inputs)
        tokens = inputs["input_ids"]
        drawn = example_normal((num_samples, len(tokens), self.num_classes), self.weight, generator)
        draws = torch.softmax(self.weight[tokens] + drawn[:, :, None], dim=-1)
        return Answer(draws.mean(dim=0), draws.var(dim=0) if num_samples > 1 else None)


def words(number=10):
    """Examples of 1 to 4 words with a tag for each."""
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=["O", "PER", "LOC"])),
        }
    )
    lengths = [1 + 7 * row % 4 for row in range(number)]
    values = {
        "tokens": [[f"w{row}{place}" for place in range(length)] for row, length in enumerate(lengths)],
        "ner_tags": [[(row + place) % 3 for place in range(length)] for row, length in enumerate(lengths)],
    }
    return datasets.Dataset.from_dict(values, features=features)


def token_inputs(batch):
    """Two special tokens around the words', which have one token each; padded to the longest."""
    ids = [[1, *(3 + hashlib.sha256(word.encode()).digest()[0] % 47 for word in row), 2] for row in batch["tokens"]]
    longest = max(map(len, ids))
    return {
        "input_ids": torch.tensor([row + [0] * (longest - len(row)) for row in ids]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids]),
    }


def image_teacher(**how):
    """Of the images of :func:`images`."""
    return Teacher(num_features=12, input_name="pixel_values", **how)


def quiet(dataset, teacher=None, num_samples=3, storage="float32", **how):
    return add_soft_labels(dataset, teacher, num_samples, progress=False, storage=storage, **how)


def some_probs(rows, classes, seed=0):
    """Distributions of very different sharpness, float64 [rows, classes]."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, classes)) * rng.choice([0.1, 1, 10, 40], size=(rows, 1))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def rows(number=10, classes=4, offset=0):
    """Examples x [3], label and text that all know their number."""
    features = datasets.Features(
        {
            "x": datasets.List(datasets.Value("float32"), length=3),
            "label": datasets.ClassLabel(names=[f"class {c}" for c in range(classes)]),
            "number": datasets.Value("int64"),
        }
    )
    numbers = np.arange(offset, offset + number)
    return datasets.Dataset.from_dict(
        {"x": np.sin(numbers[:, None] * [1.0, 2.0, 3.0]), "label": numbers % classes, "number": numbers},
        features=features,
    )


def texts(number=10, prefix="text"):
    """Examples whose text tells a teacher's input, see :func:`text_inputs`."""
    features = datasets.Features({"text": datasets.Value("string"), "number": datasets.Value("int64")})
    values = {"text": [f"{prefix} {i}" for i in range(number)], "number": list(range(number))}
    return datasets.Dataset.from_dict(values, features=features)


def text_inputs(batch):
    codes = [hashlib.sha256(text.encode()).digest()[:3] for text in batch["text"]]
    return {"x": torch.tensor([list(code) for code in codes]) / 128 - 1}


def images(number=6, mode="RGB", side=2, seed=0):
    shape = (number, side, side, 3) if mode == "RGB" else (number, side, side)
    arrays = np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.ClassLabel(num_classes=4)})
    pictures = [Image.fromarray(array) for array in arrays]
    return datasets.Dataset.from_dict({"picture": pictures, "label": np.arange(number) % 4}, features=features)


def column_bytes(dataset):
    """All of a dataset's soft-label columns as bytes, and their types with the record in them."""
    found = {}
    for name in soft_label_columns(dataset):
        array = dataset.with_format("arrow")[:][name].combine_chunks()
        parts = array.flatten() if hasattr(array, "field") else [array]
        lengths = [part.value_lengths() for part in parts if hasattr(part, "value_lengths")]
        flat = [*lengths, *map(flattened, parts)]
        found[name] = ([part.to_numpy(zero_copy_only=False).tobytes() for part in flat], str(dataset.features[name]))
    return found


def flattened(array):
    """The numbers in lists of any depth."""
    return flattened(array.flatten()) if hasattr(array.type, "value_type") else array
