"""Conformal sets of a student: those of its predictions, and no calibration on what it was trained on."""

import datasets
import pytest
import torch

from hf_bkd import UserError
from hf_bkd.conformal import conformal_sets
from hf_bkd.training.conformal import sets_of_student
from tests.training.training_helpers import N, examples, resident, trained


def plain(seed: int) -> datasets.Dataset:
    values = examples(seed)
    return datasets.Dataset.from_dict({"features": values["features"].tolist(), "labels": values["labels"].tolist()})


@pytest.fixture
def trainer(tmp_path):
    return trained(tmp_path, dataset=plain(0), kd_lambda=0.0)


def test_they_are_those_of_its_predictions(trainer):
    with torch.no_grad():
        own, others = (trainer.model(examples(seed)["features"]).double().softmax(dim=-1) for seed in (1, 2))
    expected = conformal_sets(own, examples(1)["labels"], others, 0.8)
    assert torch.equal(sets_of_student(trainer, plain(1), plain(2), 0.8), expected)


def test_examples_without_a_label_calibrate_nothing(trainer):
    rows = plain(1).map(lambda row, number: {"labels": -100 if number == 3 else row["labels"]}, with_indices=True)
    known = plain(1).select([number for number in range(N) if number != 3])
    assert torch.equal(sets_of_student(trainer, rows, plain(2), 0.8), sets_of_student(trainer, known, plain(2), 0.8))


def test_what_was_trained_on_is_refused(trainer, tmp_path):
    with pytest.raises(UserError, match="is the training set itself"):
        sets_of_student(trainer, trainer.train_dataset, plain(2))
    with pytest.raises(UserError, match="10 of the 10 examples of what calibrates the sets are among those of the"):
        sets_of_student(trainer, plain(0).select(range(10)), plain(2))
    own = resident()
    own.example_ids = torch.arange(N).numpy()
    other = resident(examples(1))
    other.example_ids = own.example_ids + 20
    with pytest.raises(UserError, match="2 of the 22 examples"):
        sets_of_student(trained(tmp_path, dataset=own, kd_lambda=0.0), other, plain(2))


def test_other_kinds_are_refused(tmp_path):
    values = examples()
    numbers = {"features": values["features"].tolist(), "labels": values["features"][:, :4].tolist()}
    other = trained(
        tmp_path, dataset=datasets.Dataset.from_dict(numbers), kd_lambda=0.0, problem_type="regression", max_steps=1
    )
    with pytest.raises(UserError, match="are of classes of an example"):
        sets_of_student(other, plain(1), plain(2))
