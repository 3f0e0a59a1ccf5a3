"""What a folder of work belongs to: the settings and the data that its results were made with."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from textwrap import shorten
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from ..training.arguments import DistillationTrainingArguments
from ..utils.errors import UserError
from ..utils.files import read_json, slug, write_json
from .arms import Splits, Study

# beginnings of the names of training arguments that change results
DECISIVE = (
    "adam_", "bf16", "combine", "data_seed", "dataloader_drop_last", "fp16", "gradient_accumulation", "kd_",
    "label_smoothing", "lambda_schedule", "learning_rate", "lr_", "max_grad_norm", "max_steps", "neftune",
    "noise_epochs", "num_train_epochs", "optim", "per_device_train", "prior_strength", "student_temperature",
    "teacher_temperature", "teacher_weights", "temperature_scale", "tf32", "torch_compile", "train_sampling",
    "warmup_", "weight_decay",
)  # fmt: skip
LATER = (
    "distance",
    "dkd_",
    "dist_",
    "dropout_masks",
    "problem_type",
    "standardize_labels",
)  # which older folders don't have: noted unless they are defaults
FREE = ("seeds", "arms", "workers")  # of the study's arguments: they choose what is run, not what it gives
FINISHED = ("teachers", "labels", "students", "arms", "checkpoints")
FIXED = ("name", "students", "epochs", "teacher_args", "student_args", "from_teacher", "measure", "posterior")
REMEDY = "pass another --output_dir, or delete that one"
ROWS = 1000  # that are hashed at once
SHOWN = 160  # characters of a value that differs


def decisive(args: DistillationTrainingArguments) -> dict[str, Any]:
    """Return the training arguments that change results."""
    known, defaults = args.to_dict(), {each.name: each.default for each in dataclasses.fields(args)}
    later = {name: value for name, value in known.items() if name.startswith(LATER) and value != defaults[name]}
    return {name: value for name, value in known.items() if name.startswith(DECISIVE)} | later


def check_same_settings(
    file: Path,
    settings: dict[str, Any],
    what: str,
    remedy: str,
    used: bool = True,
    optional: tuple[str, ...] = (),
) -> None:
    """Compare with the settings that a folder's results were made with, and note the new ones there.

    Args:
        file: where they are noted, in that folder.
        settings: by name.
        what: the folder holds.
        remedy: what to do about a difference.
        used: whether there are results yet.
        optional: beginnings of names that only one of the two may have.

    Raises:
        UserError: one differs, or only one of the two has it; or the file is damaged.
    """
    settings = json.loads(json.dumps(settings, default=str))
    before = read_json(file) if used and file.is_file() else {}
    for name in sorted(settings.keys() | before.keys()) if before else ():
        alone = name not in settings or name not in before
        if alone and name.startswith(optional):
            continue
        if alone or before[name] != settings[name]:
            there, here = _differing(
                *(repr(values[name]) if name in values else "not set" for values in (before, settings))
            )
            raise UserError(f"{file.parent} holds {what} with {name} {there}, and this one has {here}: {remedy}")
    write_json(file, before | settings)


def _differing(*texts: str) -> list[str]:
    """Long texts from a little before the first character that differs."""
    same = len(os.path.commonprefix(texts))
    start = max(0, same - 60) if max(map(len, texts)) > SHOWN else 0
    return [("[...]" if start else "") + shorten(text[start:], SHOWN) for text in texts]


def check_same_study(output_dir: Path, study: Study, options: Any, args: DistillationTrainingArguments) -> None:
    """Refuse to mix the results of two different studies in one folder.

    Raises:
        UserError: something decisive differs from what the folder's results were made with.
    """
    settings = {name: value for name, value in dataclasses.asdict(options).items() if name not in FREE}
    settings |= decisive(args) | {f"arm {slug(arm.name)}": arm.settings for arm in study.arms}
    settings |= {f"study's {name}": getattr(study, name) for name in FIXED}
    settings["processes"] = args.world_size
    used = any((output_dir / kind).is_dir() for kind in FINISHED)
    check_same_settings(output_dir / "settings.json", settings, "a run", REMEDY, used, optional=("arm ",))


def check_same_data(file: Path, splits: Splits, used: bool) -> None:
    """Refuse to mix results on different data: the digests of a cell's splits are those noted in ``file``.

    Args:
        file: of the cell.
        splits: its data.
        used: whether there are results yet.

    Raises:
        UserError: a split differs.
    """
    names = ("train", "validation", "test", "transfer")
    parts = {name: getattr(splits, name) for name in names if getattr(splits, name) is not None}
    parts |= {f"ood {name}".strip(): rows for name, rows in splits.oods.items()}
    settings = {f"the data's {name} split": content_digest(rows) for name, rows in parts.items()}
    if splits.bayes is not None:
        settings["exact probabilities"] = hashlib.blake2b(splits.bayes.tobytes(), digest_size=8).hexdigest()
    check_same_settings(file, settings, "results", REMEDY, used)


def content_digest(rows: datasets.Dataset) -> str:
    """Hash (16 hexadecimal digits) of a dataset's columns, rows and order, however its files are called and split."""
    digest = hashlib.blake2b(digest_size=8)
    for name, feature in sorted(rows.features.items()):
        digest.update(repr((name, getattr(feature, "names", None))).encode())
    for table in rows.with_format("arrow").iter(ROWS):
        for name in sorted(table.column_names):
            digest.update(str(table.schema.field(name).type).encode())
            _add_column(digest, pa.concat_arrays(table[name].chunks))
    return digest.hexdigest()


def _add_column(digest: Any, column: pa.Array) -> None:
    """Hash the values of a column: numbers by their bytes, images by theirs and not by the names of their files."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        digest.update(repr(pc.list_value_length(column).to_pylist()).encode())
        _add_column(digest, pc.list_flatten(column))
    elif pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}:
        for value in column.to_pylist():
            if value is not None and value["bytes"] is None and Path(value["path"]).is_file():
                value = {"bytes": Path(value["path"]).read_bytes()}
            digest.update(repr(value and value["bytes"]).encode())
    elif not column.null_count and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        digest.update(column.to_numpy(zero_copy_only=False).tobytes())
    else:
        digest.update(repr(column.to_pylist()).encode())
