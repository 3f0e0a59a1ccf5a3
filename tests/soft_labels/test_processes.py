"""Two processes that share the rows make the labels of one, to the byte."""

import pytest

from hf_bkd import PromptedTeacher, UserError
from hf_bkd.likelihoods import Gaussian
from hf_bkd.soft_labels import add_soft_labels
from hf_bkd.utils.processes import processes
from tests.language.language_helpers import llama, tokenizer
from tests.language.prompted_helpers import PROMPTS, WORDS
from tests.soft_labels.label_helpers import (
    PREPROCESS,
    VIEWS,
    KindTeacher,
    Teacher,
    TokenTeacher,
    column_bytes,
    image_teacher,
    images,
    quiet,
    text_inputs,
    texts,
    token_inputs,
    words,
)
from tests.two_processes import said_by_two

SMALL = {"shard_rows": 4, "batch_size": 3}


class Diverged(Teacher):
    def logits(self, x):
        return super().logits(x) / 0


def cross_fitted(folder):
    how = SMALL | {"preprocessor": text_inputs, "storage": "top_k", "top_k": 2}
    return quiet(texts(23), folds=3, fit=lambda rest, fold: Teacher(name=f"fold {fold}"), folder=folder, **how)


CASES = {
    "in memory": lambda folder: quiet(texts(23), Teacher(), preprocessor=text_inputs, **SMALL),
    "in a folder": lambda folder: quiet(texts(23), Teacher(), preprocessor=text_inputs, folder=folder, **SMALL),
    "fewer shards than processes": lambda folder: quiet(texts(3), Teacher(), preprocessor=text_inputs),
    "views of images": lambda folder: quiet(
        images(18), image_teacher(), preprocessor=PREPROCESS, views=VIEWS, storage="uint8", folder=folder, **SMALL
    ),
    "images in memory": lambda folder: quiet(images(18), image_teacher(), preprocessor=PREPROCESS, **SMALL),
    "a stream": lambda folder: quiet(
        texts(23).to_iterable_dataset(), Teacher(), preprocessor=text_inputs, storage="float16", **SMALL
    ),
    "tokens": lambda folder: quiet(words(18), TokenTeacher(), preprocessor=token_inputs, folder=folder, **SMALL),
    "numbers in memory": lambda folder: quiet(
        texts(18), KindTeacher(Gaussian(), noise=1.0), preprocessor=text_inputs, storage="auto", **SMALL
    ),
    "prompts": lambda folder: quiet(
        texts(23), PromptedTeacher(llama(), tokenizer(), prompts=PROMPTS, label_words=WORDS), folder=folder, **SMALL
    ),
    "folds in memory": lambda folder: cross_fitted(None),
    "folds in a folder": cross_fitted,
}


def told(folder):
    """What one process has of each case, as text."""
    return {name: repr(column_bytes(make(folder / name))) for name, make in CASES.items()}


def labeled(rank, folder):
    """What a process of a launch has of labels, how many rows it asked for, and how it is refused."""
    labels, teacher = told(folder), Teacher()
    quiet(texts(23), teacher, preprocessor=text_inputs, **SMALL)
    try:
        how = {"preprocessor": text_inputs, "shard_rows": 4, "progress": False}
        add_soft_labels(texts(8), Diverged(), 2, folder=folder / f"diverged-{rank}", **how)
        refused = ""
    except UserError as error:
        refused = str(error)
    asked = sum(len(call["x"]) for call in teacher.calls)
    return {"world_size": processes().num_processes, "labels": labels, "asked": asked, "refused": refused}


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return folder, said_by_two(lambda rank: labeled(rank, folder), folder)


def test_both_processes_have_the_labels_of_one(of_two, tmp_path):
    alone = told(tmp_path)
    for said in of_two[1]:
        assert said["world_size"] == 2
        assert set(said["labels"]) == set(CASES)
        for name, expected in alone.items():
            assert said["labels"][name] == expected, name


def test_each_process_asked_for_about_half(of_two):
    asked = [said["asked"] for said in of_two[1]]
    assert sum(asked) == 23 and min(asked) >= 8


def test_a_teacher_that_diverges_in_one_of_them_is_refused_by_it(of_two):
    assert sum("not a finite number" in said["refused"] for said in of_two[1]) >= 1


def test_what_two_processes_left_is_taken_over_by_one(of_two):
    teacher = Teacher()
    again = quiet(texts(23), teacher, preprocessor=text_inputs, folder=of_two[0] / "in a folder", **SMALL)
    assert not teacher.calls
    assert repr(column_bytes(again)) == of_two[1][0]["labels"]["in a folder"]
