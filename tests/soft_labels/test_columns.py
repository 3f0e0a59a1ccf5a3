"""Soft-label columns: only rounding is lost, wherever the rows go, and what is no distribution is refused."""

import re

import datasets
import numpy as np
import pytest
import torch

from hf_bkd import UserError
from hf_bkd.data.columns import is_soft_label_column
from hf_bkd.soft_labels import attach, read, read_record
from hf_bkd.soft_labels.columns import column, teachers_of
from tests.soft_labels.label_helpers import RECORD, rows, some_probs

N, C = 40, 6


@pytest.fixture
def plain():
    return rows(N, C)


@pytest.fixture
def labeled(plain):
    probs = some_probs(N, C)
    return attach(plain, probs, RECORD, variance=probs * (1 - probs) / 10, example_ids=np.arange(N) + 100)


class TestPrecision:
    def test_float16_is_off_by_no_more_than_the_bound(self, plain):
        probs = np.concatenate([some_probs(N - 4, C), np.eye(C)[:1], np.full((1, C), 1 / C)])
        tiny = [[1 - 5e-8, 5e-8, 0, 0, 0, 0], [1 - 3e-5, 2.9e-5, 1e-6, 1e-9, 1e-12, 1e-300]]
        probs = np.concatenate([probs, tiny])
        found = read(attach(plain, probs, RECORD)).probs
        assert found.dtype == torch.float32
        assert found.shape == (N, C)
        error = np.abs(found.double().numpy() - probs)
        assert (error <= 2.0**-11 * probs + 2.0**-25).all()
        assert error.max() > 2.0**-14  # it is float16 that was tested
        assert found[-2, 1] == np.float32(2**-24)  # the smallest one

    def test_what_is_float16_already_comes_back_exactly(self, plain):
        probs = some_probs(N, C).astype(np.float16)
        assert np.array_equal(read(attach(plain, probs, RECORD)).probs.numpy(), probs.astype(np.float32))

    def test_float32_comes_back_exactly(self, plain):
        probs = some_probs(N, C).astype(np.float32)
        found = attach(plain, probs, RECORD, storage="float32")
        assert found.features["teacher_probs"] == datasets.List(datasets.Value("float32"), length=C)
        assert np.array_equal(read(found).probs.numpy(), probs)

    def test_variance_is_stored_beside_it(self, plain, labeled):
        found = read(labeled)
        expected = some_probs(N, C) * (1 - some_probs(N, C)) / 10
        assert (np.abs(found.variance.double().numpy() - expected) <= 2.0**-11 * expected + 2.0**-25).all()
        assert found.record.to_json() == RECORD
        assert read(attach(plain, some_probs(N, C), RECORD)).variance is None

    def test_a_torch_dataset_hands_it_out_as_float32(self, labeled):
        assert labeled.with_format("torch")[:3]["teacher_probs"].dtype == torch.float32


