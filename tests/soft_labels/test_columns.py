"""Soft-label columns: only rounding is lost, wherever the rows go, and what is no distribution is refused."""

import datasets
import numpy as np
import pytest
import torch
from label_helpers import RECORD, rows, some_probs

from hf_bkd import UserError
from hf_bkd.soft_labels import attach, read, read_provenance
from hf_bkd.soft_labels.columns import column, is_soft_label_column, teachers_of

N, C = 40, 6


@pytest.fixture
def plain():
    return rows(N, C)


@pytest.fixture
def labelled(plain):
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

    def test_variance_is_stored_beside_it(self, plain, labelled):
        probs, variance, record = read(labelled)
        expected = some_probs(N, C) * (1 - some_probs(N, C)) / 10
        assert (np.abs(variance.double().numpy() - expected) <= 2.0**-11 * expected + 2.0**-25).all()
        assert record == RECORD
        assert read(attach(plain, some_probs(N, C), RECORD)).variance is None

    def test_a_torch_dataset_hands_it_out_as_float32(self, labelled):
        assert labelled.with_format("torch")[:3]["teacher_probs"].dtype == torch.float32


def reloaded_from_disk(dataset, folder):
    dataset.save_to_disk(folder / "disk")
    return datasets.load_from_disk(folder / "disk")


def reloaded_from_parquet(dataset, folder):
    dataset.to_parquet(folder / "train.parquet")
    return datasets.load_dataset("parquet", data_files=str(folder / "train.parquet"), cache_dir=folder)["train"]


def in_two_shards(dataset, folder):
    (folder / "data").mkdir()
    for shard in range(2):
        dataset.shard(2, shard, contiguous=True).to_parquet(folder / "data" / f"train-0000{shard}-of-00002.parquet")
    return datasets.load_dataset(str(folder), cache_dir=folder / "cache")["train"]


JOURNEYS = {
    "save_to_disk": reloaded_from_disk,
    "parquet": reloaded_from_parquet,
    "parquet folder": in_two_shards,
    "select": lambda dataset, _: dataset.select([5, 3, 3, 20]),
    "shuffle": lambda dataset, _: dataset.shuffle(seed=1),
    "shuffled and saved": lambda dataset, folder: reloaded_from_disk(dataset.shuffle(seed=1), folder),
    "map": lambda dataset, _: dataset.map(lambda row: {"double": 2 * row["number"]}),
    "batched map": lambda dataset, _: dataset.map(lambda rows: {"x": rows["x"]}, batched=True, batch_size=7),
    "filter": lambda dataset, _: dataset.filter(lambda row: row["number"] % 3 == 0),
    "sort": lambda dataset, _: dataset.sort("number", reverse=True),
    "halves": lambda dataset, _: datasets.concatenate_datasets(
        [dataset.select(range(15, N)), dataset.select(range(15))]
    ),
    "train_test_split": lambda dataset, _: dataset.train_test_split(test_size=0.25, seed=0)["test"],
    "rename": lambda dataset, _: dataset.rename_column("x", "inputs"),
    "torch format": lambda dataset, _: dataset.with_format("torch"),
    "some torch columns": lambda dataset, _: dataset.with_format("torch", columns=["x"]),
    "transform": lambda dataset, _: dataset.with_transform(lambda rows: {"inputs": rows["x"]}),
}


@pytest.mark.parametrize("journey", JOURNEYS)
def test_labels_and_record_travel_with_their_rows(labelled, tmp_path, journey):
    expected = read(labelled)
    moved = JOURNEYS[journey](labelled, tmp_path)
    numbers = moved.with_format(None)["number"][:]
    assert len(moved) > 0
    found = read(moved)
    assert torch.equal(found.probs, expected.probs[numbers])
    assert torch.equal(found.variance, expected.variance[numbers])
    assert found.provenance == RECORD
    assert moved.with_format(None)["example_id"][:] == [100 + number for number in numbers]
    assert moved.features["teacher_probs"] == datasets.List(datasets.Value("float16"), length=C)


