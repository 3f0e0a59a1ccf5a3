"""Networks of numbers, and columns of numbers of all types and shapes."""

import datasets
import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from .brought import extras, labels, options, table, with_repeats
from .demands import Case, softmax

TYPES = ["float32", "float32", "float64", "float16", "int64", "int8", "uint8", "bool", "uint32"]


class Named(nn.Module):
    """A linear map whose argument has a usual name, with one more that it does not need."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.layer = layer

    def forward(self, features, mask=None):
        return self.layer(features)


class OfTwo(nn.Module):
    """A linear map of two arguments side by side, which the dataset's columns are called like."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.layer = layer

    def forward(self, left, right):
        return self.layer(torch.cat([each.reshape(len(each), -1) for each in (left.float(), right.float())], dim=1))


def linear(width: int, classes: int, seed: int) -> nn.Linear:
    layer, random = nn.Linear(width, classes), np.random.default_rng(seed)
    layer.weight.data = torch.from_numpy(random.normal(size=(classes, width)).astype("f4"))
    layer.bias.data = torch.from_numpy(random.normal(size=classes).astype("f4"))
    return layer


def value_of(dtype: str) -> st.SearchStrategy:
    if dtype == "bool":
        return st.booleans()
    if dtype.startswith("float"):
        return st.floats(-4, 4, width=16)
    return st.integers(0 if dtype.startswith("u") else -5, 9)


@st.composite
def number_columns(draw, rows: int, names: list[str]):
    """Values and features by name, and the numbers of each row side by side, in the order of the names."""
    values, features = {}, {}
    for name in names:
        dtype, length = draw(st.sampled_from(TYPES)), draw(st.integers(0, 3))
        one = value_of(dtype) if length == 0 else st.lists(value_of(dtype), min_size=length, max_size=length)
        values[name] = draw(st.lists(one, min_size=rows, max_size=rows))
        inner = datasets.Value(dtype)
        kinds = [datasets.List(inner), datasets.List(inner, length=length), datasets.LargeList(inner)]
        features[name] = inner if length == 0 else draw(st.sampled_from(kinds))
    return values, features


def by_hand(layer: nn.Linear, dataset: datasets.Dataset, names: list[str], row: int) -> np.ndarray | None:
    """The softmax of W x + b, of the numbers of some columns side by side.

    ``None`` where one is missing, or they are not as many as the network reads.
    """
    numbers = []
    for name in names:
        value = dataset[row][name]
        numbers += value if isinstance(value, list) else [value]
    if any(number is None or not np.isfinite(number) for number in numbers):
        return None
    if len(numbers) != layer.in_features:
        return None
    x = np.asarray(numbers, np.float32).astype(np.float64)
    return softmax(layer.weight.data.numpy().astype(np.float64) @ x + layer.bias.data.numpy())


@st.composite
def of_numbers(draw) -> Case:
    """A network of numbers and the dataset that it is to label."""
    rows, classes = draw(st.integers(1, 6)), draw(st.integers(2, 5))
    kind = draw(st.sampled_from(["sequential", "sequential", "linear", "named", "two"]))
    names = ["left", "right"] if kind == "two" else ["a", "b", "z"][: draw(st.integers(1, 3))]
    if kind == "named" and draw(st.booleans()):
        names = ["features"]
    columns = draw(number_columns(rows, names))
    strange = draw(st.sampled_from([None, None, None, "missing", "nan", "ragged", "narrow", "wide", "text", "mask"]))
    place = draw(st.integers(0, rows - 1))
    if strange in ("missing", "nan", "ragged"):
        values, features = columns
        name = names[-1]
        a_list = isinstance(values[name][place], list)
        if strange == "missing":
            values[name][place] = draw(st.sampled_from([None, [*values[name][place][1:], None]])) if a_list else None
        elif strange == "ragged" and a_list and not getattr(features[name], "length", -1) > 0:
            values[name][place] = [*values[name][place], values[name][place][0]]
        elif strange == "nan" and "float" in str(getattr(features[name], "feature", features[name]).dtype):
            values[name][place] = [float("nan")] * len(values[name][place]) if a_list else float("nan")
        else:
            strange = None
    parts = [columns, draw(labels(rows, ["cat", "dog", "eel", "fox", "gnu"][:classes])), draw(extras(rows))]
    if strange == "text":
        parts.append(({"comment": ["w"] * rows}, {"comment": datasets.Value("string")}))
    if strange == "mask":
        parts.append(({"mask": [1] * rows}, {"mask": datasets.Value("int64")}))
    dataset = table(draw, *parts)
    read = [name for name in dataset.column_names if name in (*names, "mask")] if kind != "two" else names
    if kind == "named" and "features" in names:
        read = ["features"]
    lengths = {name: max((len(v) if isinstance(v, list) else 1 for v in dataset[name][:] if v is not None), default=1)
               for name in read}  # fmt: skip
    if strange == "ragged":
        lengths[names[-1]] -= 1
    width = sum(lengths.values()) + {"narrow": -1, "wide": 1}.get(strange, 0)
    layer = linear(max(width, 1), classes, draw(st.integers(0, 9)))
    network = {"sequential": nn.Sequential, "linear": lambda x: x, "named": Named, "two": OfTwo}[kind](layer)
    chosen = draw(with_repeats(list(range(rows))))
    expected = [by_hand(layer, dataset, read, row) for row in chosen]
    as_it_is = dataset.features.get("features") if read == ["features"] else None  # a tensor of its own type and shape
    plain = strange is None and (as_it_is is None or str(getattr(as_it_is, "feature", "")).startswith("Value('float"))
    return Case(network, dataset.select(chosen), expected, plain, None, draw(options(len(chosen))))
