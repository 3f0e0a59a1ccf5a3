"""Parts that were labeled one by one become one dataset."""

import datasets
import numpy as np
import pytest
import torch

from hf_bkd import (
    DeterministicTeacher,
    UserError,
    add_soft_labels,
    concatenate_soft_labels,
    join_soft_labels,
    only_soft_labels,
)
from hf_bkd.soft_labels import read


def rows(number: int = 10) -> datasets.Dataset:
    x = np.random.default_rng(0).normal(size=(number, 4)).astype("float32")
    return datasets.Dataset.from_dict({"x": x.tolist(), "label": [i % 3 for i in range(number)]})


def teacher(seed: int = 0) -> DeterministicTeacher:
    torch.manual_seed(seed)
    return DeterministicTeacher(torch.nn.Linear(4, 3))


def labeled(part: datasets.Dataset, seed: int = 0, **options) -> datasets.Dataset:
    return add_soft_labels(part, teacher(seed), progress=False, **options)


def test_two_halves_are_the_whole():
    whole = labeled(rows())
    halves = concatenate_soft_labels([labeled(rows().select(range(4))), labeled(rows().select(range(4, 10)))])
    assert halves.column_names == whole.column_names and halves.features == whole.features
    assert torch.equal(read(halves).probs, read(whole).probs)
    assert read(halves).record == read(whole).record
    shuffled = rows().select([7, 2, 9])
    joined = join_soft_labels(shuffled, only_soft_labels(halves))
    assert torch.equal(read(joined).probs, read(whole).probs[[7, 2, 9]])


def test_named_labels_keep_their_names():
    parts = [rows().select(range(5)), rows().select(range(5, 10))]
    both = [add_soft_labels(part, {"a": teacher(0), "b": teacher(1)}, progress=False) for part in parts]
    whole = concatenate_soft_labels(both)
    for name, seed in (("a", 0), ("b", 1)):
        assert torch.equal(read(whole, name).probs, read(labeled(rows(), seed)).probs)
        assert read(whole, name).record.dataset.rows == 10


def test_what_differs_is_named():
    first = labeled(rows().select(range(5)))
    for other, words in (
        (labeled(rows().select(range(5, 10)), seed=1), "dataset 2 were made in another way.*weights"),
        (labeled(rows().select(range(5, 10)), storage="float32"), "storage"),
        (rows().select(range(5, 10)), "different columns"),
    ):
        with pytest.raises(UserError, match=words):
            concatenate_soft_labels([first, other])
    with pytest.raises(UserError, match="at least one"):
        concatenate_soft_labels([])


def test_datasets_without_labels_are_appended():
    assert concatenate_soft_labels([rows(3), rows(2)])["label"][:] == [0, 1, 2, 0, 1]
