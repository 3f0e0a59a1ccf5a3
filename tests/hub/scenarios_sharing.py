"""Soft labels and students shared with their cards: somebody else distils from a teacher that they never download."""

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import DatasetCard, HfApi, ModelCard
from PIL import Image
from transformers import AutoModelForImageClassification

from hf_bkd import (
    BatchedDataset,
    CropAndFlip,
    DistillationTrainer,
    DistillationTrainingArguments,
    ImagePreprocessor,
    Teacher,
    UserError,
    Views,
    add_soft_labels,
    join_soft_labels,
    push_soft_labels,
)
from hf_bkd.soft_labels import read, read_provenance
from tests.hub.hub_server import TOKEN
from tests.teachers.saving_helpers import IMAGES as BATCH
from tests.teachers.saving_helpers import laplace
from tests.teachers.teacher_helpers import small_cnn

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)


def images():
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes", "both", "neither"])}
    )
    rows = {"image": [Image.fromarray(image) for image in PIXELS], "label": np.arange(12) % 4}
    return datasets.Dataset.from_dict(rows, features=features)


def labeled(teacher=None, **settings):
    teacher = teacher or laplace(small_cnn(), BATCH, link="mc")
    preprocess = ImagePreprocessor.for_model(teacher.network)
    return add_soft_labels(images(), teacher, preprocess=preprocess, progress=False, **settings)


def section(card):
    return card.text.partition("## How to use them")[2]


@pytest.fixture(scope="module")
def dataset():
    torch.manual_seed(0)
    held_out = {"accuracy": 0.75, "nll": 0.5, "ece": 0.125, "brier": 0.375}
    return labeled(
        views=Views(CropAndFlip(padding=2), num_views=3, seed=9), storage="top_k", top_k=2, held_out=held_out
    )


def test_labels_alone_are_all_that_a_student_needs(hub, dataset, tmp_path):
    push_soft_labels(dataset, "tester/labels", labels_only=True, split="train")
    loaded = datasets.load_dataset("tester/labels", split="train")
    assert loaded.column_names == ["teacher_probs", "teacher_variance", "example_id", "teacher_provenance"]
    joined = join_soft_labels(images().shuffle(seed=3), loaded)
    expected = read(dataset.shuffle(seed=3))
    assert torch.equal(read(joined).probs, expected.probs) and read(joined).provenance == expected.provenance
    student = small_cnn()
    train = BatchedDataset.from_images(joined, ImagePreprocessor.for_model(student))
    assert train.views == Views(CropAndFlip(padding=2), num_views=3, seed=9)
    args = DistillationTrainingArguments(str(tmp_path), max_steps=2, use_cpu=True, report_to="none", logging_steps=1)
    DistillationTrainer(student, args, train_dataset=train).train()


def test_the_card_says_what_made_them_and_how_to_use_them(hub, dataset, tmp_path):
    push_soft_labels(dataset, "tester/told", labels_only=True, license="cc0-1.0")
    card = DatasetCard.load("tester/told")
    assert card.data.license == "cc0-1.0"
    assert {"hf_bkd", "soft-labels"} <= set(card.data.tags) and card.data.size_categories == ["n<1K"]
    for fact in (
        "| teacher | laplace |", "| views of each example | 3 |", "CropAndFlip(flip=True, padding=2)",
        "| storage | top_k |", "| 0.7500 | 0.5000 | 0.1250 | 0.3750 |", dataset_fingerprint(dataset), "@inproceedings",
    ):  # fmt: skip
        assert fact in card.text, fact
    files = hub.head("tester/told", "datasets").files
    assert "](confidence-default.png)" in card.text and files["confidence-default.png"].content[:4] == b"\x89PNG"
    code = section(card).partition("```python\n")[2].partition("```")[0]
    assert len(code.strip().splitlines()) <= 7
    student = small_cnn()
    args = {"args": DistillationTrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, report_to="none")}
    world = {"images": images(), "student": student}
    exec(code.replace("train_dataset=train", "**how, train_dataset=train"), world | {"how": args})


def dataset_fingerprint(dataset):
    return read_provenance(dataset.features)["dataset"]["fingerprint"]


def test_pushed_again_the_new_record_replaces_the_old_one(hub, dataset):
    push_soft_labels(dataset, "tester/renewed")
    anew = labeled(seed=7)
    push_soft_labels(anew, "tester/renewed")
    loaded = datasets.load_dataset("tester/renewed", split="train")
    assert read(loaded).provenance == read(anew).provenance
    assert torch.equal(read(loaded).probs, read(anew).probs)
    assert DatasetCard.load("tester/renewed").text.count("## How to use them") == 1


