"""Folders of work: another labeling never goes on with what is there, and two runs never work in one at once.

Findings F5 and F13 of the attack on reliability, with their kinds; and kills of labeling at random moments.
"""

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch

from hf_bkd import UserError, join_soft_labels, only_soft_labels
from hf_bkd.data.columns import EXAMPLE_ID
from hf_bkd.soft_labels import read
from hf_bkd.soft_labels.identity import content_ids
from hf_bkd.soft_labels.input_digests import NAME
from hf_bkd.soft_labels.shards import Shards, _checksum, _serialized
from hf_bkd.utils import locks
from hf_bkd.utils.locks import LOCK_FILE, sole_user
from tests.soft_labels.label_helpers import Teacher, column_bytes, quiet, text_inputs, texts

FORK = multiprocessing.get_context("fork")
N = 20


def table(changed: int | None = None, **columns) -> datasets.Dataset:
    """Rows x [3] and y; one of them is another one."""
    x = np.random.default_rng(0).normal(size=(N, 3))
    if changed is not None:
        x[changed] += 1
    return datasets.Dataset.from_dict({"x": x.tolist()} | columns)


def scaled(factor: float):
    return lambda rows: {"x": torch.tensor(rows["x"]) * factor}


def begin(folder: Path, dataset: datasets.Dataset, **how) -> list[Path]:
    """Label, and lose all shards but the first two."""
    quiet(dataset, Teacher(), folder=folder, shard_rows=5, batch_size=4, **how)
    files = sorted(folder.glob("*.arrow"))
    for file in files[2:]:
        file.unlink()
    return files


