"""Which training a checkpoint is of, so that trainings in one folder don't go on from, or remove, each other's.

Each checkpoint holds its training's id in a file. Where a training begins beside checkpoints that it does not go on
from, the same file beside them says whose turn it is, and from which checkpoint it began.
"""

import logging
import re
import secrets
import shutil
from pathlib import Path
from typing import NamedTuple

from transformers.trainer import TRAINER_STATE_NAME

from ..utils.errors import UserError
from ..utils.files import read_json, write_json

logger = logging.getLogger(__name__)

NAME = re.compile("checkpoint-([0-9]+)")
FILE = "training_id.json"


class Present(NamedTuple):
    """The training whose turn it is in a folder.

    Args:
        id: of its checkpoints; ``None`` where all checkpoints are of one training.
        start: the checkpoint that it began from; ``None`` if it began anew.
    """

    id: str | None = None
    start: Path | None = None


def numbered(output_dir: str | Path) -> list[tuple[int, Path]]:
    """Return the checkpoints in a folder, by their steps."""
    folders = {path: NAME.fullmatch(path.name) for path in Path(output_dir).glob("checkpoint-*") if path.is_dir()}
    return sorted((int(match[1]), path) for path, match in folders.items() if match)


def id_of(checkpoint: Path) -> str | None:
    """Return the id of a checkpoint's training; ``None`` of those that other versions or trainers wrote."""
    try:
        return read_json(checkpoint / FILE).get("id")
    except UserError:
        return None


def present(output_dir: str | Path) -> Present:
    """Return the training whose turn it is in a folder; UserError if the file that says so is damaged."""
    file = Path(output_dir, FILE)
    if not file.exists():
        return Present()
    content = read_json(file)
    start = content.get("start")
    return Present(content.get("id"), None if start is None else Path(output_dir, start))


def sign(checkpoint: Path, id: str) -> None:
    """Write into a checkpoint, before all else, whose it is; an older one of this step is not complete any more."""
    (checkpoint / TRAINER_STATE_NAME).unlink(missing_ok=True)
    write_json(checkpoint / FILE, {"id": id})


def begun(output_dir: str | Path, checkpoint: str | Path | None, was_last: bool) -> str:
    """Return the id of a training that begins, or goes on; a folder with checkpoints of others gets to know it.

    Args:
        output_dir: where its checkpoints go.
        checkpoint: what it resumes from.
        was_last: whether that is what a resume from the last checkpoint finds.
    """
    output_dir, before, others = Path(output_dir), present(output_dir), numbered(output_dir)
    if checkpoint is not None:
        checkpoint = Path(checkpoint).absolute()
        newest = bool(others) and others[-1][1].absolute() == checkpoint
        if was_last or (newest and before.id in (None, id_of(checkpoint))):
            return before.id or id_of(checkpoint) or secrets.token_hex(8)
    id = secrets.token_hex(8)
    if others or before.id is not None:
        inside = checkpoint is not None and checkpoint.parent == output_dir.absolute()
        start = checkpoint and (checkpoint.name if inside else str(checkpoint))
        write_json(output_dir / FILE, {"id": id, "start": start})
    left = [path.name for _, path in others if checkpoint is None or path.absolute() != checkpoint]
    if left:
        logger.warning(
            "%s holds checkpoints of another training (%s), which stay there until this one saves the same step; "
            "resume_from_checkpoint=True takes this training's alone",
            output_dir,
            ", ".join(left),
        )
    return id


def rotate(checkpoint: Path, id: str, limit: int | None, best: str | None) -> None:
    """Remove a training's oldest checkpoints, as `Trainer` does, but no other training's.

    Args:
        checkpoint: the one that was just saved, which stays.
        id: of the training.
        limit: how many stay; all if ``None`` or below 1.
        best: a checkpoint that stays, too.
    """
    if not limit or limit < 1:
        return
    steps = {path: step for step, path in numbered(checkpoint.parent) if id_of(path) == id}
    stay = [path for path in steps if path in (checkpoint, best and Path(best))]

    def is_of_use(path: Path) -> bool:  # not one that a kill cut off, or that was passed over
        return (path / TRAINER_STATE_NAME).exists() and steps[path] <= steps[checkpoint]

    others = sorted((path for path in steps if path not in stay), key=lambda path: (is_of_use(path), steps[path]))
    for path in others[: max(0, len(steps) - max(limit, len(stay)))]:
        _remove(path)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint, its id last: what a kill leaves of it is removed by the next save."""
    for each in checkpoint.iterdir():
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each, ignore_errors=True)
        elif each.name != FILE:
            each.unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)