def test_configurations_and_the_cards_own_words_stay(hub, dataset):
    api, where = HfApi(), {"repo_id": "tester/own", "repo_type": "dataset"}
    api.create_repo(**where)
    api.upload_file(path_or_fileobj=b"---\nlicense: mit\n---\n\n# Mine\n\nWords.\n", path_in_repo="README.md", **where)
    push_soft_labels(dataset, "tester/own", config_name="views")
    push_soft_labels(labeled(name="b"), "tester/own", config_name="plain")
    card = DatasetCard.load("tester/own")
    assert card.data.license == "mit" and card.text.strip().startswith("# Mine\n\nWords.")
    assert 'load_dataset("tester/own", "views"' in card.text and 'load_dataset("tester/own", "plain"' in card.text
    assert read(datasets.load_dataset("tester/own", "plain", split="train"), "b").provenance["views"] is None


def test_a_failed_push_of_labels_is_told_and_made_again(hub, dataset):
    for method, path, status in (("PUT", "^/lfs/", 507), ("POST", "/commit/main$", 500)):
        hub.fail(method, path, status)
        with pytest.raises(UserError, match="could not push to tester/failed .*push again$"):
            push_soft_labels(labeled(seed=status), "tester/failed")
    push_soft_labels(dataset, "tester/failed")
    assert torch.equal(read(datasets.load_dataset("tester/failed", split="train")).probs, read(dataset).probs)


def test_private_labels_are_not_pushed_where_others_read(hub, dataset):
    push_soft_labels(dataset, "tester/secret-labels", private=True)
    assert hub.repos["datasets", "tester/secret-labels"].private
    HfApi().create_repo("tester/open", repo_type="dataset")
    with pytest.raises(UserError, match="tester/open is public: make it private"):
        push_soft_labels(dataset, "tester/open", private=True)
    assert not [name for name in hub.head("tester/open", "datasets").files if name.endswith(".parquet")]


def test_what_is_not_to_be_shared_is_refused(hub, dataset):
    with pytest.raises(UserError, match="no soft labels to push"):
        push_soft_labels(images(), "tester/nothing")
    with pytest.raises(UserError, match="no teacher_provenance, and labels of unknown origin"):
        push_soft_labels(dataset_by_hand(), "tester/nothing")
    splits = datasets.DatasetDict(train=dataset, test=labeled(seed=4))
    with pytest.raises(UserError, match="different columns or records, .* config_name of its own"):
        push_soft_labels(splits, "tester/nothing")
    assert ("datasets", "tester/nothing") not in hub.repos


def dataset_by_hand():
    return images().add_column("teacher_probs", [[0.25] * 4] * 12)


def test_a_trained_student_goes_up_with_its_card_curve_and_no_token(hub, dataset, tmp_path):
    student = small_cnn()
    preprocess = ImagePreprocessor.for_model(student)
    args = DistillationTrainingArguments(
        str(tmp_path / "student"),
        kd_lambda=0.75,
        num_train_epochs=4,
        eval_strategy="epoch",
        hub_model_id="tester/distilled",
        hub_token=TOKEN,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    train, test = (BatchedDataset.from_images(each, preprocess) for each in (dataset, images()))
    trainer = DistillationTrainer(student, args, train_dataset=train, eval_dataset=test)
    trainer.train()
    trainer.push_to_hub()
    loaded = AutoModelForImageClassification.from_pretrained("tester/distilled").eval()
    assert torch.equal(loaded(**BATCH).logits, student.eval()(**BATCH).logits)
    card, files = ModelCard.load("tester/distilled"), hub.head("tester/distilled").files
    accuracy = trainer.evaluations()[1][-1]
    assert {each.metric_type: each.metric_value for each in card.data.eval_results}["accuracy"] == accuracy
    assert "| lambda | 0.75 |" in card.text and dataset_fingerprint(dataset) in card.text
    assert "![" in card.text and "accuracy.png" in files and "@inproceedings" in card.text
    assert args.hub_token == TOKEN


def test_labels_say_which_revision_of_the_teacher_made_them(hub):
    laplace(small_cnn(), BATCH, link="mc").push_to_hub("tester/source")
    teacher = Teacher.from_pretrained("tester/source")
    record = read(labeled(teacher)).provenance
    source = {"repository": "tester/source", "revision": hub.head("tester/source").oid}
    assert record["teacher"]["source"] == source
