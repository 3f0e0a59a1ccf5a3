"""Reading a dataset leaves its folder as it was, however it is read, and it is read again in every way."""

from pathlib import Path

import datasets
import numpy as np
import pytest

from hf_bkd import BatchedDataset, UserError, join_soft_labels, only_soft_labels
from hf_bkd.data.columns import as_classification
from hf_bkd.data.loading import load_splits, load_stream
from hf_bkd.data.subsets import few_first, few_shot, stratified_split, with_label_noise
from hf_bkd.soft_labels import attach
from hf_bkd.soft_labels.identity import content_ids
from tests.soft_labels.label_helpers import PREPROCESS, RECORD, image_teacher, images, quiet, some_probs

N = 24


@pytest.fixture
def folder(tmp_path):
    """Images, saved by ``save_to_disk``, that may be looked at alone."""
    datasets.DatasetDict({"train": images(N), "test": images(N, seed=1)}).save_to_disk(tmp_path / "mine")
    return tmp_path / "mine"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


OWN = {
    "shuffled": lambda rows: rows.shuffle(seed=1),
    "sorted": lambda rows: rows.sort("label"),
    "mapped": lambda rows: rows.map(lambda row: {"label": row["label"]}),
    "filtered": lambda rows: rows.filter(lambda row: row["label"] > 0),
    "flattened": lambda rows: rows.select([3, 1, 2]).flatten_indices(),
    "cast": lambda rows: rows.cast_column("label", datasets.Value("int64")),
    "split in two": lambda rows: rows.train_test_split(4, seed=0),
    "as a stream": lambda rows: list(rows.to_iterable_dataset().shuffle(seed=0)),
    "in parts": lambda rows: stratified_split(rows, 8, seed=0),
    "few": lambda rows: with_label_noise(few_shot(few_first(rows.shuffle(seed=0), 20), 2, seed=0), 0.5, seed=0),
    "as a network's classes": lambda rows: as_classification(rows.shuffle(seed=0), "image"),
}


@pytest.mark.parametrize("use", OWN.values(), ids=OWN)
def test_what_is_loaded_by_name_may_be_used_in_any_way(folder, use):
    before = contents(folder)
    use(load_splits(str(folder))["train"])
    use(load_splits(str(folder / "test"))["train"])
    assert contents(folder) == before


PERMUTED = {
    "shuffled": np.random.default_rng(0).permutation(N),
    "some": np.array([9, 3, 4]),
    "backwards": range(N)[::-1],
}


@pytest.mark.parametrize("order", PERMUTED.values(), ids=PERMUTED)
def test_labels_are_put_beside_rows_in_any_order_without_a_trace(folder, order):
    """Where the user has loaded the dataset; `select` alone leaves no trace either."""
    before, rows = contents(folder), datasets.load_from_disk(folder / "train").select(order)
    labeled = quiet(rows, image_teacher(), preprocessor=PREPROCESS)
    assert labeled["example_id"][:] == content_ids(rows["picture"][:]).tolist()
    joined = join_soft_labels(rows, only_soft_labels(labeled))
    attach(rows, some_probs(len(rows), 4), RECORD)
    BatchedDataset.from_images(joined, PREPROCESS)
    quiet(labeled, image_teacher(name="other"), preprocessor=PREPROCESS, name="other")
    assert contents(folder) == before and datasets.is_caching_enabled()


def test_labels_are_joined_from_a_folder_without_a_trace(folder, tmp_path):
    rows = datasets.load_from_disk(folder / "train")
    only_soft_labels(quiet(rows, image_teacher(), preprocessor=PREPROCESS)).save_to_disk(tmp_path / "labels")
    before, labels = contents(tmp_path), datasets.load_from_disk(tmp_path / "labels")
    join_soft_labels(rows.select(range(N)[::-1]), labels)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("single", [False, True])
def test_a_saved_folder_can_be_streamed(folder, single):
    """Also one in which earlier uses have left caches."""
    datasets.load_from_disk(folder / "train").shuffle(seed=0).flatten_indices()
    assert list(folder.rglob("cache-*"))
    stream = load_stream(str(folder / "train" if single else folder), "train")
    assert isinstance(stream, datasets.IterableDataset)
    labels = quiet(stream, image_teacher(), preprocessor=PREPROCESS)
    assert labels["example_id"][:] == content_ids(images(N)["picture"][:]).tolist()
    with pytest.raises(UserError, match="has no split 'validation', only train"):
        load_stream(str(folder), "validation")


def test_links_are_not_in_the_way_of_folders_that_hold_more(folder):
    (folder / "notes").mkdir()
    (folder / "notes" / "thesis.txt").write_text("mine")
    (folder / "loop").symlink_to(folder)
    before = contents(folder)
    assert len(load_splits(str(folder))["test"].shuffle(seed=0)) == N
    assert contents(folder) == before


def test_a_system_without_links_loads_from_the_folder_itself(folder, monkeypatch):
    def refuse(self, target, target_is_directory=False):
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert len(load_splits(str(folder))["train"]) == N
