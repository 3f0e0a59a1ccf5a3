"""What `datasets` computes from a user's files (flattened, shuffled, mapped rows) is kept away from them.

The library caches it in the folder of the files, where it is in the way of whoever reads that folder next.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets


def is_saved_to_disk(path: str | Path) -> bool:
    """Return whether a folder was written by ``save_to_disk``."""
    return any(Path(path, name).is_file() for name in ("dataset_dict.json", "state.json"))


def loaded_from_disk(path: str | Path) -> datasets.Dataset | datasets.DatasetDict:
    """Load what ``save_to_disk`` wrote, by links in a temporary folder, which is then that of the caches.

    Where the system makes no links, the dataset is loaded from its own folder. Raises what ``load_from_disk`` does.
    """
    source = Path(path).resolve()
    folder = Path(tempfile.mkdtemp(prefix="hf_bkd-dataset-"))
    atexit.register(_remove, folder, os.getpid())
    try:
        for file in (*source.glob("*"), *source.glob("*/*")):
            if file.is_file() and not file.name.startswith("cache-"):
                link = folder / file.relative_to(source)
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(file)
    except OSError:
        return datasets.load_from_disk(source)
    return datasets.load_from_disk(folder)


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # not a forked child, which shares it
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def caches_elsewhere(dataset: datasets.Dataset) -> Iterator[None]:
    """Have `datasets` cache what it computes within the block in a temporary folder, if the files are the user's."""
    cache = Path(datasets.config.HF_DATASETS_CACHE).resolve()
    own = any(cache not in Path(file["filename"]).resolve().parents for file in dataset.cache_files)
    if not (own and datasets.is_caching_enabled()):
        yield
        return
    datasets.disable_caching()
    try:
        yield
    finally:
        datasets.enable_caching()
