"""Checkpoints of the Trainer: which one to resume from, whether it is whole, and whether it is of this model."""

import logging
import zipfile
from pathlib import Path
from typing import Any

from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.trainer import OPTIMIZER_NAME, OPTIMIZER_NAME_BIN, SCALER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.utils import (
    ADAPTER_SAFE_WEIGHTS_NAME,
    ADAPTER_WEIGHTS_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

from ..utils.errors import UserError
from ..utils.files import read_json
from .lineage import NAME, id_of, numbered, present

logger = logging.getLogger(__name__)

GOES_ON = "the same command, or train(resume_from_checkpoint=True), goes on from the last complete checkpoint"
RECORD = "DistillationTrainer"  # under this name the state file holds what the Trainer itself forgets
STANDARDIZED = "standardized_head.safetensors"  # a regression's last layer while it is trained
UNFINISHED = "checkpoint-is-incomplete.txt"  # the Trainer's mark while it saves on a signal
WEIGHTS = (SAFE_WEIGHTS_NAME, WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME)
ADAPTERS = (ADAPTER_SAFE_WEIGHTS_NAME, ADAPTER_WEIGHTS_NAME)
# FSDP's and DeepSpeed's folders of weights and optimizer, which their own loaders check
SHARDED = ("pytorch_model_fsdp_*", "global_step*")


class _Lacking(Exception):
    """What a resume would not find in a checkpoint."""


def last_checkpoint(output_dir: str | Path) -> str | None:
    """Return the newest complete checkpoint of the present training, or ``None``; newer ones are logged, and why not.

    The present training is the last one that began in the folder; see `lineage`.
    """
    now = present(output_dir)
    begun_from = [] if now.start is None else [now.start]
    passed_over, complete = [], None
    for path in [path for _, path in reversed(numbered(output_dir))] + begun_from:
        is_own = now.id in (None, id_of(path)) or path in begun_from
        lacking = what_lacks(path) if is_own else "it is of another training"
        if lacking is None:
            complete = path
            break
        passed_over.append(f"{path.name} is passed over ({lacking})")
    if passed_over and PartialState().is_main_process:
        then = "training starts anew" if complete is None else f"training goes on from {complete.name}"
        logger.warning("in %s %s: %s", output_dir, ", ".join(passed_over), then)
    return None if complete is None else str(complete)


def check_complete(checkpoint: str | Path) -> None:
    """Refuse a checkpoint that lacks something that a resume reads."""
    lacking = what_lacks(Path(checkpoint))
    if lacking is not None:
        raise UserError(
            f"{checkpoint} can't be resumed from ({lacking}): pass another checkpoint, or resume_from_checkpoint=True "
            "for the last complete one"
        )


def what_lacks(checkpoint: Path) -> str | None:
    """Say what is missing, cut off or of another step in a checkpoint; ``None`` if a resume finds all it reads."""
    if not checkpoint.is_dir():
        return "no such folder"
    try:
        _check(checkpoint)
    except _Lacking as lacking:
        return str(lacking)
    except OSError as error:
        return f"{Path(error.filename or checkpoint).name} can't be read: {error.strerror or error}"
    return None


def _check(checkpoint: Path) -> None:
    state = _json(checkpoint / TRAINER_STATE_NAME)
    if (checkpoint / UNFINISHED).exists():
        raise _Lacking(f"{UNFINISHED} says that it was not finished")
    step, match = state.get("global_step"), NAME.fullmatch(checkpoint.name)
    if match and step != int(match[1]):
        raise _Lacking(f"its {TRAINER_STATE_NAME} is of step {step}")
    record = recorded(state)
    random = _random_states(checkpoint, record)
    of_optimizer = (OPTIMIZER_NAME, OPTIMIZER_NAME_BIN, SCHEDULER_NAME, *random)
    sharded = any(any(checkpoint.glob(pattern)) for pattern in SHARDED)
    if record.get("save_only_model") or not (sharded or any((checkpoint / name).exists() for name in of_optimizer)):
        raise _Lacking("it holds the weights alone, as save_only_model=True saves them")
    if not sharded:
        _check_weights(checkpoint)
        _check_file(_first(checkpoint, OPTIMIZER_NAME, OPTIMIZER_NAME_BIN))
        _check_file(checkpoint / SCHEDULER_NAME)
    there = {SCALER_NAME: record.get("scaler"), STANDARDIZED: record.get("standardized")}
    for name in [*random, *(name for name, expected in there.items() if expected)]:
        _check_file(checkpoint / name)


def recorded(state: dict[str, Any]) -> dict[str, Any]:
    """Return what the trainer noted of its own in the content of a state file; {} if another Trainer wrote it."""
    return (state.get("stateful_callbacks") or {}).get(RECORD, {}).get("attributes", {})


def _random_states(checkpoint: Path, record: dict[str, Any]) -> list[str]:
    """Name the files of random states, one a process; where it isn't known which should be there, those that are."""
    if record.get("processes", 1) > 1 and not record["on_each_node"]:
        return [f"rng_state_{rank}.pth" for rank in range(record["processes"])]
    return sorted(path.name for path in checkpoint.glob("rng_state*.pth")) or ["rng_state.pth"]


def _check_weights(checkpoint: Path) -> None:
    adapters = [path for name in ADAPTERS for path in (*checkpoint.glob(name), *checkpoint.glob(f"*/{name}"))]
    weights = _first(checkpoint, *WEIGHTS)
    if adapters and not weights.exists():
        for file in adapters:
            _check_file(file)
    elif weights.suffix == ".json":
        for name in sorted(set(_json(weights).get("weight_map", {}).values())):
            _check_file(checkpoint / name)
    else:
        _check_file(weights)


def _first(checkpoint: Path, *names: str) -> Path:
    """Return the first of several files that is there, as the Trainer looks for them; the first if none is."""
    return next((checkpoint / name for name in names if (checkpoint / name).exists()), checkpoint / names[0])


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise _Lacking(f"{file.name} is missing")
    try:
        return read_json(file)
    except UserError as error:
        unreadable = isinstance(error.__cause__, OSError)
        raise _Lacking(f"{file.name} {'can not be read' if unreadable else 'is cut off or damaged'}") from error


def _check_file(file: Path) -> None:
    """Check that a file of tensors is whole, without loading it: safetensors by size, torch's by its archive."""
    if not file.is_file():
        raise _Lacking(f"{file.name} is missing")
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt"):
                return
        with zipfile.ZipFile(file) as archive:
            whole = archive.testzip() is None
    except (SafetensorError, zipfile.BadZipFile, EOFError, NotImplementedError):
        whole = False
    if not whole:
        raise _Lacking(f"{file.name} is cut off or damaged")


def check_same_model(checkpoint: Path, model: nn.Module) -> None:
    """Refuse a checkpoint whose weights have other names or shapes: the Trainer would load those that fit."""
    weights = checkpoint / SAFE_WEIGHTS_NAME
    if not weights.is_file():  # sharded, or of another format: left to the Trainer
        return
    with safe_open(weights, "pt") as file:
        stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    state = model.state_dict()
    own = {name: tuple(value.shape) for name, value in state.items()}
    tied = {value.data_ptr() for name, value in state.items() if name in stored}  # stored once, under one name
    differing = [name for name, shape in stored.items() if own.get(name) != shape]
    differing += [name for name, value in state.items() if name not in stored and value.data_ptr() not in tied]
    if differing:
        name = differing[0]
        there, here = stored.get(name, "no such weight"), own.get(name, "no such weight")
        raise UserError(
            f"{checkpoint} is of another model: {name} is {there} there, and here {here}; pass another output_dir, or "
            "don't resume"
        )