class TestAttaching:
    def test_keeps_the_rest_of_the_dataset(self, plain, labelled):
        assert labelled.column_names == [
            *plain.column_names,
            *("teacher_probs", "teacher_provenance", "teacher_variance", "example_id"),
        ]
        assert labelled.select_columns(plain.column_names)[:] == plain[:]
        assert labelled.features["label"] == plain.features["label"]

    def test_labels_of_shuffled_rows_are_in_their_order(self, plain):
        shuffled, probs = plain.shuffle(seed=3), some_probs(N, C)
        found = attach(shuffled, probs[shuffled["number"][:]], RECORD, storage="float32")
        assert torch.equal(read(found.sort("number")).probs, torch.from_numpy(probs).float())

    def test_keeps_the_format(self, plain):
        found = attach(plain.with_transform(lambda rows: {"y": rows["number"]}), some_probs(N, C), RECORD)
        assert found[3] == {"y": 3}

    def test_new_labels_replace_all_of_the_old_ones(self, labelled):
        probs = some_probs(N, C + 1, seed=1)
        record = RECORD | {"temperature": 2.0}
        found = attach(labelled.cast_column("label", datasets.Value("int64")), probs, record, storage="float32")
        assert torch.equal(read(found).probs, torch.from_numpy(probs).float())
        assert read(found).variance is None  # it was of the old labels
        assert read(found).provenance == record
        assert len(found.column_names) == len(set(found.column_names))

    def test_named_teachers_stand_side_by_side(self, labelled):
        probs, record = some_probs(N, C, seed=2), RECORD | {"temperature": 4.0}
        both = attach(labelled, probs, record, variance=probs / 5, storage="float32", name="esm")
        assert {"teacher_probs__esm", "teacher_variance__esm", "teacher_provenance__esm"} < set(both.column_names)
        assert torch.equal(read(both, "esm").probs, torch.from_numpy(probs).float())
        assert read(both, "esm").provenance == record == read_provenance(both.features, "esm")
        assert torch.equal(read(both).probs, read(labelled).probs)
        assert read(both).provenance == RECORD
        assert teachers_of(both.column_names) == [None, "esm"]
        again = attach(both, probs[::-1], record, storage="float32", name="esm")
        assert torch.equal(read(again, "esm").probs, torch.from_numpy(probs[::-1].copy()).float())
        assert read(again, "esm").variance is None
        assert torch.equal(read(again).variance, read(labelled).variance)

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

    def test_a_variance_of_another_shape_is_refused(self, plain):
        with pytest.raises(UserError, match=r"variance is \(40, 5\) and the probabilities are \(40, 6\)"):
            attach(plain, some_probs(N, C), RECORD, variance=some_probs(N, C - 1))


def broken(row, values):
    probs = some_probs(N, C)
    probs[row] = values
    return probs


NOT_DISTRIBUTIONS = {
    "nan": (broken(7, np.nan), "row 7 of the soft labels holds a value that is not a finite number"),
    "infinite": (broken(7, np.inf), "row 7 .* not a finite number"),
    "negative": (broken(7, [1.2, -0.2, 0, 0, 0, 0]), r"row 7 .* negative probability \(sum 1, minimum -0.2; 1 such"),
    "not one": (broken(slice(7, 10), 0.2), r"row 7 .* does not sum to one \(sum 1.2, .* 3 such rows\).*not logits"),
    "nearly one": (broken(7, 0.1651), r"row 7 .* does not sum to one \(sum 0.9906"),
    "zero": (broken(7, 0), "row 7 .* does not sum to one"),
    "one class": (np.ones((N, 1)), r"at least two classes, and these are \(40, 1\)"),
    "no rows of classes": (np.ones(N), r"must be \[rows, classes\] .* these are \(40,\)"),
}


