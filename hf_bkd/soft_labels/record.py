"""What made a set of soft labels: a record that travels with them, so that nothing has to be told twice."""

import json
import math
import re
from typing import Any

import datasets
import numpy as np

from ..utils.environment import version_of
from ..utils.errors import UserError
from .identity import fingerprint

FORMAT = 1
MOST = 10**6  # classes or views: a record can't ask its reader for more memory than that
LABELS = ("label", "labels", "label_ids")


def make_provenance(
    teacher: dict,
    dataset: datasets.Dataset | datasets.IterableDataset,
    *,
    num_samples: int,
    seed: int,
    storage: str,
    content_column: str | None,
    preprocessing: dict | None,
    example_ids: np.ndarray | None = None,
    rows: int | None = None,
    image_size: list[int] | None = None,
    views: dict | None = None,
    folds: dict | None = None,
    mixed_precision: str | None = None,
    held_out: dict | None = None,
) -> dict:
    """The record stored with labels: plain JSON.

    Args:
        teacher: ``teacher.describe()``.
        dataset: what was labeled.
        num_samples: S.
        seed: of the draws.
        storage: of the columns.
        content_column: the column that ``example_id`` hashes.
        preprocessing: what turned rows into inputs (mean and standard deviation for images), where it says so.
        example_ids: int64 [N], of the rows.
        rows: their number N; that of the dataset if not given.
        image_size: [channels, height, width] of the images before anything is done to them, if they have one size.
        views: ``Views.to_dict()``, if several views were labeled or one that is not the example as it is.
        folds: how the labels were cross-fitted.
        mixed_precision: of the teacher's passes, ``"bf16"`` or ``"fp16"``.
        held_out: how good the teacher is: metrics on examples that it was not fitted on; what its own record says if
            not given.
    """
    names = class_names(dataset.features)
    record = {
        "format": FORMAT,
        "teacher": teacher,
        "num_samples": num_samples,
        "temperature": teacher["temperature"],
        "tempering": teacher["tempering"],
        "seed": seed,
        "storage": storage,
        "views": views,
        "folds": folds,
        "dataset": {
            **_origin(dataset),
            "split": None if dataset.split is None else str(dataset.split),
            "rows": len(dataset) if rows is None else rows,
            "content_column": content_column,
            "fingerprint": None if example_ids is None else fingerprint(example_ids),
            "repeated_ids": None if example_ids is None else len(example_ids) - len(np.unique(example_ids)),
            "image_size": image_size,
        },
        "class_names": names if names and len(names) == teacher["num_classes"] else None,
        "preprocessing": preprocessing,
        "mixed_precision": mixed_precision,
        "held_out": held_out or (teacher.get("record") or {}).get("validation"),
        "versions": {name: version_of(name) for name in ("hf_bkd", "torch", "transformers", "datasets")},
    }
    return as_json(record)


def num_draws(teacher: dict[str, Any], num_samples: int) -> int:
    """How many draws a described teacher averages when it is asked for S: an ensemble has S of each member."""
    if teacher.get("members"):
        return len(teacher["members"]) * max(num_draws(member, num_samples) for member in teacher["members"])
    single = teacher.get("method") == "deterministic" or teacher.get("link", "mc") != "mc"
    return 1 if single else num_samples


def as_json(value: Any) -> Any:
    """The same as JSON reads it back, with ``None`` for numbers that JSON doesn't have (a diverged teacher's NLL)."""
    if isinstance(value, dict):
        return {str(name): as_json(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _origin(dataset: datasets.Dataset | datasets.IterableDataset) -> dict[str, str | None]:
    """A dataset's name and, if it is from the Hub, its repository and commit."""
    sources = [*(dataset.info.download_checksums or ()), ""]
    found = re.match(r"hf://datasets/([^@]+)@([^/]+)/", str(sources[0]))
    repository, revision = found.groups() if found else (None, None)
    return {"name": dataset.info.dataset_name, "repository": repository, "revision": revision}


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
        readable = known != FORMAT or _is_readable(record)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        readable = False
    if not readable:
        raise UserError(
            "teacher_provenance holds no record of this library (format, temperature, tempering, ...): label again "
            "with add_soft_labels"
        )
    if known != FORMAT:
        raise UserError(f"the soft labels are of format {known}, and this version of hf_bkd reads format {FORMAT}")
    return record


def _is_readable(record: dict[str, Any]) -> bool:
    """Whether all that is read from a record later is of the kind that it should be."""
    parts = {name: record.get(name) or {} for name in ("teacher", "dataset", "preprocessing", "views", "held_out")}
    names = record.get("class_names")
    return (
        _is_number(record["temperature"])
        and 0 < float(record["temperature"]) < float("inf")
        and isinstance(record["tempering"], str)
        and all(isinstance(part, dict) for part in parts.values())
        and all(_is_count(parts[part].get(key)) for part, key in (("teacher", "num_classes"), ("views", "number")))
        and _is_count(parts["dataset"].get("repeated_ids"), 0)
        and (names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names)))
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any, least: int = 1) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**31)


def class_names(features: datasets.Features) -> list[str] | None:
    """Names of the classes in order, from the label column's feature; ``None`` if it has no names."""
    for name in ("label", "labels", "fine_label"):
        if isinstance(features.get(name), datasets.ClassLabel):
            return list(features[name].names)
    return None


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
    """UserError if the dataset names its classes differently, or in another order, than the labeled one did."""
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
