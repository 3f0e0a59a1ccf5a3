"""Saving a teacher into a folder that exists: nothing of the user's is lost, and no reader takes a mixture for one."""

import json
import os

import pytest
import torch

from hf_bkd import DeterministicTeacher, EnsembleTeacher, LaplaceTeacher, Teacher, UserError
from tests.teachers.teacher_helpers import SmallNetwork, in_batches, points


def laplace(seed):
    torch.manual_seed(seed)
    return LaplaceTeacher.fit(SmallNetwork(), in_batches(*points(40)), prior_precision=1.0)


def same(teacher, other):
    return teacher.fingerprint() == other.fingerprint()


def load(folder):
    return Teacher.from_pretrained(folder, SmallNetwork())


def test_what_is_not_a_teachers_stays(tmp_path):
    theirs = {
        "README.md": "# My project, with hf_bkd\n",
        ".git/HEAD": "main",
        "data/1.csv": "1",
        "network/notes.txt": "n",
    }
    for name, text in theirs.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    teacher = laplace(0)
    teacher.save_pretrained(tmp_path)
    assert {name: (tmp_path / name).read_text() for name in theirs} == theirs
    assert same(load(tmp_path), teacher)


def test_another_teacher_takes_the_place_of_the_first_without_its_remains(tmp_path):
    EnsembleTeacher([laplace(0), laplace(1)]).save_pretrained(tmp_path)
    (tmp_path / "members" / "1" / "notes.txt").write_text("theirs")
    teacher = EnsembleTeacher([DeterministicTeacher(SmallNetwork())])
    teacher.save_pretrained(tmp_path)
    assert same(load(tmp_path), teacher) and len(load(tmp_path).members) == 1
    assert sorted(os.listdir(tmp_path / "members" / "1")) == ["notes.txt"]
    plain = DeterministicTeacher(SmallNetwork())
    plain.save_pretrained(tmp_path)
    assert same(load(tmp_path), plain)
    assert not list(tmp_path.rglob("posterior.safetensors"))


def test_an_own_card_is_written_anew(tmp_path):
    laplace(0).save_pretrained(tmp_path)
    DeterministicTeacher(SmallNetwork()).save_pretrained(tmp_path)
    assert "deterministic" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("killed_after", range(4))
def test_a_save_that_is_cut_off_leaves_the_old_teacher_or_a_refusal(tmp_path, monkeypatch, killed_after):
    old, new = laplace(0), laplace(1)
    old.save_pretrained(tmp_path)
    replace, moved = os.replace, []

    def killed(source, target):
        if len(moved) == killed_after:
            raise KeyboardInterrupt
        moved.append(target)
        replace(source, target)

    monkeypatch.setattr("os.replace", killed)
    try:
        new.save_pretrained(tmp_path)
    except KeyboardInterrupt:
        monkeypatch.undo()
        try:
            assert same(load(tmp_path), old)
        except UserError as error:
            assert "saving was interrupted" in str(error)
        new.save_pretrained(tmp_path)
    assert same(load(tmp_path), new)


def test_a_description_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "teacher.json").write_text('{"name": "Ms Honey"}')
    with pytest.raises(UserError, match="does not describe a teacher"):
        laplace(0).save_pretrained(tmp_path)
    assert (tmp_path / "teacher.json").read_text() == '{"name": "Ms Honey"}'


def test_files_that_changed_since_are_refused(tmp_path):
    laplace(0).save_pretrained(tmp_path / "first")
    laplace(1).save_pretrained(tmp_path / "second")
    os.replace(tmp_path / "first" / "posterior.safetensors", tmp_path / "second" / "posterior.safetensors")
    with pytest.raises(UserError, match="posterior.safetensors is not the file that teacher.json was written with"):
        load(tmp_path / "second")


@pytest.mark.parametrize("name", ["/dev/zero", "../teacher.json", "nothing"])
def test_a_description_that_names_files_outside_is_refused(tmp_path, name):
    laplace(0).save_pretrained(tmp_path / "teacher")
    file = tmp_path / "teacher" / "teacher.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"files": {name: "0"}}))
    with pytest.raises(UserError, match="lacks"):
        load(tmp_path / "teacher")


def test_a_teacher_saved_without_digests_is_loaded(tmp_path):
    teacher = laplace(0)
    teacher.save_pretrained(tmp_path)
    file = tmp_path / "teacher.json"
    description = json.loads(file.read_text())
    del description["files"]
    file.write_text(json.dumps(description))
    assert same(load(tmp_path), teacher)
