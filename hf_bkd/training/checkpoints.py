"""Checkpoints of the Trainer: which one to resume from, and whether it is of this model."""

import os
from pathlib import Path

from safetensors import safe_open
from torch import nn
from transformers.utils import SAFE_WEIGHTS_NAME

from ..utils.errors import UserError


def last_checkpoint(output_dir: str | Path) -> str | None:
    """Return the newest checkpoint that is complete, or ``None``: an interrupted one lacks its state."""
    complete = [path for path in Path(output_dir).glob("checkpoint-[0-9]*") if (path / "trainer_state.json").is_file()]
    newest = max(complete, key=lambda path: int(path.name.split("-")[1]), default=None)
    return None if newest is None else os.fspath(newest)


def check_same_model(checkpoint: Path, model: nn.Module) -> None:
    """Refuse a checkpoint whose weights have other names or shapes: the Trainer would load those that fit.

    Raises:
        UserError: the checkpoint is of another model.
    """
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
