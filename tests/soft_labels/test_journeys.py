"""Labels of every storage, in one view and in three, travel with their rows and come out as they went in."""

import itertools

import datasets
import numpy as np
import pytest
import torch

from hf_bkd.soft_labels import attach, read
from hf_bkd.soft_labels.columns import column
from hf_bkd.soft_labels.layout import Layout
from hf_bkd.soft_labels.reading import stored_labels
from tests.soft_labels.label_helpers import RECORD, STORAGES, rows, some_probs

N, C = 40, 6
KEPT = itertools.cycle(["full", "sum", "none"])
KINDS = [(storage, views, next(KEPT)) for storage in STORAGES for views in (1, 3)]
TEACHERS = {f"{storage}_{views}_{kept}": (storage, views, kept) for storage, views, kept in KINDS}


def record_of(storage, views):
    seen = {"number": views, "seed": 0, "transforms": []} if views > 1 else None
    return RECORD | {"storage": storage, "views": seen, "teacher": {"num_classes": C}}


@pytest.fixture(scope="module")
def labeled():
    """One dataset that carries labels of every kind, each of a teacher of its own."""
    dataset = rows(N, C)
    for number, (name, (storage, views, kept)) in enumerate(TEACHERS.items()):
        probs = some_probs(N * views, C, seed=number).reshape(N, views, C)
        probs = probs[:, 0] if views == 1 else probs
        variance = {"full": probs * (1 - probs), "sum": (probs * (1 - probs)).sum(-1, keepdims=True), "none": None}
        dataset = attach(
            dataset, probs, record_of(storage, views), variance[kept], np.arange(N) + 100, storage, name, top_k=2
        )
    return dataset


@pytest.fixture(scope="module")
def expected(labeled):
    return {name: read(labeled, name) for name in TEACHERS}


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


def streamed_from_parquet(dataset, folder):
    dataset.to_parquet(folder / "train.parquet")
    return datasets.load_dataset("parquet", data_files=str(folder / "train.parquet"), streaming=True)["train"]


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
    "shuffled halves": lambda dataset, _: datasets.concatenate_datasets(
        [dataset.shuffle(seed=1), dataset.select(range(3, 9))]
    ),
    "train_test_split": lambda dataset, _: dataset.train_test_split(test_size=0.25, seed=0)["test"],
    "rename": lambda dataset, _: dataset.rename_column("x", "inputs"),
    "torch format": lambda dataset, _: dataset.with_format("torch"),
    "numpy format": lambda dataset, _: dataset.with_format("numpy"),
    "some torch columns": lambda dataset, _: dataset.with_format("torch", columns=["x"]),
    "transform": lambda dataset, _: dataset.with_transform(lambda rows: {"inputs": rows["x"]}),
}
STREAMS = {
    "to_iterable_dataset": lambda dataset, _: dataset.to_iterable_dataset(),
    "in torch format": lambda dataset, _: dataset.to_iterable_dataset().with_format("torch"),
    "parquet": streamed_from_parquet,
    "parquet in torch format": lambda dataset, folder: streamed_from_parquet(dataset, folder).with_format("torch"),
    "filtered": lambda dataset, _: dataset.to_iterable_dataset().filter(lambda row: row["number"] > 30),
    "shuffled": lambda dataset, _: dataset.to_iterable_dataset().shuffle(seed=3, buffer_size=10),
    "mapped": lambda dataset, _: dataset.to_iterable_dataset().map(lambda row: {"x": [2 * x for x in row["x"]]}),
}


def variance_equals(found, expected, numbers):
    return found is None if expected is None else torch.equal(found, expected[numbers])


@pytest.mark.parametrize("journey", JOURNEYS)
def test_labels_and_record_travel_with_their_rows(labeled, expected, tmp_path, journey):
    moved = JOURNEYS[journey](labeled, tmp_path)
    numbers = moved.with_format(None)["number"][:]
    assert len(moved) > 0
    assert moved.with_format(None)["example_id"][:] == [100 + number for number in numbers]
    for name, (storage, views, kept) in TEACHERS.items():
        found, before = read(moved, name), expected[name]
        assert (found.num_views, found.num_classes, len(found)) == (views, C, len(moved))
        assert {part: values.dtype for part, values in found.parts.items()} == {
            part: values.dtype for part, values in before.parts.items()
        }
        assert torch.equal(found.probs, before.probs[numbers])
        assert (before.variance is None) == (kept == "none")
        assert variance_equals(found.variance, before.variance, numbers)
        assert found.record.to_json() == record_of(storage, views)
        assert moved.features[column("teacher_probs", name)] == labeled.features[column("teacher_probs", name)]


