"""The folders of saved teachers: their description, and whether their files are those that belong to it."""

from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ..likelihoods import Likelihood, likelihood_from
from ..utils.errors import UserError
from ..utils.files import digest, read_json

DESCRIPTION = "teacher.json"
_WEIGHTS = (
    "network/*.safetensors",
    "network/*.safetensors.index.json",
    "network/config.json",
    "network/network.json",
    "posterior.safetensors",
    *(f"network/{name}" for name in ("*processor_config.json", "*token*.json", "*vocab*", "merges.txt", "*.model")),
)
TEACHER_FILES = (*_WEIGHTS, *(f"members/**/{name}" for name in (*_WEIGHTS, DESCRIPTION, "README.md")))
"""What an older teacher may have left in a folder, beside the description, and would be taken for the new one's."""


class Described(NamedTuple):
    """What ``teacher.json`` says.

    ``likelihood`` has one entry of this name, or none where it is that of one of C classes, as in older folders.
    """

    method: str
    settings: dict[str, Any]
    record: dict[str, Any]
    files: dict[str, Any]
    likelihood: dict[str, Likelihood]


def read_description(folder: Path, name: str | Path) -> Described:
    """Read the description in the folder of a teacher called ``name``; UserError if there is none or it is damaged."""
    file = folder / DESCRIPTION
    if not file.is_file():
        raise UserError(f"{name} holds no teacher: teacher.json is missing")
    try:
        content = read_json(file)
        method, settings, record = str(content["method"]), content["settings"], dict(content["record"])
        said = {"likelihood": likelihood_from(content["likelihood"])} if "likelihood" in content else {}
        return Described(method, settings, record, dict(content.get("files", {})), said)
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error) if isinstance(error, UserError) else repr(error)
        raise UserError(f"{file} is damaged ({reason}): save or download the teacher again") from error


def is_description(file: Path) -> bool:
    """Whether a file is what a teacher's ``save_pretrained`` writes, be it of a kind that nobody knows here."""
    try:
        return {"method", "settings", "record"} <= read_json(file).keys()
    except UserError:
        return False


def check_files(folder: Path, files: dict[str, Any]) -> None:
    """Raise a UserError unless the files of a teacher are those that its description was written with."""
    for name, expected in files.items():
        path = PurePosixPath(name)
        inside = not path.is_absolute() and ".." not in path.parts
        if not inside or not (folder / name).is_file():
            raise UserError(f"{folder} lacks {name}, which {DESCRIPTION} names: save or download the teacher again")
        if digest(folder / name) != expected:
            raise UserError(
                f"{folder / name} is not the file that {DESCRIPTION} was written with, because saving was interrupted "
                "or the file has changed since: save or download the teacher again"
            )
