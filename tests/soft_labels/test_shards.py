"""Shards on a disk that fails: damage is told, nothing that was good is lost, and labeling goes on from it."""

import errno
import json
import os
import resource

import pytest

from hf_bkd import UserError
from hf_bkd.utils import files
from tests.soft_labels.label_helpers import Teacher, column_bytes, quiet, text_inputs, texts

HOW = {"preprocessor": text_inputs, "batch_size": 4, "shard_rows": 4}


def label(folder=None, teacher=None, **how):
    return quiet(texts(20), teacher or Teacher(), folder=folder, **HOW | how)


@pytest.fixture
def expected():
    return column_bytes(label())


@pytest.fixture
def shards(tmp_path):
    label(tmp_path)
    found = sorted(tmp_path.glob("*.arrow"))
    assert len(found) == 5
    return found


class TestDamage:
    def check(self, folder, damaged, expected):
        """Refused with its name; deleting that one file is enough."""
        before = {file: file.read_bytes() for file in folder.glob("*.arrow") if file != damaged}
        with pytest.raises(
            UserError, match=f"{damaged.name} is damaged, its content does not match .*: delete this file and label ag"
        ):
            label(folder)
        assert all(file.read_bytes() == content for file, content in before.items())
        damaged.unlink()
        teacher = Teacher()
        assert column_bytes(label(folder, teacher)) == expected
        assert len(teacher.calls) == 1

    @pytest.mark.parametrize("where", [0.0, 0.3, 0.7, 0.999999])
    @pytest.mark.parametrize("number", [0, 4])
    def test_one_flipped_bit_in_a_shard(self, tmp_path, shards, expected, where, number):
        content = bytearray(shards[number].read_bytes())
        content[int(where * len(content))] ^= 1 << (number + 1)
        shards[number].write_bytes(bytes(content))
        self.check(tmp_path, shards[number], expected)

    @pytest.mark.parametrize("kept", [0, 1, 100, -1])
    def test_a_truncated_shard(self, tmp_path, shards, expected, kept):
        shards[1].write_bytes(shards[1].read_bytes()[:kept])
        self.check(tmp_path, shards[1], expected)

    def test_a_lengthened_shard(self, tmp_path, shards, expected):
        shards[1].write_bytes(shards[1].read_bytes() + b"\0")
        self.check(tmp_path, shards[1], expected)

    def test_shards_that_changed_places(self, tmp_path, shards):
        for file, number in ((shards[0], 1), (shards[1], 0)):
            file.rename(tmp_path / f"rows-{number:06d}-{file.stem.rpartition('-')[2]}.new")
        for file in tmp_path.glob("*.new"):
            file.rename(file.with_suffix(".arrow"))
        with pytest.raises(UserError, match="were made for other examples"):
            label(tmp_path)

    def test_a_deleted_shard_is_made_again(self, tmp_path, shards, expected):
        shards[2].unlink()
        teacher = Teacher()
        assert column_bytes(label(tmp_path, teacher)) == expected
        assert len(teacher.calls) == 1 and sorted(tmp_path.glob("*.arrow")) == shards

    def test_a_shard_that_is_deleted_meanwhile_is_named(self, tmp_path, shards):
        shards[4].unlink()

        class Deleting(Teacher):
            def predict(self, *args):
                shards[0].unlink()
                return super().predict(*args)

        with pytest.raises(UserError, match="the shard rows-000000 in .* is gone: label again with the same folder"):
            label(tmp_path, Deleting())

    @pytest.mark.parametrize("content", ["", "{", "[", '"text', "\0\0", "[" * 100_000])
    def test_a_damaged_note_of_the_labeling(self, tmp_path, shards, content):
        (tmp_path / "labelling.json").write_text(content)
        with pytest.raises(UserError, match=r"labelling.json is damaged: delete .* and label again"):
            label(tmp_path)
        assert sorted(tmp_path.glob("*.arrow")) == shards

    @pytest.mark.parametrize("content", ["null", "[]", "7", "{}", '{"teacher": 3}'])
    def test_a_note_of_something_else(self, tmp_path, shards, content):
        (tmp_path / "labelling.json").write_text(content)
        with pytest.raises(UserError, match="holds an unfinished labeling with another .*: pass another folder"):
            label(tmp_path)

    def test_a_note_that_is_no_text(self, tmp_path, shards):
        (tmp_path / "labelling.json").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(UserError, match="labelling.json is damaged"):
            label(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"{", b"null", b"7", b"\xff"])
    def test_a_damaged_note_of_a_fold(self, tmp_path, content):
        def cross_fit():
            return quiet(texts(20), folds=2, fit=lambda rest, fold: Teacher(name=str(fold)), folder=tmp_path, **HOW)

        expected = column_bytes(cross_fit())
        note = tmp_path / "fold-0001.json"
        whole = json.loads(note.read_text())
        assert whole["weights"] == "1"
        note.write_bytes(content)
        with pytest.raises(
            UserError, match="fold-0001.json is damaged: delete this file and label again with the same"
        ):
            cross_fit()
        note.unlink()
        assert column_bytes(cross_fit()) == expected
        assert json.loads(note.read_text()) == whole


