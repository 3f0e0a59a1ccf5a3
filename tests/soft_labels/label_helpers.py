"""A teacher and datasets that the tests of soft labels share."""

from typing import NamedTuple

import datasets
import numpy as np
import torch

RECORD = {"format": 1, "temperature": 1.0, "tempering": "post_average"}


class Answer(NamedTuple):
    mean: torch.Tensor
    variance: torch.Tensor | None


class Teacher:
    """Adds noise from the generator to a linear map of its one input, and remembers its calls."""

    def __init__(self, num_classes=4, num_features=3, input_name="x", temperature=1.0, name="weights"):
        self.num_classes, self.input_name, self.temperature, self.name = num_classes, input_name, temperature, name
        self.weight = torch.randn(num_features, num_classes, generator=torch.Generator().manual_seed(0))
        self.calls = []

    def predict(self, inputs, num_samples, generator):
        assert list(inputs) == [self.input_name], list(inputs)
        self.calls.append(inputs)
        logits = inputs[self.input_name].float().flatten(1) @ self.weight
        draws = torch.softmax(logits + torch.randn(num_samples, *logits.shape, generator=generator), dim=-1)
        return Answer(draws.mean(dim=0), draws.var(dim=0) if num_samples > 1 else None)

    def describe(self):
        return {
            "method": "stub",
            "num_classes": self.num_classes,
            "temperature": self.temperature,
            "tempering": "post_average",
            "weights": self.name,
        }


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
