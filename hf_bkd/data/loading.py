"""Loading a dataset from a folder or from the Hub."""

from pathlib import Path
from textwrap import shorten

import datasets

from ..hub.transfer import without_tokens
from ..utils.errors import UserError
from .caches import is_saved_to_disk, loaded_from_disk
from .sounds import files_without_torchcodec

OF_NETWORKS = ("config.json", "teacher.json", "network.json", "model.safetensors")
BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


def load_splits(
    name_or_path: str, needed: tuple[str, ...] = (), configuration: str | None = None
) -> datasets.DatasetDict:
    """Load a dataset from a folder (data files, or written by ``save_to_disk``), a file or from the Hub.

    Args:
        name_or_path: folder; file of CSV, JSON or parquet, which is the split ``train``; or name on the Hub.
        needed: splits that it must have.
        configuration: which of its configurations, where there are several; its own default if not given.

    Raises:
        UserError: a path that doesn't exist, a folder without data that can be read, a dataset the Hub does not have
            or can't deliver, or one without the splits ``needed``.
    """
    splits = _load(name_or_path, configuration)
    for name in needed:
        check_split(splits, name, name_or_path)
    return splits


def check_split(splits: datasets.DatasetDict, name: str, dataset: str) -> None:
    """Raise a UserError if the dataset that the user calls ``dataset`` lacks the split ``name``."""
    if name not in splits:
        raise UserError(f"{dataset} has no split {name!r}, only {', '.join(splits)}")


def choose_split(splits: datasets.DatasetDict, name: str | None, usual: tuple[str, ...], dataset: str) -> str:
    """Return the split that was asked for; if none was, the first of the usual ones, or else the only one.

    Raises:
        UserError: the dataset that the user calls ``dataset`` has no such split.
    """
    if name is not None:
        check_split(splits, name, dataset)
        return name
    there = [split for split in usual if split in splits] or (list(splits) if len(splits) == 1 else [])
    if not there:
        raise UserError(f"{dataset} has no split {' or '.join(usual)}, only {', '.join(splits)}: name one of them")
    return there[0]


def load_stream(name_or_path: str, split: str) -> datasets.IterableDataset:
    """Load a split as a stream, from a folder (data files, or written by ``save_to_disk``) or from the Hub.

    Raises:
        UserError: as for :func:`load_splits`, or a dataset that doesn't say what columns it has.
    """
    _check_name(name_or_path)
    path = Path(name_or_path).expanduser()
    if is_saved_to_disk(path):
        return load_splits(name_or_path, (split,))[split].to_iterable_dataset()
    try:
        splits = datasets.load_dataset(str(path.resolve()) if path.is_dir() else name_or_path, streaming=True)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{name_or_path!r} can't be streamed ({_brief(error)})") from None
    check_split(splits, split, name_or_path)
    if splits[split].features is None:
        raise UserError(f"{name_or_path!r} doesn't say what columns it has: load it without streaming")
    sounds = [name for name, feature in splits[split].features.items() if isinstance(feature, datasets.Audio)]
    if sounds and not datasets.config.TORCHCODEC_AVAILABLE:
        raise UserError(
            f"the column {sounds[0]} of {name_or_path!r} holds files of sound, which datasets streams with torchcodec "
            "alone: load it without streaming, or pip install torchcodec"
        )
    return splits[split]


def _check_name(name: str) -> None:
    if not str(name).strip():
        raise UserError("the name of the dataset is empty: pass a folder, or a name on the Hub")


def _load(name_or_path: str, configuration: str | None) -> datasets.DatasetDict:
    _check_name(name_or_path)
    path = Path(name_or_path).expanduser()
    local = path.is_dir()
    if not path.exists() and set("*?[") & set(name_or_path):
        raise UserError(f"{name_or_path} is a pattern: pass the folder, whose files are read together, or one of them")
    if not path.exists() and (name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1):
        raise UserError(
            f"there is no folder {name_or_path}; pass the path of a dataset's folder or its name on the Hub"
        )
    try:
        if is_saved_to_disk(path):
            loaded = loaded_from_disk(path)
            single = isinstance(loaded, datasets.Dataset)
            return datasets.DatasetDict({str(loaded.split or "train"): loaded}) if single else loaded
        if path.is_file():
            return _load_file(path)
        with files_without_torchcodec():
            return datasets.load_dataset(str(path.resolve()) if local else name_or_path, configuration)
    except UserError:
        raise
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        if any((path / file).is_file() for file in OF_NETWORKS):
            raise UserError(f"{name_or_path} holds a network, and a dataset is needed: pass another folder") from None
        if path.exists():
            raise UserError(f"{name_or_path} holds no dataset that can be read: {_brief(error)}") from None
        raise UserError(
            f"the Hub could not deliver {name_or_path!r} ({_brief(error)}); check the name, log in "
            "(hf auth login) if it is private or gated, or pass a local folder"
        ) from None


def _brief(error: BaseException) -> str:
    if isinstance(error, datasets.exceptions.DatasetGenerationError) and error.__cause__ is not None:
        error = error.__cause__
    return shorten(without_tokens(str(error)), 200) or type(error).__name__


def _load_file(path: Path) -> datasets.DatasetDict:
    """Load a file of a table."""
    if path.suffix.lower() not in BUILDERS:
        raise UserError(f"{path} is no file of {', '.join(BUILDERS)}: pass one of those, or a folder")
    tabs = {"sep": "\t"} if path.suffix.lower() == ".tsv" else {}
    return datasets.load_dataset(BUILDERS[path.suffix.lower()], data_files=str(path.resolve()), **tabs)