class TestGoingOn:
    @pytest.mark.parametrize("row", [0, 1, 4, 9])
    def test_with_other_features_of_any_row_is_refused(self, tmp_path, row):
        begin(tmp_path, table())
        with pytest.raises(
            UserError, match=rf"of 1 of 5 rows looked at were made for other examples \(first: row {row}"
        ):
            quiet(table(row), Teacher(), folder=tmp_path, shard_rows=5, batch_size=4)

    def test_with_other_features_of_labeled_texts_is_refused(self, tmp_path):
        """Same texts, other numbers beside them: 199 of 400 rows were wrong."""
        words = {"text": [f"text {i}" for i in range(N)]}
        begin(tmp_path, table(**words), preprocessor=scaled(1.0))
        with pytest.raises(UserError, match="were made for other examples"):
            quiet(table(7, **words), Teacher(), folder=tmp_path, shard_rows=5, batch_size=4, preprocessor=scaled(1.0))

    def test_with_another_preprocessing_is_refused_and_both_are_named(self, tmp_path):
        begin(tmp_path, table(), preprocessor=scaled(1.0))
        with pytest.raises(
            UserError, match=r"another preprocessing \(row 0 became inputs with the hash \w{16} there, \w{16} here\)"
        ):
            quiet(table(), Teacher(), folder=tmp_path, shard_rows=5, batch_size=4, preprocessor=scaled(2.0))

    @pytest.mark.parametrize("changed", [3, 5, 20, 37])
    def test_with_another_preprocessing_of_the_longest_texts_alone_is_refused(self, tmp_path, changed):
        """A tokenizer's other truncation, which is seen at none but the longest of a shard's rows."""
        words = datasets.Dataset.from_dict({"text": ["a" * (100 if i == changed else 3) + str(i) for i in range(40)]})

        def cut_at(longest):
            return lambda rows: {"x": torch.tensor([[min(len(text), longest)] * 3 for text in rows["text"]]) / 100}

        quiet(words, Teacher(), folder=tmp_path, preprocessor=cut_at(64), shard_rows=40)
        with pytest.raises(UserError, match=rf"another preprocessing \(row {changed} became"):
            quiet(words, Teacher(), folder=tmp_path, preprocessor=cut_at(16), shard_rows=40)
        quiet(words, Teacher(), folder=tmp_path, preprocessor=cut_at(64), shard_rows=40)

    def test_with_a_hash_of_the_first_row_alone(self, tmp_path):
        """As shards had once."""
        begin(tmp_path, table(), preprocessor=scaled(1.0))
        for file in tmp_path.glob("*.arrow"):
            shard = pa.ipc.open_stream(file.read_bytes()).read_all()
            hashes = json.loads(shard.schema.metadata[NAME])
            assert list(hashes) == ["0", "1", "2", "3", "4"]
            file.unlink()
            content = _serialized(shard.replace_schema_metadata(shard.schema.metadata | {NAME: hashes["0"]}))
            file.with_name(f"{file.stem.rpartition('-')[0]}-{_checksum(content)}.arrow").write_bytes(content)
        options = {"folder": tmp_path, "shard_rows": 5, "batch_size": 4}
        with pytest.raises(UserError, match=r"another preprocessing \(row 0 became"):
            quiet(table(), Teacher(), preprocessor=scaled(2.0), **options)
        quiet(table(), Teacher(), preprocessor=scaled(1.0), **options)

    def test_a_row_that_fails_is_named_by_its_own_number(self, tmp_path):
        rows = datasets.Dataset.from_dict({"text": ["a", "b", "c", "d", "longer", "e"]})

        def failing(batch):
            if "longer" in batch["text"]:
                raise KeyError("no such word")
            return text_inputs(batch)

        with pytest.raises(UserError, match="can't read row 4 "):
            quiet(rows, Teacher(), preprocessor=failing, folder=tmp_path, shard_rows=3)

    def test_with_a_preprocessor_that_reads_another_column_is_refused(self, tmp_path):
        begin(tmp_path, table(y=[[1.0] * 3] * N), preprocessor=scaled(1.0))
        other = {"preprocessor": lambda rows: {"x": torch.tensor(rows["y"])}}
        with pytest.raises(UserError, match=r"another columns \(\['x'\] there, \['y'\] here\)"):
            quiet(table(y=[[1.0] * 3] * N), Teacher(), folder=tmp_path, shard_rows=5, batch_size=4, **other)

    def test_with_the_same_is_as_if_uninterrupted(self, tmp_path):
        expected = column_bytes(quiet(table(), Teacher(), shard_rows=5, batch_size=4, preprocessor=scaled(2.0)))
        files = begin(tmp_path, table(), preprocessor=scaled(2.0))
        again = quiet(table(), Teacher(), folder=tmp_path, shard_rows=5, batch_size=4, preprocessor=scaled(2.0))
        assert column_bytes(again) == expected and sorted(tmp_path.glob("*.arrow")) == files

    def test_with_a_preprocessor_that_is_never_the_same_is_allowed(self, tmp_path):
        """Nothing could tell it from another one; it is asked for the hash of a row that it makes twice."""
        how = {"preprocessor": lambda rows: {"x": torch.tensor(rows["x"]) + torch.rand(1) / 1000}}
        begin(tmp_path, table(), **how)
        quiet(table(), Teacher(), folder=tmp_path, shard_rows=5, batch_size=4, **how)

    def test_in_a_folder_of_an_earlier_version(self, tmp_path):
        """Its plan names no identity: the first text of a row is what it knows rows by."""
        dataset = texts(N)
        how = {"preprocessor": lambda rows: text_inputs(rows) if rows["number"] else None, "shard_rows": 5}
        quiet(dataset, Teacher(), folder=tmp_path, **how)
        plan = json.loads((tmp_path / "labelling.json").read_text())
        assert plan.pop("identity") == {"form": 2, "columns": ["number", "text"]}
        (tmp_path / "labelling.json").write_text(json.dumps(plan))
        ids = content_ids(dataset["text"][:], form=1)
        for number, file in enumerate(sorted(tmp_path.glob("*.arrow"))):
            shard = pa.ipc.open_stream(file.read_bytes()).read_all()
            own = pa.array(ids[5 * number : 5 * number + 5])
            file.unlink()
            if number < 2:
                shard = shard.set_column(shard.column_names.index(EXAMPLE_ID), EXAMPLE_ID, own)
                Shards(tmp_path, plan).write(f"rows-{number:06d}", shard.replace_schema_metadata(None))
        labeled = quiet(dataset, Teacher(), folder=tmp_path, **how)
        record = read(labeled).record.dataset
        assert (record.identity, record.content_column) == (None, "text")
        assert labeled[EXAMPLE_ID][:] == ids.tolist()
        assert len(join_soft_labels(dataset.shuffle(seed=0), only_soft_labels(labeled))) == N


