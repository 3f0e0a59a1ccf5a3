"""Labeled datasets to a Hub and back: features, pixels and soft labels exactly, whole or streamed."""

import json

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import DatasetCard, HfApi
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image

from hf_bkd import ImagePreprocessor, add_soft_labels
from hf_bkd.soft_labels import read, read_provenance
from tests.teachers.saving_helpers import laplace
from tests.teachers.teacher_helpers import small_cnn

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)


def labeled(seed=0, **settings):
    """Six images with their classes, and what a teacher says of them."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["no", "yes", "it's: complicated", "#4"]),
            "scores": datasets.List(datasets.Value("float16"), length=3),
        }
    )
    rows = {
        "image": [Image.fromarray(image) for image in IMAGES],
        "label": [0, 1, 2, 3, 0, 1],
        "scores": np.linspace(-1, 1, 18, dtype=np.float16).reshape(6, 3),
    }
    dataset, network = datasets.Dataset.from_dict(rows, features=features), small_cnn()
    preprocess = ImagePreprocessor.for_model(network)
    teacher = laplace(network, preprocess(dataset[:5]))
    return add_soft_labels(dataset, teacher, preprocess=preprocess, seed=seed, progress=False, **settings)


def encoded(dataset):
    """Every column as it is stored, images as the bytes of their files."""
    return dataset.cast_column("image", datasets.Image(decode=False)).with_format(None)[:]


def moments(dataset, name):
    labels = read(dataset, name)
    return labels.probs, labels.variance


def assert_same(dataset, expected, name=None):
    """``name`` is the teacher's."""
    assert dataset.features == expected.features
    got, wanted = encoded(dataset), encoded(expected)
    assert [row["bytes"] for row in got.pop("image")] == [row["bytes"] for row in wanted.pop("image")]
    assert got == wanted
    for mine, theirs in zip(moments(dataset, name), moments(expected, name), strict=True):
        assert torch.equal(mine, theirs)


@pytest.fixture(scope="module")
def dataset():
    torch.manual_seed(0)
    return labeled()


def test_a_labeled_dataset_comes_back_exactly(hub, dataset):
    dataset.push_to_hub("tester/labeled")
    stored = hub.head("tester/labeled", "datasets").files
    assert [path for path, file in stored.items() if file.lfs] == ["data/train-00000-of-00001.parquet"]
    loaded = datasets.load_dataset("tester/labeled", split="train")
    assert_same(loaded, dataset)
    assert [np.asarray(image).tolist() for image in loaded["image"]] == IMAGES.tolist()
    assert loaded.features["teacher_probs"] == datasets.List(datasets.Value("float16"), length=4)


def test_a_labeled_dataset_is_streamed(hub, dataset):
    dataset.push_to_hub("tester/streamed")
    stream = datasets.load_dataset("tester/streamed", split="train", streaming=True)
    assert stream.features == dataset.features
    rows = list(stream)
    assert [np.asarray(row.pop("image")).tolist() for row in rows] == IMAGES.tolist()
    assert rows == list(dataset.remove_columns("image"))


def test_a_second_configuration_and_a_revision_keep_their_own(hub, dataset):
    other = labeled(seed=1, storage="float32", name="other")
    short = dataset.select([5, 3])
    dataset.push_to_hub("tester/several")
    HfApi().create_tag("tester/several", tag="first", repo_type="dataset")
    other.push_to_hub("tester/several", "other")
    short.push_to_hub("tester/several", revision="short")
    assert datasets.get_dataset_config_names("tester/several") == ["default", "other"]
    assert datasets.get_dataset_config_names("tester/several", revision="first") == ["default"]
    assert_same(datasets.load_dataset("tester/several", split="train"), dataset)
    assert_same(datasets.load_dataset("tester/several", "other", split="train"), other, "other")
    assert_same(datasets.load_dataset("tester/several", split="train", revision="short"), short)
    assert_same(datasets.load_dataset("tester/several", split="train", revision="first"), dataset)


def test_a_card_of_the_users_own_keeps_its_text_and_the_record_is_in_its_metadata(hub, dataset):
    api, where = HfApi(), {"repo_id": "tester/described", "repo_type": "dataset"}
    api.create_repo(**where)
    api.upload_file(
        path_or_fileobj=b"---\nlicense: mit\ntags: [mine]\n---\n\n# Mine\n\nWords.\n",
        path_in_repo="README.md",
        **where,
    )
    dataset.push_to_hub("tester/described")
    card = DatasetCard.load("tester/described")
    assert card.text.strip() == "# Mine\n\nWords." and (card.data.license, card.data.tags) == ("mit", ["mine"])
    features = {
        feature["name"]: feature["dtype"] for feature in card.data.dataset_info["features"] if "dtype" in feature
    }
    record = features["teacher_provenance"]["class_label"]["names"]
    assert json.loads(record["0"]) == read_provenance(dataset.features)


def test_labels_made_anew_come_with_their_record_when_the_whole_configuration_is_pushed(hub, dataset):
    """As a DatasetDict: a Dataset pushed over another keeps the old features, and so the old record."""
    dataset.push_to_hub("tester/anew")
    anew = labeled(seed=1)
    datasets.DatasetDict({"train": anew}).push_to_hub("tester/anew")
    assert_same(datasets.load_dataset("tester/anew", split="train"), anew)


def test_a_failed_push_of_a_dataset_leaves_the_last_commit_and_the_same_call_succeeds(hub, dataset):
    dataset.push_to_hub("tester/again")
    before = hub.head("tester/again", "datasets")
    short = dataset.select([4, 1, 2])
    for method, path, status in (("PUT", "^/lfs/", 507), ("POST", "/commit/main$", 500)):
        hub.fail(method, path, status)
        with pytest.raises((HfHubHTTPError, RuntimeError)):
            short.push_to_hub("tester/again")
        assert hub.head("tester/again", "datasets") == before
    short.push_to_hub("tester/again")
    assert_same(datasets.load_dataset("tester/again", split="train"), short)


def test_a_private_dataset_is_for_those_with_a_token(hub, dataset, monkeypatch, tmp_path):
    dataset.push_to_hub("tester/secret", private=True)
    assert hub.repos["datasets", "tester/secret"].private
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(datasets.exceptions.DatasetNotFoundError):
        datasets.load_dataset("tester/secret", cache_dir=tmp_path)