@pytest.mark.parametrize("what", NOT_DISTRIBUTIONS)
def test_what_is_no_distribution_is_neither_written_nor_read(plain, what):
    probs, message = NOT_DISTRIBUTIONS[what]
    with pytest.raises(UserError, match=message):
        attach(plain, probs, RECORD)
    if probs.ndim == 2:
        with pytest.raises(UserError, match=message):
            read(plain.add_column("teacher_probs", probs.tolist()))


def test_float16_of_many_classes_still_sums_to_one():
    probs = np.full((2, 5000), 1 / 5000)
    read(attach(datasets.Dataset.from_dict({"x": [0, 1]}), probs, RECORD))


class TestHandMadeColumns:
    def test_are_read_without_a_record(self, plain):
        probs = some_probs(N, C)
        found = read(plain.add_column("teacher_probs", probs.tolist()).shuffle(seed=0).sort("number"))
        assert torch.equal(found.probs, torch.from_numpy(probs).float())
        assert found.variance is None
        assert found.provenance is None

    def test_may_be_whole_numbers(self, plain):
        found = read(plain.add_column("teacher_probs", np.eye(C, dtype=int)[np.arange(N) % C].tolist()))
        assert torch.equal(found.probs, torch.eye(C)[torch.arange(N) % C])

    @pytest.mark.filterwarnings("error")
    def test_what_is_read_may_be_written_to(self, plain):
        labelled = attach(plain, some_probs(N, C), RECORD, storage="float32")
        torch.set_warn_always(True)  # that memory is read-only is said once in a process otherwise
        try:
            read(labelled).probs.fill_(0)
        finally:
            torch.set_warn_always(False)
        assert read(labelled).probs.sum() == pytest.approx(N)

    def test_absence_is_said(self, plain, labelled):
        with pytest.raises(UserError, match="no column teacher_probs; add it with add_soft_labels"):
            read(plain)
        with pytest.raises(UserError, match="no column teacher_probs__esm"):
            read(labelled, "esm")

    @pytest.mark.parametrize(
        "values",
        [
            [[0.5, 0.5], [0.2, 0.3, 0.5]],
            [[0.5, 0.5], [1.0], [0.2, 0.3, 0.5]],  # two values each, on average
            [[0.5, 0.5], None],
            [None, [0.5, 0.5]],
            [[0.5, 0.5], []],
        ],
    )
    def test_rows_of_different_length_are_refused(self, values):
        with pytest.raises(UserError, match="rows of column teacher_probs don't all hold a list of the same length"):
            read(datasets.Dataset.from_dict({"teacher_probs": values}))

    def test_so_are_those_of_a_variance(self):
        columns = {"teacher_probs": [[0.5, 0.5]] * 3, "teacher_variance": [[0.1, 0.1], [0.1], [0.1, 0.1, 0.1]]}
        with pytest.raises(UserError, match="rows of column teacher_variance don't all hold"):
            read(datasets.Dataset.from_dict(columns))

    def test_a_missing_probability_is_refused(self):
        with pytest.raises(UserError, match="row 1 .* not a finite number"):
            read(datasets.Dataset.from_dict({"teacher_probs": [[0.5, 0.5], [None, 1.0]]}))

    @pytest.mark.parametrize(
        ("values", "holds"),
        [
            ([0.5, 0.5], "double"),
            (["cat", "dog"], "string"),
            ([["cat"], ["dog"]], "list<.*string>"),
            ([{"cat": 1.0}, {"cat": 0.5}], "struct"),
            ([[[0.5, 0.5]], [[0.5, 0.5]]], "list<.*list<"),
        ],
    )
    def test_another_type_is_refused(self, values, holds):
        with pytest.raises(UserError, match=f"teacher_probs holds {holds}.*, not a list of probabilities per row"):
            read(datasets.Dataset.from_dict({"teacher_probs": values}))

    def test_another_number_of_classes_than_the_label_column_has_is_refused(self, plain):
        with pytest.raises(UserError, match=f"teacher_probs has 3 classes and the dataset's column label has {C}"):
            read(plain.add_column("teacher_probs", some_probs(N, 3).tolist()))


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
