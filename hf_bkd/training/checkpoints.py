"""Checkpoints of the Trainer: which one to go on from, and whether it is of this model."""

import os
from pathlib import Path

from safetensors import safe_open
from torch import nn
from transformers.utils import SAFE_WEIGHTS_NAME

from ..utils.errors import UserError


def last_checkpoint(output_dir: str | Path) -> str | None:
    """The newest checkpoint that was written to its end, or ``None``: an interrupted one lacks its state."""
    found = [path for path in Path(output_dir).glob("checkpoint-[0-9]*") if (path / "trainer_state.json").is_file()]
    newest = max(found, key=lambda path: int(path.name.split("-")[1]), default=None)
    return None if newest is None else os.fspath(newest)


def check_same_model(checkpoint: Path, model: nn.Module) -> None:
    """Compare names and shapes of the stored weights: the Trainer would load those that fit and warn of the rest."""
    weights = checkpoint / SAFE_WEIGHTS_NAME
    if not weights.is_file():  # sharded, or of another format: left to the Trainer
        return
    with safe_open(weights, "pt") as file:
        stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    tied = {value.data_ptr() for name, value in model.state_dict().items() if name in stored}
    lacking = [n for n, v in model.state_dict().items() if n not in stored and v.data_ptr() not in tied]
    odd = [name for name, shape in stored.items() if own.get(name) != shape] + lacking
    if odd:
        there, here = stored.get(odd[0], "no such weight"), own.get(odd[0], "no such weight")
        raise UserError(
            f"{checkpoint} is of another model: {odd[0]} is {there} there, and here {here}; pass another "
            "output_dir, or don't resume"
        )