class TestUnwritable:
    FULL = (
        r"could not be written \(.*\): .*, and do the same again \(what is finished is kept\), or pass another folder"
    )

    @pytest.mark.parametrize("below", [False, True])
    def test_a_folder_that_is_a_file(self, tmp_path, below):
        (tmp_path / "file").write_text("mine")
        teacher = Teacher()
        with pytest.raises(UserError, match=self.FULL):
            label(tmp_path / "file" / "labels" if below else tmp_path / "file", teacher)
        assert not teacher.calls and (tmp_path / "file").read_text() == "mine"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_of_somebody_else(self, tmp_path):
        tmp_path.chmod(0o500)
        with pytest.raises(UserError, match=r"could not be written \(Permission denied\)"):
            label(tmp_path)
        tmp_path.chmod(0o700)

    @pytest.mark.parametrize(
        ("number", "before"),
        [(errno.ENOSPC, 0), (errno.ENOSPC, 1), (errno.ENOSPC, 3), (errno.EACCES, 0), (errno.EIO, 3)],
    )
    def test_a_disk_that_takes_no_more(self, tmp_path, monkeypatch, expected, number, before):
        """``before`` files are written, the next one is not; after making room the same call goes on."""
        write, written = files.os.fdopen, []

        def full(descriptor, mode):
            written.append(descriptor)
            if len(written) > before:
                os.close(descriptor)
                raise OSError(number, os.strerror(number))
            return write(descriptor, mode)

        monkeypatch.setattr(files.os, "fdopen", full)
        with pytest.raises(UserError, match=self.FULL) as error:
            label(tmp_path)
        assert os.strerror(number) in str(error.value)
        monkeypatch.undo()
        assert len(list(tmp_path.glob("*.arrow"))) == max(before - 1, 0)  # the first file is the note
        assert not list(tmp_path.glob(".*"))
        teacher = Teacher()
        assert column_bytes(label(tmp_path, teacher)) == expected
        assert len(teacher.calls) == 5 - max(before - 1, 0)

    def test_files_that_may_not_grow(self, tmp_path, expected):
        """The system itself refuses: half of a shard is no shard."""
        label(tmp_path)
        shard = sorted(tmp_path.glob("*.arrow"))[3]
        whole = shard.read_bytes()
        shard.unlink()
        _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, hard))
        try:
            with pytest.raises(UserError, match=self.FULL):
                label(tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert len(list(tmp_path.glob("*.arrow"))) == 4 and not list(tmp_path.glob(".*"))
        teacher = Teacher()
        assert column_bytes(label(tmp_path, teacher)) == expected
        assert len(teacher.calls) == 1 and shard.read_bytes() == whole
