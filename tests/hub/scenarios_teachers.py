"""Teachers and students to a Hub and back: the same numbers, of the revision that was asked for."""

import pytest
import torch
from huggingface_hub import HfApi
from transformers import AutoModelForImageClassification

from hf_bkd import UserError
from hf_bkd.teachers import EnsembleTeacher, LaplaceTeacher, Teacher
from tests.teachers.saving_helpers import IMAGES, deterministic, laplace
from tests.teachers.teacher_helpers import SmallNetwork, points, small_cnn


def members(number):
    return [(deterministic, laplace)[i % 2](SmallNetwork().eval(), points(5)[0]) for i in range(number)]


# name: a teacher, its inputs, and what a plain network's weights are loaded into
TEACHERS = {
    "laplace": (lambda: laplace(small_cnn(), IMAGES, link="mc"), IMAGES, lambda: None),
    "ensemble": (lambda: EnsembleTeacher(members(2), 2.0, "per_sample"), points(5)[0], SmallNetwork),
}


def predictions(teacher, inputs):
    return teacher.predict(inputs, 6, torch.Generator().manual_seed(8), return_samples=True)


@pytest.mark.parametrize("name", TEACHERS)
def test_a_teacher_predicts_the_same_from_the_hub(hub, name):
    make, inputs, empty = TEACHERS[name]
    teacher, repo = make(), f"tester/{name}"
    teacher.record = {"validation": {"accuracy": 0.5, "nll": 0.7, "ece": 0.1, "brier": 0.4}, "dataset": "digits"}
    assert teacher.push_to_hub(repo) == f"{hub.address}/{repo}"
    HfApi().create_tag(repo, tag="v1")
    first, expected = hub.head(repo), predictions(teacher, inputs)
    later = make()
    later.temperature = 9.0
    later.push_to_hub(repo)
    for revision in ("v1", first.oid):
        loaded = Teacher.from_pretrained(repo, network=empty(), revision=revision)
        assert type(loaded) is type(teacher) and loaded.describe() == teacher.describe()
        for mine, theirs in zip(expected, predictions(loaded, inputs), strict=True):
            assert (mine is None and theirs is None) or torch.equal(mine, theirs)
    assert Teacher.from_pretrained(repo, network=empty()).temperature == 9.0
    weights = [path for path, file in first.files.items() if file.lfs]
    assert weights and all(path.endswith(".safetensors") for path in weights)
    assert not [path for path, file in first.files.items() if path.endswith(".safetensors") and not file.lfs]


def test_members_of_an_earlier_larger_ensemble_are_gone(hub):
    EnsembleTeacher(members(3)).push_to_hub("tester/shrunk")
    EnsembleTeacher(members(2)).push_to_hub("tester/shrunk")
    assert len(EnsembleTeacher.from_pretrained("tester/shrunk", network=SmallNetwork()).members) == 2


def test_a_failed_push_of_a_teacher_can_be_made_again(hub):
    teacher = laplace(small_cnn(7), IMAGES)  # weights that no other scenario has uploaded
    hub.fail("PUT", "^/lfs/", 507)
    with pytest.raises(UserError, match="could not push to tester/again .*507 .*push again$"):
        teacher.push_to_hub("tester/again")
    with pytest.raises(UserError, match="tester/again holds no teacher"):
        Teacher.from_pretrained("tester/again")
    teacher.push_to_hub("tester/again")
    assert LaplaceTeacher.from_pretrained("tester/again").fingerprint() == teacher.fingerprint()


def test_a_revision_that_a_teacher_does_not_have_is_named(hub):
    deterministic(small_cnn(), IMAGES).push_to_hub("tester/single")
    with pytest.raises(UserError, match="tester/single has no revision v2"):
        Teacher.from_pretrained("tester/single", revision="v2")


def test_a_student_gives_the_same_logits_from_the_hub(hub):
    student = small_cnn()
    student.push_to_hub("tester/student-model")
    assert hub.head("tester/student-model").files["model.safetensors"].lfs
    loaded = AutoModelForImageClassification.from_pretrained("tester/student-model").eval()
    assert torch.equal(loaded(**IMAGES).logits, student(**IMAGES).logits)
    assert loaded.config.to_dict() | {"_name_or_path": ""} == student.config.to_dict() | {"_name_or_path": ""}
