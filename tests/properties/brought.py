"""What people bring, drawn: options, labels and columns that any dataset may have."""

from typing import Any

import datasets
import numpy as np
from hypothesis import strategies as st

NAMES = ["cat", "dog", "eel", "fox", "gnu"]
KINDS_OF_NAMES = ["none", "none", "same", "permuted", "case", "others"]
STORAGES = ["float32", "float32", "float16", "uint8", "top_k"]


@st.composite
def options(draw, rows: int) -> dict[str, Any]:
    """How a labeling is asked for, which changes no label."""
    drawn = {"batch_size": draw(st.integers(1, rows + 2)), "storage": draw(st.sampled_from(STORAGES))}
    drawn["shard_rows"] = draw(st.sampled_from([1, 2, 3, 1024]))
    return drawn | ({"top_k": draw(st.integers(1, 3))} if drawn["storage"] == "top_k" else {})


@st.composite
def labels(draw, rows: int, names: list[str]) -> tuple[dict[str, list], dict[str, Any]]:
    """A column of labels, or none: values and feature by name. The classes are called ``names``, in that order."""
    kind = draw(st.sampled_from(["classes", "classes", "numbers", "names", "none", "unlabeled", "missing"]))
    if kind == "none":
        return {}, {}
    name = draw(st.sampled_from(["label", "labels", "fine_label"]))
    drawn = draw(st.lists(st.integers(0, len(names) - 1), min_size=rows, max_size=rows))
    if kind == "names":
        return {name: [names[number] for number in drawn]}, {name: datasets.Value("string")}
    if kind == "unlabeled":
        drawn[0] = -100
    elif kind == "missing":
        drawn[-1] = None
    feature = datasets.ClassLabel(names=names) if kind == "classes" else datasets.Value("int64")
    return {name: drawn}, {name: feature}


EXTRAS = {
    "id": ("string", lambda row: f"row {row}"),
    "idx": ("int32", lambda row: row),
    "uuid": ("string", lambda row: "same"),
    "__index_level_0__": ("int64", lambda row: -row),
}


@st.composite
def extras(draw, rows: int) -> tuple[dict[str, list], dict[str, Any]]:
    """Columns that say which row it is, and that no network reads."""
    names = draw(st.lists(st.sampled_from(sorted(EXTRAS)), max_size=2, unique=True))
    values = {name: [EXTRAS[name][1](row) for row in range(rows)] for name in names}
    return values, {name: datasets.Value(EXTRAS[name][0]) for name in names}


@st.composite
def class_names(draw, number: int) -> tuple[list[str], list[str] | None, list[int] | None]:
    """The dataset's names of its classes, a network's, and the place among the network's of each of the dataset's.

    The network's are ``None`` where it has none; the places are ``None`` where they are other classes.
    """
    own = NAMES[:number]
    kind = draw(st.sampled_from(KINDS_OF_NAMES))
    order = list(range(number)) if kind in ("none", "same") else draw(st.permutations(range(number)))
    network = [own[place] for place in order]
    if kind == "none":
        return own, None, order
    if kind == "case":
        network = [name.upper() for name in network]
    if kind == "others":
        return own, ["owl", *network[1:]], None
    return own, network, [order.index(place) for place in range(number)]


def in_order(probs: np.ndarray, places: list[int] | None) -> np.ndarray | None:
    """Probabilities by the network's classes in the order of the dataset's."""
    return None if places is None else probs[places]


def table(draw, *parts: tuple[dict[str, list], dict[str, Any]]) -> datasets.Dataset:
    """A dataset of columns in an order that is drawn: values and features by name."""
    values = {name: each for part, _ in parts for name, each in part.items()}
    features = {name: each for _, part in parts for name, each in part.items()}
    order = draw(st.permutations(sorted(values)))
    return datasets.Dataset.from_dict(
        {name: values[name] for name in order}, features=datasets.Features({name: features[name] for name in order})
    )


@st.composite
def with_repeats(draw, rows: list) -> list:
    """The same rows, of which some stand there several times."""
    places = draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=7))
    return [rows[place] for place in places]