class TestOneUser:
    def test_the_second_start_is_told_who_works_there(self, tmp_path):
        told = []

        class Asking(Teacher):
            def predict(self, *arguments):
                with FORK.Pool(1) as pool:
                    told.append(pool.apply(second_start, (tmp_path,)))
                return super().predict(*arguments)

        quiet(texts(3), Asking(), folder=tmp_path, preprocessor=text_inputs)
        host, pid = os.uname().nodename, os.getpid()
        assert told[0].startswith(f"{tmp_path} is in use by process {pid} on {host} since 20")
        assert told[0].endswith(": wait until that run ends, or pass another folder")
        assert not (tmp_path / LOCK_FILE).exists()

    def test_a_killed_owner_leaves_no_lock(self, tmp_path):
        child = FORK.Process(target=hold, args=(tmp_path, 60))
        child.start()
        wait_for(lambda: (tmp_path / LOCK_FILE).is_file() and (tmp_path / LOCK_FILE).read_text())
        with pytest.raises(UserError, match=f"in use by process {child.pid} on"), sole_user(tmp_path):
            pass
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert (tmp_path / LOCK_FILE).is_file()
        with sole_user(tmp_path):
            assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()

    def test_a_child_that_outlives_its_parent_does_not_keep_the_lock(self, tmp_path):
        def parent():
            with sole_user(tmp_path):
                if os.fork() == 0:
                    time.sleep(3)
                    os._exit(0)
                os._exit(0)  # without leaving the block

        child = FORK.Process(target=parent)
        child.start()
        child.join()
        with sole_user(tmp_path):
            pass

    def test_waiting_says_so_and_goes_on(self, tmp_path, capfd):
        child = FORK.Process(target=hold, args=(tmp_path, 0.5))
        child.start()
        wait_for(lambda: (tmp_path / LOCK_FILE).is_file() and (tmp_path / LOCK_FILE).read_text())
        with sole_user(tmp_path, wait=True):
            pass
        child.join()
        assert capfd.readouterr().err.count(f"waiting for process {child.pid} on") == 1

    def test_a_process_may_ask_again(self, tmp_path):
        with sole_user(tmp_path):
            with sole_user(tmp_path):
                pass
            assert (tmp_path / LOCK_FILE).is_file()
        assert not (tmp_path / LOCK_FILE).exists()

    def test_a_folder_that_is_removed_meanwhile_is_no_trouble(self, tmp_path):
        with sole_user(tmp_path / "work"):
            shutil.rmtree(tmp_path / "work")
        with sole_user(tmp_path / "work"):
            pass

    def test_a_file_system_without_locks_is_warned_of(self, tmp_path, monkeypatch):
        def refuse(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(locks.fcntl, "flock", refuse)
        with pytest.warns(UserWarning, match="on a file system without locks"), sole_user(tmp_path):
            pass

    def test_many_starts_at_once_label_once_or_are_told(self, tmp_path):
        """Eleven of fourteen ended in a wrong sentence."""
        expected = column_bytes(quiet(texts(N), Teacher(), preprocessor=text_inputs, shard_rows=3))
        queue = FORK.Queue()
        children = [FORK.Process(target=start, args=(tmp_path, queue)) for _ in range(6)]
        for child in children:
            child.start()
        ends = [queue.get(timeout=60) for _ in children]
        for child in children:
            child.join()
        assert all(end == "labeled" or "is in use by process" in end for end in ends) and "labeled" in ends, ends
        again = quiet(texts(N), Teacher(), preprocessor=text_inputs, shard_rows=3, folder=tmp_path)
        assert column_bytes(again) == expected


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)


def hold(folder: Path, seconds: float) -> None:
    with sole_user(folder):
        time.sleep(seconds)


def second_start(folder: Path) -> str:
    try:
        quiet(texts(3), Teacher(), folder=folder, preprocessor=text_inputs)
    except UserError as error:
        return str(error)
    return "labeled"


class Slow(Teacher):
    def predict(self, *arguments):
        time.sleep(0.002)
        return super().predict(*arguments)


def start(folder: Path, queue) -> None:
    try:
        quiet(texts(N), Slow(), preprocessor=text_inputs, shard_rows=3, folder=folder)
        queue.put("labeled")
    except BaseException as error:
        queue.put(f"{type(error).__name__}: {error}")


def label_and_die(folder: Path, number: int) -> None:
    """Killed by a timer, wherever it is."""
    signal.setitimer(signal.ITIMER_REAL, random.Random(number).uniform(0.001, 0.12))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    quiet(texts(N), Slow(), preprocessor=text_inputs, shard_rows=3, batch_size=3, folder=folder)


@pytest.mark.parametrize("kills", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_kills_of_labeling_lose_nothing(tmp_path, kills):
    """At random moments, among them those of the lock, of the plan and of the writes: the next start goes on."""
    expected = column_bytes(quiet(texts(N), Teacher(), preprocessor=text_inputs, shard_rows=3, batch_size=3))
    killed, folder, finished = 0, tmp_path / "0", 0
    for number in range(kills):
        child = FORK.Process(target=label_and_die, args=(folder, number))
        child.start()
        child.join()
        assert child.exitcode in (0, -signal.SIGALRM), child.exitcode
        killed += child.exitcode != 0
        now = len(list(folder.glob("[!.]*.arrow")))
        assert now >= finished
        finished = now
        if child.exitcode == 0:
            again = quiet(texts(N), Teacher(), preprocessor=text_inputs, shard_rows=3, batch_size=3, folder=folder)
            assert column_bytes(again) == expected and not list(folder.glob(".*"))
            folder, finished = tmp_path / str(number + 1), 0
    last = quiet(texts(N), Teacher(), preprocessor=text_inputs, shard_rows=3, batch_size=3, folder=folder)
    assert column_bytes(last) == expected
    assert killed > kills / 4
