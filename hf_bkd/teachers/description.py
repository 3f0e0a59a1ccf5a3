"""The file that describes a saved teacher: what it is, and which other files it was written with."""

from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ..likelihoods import Likelihood, likelihood_from
from ..models.adapter_bases import Base
from ..models.gguf import gguf_remedy
from ..utils.errors import UserError
from ..utils.files import digest, read_json

DESCRIPTION = "teacher.json"
_WEIGHTS = (
    "network/*.safetensors",
    "network/*.safetensors.index.json",
    "network/config.json",
    "network/network.json",
    "network/*.skops",
    "posterior.safetensors",
    *(f"network/{name}" for name in ("*processor_config.json", "*token*.json", "*vocab*", "merges.txt", "*.model")),
)
TEACHER_FILES = (*_WEIGHTS, *(f"members/**/{name}" for name in (*_WEIGHTS, DESCRIPTION, "README.md")))
"""What an older teacher may have left in a folder, beside the description, and would be taken for the new one's."""


class Description(NamedTuple):
    """What a saved teacher's description says.

    method: the name of its kind.
    settings: arguments of its constructor.
    record: how it was fitted, and how good it was.
    files: name -> digest of the files that it was written with; empty in what version 0.1 saved.
    reads_by: the name of the function or transform that read its examples, and isn't saved.
    columns: of numbers that its network read side by side, in their order.
    likelihood: of its network's outputs; ``None`` for one of several classes.
    base: of a language model's adapters, which are saved without it.
    """

    method: str
    settings: dict[str, Any]
    record: dict[str, Any]
    files: dict[str, str]
    reads_by: str | None = None
    columns: tuple[str, ...] = ()
    likelihood: Likelihood | None = None
    base: Base | None = None


def read_description(folder: Path, name: str | Path) -> Description:
    """Read the description of the teacher in a folder, which the user called ``name``.

    Raises:
        UserError: there is none, or it is damaged.
    """
    file = folder / DESCRIPTION
    if not file.is_file():
        raise UserError(
            f"{name} holds no teacher (teacher.json is missing), and no network with a config.json either: pass the "
            f"folder that save_pretrained wrote{gguf_remedy(folder)}"
        )
    try:
        read = read_json(file)
        reads_by, columns = read.get("reads_by"), tuple(map(str, read.get("columns", ())))
        return Description(
            str(read["method"]),
            read["settings"],
            dict(read["record"]),
            dict(read.get("files", {})),
            None if reads_by is None else str(reads_by),
            columns,
            likelihood_from(read["likelihood"]) if "likelihood" in read else None,
            Base(*(str(read["base"][name]) for name in Base._fields)) if "base" in read else None,
        )
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error) if isinstance(error, UserError) else repr(error)
        raise UserError(f"{file} is damaged ({reason}): save or download the teacher again") from error


def is_description(file: Path) -> bool:
    """Whether a file is what ``Teacher.save_pretrained`` writes, be it of a kind that nobody knows here."""
    try:
        return {"method", "settings", "record"} <= read_json(file).keys()
    except UserError:
        return False


def check_files(folder: Path, files: dict[str, str]) -> None:
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
