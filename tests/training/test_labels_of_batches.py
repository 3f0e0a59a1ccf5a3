"""Labels that a collator or a transform reads are the problem's in every batch, not only in the first one."""

import datasets
import pytest
import torch

from hf_bkd import DistillationTrainer, UserError
from hf_bkd.data.labels import read_labels
from hf_bkd.likelihoods import Bernoulli, Gaussian
from tests.training.problem_helpers import N, Rows, hot, numbers, rows
from tests.training.training_helpers import arguments, losses

HOT = [[1.0, 0.0, 1.0]] * 10
LATER = {
    "numbers, where the first rows are zeros and ones": (
        None,
        HOT + numbers()[10:],
        "must be 0 to 1, and one .* -0.2",
    ),
    "a label of minus one": ("multi_label_classification", [*HOT, *[[-1.0, 1, 1]] * 12], "must be 0 to 1.* is -1"),
    "rows of -100": ("multi_label_classification", [*HOT, *[[-100.0] * 3] * 12], "must be 0 to 1.* is -100"),
    "an infinite number": ("regression", [*HOT, *[[float("inf"), 0.0, 0.0]] * 12], "must be finite .* is inf"),
    "a class of no output": (None, [1] * 10 + [7] * 12, "in 0 to 2, .* go from 1 to 7"),
}


def collated(examples):
    return {name: torch.tensor([each[name] for each in examples]) for name in ("features", "labels")}


def trained(folder, labels, problem_type, **given):
    torch.manual_seed(7)
    settings = arguments(folder, kd_lambda=0.0, max_steps=3)
    made = DistillationTrainer(Rows(problem_type=problem_type), settings, train_dataset=rows(labels=labels), **given)
    made.train()
    return made


@pytest.mark.parametrize("what", LATER)
def test_labels_of_another_kind_in_a_later_batch_are_refused(tmp_path, what):
    problem_type, labels, sentence = LATER[what]
    with pytest.raises(UserError, match=sentence):
        trained(tmp_path, labels, problem_type, data_collator=collated)


def test_rows_of_nan_have_no_label(tmp_path):
    half = [row if place % 2 else [float("nan")] * 3 for place, row in enumerate(hot())]
    some = trained(tmp_path, half, "multi_label_classification", data_collator=collated)
    assert all(0 < loss < 2 for loss in losses(some)) and len(losses(some)) == 3


def test_a_stream_of_lists_of_numbers_does_not_say_what_they_are(tmp_path):
    """The same column that is not streamed is looked at, and is zeros and ones."""
    stream = rows(labels=hot()).to_iterable_dataset()
    settings = {"kd_lambda": 0.0, "max_steps": 1, "per_device_train_batch_size": N}
    with pytest.raises(UserError, match="lists of numbers, which may be the labels that are there or numbers to pr"):
        DistillationTrainer(Rows(), arguments(tmp_path, **settings), train_dataset=stream)
    said = arguments(tmp_path, problem_type="regression", **settings)
    assert DistillationTrainer(Rows(), said, train_dataset=stream).likelihood == Gaussian()


def test_lists_of_one_class_each_that_look_like_zeros_and_ones_are_advised_of(tmp_path):
    labels = [[number % 2] for number in range(N)]
    with pytest.raises(UserError, match="has 1 numbers, and the network has 3 .*classes that are there, cast the col"):
        trained(tmp_path, labels, "multi_label_classification")
    advised = datasets.List(datasets.ClassLabel(num_classes=3))
    read = read_labels(rows(labels=labels).cast_column("labels", advised), "labels", Bernoulli(), 3)
    assert read([[0], [1]]).tolist() == [[1, 0, 0], [0, 1, 0]]
