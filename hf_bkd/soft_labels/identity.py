"""Which example a row is, by a hash of its content, and which dataset and classes its neighbors are of."""

import hashlib
import re

import datasets
import numpy as np

EXAMPLE_ID = "example_id"


def content_column(features: datasets.Features) -> str | None:
    """The column that says what an example *is*: its image, its text or its tokens."""
    for name, feature in features.items():
        if isinstance(feature, datasets.Image):
            return name
    for name, feature in features.items():
        if isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string"):
            return name
    return next((name for name in ("input_ids", "pixel_values") if name in features), None)


def content_ids(values: object) -> np.ndarray:
    """One hash (int64 [N]) per value: of an image's shape and pixels, a text's characters, an array's numbers."""
    hashes = [hashlib.blake2b(_content(value), digest_size=8).digest() for value in values]
    return np.frombuffer(b"".join(hashes), dtype="<i8")


def dataset_ids(dataset: datasets.Dataset, column: str) -> np.ndarray:
    """The ids, int64 [N], of all rows by their content in a column; few rows are in memory at a time."""
    plain = dataset.with_format(None).select_columns([column])
    parts = [content_ids(plain[start : start + 1000][column]) for start in range(0, len(plain), 1000)]
    return np.concatenate([np.empty(0, np.int64), *parts])


def _content(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict):  # an image that the dataset does not decode
        value = datasets.Image().decode_example(value)
    array = np.asarray(value)
    if array.dtype == object:  # whose bytes would be addresses in memory
        return repr(value).encode()
    return repr(array.shape).encode() + array.tobytes()


def fingerprint(ids: np.ndarray) -> str:
    """Hash (16 hexadecimal digits) of a set of examples: the same in whatever order they are."""
    return hashlib.blake2b(np.sort(np.asarray(ids, dtype="<i8")).tobytes(), digest_size=8).hexdigest()


def class_names(features: datasets.Features) -> list[str] | None:
    """Names of the classes in order, from the label column's feature; ``None`` if it has no names."""
    for name in ("label", "labels", "fine_label"):
        if isinstance(features.get(name), datasets.ClassLabel):
            return list(features[name].names)
    return None


def origin(dataset: datasets.Dataset | datasets.IterableDataset) -> dict[str, str | None]:
    """A dataset's name and, if it is from the Hub, its repository and commit."""
    sources = [*(dataset.info.download_checksums or ()), ""]
    match = re.match(r"hf://datasets/([^@]+)@([^/]+)/", str(sources[0]))
    repository, revision = match.groups() if match else (None, None)
    return {"name": dataset.info.dataset_name, "repository": repository, "revision": revision}