class TestAttaching:
    def test_keeps_the_rest_of_the_dataset(self, plain, labeled):
        assert labeled.column_names == [
            *plain.column_names,
            *("teacher_probs", "teacher_variance", "example_id", "teacher_provenance"),
        ]
        assert labeled.select_columns(plain.column_names)[:] == plain[:]
        assert labeled.features["label"] == plain.features["label"]

    def test_labels_of_shuffled_rows_are_in_their_order(self, plain):
        shuffled, probs = plain.shuffle(seed=3), some_probs(N, C)
        found = attach(shuffled, probs[shuffled["number"][:]], RECORD, storage="float32")
        assert torch.equal(read(found.sort("number")).probs, torch.from_numpy(probs).float())

    def test_keeps_the_format(self, plain):
        found = attach(plain.with_transform(lambda rows: {"y": rows["number"]}), some_probs(N, C), RECORD)
        assert found[3] == {"y": 3}

    def test_new_labels_replace_all_of_the_old_ones(self, labeled):
        probs = some_probs(N, C + 1, seed=1)
        record = RECORD | {"temperature": 2.0}
        found = attach(labeled.cast_column("label", datasets.Value("int64")), probs, record, storage="float32")
        assert torch.equal(read(found).probs, torch.from_numpy(probs).float())
        assert read(found).variance is None  # it was of the old labels
        assert read(found).record.to_json() == record
        assert len(found.column_names) == len(set(found.column_names))

    def test_named_teachers_stand_side_by_side(self, labeled):
        probs, record = some_probs(N, C, seed=2), RECORD | {"temperature": 4.0}
        both = attach(labeled, probs, record, variance=probs / 5, storage="float32", name="esm")
        assert {"teacher_probs__esm", "teacher_variance__esm", "teacher_provenance__esm"} < set(both.column_names)
        assert torch.equal(read(both, "esm").probs, torch.from_numpy(probs).float())
        assert read(both, "esm").record.to_json() == record == read_record(both.features, "esm").to_json()
        assert torch.equal(read(both).probs, read(labeled).probs)
        assert read(both).record.to_json() == RECORD
        assert teachers_of(both.column_names) == [None, "esm"]
        again = attach(both, probs[::-1], record, storage="float32", name="esm")
        assert torch.equal(read(again, "esm").probs, torch.from_numpy(probs[::-1].copy()).float())
        assert read(again, "esm").variance is None
        assert torch.equal(read(again).variance, read(labeled).variance)

    def test_takes_tensors_and_lists_too(self, plain):
        probs = some_probs(N, C)
        for given in (torch.from_numpy(probs), probs.tolist()):
            found = attach(plain, given, RECORD, storage="float32").with_format("numpy")["teacher_probs"][:]
            assert np.array_equal(found, probs.astype(np.float32))

    def test_unknown_storage_is_refused(self, plain):
        with pytest.raises(UserError, match="storage is 'int8'; it must be one of float16, float32"):
            attach(plain, some_probs(N, C), RECORD, storage="int8")

    @pytest.mark.parametrize("given", [N - 1, N + 1, 1])
    def test_another_number_of_rows_is_refused(self, plain, given):
        with pytest.raises(UserError, match=f"^{given} rows of soft labels were given for a dataset of {N} rows"):
            attach(plain, some_probs(given, C), RECORD)

    @pytest.mark.parametrize("shape", [(N, C - 1), (N - 1, C), (N,), (N, 1, C), (C, N), (7, 3)])
    def test_a_variance_of_another_shape_is_refused(self, plain, shape):
        told = rf"variance is {re.escape(str(shape))} and the soft labels are \(40, 6\)"
        with pytest.raises(UserError, match=told):
            attach(plain, some_probs(N, C), RECORD, variance=np.zeros(shape))


def broken(row, values):
    probs = some_probs(N, C)
    probs[row] = values
    return probs


NOT_DISTRIBUTIONS = {
    "nan": (broken(7, np.nan), "row 7 of the soft labels holds a value that is not a finite number"),
    "infinite": (broken(7, np.inf), "row 7 .* not a finite number"),
    "negative": (
        broken(7, [1.2, -0.2, 0, 0, 0, 0]),
        r"row 7 .* negative probability \(sum 1, minimum -0.2, 1 such",
    ),
    "not one": (broken(slice(7, 10), 0.2), r"row 7 .* does not sum to one \(sum 1.2, .* 3 such rows\).*not logits"),
    "nearly one": (broken(7, 0.1651), r"row 7 .* does not sum to one \(sum 0.9906"),
    "zero": (broken(7, 0), "row 7 .* does not sum to one"),
    "one class": (np.ones((N, 1)), r"at least two classes, and these are \[40, 1(, 1)?\]"),
    "no rows of classes": (np.ones(N), r"must be \[rows, classes\] .* these are \[40\]"),
    "views of views": (np.ones((N, 1, 1, C)) / C, r"must be \[rows, classes\] .* these are \[40, 1, 1, 6\]"),
}


@pytest.mark.parametrize("what", NOT_DISTRIBUTIONS)
def test_what_is_no_distribution_is_neither_written_nor_read(plain, what):
    probs, message = NOT_DISTRIBUTIONS[what]
    with pytest.raises(UserError, match=message):
        attach(plain, probs, RECORD)
    if probs.ndim == 2:
        with pytest.raises(UserError, match=message):
            read(plain.remove_columns("label").add_column("teacher_probs", probs.tolist()))


def test_float16_of_many_classes_still_sums_to_one():
    probs = np.full((2, 5000), 1 / 5000)
    read(attach(datasets.Dataset.from_dict({"x": [0, 1]}), probs, RECORD))


def test_column_names():
    assert column("teacher_probs") == "teacher_probs"
    assert column("teacher_probs", "esm") == "teacher_probs__esm"
    ours = ["teacher_probs", "teacher_probs__a", "teacher_variance__a__b", "teacher_provenance", "example_id"]
    assert all(map(is_soft_label_column, ours))
    assert not any(map(is_soft_label_column, ["label", "input_ids", "teacher", "teacher_probs_x", "example_ids"]))
    assert teachers_of(["teacher_probs__b", "x", "teacher_variance__c", "teacher_probs", "teacher_probs__a__b"]) == [
        "b",
        None,
        "a__b",
    ]
