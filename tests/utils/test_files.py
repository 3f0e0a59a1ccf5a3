"""A name holds the whole thing or nothing."""

import json
import os
from pathlib import Path

import pytest

from hf_bkd import UserError
from hf_bkd.utils.files import DiskError, whole_folder, writable_folder, write_json, write_text


def contents(folder):
    return {file.relative_to(folder).as_posix(): file.read_text() for file in folder.rglob("*") if file.is_file()}


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

    def test_replaces_its_own_older_files_and_nothing_else(self, tmp_path):
        made = tmp_path / "made"
        for name in ("sub/model", "sub/left", "thesis.tex", "data/1.csv", "sign", "4/sign", "4/left"):
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_text("old")
        with whole_folder(made, last="sign", stale=("sub/left", "4/*", "never")) as temporary:
            for name in ("sub/model", "new", "sign", "1/sign"):
                (temporary / name).parent.mkdir(exist_ok=True)
                (temporary / name).write_text("new")
            assert all(
                file.read_text() == "old"
                for file in made.rglob("*")
                if file.is_file() and temporary not in file.parents
            )
        assert contents(made) == {
            "1/sign": "new", "data/1.csv": "old", "new": "new", "sign": "new", "sub/model": "new", "thesis.tex": "old",
        }  # fmt: skip
        assert names(made) == ["1", "data", "new", "sign", "sub", "thesis.tex"]

    def test_the_signs_come_last_and_that_of_the_folder_after_all(self, tmp_path, monkeypatch):
        (tmp_path / "made").mkdir()
        moved, replace = [], os.replace

        def noted(source, target):
            moved.append(Path(target).relative_to(tmp_path / "made").as_posix())
            replace(source, target)

        with whole_folder(tmp_path / "made", last="sign") as temporary:
            (temporary / "1").mkdir()
            for name in ("sign", "1/sign", "1/weights", "weights"):
                (temporary / name).write_text("new")
            monkeypatch.setattr("os.replace", noted)
        assert moved == ["1/weights", "weights", "1/sign", "sign"]

    def test_a_folder_behind_a_link_and_the_working_directory_stay_where_they_are(self, tmp_path, monkeypatch):
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        monkeypatch.chdir(tmp_path / "real")
        for number, path in enumerate((tmp_path / "link", Path("."), Path("../real"))):
            with whole_folder(path) as temporary:
                (temporary / f"file-{number}").write_text("new")
        assert names(tmp_path / "real") == ["file-0", "file-1", "file-2"] == names(Path.cwd())
        assert (tmp_path / "link").is_symlink()

    @pytest.mark.parametrize(("there", "file"), [("sub", "sub/file"), ("sub/file/deep", "sub/file")])
    def test_what_cannot_stand_there_is_refused_before_anything_is_moved(self, tmp_path, there, file):
        (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / there).write_text("old")
        with pytest.raises(UserError, match="move it away"), whole_folder(tmp_path) as temporary:
            (temporary / file).parent.mkdir(parents=True)
            (temporary / file).write_text("new")
            (temporary / "another").write_text("new")
        assert contents(tmp_path) == {there: "old"}

    def test_keeps_an_older_version_after_an_error(self, tmp_path):
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "old").write_text("old")
        with pytest.raises(RuntimeError), whole_folder(tmp_path / "made") as temporary:
            (temporary / "new").write_text("half")
            raise RuntimeError
        assert (tmp_path / "made" / "old").read_text() == "old"
        assert names(tmp_path) == ["made"]

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
        with pytest.raises(DiskError, match=r"file could not be written \(No space left on device\): make room"):
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
        with pytest.raises(
            UserError, match=r"file/runs could not be written \(Not a directory\): see what is there, .* pass another"
        ):
            writable_folder(tmp_path / "file" / "runs")

    def test_a_file_is_refused(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(
            UserError, match=r"file could not be written \(File exists\): see what is there, .* pass another"
        ):
            writable_folder(tmp_path / "file")

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
    def test_a_full_disk_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Path("/dev/full").open("wb"))  # noqa: SIM115
        with pytest.raises(
            UserError, match=r"could not be written \(No space left on device\): make room, and do the same"
        ):
            writable_folder(tmp_path)


@pytest.mark.parametrize("exists", [False, True])
def test_others_can_read_what_safetensors_writes_for_the_owner_alone(tmp_path, exists):
    if exists:
        (tmp_path / "folder").mkdir()
    with whole_folder(tmp_path / "folder") as temporary:
        (temporary / "model.safetensors").touch(mode=0o600)
    assert (tmp_path / "folder" / "model.safetensors").stat().st_mode & 0o777 == 0o644
