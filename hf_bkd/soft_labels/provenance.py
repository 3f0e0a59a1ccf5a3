"""What made a set of soft labels, and whether they belong to the rows that carry them."""

import hashlib
import json
from importlib.metadata import version

import datasets
import numpy as np

from ..errors import UserError

FORMAT = 1
LABELS = ("label", "labels", "label_ids")


def make_provenance(
    teacher: dict,
    dataset: datasets.Dataset,
    *,
    num_samples: int,
    seed: int,
    storage: str,
    content_column: str | None,
    preprocessing: dict | None,
    folds: dict | None = None,
) -> dict:
    """The record stored with labels: plain JSON.

    Args:
        teacher: ``teacher.describe()``.
        dataset: what was labelled.
        num_samples: S.
        seed: of the draws.
        storage: number format of the columns.
        content_column: the column that ``example_id`` hashes.
        preprocessing: what turned rows into inputs (mean and standard deviation for images), where it says so.
        folds: how the labels were cross-fitted.
    """
    names = class_names(dataset.features)
    return {
        "format": FORMAT,
        "teacher": teacher,
        "num_samples": num_samples,
        "temperature": teacher["temperature"],
        "tempering": teacher["tempering"],
        "seed": seed,
        "storage": storage,
        "folds": folds,
        "dataset": {
            "name": dataset.info.dataset_name,
            "split": None if dataset.split is None else str(dataset.split),
            "rows": len(dataset),
            "content_column": content_column,
        },
        "class_names": names if names and len(names) == teacher["num_classes"] else None,
        "preprocessing": preprocessing,
        "versions": {name: version(name) for name in ("torch", "transformers", "datasets")},
    }


def encode_provenance(provenance: dict) -> str:
    """The record as JSON; UserError if :func:`decode_provenance` could not read it back."""
    encoded = json.dumps(provenance, sort_keys=True)
    _decode(encoded)
    return encoded


def decode_provenance(feature: object) -> dict:
    """The record inside a provenance column's feature; UserError if it is none of ours."""
    names = getattr(feature, "names", None)
    return _decode(names[0] if names else "")


def _decode(encoded: str) -> dict:
    try:
        record = json.loads(encoded)
        known = record["format"]
        readable = known != FORMAT or (
            record["temperature"] > 0
            and isinstance(record["tempering"], str)
            and all(isinstance(record.get(part) or {}, dict) for part in ("teacher", "dataset", "preprocessing"))
        )
    except (KeyError, TypeError, ValueError):
        readable = False
    if not readable:
        raise UserError(
            "teacher_provenance holds no record of this library (format, temperature, tempering, ...): label again "
            "with add_soft_labels"
        )
    if known != FORMAT:
        raise UserError(f"the soft labels are of format {known}, and this version of hf_bkd reads format {FORMAT}")
    return record


def class_names(features: datasets.Features) -> list[str] | None:
    """Names of the classes in order, from the label column's feature; ``None`` if it has no names."""
    for name in ("label", "labels", "fine_label"):
        if isinstance(features.get(name), datasets.ClassLabel):
            return list(features[name].names)
    return None


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


def _content(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict):  # an image that the dataset does not decode
        value = datasets.Image().decode_example(value)
    array = np.asarray(value)
    if array.dtype == object:  # whose bytes would be addresses in memory
        return repr(value).encode()
    return repr(array.shape).encode() + array.tobytes()


def check_identity(expected: np.ndarray, found: np.ndarray, rows: np.ndarray | None = None) -> None:
    """UserError unless the ids stored with the labels are those of the rows that carry them.

    Args:
        expected, found: int64 [N], stored and computed.
        rows: their numbers in the dataset, where not all of its rows are compared.
    """
    wrong = np.flatnonzero(expected != found)
    if len(wrong):
        raise UserError(
            f"the soft labels of {len(wrong)} of {len(found)} rows{'' if rows is None else ' looked at'} were made "
            f"for other examples (first: row {wrong[0] if rows is None else rows[wrong[0]]}): they come from another "
            "dataset, split or order; label this dataset with add_soft_labels"
        )


def check_class_count(what: str, num_classes: int, features: datasets.Features) -> None:
    """UserError if ``what`` has another number of classes than the label column, or than all that might be one."""
    own = {n: f.num_classes for n, f in features.items() if isinstance(f, datasets.ClassLabel) and "teacher" not in n}
    own = {name: count for name, count in own.items() if name in LABELS} or own
    if own and num_classes not in own.values():
        found = " and ".join(f"{name} has {count}" for name, count in own.items())
        raise UserError(
            f"{what} has {num_classes} classes and the dataset's column {found}: label it with a teacher of its "
            "classes"
        )


def check_class_names(provenance: dict | None, features: datasets.Features) -> None:
    """UserError if the dataset names its classes differently, or in another order, than the labelled one did."""
    theirs, ours = (provenance or {}).get("class_names"), class_names(features)
    if theirs is None or ours is None or theirs == ours:
        return
    where = next((i for i, pair in enumerate(zip(theirs, ours, strict=False)) if pair[0] != pair[1]), None)
    difference = (
        f"{len(theirs)} classes against {len(ours)}"
        if where is None
        else f"class {where} is {theirs[where]!r} there and {ours[where]!r} here"
    )
    raise UserError(f"the soft labels were made for other classes than the dataset's: {difference}; label it again")
