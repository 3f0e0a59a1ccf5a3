"""The recipe on texts, from pretrained weights to students, through the engine that runs images."""

import json
import math

import datasets
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_bkd import BatchedDataset, DistillationTrainer, DistillationTrainingArguments, Teacher, UserError
from hf_bkd.soft_labels import read
from hf_bkd.study import Texts
from tests.cli.fitting_helpers import WORDS, bert, splits, texts, tokenizer
from tests.recipes.recipe_helpers import load, status

pytestmark = pytest.mark.usefixtures("blank_pictures")

OPTIONS = {
    "seeds": 0, "num_train_epochs": 6, "learning_rate": 5e-3, "teacher_epochs": 6, "teacher_learning_rate": 3e-3,
    "per_device_train_batch_size": 16, "student_model": "layers-2", "num_samples": 3, "workers": 1,
    "arms": "one-hot,deterministic,deterministic-scaled,laplace",
}  # fmt: skip
ARMS = ["one-hot", "deterministic", "deterministic, scaled", "Laplace"]
FIXED = {
    "teacher", "student", "seed", "kd_lambda", "teacher_temperature", "student_temperature", "num_samples", "views",
    "metrics", "teacher_metrics", "seconds",
}  # fmt: skip


def run(home, folder, **changes) -> int:
    return status(
        "text_classification", folder, **OPTIONS | {"dataset": home / "data", "pretrained": home / "weights"} | changes
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An encoder of two layers with its tokenizer, and texts to classify."""
    folder = tmp_path_factory.mktemp("home")
    bert(layers=2).base_model.save_pretrained(folder / "weights")
    tokenizer().save_pretrained(folder / "weights")
    splits(texts).save_to_disk(folder / "data")
    return folder


@pytest.fixture(scope="module")
def finished(home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert run(home, folder) == 0
    return folder, json.loads((folder / "results.json").read_text())


def test_every_arm_has_a_record(finished):
    _, results = finished
    assert [record["arm"] for record in results["arms"]] == ARMS
    for record in results["arms"]:
        assert record.keys() >= FIXED
        assert all(math.isfinite(record["metrics"][name]) for name in ("accuracy", "nll", "ece", "brier"))
        assert record["relative_time"] > 0
    assert results["arms"][-1]["metrics"]["accuracy"] > 0.6  # a third by chance


def test_the_page_shows_the_students_time(finished):
    folder, _ = finished
    page = (folder / "report.md").read_text()
    assert "| time, teacher's passes |" in page and "the student is layers-2" in page
    assert str(folder.parent) not in page + (folder / "results.json").read_text()


def test_a_student_reads_texts_by_its_own_files(finished, home):
    folder, results = finished
    student = folder / "students" / "all" / "seed-0" / "laplace"
    network = AutoModelForSequenceClassification.from_pretrained(student)
    tokens = AutoTokenizer.from_pretrained(student)
    assert network.config.num_hidden_layers == 1 and network.config.id2label == dict(enumerate(WORDS))
    assert "pipeline_tag: text-classification" in (student / "README.md").read_text()
    test = datasets.load_from_disk(home / "data")["test"]
    with torch.no_grad():
        answers = network(**tokens(test["text"][:], padding=True, return_tensors="pt")).logits.argmax(dim=1)
    accuracy = (answers == torch.tensor(test["label"][:])).double().mean().item()
    assert accuracy == pytest.approx(results["arms"][-1]["metrics"]["accuracy"])


def test_the_stored_labels_are_the_saved_teachers(finished, home):
    folder, _ = finished
    train = datasets.load_from_disk(home / "data")["train"].shuffle(seed=0)
    train = load("text_classification").with_copies(train, Texts(str(home / "weights")))
    stored = datasets.load_from_disk(folder / "labels" / "all" / "seed-0" / "laplace-T1" / "train")
    labeled = datasets.concatenate_datasets([train, stored], axis=1)
    teacher = Teacher.from_pretrained(folder / "teachers" / "all" / "seed-0" / "laplace")
    inputs = tokenizer()(train["text"][:5], padding=True, return_tensors="pt")
    wanted = teacher.predict({name: inputs[name] for name in ("input_ids", "attention_mask")}).mean
    torch.testing.assert_close(read(labeled, None).at(torch.arange(5), 0)["teacher_probs"], wanted, atol=1e-3, rtol=0)
    rows = BatchedDataset.from_texts(labeled, Texts(str(home / "weights")).preprocess)
    args = DistillationTrainingArguments(str(folder / "again"), max_steps=1, use_cpu=True)
    assert DistillationTrainer(bert(), args, train_dataset=rows).teacher_temperature == 1
    moved = datasets.concatenate_datasets([train, stored.select(range(len(stored) - 1, -1, -1))], axis=1)
    with pytest.raises(UserError, match="made for other examples"):
        BatchedDataset.from_texts(moved, Texts(str(home / "weights")).preprocess)


def test_students_are_taught_on_altered_copies_too(home):
    recipe, inputs = load("text_classification"), Texts(str(home / "weights"))
    rows = splits(texts)["train"]
    both = recipe.with_copies(rows, inputs)
    assert len(both) == (recipe.COPIES + 1) * len(rows) and both.features == rows.features
    assert set(rows["text"][:]) <= set(both["text"][:]) and len(set(both["text"][:])) > 5 * len(set(rows["text"][:]))
    lengths = [len(text) for text in both["text"]]
    assert lengths == sorted(lengths)
    assert recipe.with_copies(rows, inputs)["text"][:] == both["text"][:]


def test_neighbors_are_the_words_that_are_embedded_nearest(home):
    recipe, inputs = load("text_classification"), Texts(str(home / "weights"))
    words = [5, 7, 9]
    answers = recipe.neighbors(words, inputs, WORDS)
    weights = inputs.network("all-layers", WORDS, None).get_input_embeddings().weight.detach()
    spelled = inputs.preprocess.processor.convert_ids_to_tokens(range(len(weights)))
    for word in words:
        distances = torch.cosine_similarity(weights[word], weights, dim=1)
        allowed = [i for i in range(len(weights)) if i != word and spelled[i].removeprefix("##").isalnum()]
        expected = sorted(allowed, key=lambda i: -distances[i])[:3]
        assert answers[word][:3] == expected


def test_a_finished_study_goes_on_from_its_records(finished, home):
    folder, results = finished
    assert run(home, folder) == 0
    assert json.loads((folder / "results.json").read_text())["arms"] == results["arms"]


def test_a_student_starts_from_the_layers_it_is_named_after(home):
    data = Texts(str(home / "weights"))
    whole, part = (data.network(name, WORDS, None, frozen_embeddings=True) for name in ("all-layers", "layers-2"))
    assert part.config.num_hidden_layers == 1
    for name, value in part.base_model.state_dict().items():
        torch.testing.assert_close(value, whole.base_model.state_dict()[name.replace("layer.0", "layer.1")])
    assert [name for name, p in part.named_parameters() if not p.requires_grad] == [
        "bert.embeddings.word_embeddings.weight"
    ]


def test_a_batch_is_as_long_as_its_longest_text(home):
    rows = splits(texts)["train"]
    data = BatchedDataset.from_texts(rows, Texts(str(home / "weights")).preprocess)
    lengths = [len(text.split()) for text in rows["text"]]
    for chosen in ([0], [3, 5, 8]):
        assert data[chosen]["input_ids"].shape == (len(chosen), max(lengths[i] for i in chosen))
    assert [batch["input_ids"].shape[1] for batch in data.batches(1)] == lengths


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pretrained": "/nowhere/at/all"}, "there is no folder /nowhere/at/all"),
        ({"student_model": "layers-2-3"}, "rising numbers from 1 to 2"),
        ({"student_model": "resnet18_cifar"}, "there is no network 'resnet18_cifar' of texts"),
    ],
)
def test_what_a_user_can_mistake_ends_in_a_sentence(home, tmp_path, capsys, changes, said):
    assert run(home, tmp_path / "run", arms="one-hot", teacher_epochs=1, **changes) == 2
    assert said in capsys.readouterr().err


def test_weights_that_are_none(home, tmp_path, capsys):
    (tmp_path / "weights").mkdir()
    assert run(home, tmp_path / "run", pretrained=tmp_path / "weights") == 2
    assert "no classifier of texts can be made from the weights" in capsys.readouterr().err
    Texts(str(home / "weights")).config.save_pretrained(tmp_path / "weights")
    assert run(home, tmp_path / "run", pretrained=tmp_path / "weights") == 2
    assert "holds no tokenizer" in capsys.readouterr().err
