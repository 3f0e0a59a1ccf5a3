"""A name holds the whole thing or nothing."""

import json
import os
from pathlib import Path

import pytest

from hf_bkd import UserError
from hf_bkd.utils.files import whole_folder, writable_folder, write_json, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class TestWholeFolder:
    def test_takes_its_name_at_the_end_and_not_before(self, tmp_path):
        with whole_folder(tmp_path / "deep" / "made") as temporary:
            (temporary / "file").write_text("content")
            (temporary / "sub").mkdir()
            assert not (tmp_path / "deep" / "made").exists()
            assert temporary.parent == tmp_path / "deep"  # renaming within one file system is one step
        assert (tmp_path / "deep" / "made" / "file").read_text() == "content"
        assert names(tmp_path / "deep") == ["made"]
        assert (tmp_path / "deep" / "made").stat().st_mode & 0o777 == 0o755

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
    def test_leaves_nothing_after_an_error(self, tmp_path, error):
        with pytest.raises(error), whole_folder(tmp_path / "made") as temporary:
            (temporary / "file").write_text("half")
            raise error
        assert names(tmp_path) == []

    def test_replaces_an_older_version(self, tmp_path):
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "old").write_text("old")
        with whole_folder(tmp_path / "made") as temporary:
            (temporary / "new").write_text("new")
            assert names(tmp_path / "made") == ["old"]
        assert names(tmp_path / "made") == ["new"]
        assert names(tmp_path) == ["made"]

    def test_keeps_an_older_version_after_an_error(self, tmp_path):
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "old").write_text("old")
        with pytest.raises(RuntimeError), whole_folder(tmp_path / "made") as temporary:
            (temporary / "new").write_text("half")
            raise RuntimeError
        assert (tmp_path / "made" / "old").read_text() == "old"
        assert names(tmp_path) == ["made"]

    def test_an_older_version_is_never_there_in_part(self, tmp_path, monkeypatch):
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "old").write_text("old")

        def killed(path, **_):
            assert str(path) != str(tmp_path / "made")

        monkeypatch.setattr("shutil.rmtree", killed)
        with whole_folder(tmp_path / "made") as temporary:
            (temporary / "new").write_text("new")
        assert names(tmp_path / "made") == ["new"]

    def test_a_file_of_that_name_is_refused_and_kept(self, tmp_path):
        (tmp_path / "made").write_text("precious")
        with pytest.raises(UserError, match="made is a file, and a folder"), whole_folder(tmp_path / "made"):
            pass
        assert (tmp_path / "made").read_text() == "precious"
        assert names(tmp_path) == ["made"]


class TestWriting:
    def test_text_is_whole_readable_and_in_utf_8(self, tmp_path):
        write_text(tmp_path / "deep" / "file.md", "λ = 0.3\n")
        assert (tmp_path / "deep" / "file.md").read_bytes() == "λ = 0.3\n".encode()
        assert (tmp_path / "deep" / "file.md").stat().st_mode & 0o777 == 0o644
        write_text(tmp_path / "deep" / "file.md", "second")
        assert (tmp_path / "deep" / "file.md").read_text() == "second"
        assert names(tmp_path / "deep") == ["file.md"]

    def test_the_old_file_stands_until_the_new_one_is_whole(self, tmp_path, monkeypatch):
        write_text(tmp_path / "file", "old")

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            write_text(tmp_path / "file", "new")
        assert (tmp_path / "file").read_text() == "old"
        assert names(tmp_path) == ["file"]

    def test_json_comes_back(self, tmp_path):
        content = {"accuracy": 0.1 + 0.2, "none": None, "list": [1, "ü"]}
        write_json(tmp_path / "results.json", content)
        assert json.loads((tmp_path / "results.json").read_text()) == content

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_json_has_no_nan_and_nothing_is_written(self, tmp_path, value):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(tmp_path / "results.json", {"nll": value})
        assert names(tmp_path) == []


class TestWritableFolder:
    def test_makes_the_folder_and_leaves_nothing_in_it(self, tmp_path):
        assert writable_folder(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
        assert names(tmp_path / "a" / "b") == []
        (tmp_path / "a" / "b" / "kept").write_text("kept")
        writable_folder(tmp_path / "a" / "b")
        assert names(tmp_path / "a" / "b") == ["kept"]

    def test_a_place_below_a_file_is_refused(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match=r"cannot write into .*file/runs: Not a directory; pass another"):
            writable_folder(tmp_path / "file" / "runs")

    def test_a_file_is_refused(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match=r"cannot write into .*file: File exists; pass another"):
            writable_folder(tmp_path / "file")

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
    def test_a_full_disk_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Path("/dev/full").open("wb"))  # noqa: SIM115
        with pytest.raises(UserError, match="cannot write into .*: No space left on device; pass another --outp"):
            writable_folder(tmp_path)


def test_an_interruption_while_an_old_folder_gives_way_leaves_it_there(tmp_path, monkeypatch):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "old").write_text("old")
    rename, calls = Path.rename, []

    def interrupted(self, target):
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "f") as folder:
        (folder / "new").write_text("new")
    assert [path.name for path in (tmp_path / "f").iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
