"""Labels that are said to be a teacher's are compared with what it says of some of their rows."""

import re

import datasets
import pytest
import torch
from torch import nn

from hf_bkd import DeterministicTeacher, ImagePreprocessor, UserError, add_soft_labels
from hf_bkd.likelihoods import Gaussian
from hf_bkd.soft_labels import attach, check_against_teacher
from hf_bkd.soft_labels.columns import soft_label_columns
from tests.soft_labels.label_helpers import (
    PREPROCESS,
    RECORD,
    STORAGES,
    VIEWS,
    Teacher,
    image_teacher,
    images,
    quiet,
    rows,
    some_probs,
    text_inputs,
    texts,
)

DIFFERS = r"teacher_probs differs by .* in total variation .*\(row \d+\): it was labeled by another teacher"


def other_teacher():
    teacher = image_teacher(name="others")
    teacher.weight = teacher.weight.flip(1)
    return teacher


def with_images(labeled, dataset):
    """The labels beside other images."""
    ours = labeled.select_columns(soft_label_columns(labeled))
    return datasets.concatenate_datasets([dataset, ours], axis=1)


@pytest.mark.parametrize("views", [None, VIEWS], ids=["as they are", "three views"])
@pytest.mark.parametrize("storage", STORAGES)
class TestImages:
    def labeled(self, storage, views):
        return quiet(
            images(40), image_teacher(), preprocessor=PREPROCESS, views=views, storage=storage, top_k=3, seed=4
        )

    def test_the_right_teacher_is_recognized(self, storage, views):
        """To the last bit, whatever the storage loses, where the teacher's sums don't depend on the batch."""
        labeled = self.labeled(storage, views)
        for some in (labeled, labeled.shuffle(seed=0), labeled.select([7])):
            assert check_against_teacher(some, image_teacher(), PREPROCESS, rows=40) < 1e-3

    def test_another_teacher_is_refused(self, storage, views):
        with pytest.raises(UserError, match=rf"{DIFFERS} \(weights weights there, others here\)"):
            check_against_teacher(self.labeled(storage, views), other_teacher(), PREPROCESS)

    def test_other_images_are_refused(self, storage, views):
        changed = with_images(self.labeled(storage, views), images(40, seed=1))
        with pytest.raises(UserError, match=DIFFERS):
            check_against_teacher(changed, image_teacher(), PREPROCESS)

    def test_another_preprocessing_is_refused(self, storage, views):
        other = ImagePreprocessor((0.0, 0.0, 0.0), (0.5, 0.5, 0.5))
        with pytest.raises(UserError, match=DIFFERS):
            check_against_teacher(self.labeled(storage, views), image_teacher(), other)


def labeled_texts(**how):
    return quiet(texts(30), Teacher(), preprocessor=text_inputs, **how)


def test_one_changed_row_is_named():
    labeled, changed = labeled_texts(), labeled_texts().select_columns(["text", "number"]).to_dict()
    changed["text"][20] = "another one"
    changed = with_images(labeled, datasets.Dataset.from_dict(changed))
    with pytest.raises(UserError, match=r"\(row 20\)"):
        check_against_teacher(changed, Teacher(), text_inputs, rows=30)
    assert check_against_teacher(changed, Teacher(), text_inputs, rows=2) == 0  # the first and the last


def test_the_tolerance_is_the_callers():
    labeled, similar = labeled_texts(), Teacher()
    similar.weight = 1.2 * similar.weight
    found = check_against_teacher(labeled, similar, text_inputs, tolerance=0.5)
    assert 0 < found < 0.5
    with pytest.raises(UserError, match=DIFFERS):
        check_against_teacher(labeled, similar, text_inputs, tolerance=found / 2)


def test_one_of_several_teachers_is_meant():
    other = Teacher(name="others")
    other.weight = -other.weight
    both = quiet(labeled_texts(name="a"), other, preprocessor=text_inputs, name="b")
    assert check_against_teacher(both, Teacher(), text_inputs, name="a") == 0
    assert check_against_teacher(both, other, text_inputs, name="b") == 0
    with pytest.raises(UserError, match="teacher_probs__b differs by"):
        check_against_teacher(both, Teacher(), text_inputs, name="b")


def test_a_teacher_of_other_classes_is_refused():
    with pytest.raises(UserError, match="teacher_probs has 4 classes and this teacher 5: it was labeled by another"):
        check_against_teacher(labeled_texts(), Teacher(5), text_inputs)


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"num_samples": 3},
        {"num_samples": "many", "seed": 0},
        {"num_samples": 3, "seed": 0, "folds": {"number": 2}},
    ],
)
def test_labels_that_nobody_could_make_again_are_refused(record):
    labeled = attach(rows(), some_probs(10, 4), RECORD | record)
    with pytest.raises(UserError, match="only labels that say what made them, by one teacher .* can be made again"):
        check_against_teacher(labeled, Teacher())
    by_hand = labeled.remove_columns("teacher_provenance")
    with pytest.raises(UserError, match="only labels that say what made them"):
        check_against_teacher(by_hand, Teacher())


def test_a_record_that_tells_no_weights_is_enough():
    labeled = attach(rows(), some_probs(10, 4), RECORD | {"num_samples": 3, "seed": 0})
    with pytest.raises(UserError, match=r"\(weights None there, weights here\)"):
        check_against_teacher(labeled.select_columns(["x", *soft_label_columns(labeled)]), Teacher())


def test_numbers_differ_by_standard_deviations():
    rows = datasets.Dataset.from_dict({"x": torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).tolist()})

    def teacher(bias):
        network = nn.Linear(3, 1)
        network.weight.data.fill_(2.0)
        network.bias.data.fill_(bias)
        return DeterministicTeacher(network, likelihood=Gaussian())

    labeled = add_soft_labels(rows, teacher(0.0), storage="float32", progress=False)
    scale = torch.tensor(labeled["teacher_mean"][:]).std().item()
    with pytest.raises(UserError, match="teacher_mean differs by .* in standard deviations from what") as error:
        check_against_teacher(labeled, teacher(3.0))
    assert float(re.search(r"differs by (\S+)", str(error.value))[1]) == pytest.approx(3 / scale, rel=0.05)