@pytest.mark.parametrize("stream", STREAMS)
def test_so_they_do_in_a_stream(labeled, expected, tmp_path, stream):
    moved = STREAMS[stream](labeled, tmp_path)
    stored = {name: Layout.of(moved.features or labeled.features, name) for name in TEACHERS}
    seen = list(moved)
    numbers = [int(row["number"]) for row in seen]
    assert len(seen) >= 9
    assert [int(row["example_id"]) for row in seen] == [100 + number for number in numbers]
    for name, layout in stored.items():
        found = layout.of_rows([row[column("teacher_probs", name)] for row in seen])
        before = expected[name].probs[numbers]
        assert torch.equal(found, before[:, 0] if layout.num_views > 1 else before)


@pytest.mark.parametrize("form", [None, "torch", "numpy"])
def test_rows_one_by_one_say_what_all_say_at_once(labeled, expected, form):
    formatted = list(labeled.with_format(form).select(range(7, 30)))
    for name, (_, views, _) in TEACHERS.items():
        found = Layout.of(labeled.features, name).of_rows([row[column("teacher_probs", name)] for row in formatted])
        before = expected[name].probs[7:30]
        assert found.dtype == torch.float32 and found.shape == (23, C)
        assert torch.equal(found, before[:, 0] if views > 1 else before)


def test_some_rows_in_one_view_are_those_of_all(expected):
    for name, labels in expected.items():
        rows = torch.tensor([3, 3, 39])
        for view in range(labels.num_views):
            seen = labels.at(rows, view)
            probs = labels.probs[rows] if labels.num_views == 1 else labels.probs[rows, view]
            assert torch.equal(seen["teacher_probs"], probs)
            if TEACHERS[name][2] == "none":
                assert set(seen) == {"teacher_probs"}
                continue
            variance = labels.variance[rows] if labels.num_views == 1 else labels.variance[rows, view]
            assert torch.equal(seen["teacher_variance"], variance)
            assert variance.shape == ((3, C) if TEACHERS[name][2] == "full" else (3,))


def test_what_went_in_comes_out(expected):
    """Each kind as precisely as its storage promises, view by view."""
    for number, (name, (storage, views, kept)) in enumerate(TEACHERS.items()):
        probs = some_probs(N * views, C, seed=number).reshape(N, views, C)
        found = expected[name].probs.double().numpy().reshape(N, views, C)
        if storage.startswith("float"):
            np.testing.assert_allclose(found, probs, rtol=2.0**-11, atol=2.0**-25)
        elif storage == "uint8":
            assert np.sqrt(((np.sqrt(found) - np.sqrt(probs)) ** 2).sum(axis=-1) / 2).max() < np.sqrt(C) / 360
        else:
            tail = 1 - np.sort(probs, axis=-1)[..., -2:].sum(axis=-1)
            assert (np.abs(found - probs).sum(axis=-1) / 2 <= tail + 2.0**-9).all()
        if kept != "none":
            variance = probs * (1 - probs)
            variance = variance if kept == "full" else variance.sum(axis=-1)
            given = expected[name].variance.double().numpy().reshape(variance.shape)
            coarse = kept == "full" and storage != "float32"
            np.testing.assert_allclose(given, variance, rtol=2.0**-11 if coarse else 2.0**-23, atol=2.0**-25)


def test_a_stream_of_one_view_may_be_trained_on(labeled):
    for name, (storage, views, _) in TEACHERS.items():
        own = [column(kind, name) for kind in ("teacher_probs", "teacher_provenance")]
        stream = labeled.select_columns([*own, "label"]).to_iterable_dataset()
        if views == 1:
            found = stored_labels(stream, None, C)[own[0]]
            assert (found.layout.num_classes, found.layout.in_bytes) == (C, storage == "uint8")
