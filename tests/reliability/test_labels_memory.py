"""Labeling into a folder needs the same memory for any number of rows, else little more than what it keeps."""

import multiprocessing
import threading
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch

from hf_bkd import UserError
from hf_bkd.soft_labels import attach, reading
from hf_bkd.soft_labels.reading import stored_labels
from tests.soft_labels.label_helpers import RECORD, Answer, quiet, some_probs, texts

FORK = multiprocessing.get_context("fork")
C = 100
STORED = (2 + 4) * C + 8  # bytes a row: probabilities in float16, variance in float32, and the id
NOISE = 2**22  # bytes by which the same labeling differs from time to time
TABLE = 10  # bytes a row: 8 kB a shard of 1024 rows, for what Arrow knows of its file
INDICES = 100  # bytes a row: where the rows of four folds, and the rest of each, stand


class Trivial:
    num_classes = C

    def predict(self, inputs, num_samples, generator):
        probs = torch.full((len(inputs["x"]), C), 1 / C)
        return Answer(probs, probs)

    def describe(self):
        about = {"method": "stub", "temperature": 1.0, "tempering": "post_average", "weights": "w"}
        return about | {"num_classes": C}


def numbers(folder: Path, rows: int) -> datasets.Dataset:
    """A column of numbers, in a file."""
    features = datasets.Features({"x": datasets.Value("int64")})
    file = folder / f"{rows}.arrow"
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, features.arrow_schema) as stream:
        for start in range(0, rows, 10_000):
            stream.write_table(pa.table([np.arange(start, min(rows, start + 10_000))], features.arrow_schema))
    return datasets.Dataset.from_file(str(file))


def private_memory() -> int:
    """Bytes that this process has for itself, without what is mapped from files."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def peak(dataset: datasets.Dataset, folds: bool = False, **how) -> int:
    """Bytes that labeling needs at most, in a process of its own."""
    how |= {"folds": 4, "fit": lambda rest, fold: Trivial()} if folds else {"teacher": Trivial()}
    queue = FORK.SimpleQueue()

    def child():
        quiet(dataset.select(range(2000)), Trivial(), storage="float16")
        before, most, done = private_memory(), [0], threading.Event()

        def watch():
            while not done.is_set():
                most[0] = max(most[0], private_memory())
                time.sleep(0.002)

        watching = threading.Thread(target=watch)
        watching.start()
        labeled = quiet(dataset, storage="float16", **how)
        most[0] = max(most[0], private_memory())
        done.set()
        watching.join()
        assert len(labeled) == len(dataset)
        queue.put(most[0] - before)

    process = FORK.Process(target=child)
    process.start()
    process.join()
    return queue.get() if not queue.empty() else -1


SIZES = [(2_000, 12_000), pytest.param((10_000, 100_000), marks=pytest.mark.slow)]


@pytest.mark.parametrize("sizes", [*SIZES, pytest.param((10_000, 1_000_000), marks=pytest.mark.slow)])
@pytest.mark.parametrize("folds", [False, True])
def test_into_a_folder_needs_the_same_for_any_number_of_rows(tmp_path, sizes, folds):
    small, large = (peak(numbers(tmp_path, rows), folds, folder=tmp_path / f"work {rows}") for rows in sizes)
    rows = sizes[1] - sizes[0]
    print(f"{(large - small) / rows:.2f} bytes a row")
    assert large - small < NOISE + (INDICES if folds else TABLE) * rows


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("folds", [False, True])
def test_in_memory_needs_little_more_than_what_is_stored(tmp_path, sizes, folds):
    small, large = (peak(numbers(tmp_path, rows), folds) for rows in sizes)
    rows = sizes[1] - sizes[0]
    print(f"{(large - small) / rows:.0f} bytes a row, {(large - small) / rows / STORED:.2f} of what is stored")
    assert large - small < NOISE + (1.2 * STORED + (INDICES if folds else 0)) * rows


def test_labels_of_a_training_set_are_checked_some_rows_at_a_time(monkeypatch):
    """With the numbers that rows have in the dataset, and lists of one length all over."""
    monkeypatch.setattr(reading, "READ_AT_ONCE", 4)
    labeled, seen = attach(texts(), some_probs(10, 4), RECORD), []

    def counted(rows, *where, own=reading._read):
        seen.append(len(rows))
        return own(rows, *where)

    monkeypatch.setattr(reading, "_read", counted)
    assert stored_labels(labeled, None, 4)["teacher_probs"].layout.num_classes == 4 and seen == [4, 4, 2]
    probs = some_probs(10, 4)
    probs[7] *= 2
    wrong = labeled.remove_columns("teacher_probs").add_column("teacher_probs", probs.tolist())
    with pytest.raises(UserError, match="row 7 of the soft labels does not sum to one"):
        stored_labels(wrong, None, None)
    bare = texts().add_column("teacher_probs", [[0.5, 0.5]] * 8 + [[1.0, 0, 0]] * 2)
    with pytest.raises(UserError, match="don't all hold a list of the same length"):
        stored_labels(bare, None, None, allow_unrecorded=True)
