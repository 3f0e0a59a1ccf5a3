"""`hf-bkd distill` and the chain before and after it, on images of all sizes, texts, pairs and tables."""

import csv
import json
import re

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline

from hf_bkd import DeterministicTeacher, DistillationTrainer, Perceptron, add_soft_labels
from hf_bkd.metrics import classification_metrics
from hf_bkd.models.saving import load_network
from hf_bkd.teachers.loading import load_teacher
from tests.cli.fitting_helpers import bert, run, tokenizer

pytestmark = pytest.mark.usefixtures("blank_pictures")

QUICK = {"use_cpu": 1, "disable_tqdm": 1, "num_train_epochs": 4, "learning_rate": 0.02}
COLORS = ["blue", "green", "red"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Photographs in folders, tables in CSV files, an encoder, and a teacher of each with its labels."""
    home = tmp_path_factory.mktemp("home")
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    _write_photographs(home / "photos", rng)
    for name, number in (("train", 120), ("test", 60)):
        _write_tables(home, name, number, rng)
    network = bert(["person", "place", "time"])
    network.bert.save_pretrained(home / "encoder")
    tokenizer().save_pretrained(home / "encoder")
    fitted = QUICK | {"logging_strategy": "no", "per_device_train_batch_size": 16}
    _fit(home, "photos", "resnet20_cifar", image_size=24, **fitted | {"num_train_epochs": 1})
    _fit(home, "table.csv", "mlp-16", label_column="species", **fitted)
    _fit(home, "texts.csv", "encoder", label_column="sentiment", **fitted | {"num_train_epochs": 2})
    _fit(home, "pairs.csv", "encoder", **fitted | {"num_train_epochs": 2})
    return home


def _write_photographs(folder, rng) -> None:
    for split, number in (("train", 36), ("test", 12)):
        for index in range(number):
            color = COLORS[index % 3]
            height, width = rng.integers(20, 50, 2)
            pixels = rng.integers(0, 100, (height, width, 3), dtype=np.uint8)
            pixels[..., 2 - index % 3] += 120
            image = Image.fromarray(pixels).convert(["RGB", "RGBA", "P"][index // 3 % 3])
            (folder / split / color).mkdir(parents=True, exist_ok=True)
            image.save(folder / split / color / f"{index}.png")


def _write_tables(home, split, number, rng) -> None:
    suffix = "" if split == "train" else f"_{split}"
    rows = {name: [] for name in ("table", "texts", "pairs")}
    for index in range(number):
        kind = index % 3
        values = rng.normal(size=3).round(4) + np.eye(3)[kind] * 5
        rows["table"].append([index, *values, ["setosa", "versicolor", "virginica"][kind]])
        words = rng.permutation([["who", "where", "when"][kind], *(f"w{each}" for each in rng.integers(0, 20, 4))])
        name = ["person", "place", "time"][kind]
        rows["texts"].append([" ".join(words), name])
        rows["pairs"].append([f"w{rng.integers(20)}", " ".join(words), name])
    headers = {
        "table": ["id", "length", "width", "height", "species"],
        "texts": ["review", "sentiment"],
        "pairs": ["premise", "hypothesis", "label"],
    }
    for name, header in headers.items():
        with open(home / f"{name}{suffix}.csv", "w", newline="") as file:
            csv.writer(file).writerows([header, *rows[name]])


def _fit(home, data, model, label_column=None, **options) -> None:
    name = data.partition(".")[0]
    model = home / model if (home / model).exists() else model
    columns = {"label_column": label_column} if label_column else {}
    fitted = {
        "method": "deterministic",
        "model": model,
        "dataset": home / data,
        "output_dir": home / f"{name}-teacher",
    }
    run("teacher", "fit", **fitted, **columns, **options)
    run("label", teacher=home / f"{name}-teacher", dataset=home / data, output_dir=home / f"{name}-labels", **columns)


def distill(home, output_dir, student, name, **options) -> None:
    student = home / student if (home / student).exists() else student
    run("distill", student=student, dataset=home / f"{name}-labels", output_dir=output_dir, **QUICK | options)


def status(capsys, *arguments, **options) -> str:
    with pytest.raises(SystemExit) as stop:
        run(*arguments, **options)
    said = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(said) == 1 and said[0].startswith("error: "), said
    return said[0]


def printed(capsys) -> dict[str, float]:
    """The measures in the last line that was printed."""
    line = capsys.readouterr().out.strip().splitlines()[-1]
    return {name: float(value) for name, value in re.findall(r"(\w+) (\d\.\d{4})", line)}


def test_a_table_of_features_with_names_of_classes(home, tmp_path, capsys):
    evaluated = {"eval_dataset": home / "table_test.csv", "label_column": "species"}
    distill(home, tmp_path / "student", "mlp-8", "table", **evaluated)
    said = printed(capsys)
    student = load_network(tmp_path / "student")
    assert student.feature_names == ["length", "width", "height"]
    assert student.label_names == ["setosa", "versicolor", "virginica"] and len(student.body) == 3
    rows = datasets.load_dataset("csv", data_files=str(home / "table_test.csv"))["train"]
    features = torch.tensor([[row[name] for name in student.feature_names] for row in rows])
    labels = torch.tensor([student.label_names.index(name) for name in rows["species"]])
    with torch.no_grad():
        expected = classification_metrics(student(features).softmax(dim=-1), labels)
    assert said == pytest.approx(expected, abs=1e-4) and expected["accuracy"] > 0.8
    run("evaluate", tmp_path / "student", dataset=home / "table_test.csv", label_column="species")
    assert printed(capsys) == pytest.approx(expected, abs=1e-4)


def test_columns_are_read_by_name_and_not_by_place(home, tmp_path, capsys):
    rows = datasets.load_dataset("csv", data_files=str(home / "table_test.csv"))["train"]
    turned = rows.select_columns(["species", "height", "id", "width", "length"])
    turned.to_csv(str(tmp_path / "turned.csv"))
    for file in (home / "table_test.csv", tmp_path / "turned.csv"):
        run("evaluate", home / "table-teacher", dataset=file, label_column="species")
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[1] == lines[3] and "accuracy" in lines[1]
    rows.rename_column("width", "breadth").to_csv(str(tmp_path / "other.csv"))
    options = {"dataset": tmp_path / "other.csv", "label_column": "species"}
    said = status(capsys, "evaluate", home / "table-teacher", **options)
    assert "reads the columns length, width, height, and the dataset has no 'width'" in said
    said = status(capsys, "evaluate", home / "table-teacher", **options, input_column="widht")
    assert "has no column 'widht', only id, length, breadth, height, species" in said


def test_online_and_stored_labels_train_the_same_student(home, tmp_path, capsys):
    run(
        "label",
        teacher=home / "table-teacher",
        dataset=home / "table.csv",
        label_column="species",
        storage="float32",
        output_dir=tmp_path / "labels",
    )
    common = {"student": "mlp-8", "label_column": "species", **QUICK}
    run("distill", dataset=tmp_path / "labels", output_dir=tmp_path / "stored", **common)
    teacher = home / "table-teacher"
    run("distill", dataset=home / "table.csv", teacher=teacher, output_dir=tmp_path / "online", **common)
    stored, online = (load_network(tmp_path / name).state_dict() for name in ("stored", "online"))
    for name, value in stored.items():
        torch.testing.assert_close(value, online[name], rtol=1e-4, atol=1e-5)


def test_photographs_of_all_sizes(home, tmp_path, capsys):
    teacher, _ = load_teacher(str(home / "photos-teacher"))
    config = teacher.network.config.pretrained_cfg
    assert config["input_size"] == [3, 24, 24] and teacher.network.config.id2label == dict(enumerate(COLORS))
    distill(home, tmp_path / "student", "cnn6_small", "photos", eval_dataset=home / "photos")
    said = printed(capsys)
    assert "on 12 examples" not in said and said["accuracy"] >= 0
    student = AutoModelForImageClassification.from_pretrained(tmp_path / "student")
    own = student.config.pretrained_cfg
    assert {name: own[name] for name in ("input_size", "mean", "std", "crop_pct")} == {
        name: config[name] for name in ("input_size", "mean", "std", "crop_pct")
    }
    run("evaluate", tmp_path / "student", dataset=home / "photos")
    assert printed(capsys) == pytest.approx(said, abs=1e-4)
    answer = pipeline("image-classification", model=str(tmp_path / "student"))(
        Image.open(next((home / "photos" / "test").rglob("*.png"))).convert("RGB")
    )
    assert {each["label"] for each in answer} == set(COLORS)


def test_texts_and_pairs_of_a_file(home, tmp_path, capsys):
    evaluated = {"eval_dataset": home / "texts_test.csv", "label_column": "sentiment"}
    distill(home, tmp_path / "student", "encoder", "texts", **evaluated, per_device_train_batch_size=8)
    said = printed(capsys)
    answer = pipeline("text-classification", model=str(tmp_path / "student"))
    rows = datasets.load_dataset("csv", data_files=str(home / "texts_test.csv"))["train"]
    names = [each["label"] for each in answer(rows["review"][:])]
    accuracy = np.mean([name == label for name, label in zip(names, rows["sentiment"], strict=True)])
    assert said["accuracy"] == pytest.approx(accuracy, abs=1e-4)
    run("distill", student=tmp_path / "student", dataset=home / "pairs-labels", output_dir=tmp_path / "pairs", **QUICK)
    assert "pass --eval_dataset" in capsys.readouterr().out
    run("evaluate", tmp_path / "pairs", dataset=home / "pairs_test.csv")
    assert printed(capsys)["accuracy"] >= 0


def test_a_student_of_other_classes(home, tmp_path, capsys):
    bert(["yes", "no"]).save_pretrained(tmp_path / "two")
    tokenizer().save_pretrained(tmp_path / "two")
    bert(["time", "person", "place"]).save_pretrained(tmp_path / "turned")
    tokenizer().save_pretrained(tmp_path / "turned")
    for name, words in (("two", "knows 2 classes (yes, no)"), ("turned", "knows 3 classes (time, person, place)")):
        said = status(
            capsys,
            "distill",
            student=tmp_path / name,
            dataset=home / "texts-labels",
            output_dir=tmp_path / "o",
            **QUICK,
        )
        assert words in said and "of 3 (person, place, time): pass --ignore_mismatched_sizes" in said
    assert not (tmp_path / "o").exists() and not (tmp_path / "o.training").exists()
    distill(home, tmp_path / "o", tmp_path / "two", "texts", ignore_mismatched_sizes=1, max_steps=1)
    config = json.loads((tmp_path / "o" / "config.json").read_text())
    assert config["id2label"] == {"0": "person", "1": "place", "2": "time"}


def test_an_interrupted_training_goes_on_and_a_finished_one_is_left_alone(home, tmp_path, monkeypatch, capsys):
    distill(home, tmp_path / "whole", "mlp-8", "table")
    logged = []

    def interrupt(self, logs, start_time=None):
        logged.append(logs)
        if len(logged) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(DistillationTrainer, "log", interrupt)
        distill(home, tmp_path / "broken", "mlp-8", "table")
    assert stop.value.code == 130 and not (tmp_path / "broken").exists()
    capsys.readouterr()
    common = {"student": "mlp-8", "dataset": home / "table-labels", "output_dir": tmp_path / "broken", **QUICK}
    said = status(capsys, "distill", **common | {"learning_rate": 0.5})
    assert "holds a training with learning_rate 0.02, and this one has 0.5" in said
    run("distill", **common)
    whole, broken = (load_network(tmp_path / name).state_dict() for name in ("whole", "broken"))
    assert all(torch.equal(value, broken[name]) for name, value in whole.items())
    assert not (tmp_path / "broken.training").exists() and not list((tmp_path / "broken").glob("*.bin"))
    capsys.readouterr()
    run("distill", **common)
    assert "is finished already, by the same command" in capsys.readouterr().out
    assert "pass a new --output_dir" in status(capsys, "distill", **common | {"kd_lambda": 0.5})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dataset": "table.csv"}, "table.csv holds no soft labels: pass a folder that hf-bkd label has written"),
        ({"dataset": "/nowhere"}, "there is no folder /nowhere"),
        ({"dataset": "somebody/data"}, "the Hub could not deliver 'somebody/data'"),
        ({"student": "somebody/network"}, "there is no folder somebody/network, and the Hub could not deliver it"),
        ({"student": "resnet21_cifar"}, "architectures with such a name: "),
        ({"teacher": "/nowhere"}, "there is no folder /nowhere"),
        ({"eval_dataset": "texts_test.csv"}, "has no labels column (label, labels or fine_label), only review"),
        ({"eval_dataset": "texts_test.csv", "label_column": "kind"}, "has no column 'kind', only review, sentiment"),
        ({"eval_dataset": "photos", "eval_split": "dev"}, "has no split 'dev', only train, test"),
        ({"train_split": "dev"}, "has no split 'dev', only train"),
        ({"student": "cnn6_small"}, "cnn6_small reads images, and the dataset has no column of images, only length"),
        ({"student": "encoder"}, "reads texts, and the dataset has no column of texts, only length"),
        ({"student": None}, "pass --student"),
        ({"dataset": None}, "pass --dataset"),
        ({"kd_lambda": 0.5, "dataset": "unlabeled"}, "has no labels column"),
        ({"image_size": 0}, "image_size must be a whole number of at least 1"),
    ],
)
def test_mistakes_end_in_a_sentence(home, tmp_path, capsys, options, words):
    unlabeled = datasets.load_from_disk(home / "table-labels").remove_columns("label")
    unlabeled.save_to_disk(tmp_path / "unlabeled")
    places = {"unlabeled": tmp_path / "unlabeled"}
    given = {"student": "mlp-8", "dataset": home / "table-labels", "output_dir": tmp_path / "o", **QUICK}
    for name, value in options.items():
        given[name] = places.get(value, home / value if isinstance(value, str) and (home / value).exists() else value)
    said = status(capsys, "distill", **{name: value for name, value in given.items() if value is not None})
    assert words in said, said
    assert not (tmp_path / "o").exists() and not (tmp_path / "o.training").exists()


def test_data_that_nothing_can_be_learned_from(home, tmp_path, capsys):
    fit = {"method": "deterministic", "output_dir": tmp_path / "o", **QUICK}
    (tmp_path / "empty").mkdir()
    said = status(capsys, "teacher", "fit", model="cnn6_small", dataset=tmp_path / "empty", **fit)
    assert f"{tmp_path / 'empty'} holds no dataset that can be read" in said
    (tmp_path / "notes.txt").write_text("nothing")
    said = status(capsys, "teacher", "fit", model="mlp-8", dataset=tmp_path / "notes.txt", **fit)
    assert "is no file of .csv, .tsv, .json, .jsonl, .parquet" in said
    (tmp_path / "one.csv").write_text("a,b,label\n" + "1,2,yes\n" * 30)
    said = status(capsys, "teacher", "fit", model="mlp-8", dataset=tmp_path / "one.csv", **fit)
    assert "all 30 examples of the split 'train' have the same class (yes): a classifier needs two or more" in said
    said = status(capsys, "teacher", "fit", model="mlp-8", dataset=home / "texts.csv", label_column="sentiment", **fit)
    assert "mlp-8 reads numbers, and the dataset has no column of numbers, only review" in said
    options = {"label_column": "species", "input_column": "lenght"}
    said = status(capsys, "teacher", "fit", model="mlp-8", dataset=home / "table.csv", **options, **fit)
    assert "has no column 'lenght', only id, length, width, height, species" in said
    assert not (tmp_path / "o").exists() and not (tmp_path / "o.training").exists()


def test_examples_that_are_trained_and_measured_on_are_counted(tmp_path, capsys):
    rng = np.random.default_rng(0)
    rows = datasets.Dataset.from_dict({"a": rng.normal(size=30), "b": rng.normal(size=30), "label": [0, 1] * 15})
    teacher = DeterministicTeacher(Perceptron(2, 2, (4,), feature_names=["a", "b"]))
    add_soft_labels(rows.select(range(20)), teacher, progress=False).save_to_disk(tmp_path / "labeled")
    for first, words in ((15, "note: 5 of the 15 examples that the student is measured on"), (20, "")):
        rows.select(range(first, 30)).save_to_disk(tmp_path / f"held-out-{first}")
        data = {"dataset": tmp_path / "labeled", "eval_dataset": tmp_path / f"held-out-{first}"}
        run("distill", student="mlp-4", **data, output_dir=tmp_path / f"student-{first}", **QUICK)
        told = capsys.readouterr().err
        assert words in told and bool(words) == ("note: " in told)


def test_a_student_of_a_posteriors_draws_says_what_it_is(home, tmp_path, capsys):
    table, columns = home / "table.csv", {"label_column": "species"}
    posterior, labels, student = (tmp_path / name for name in ("posterior", "labels", "student"))
    fitted = {"method": "laplace", "link": "mc", "model": home / "table-teacher", "dataset": table}
    run("teacher", "fit", **fitted, **columns, output_dir=posterior)
    run("label", teacher=posterior, dataset=table, output_dir=labels, mean_log_probs=1, num_samples=5, **columns)
    run("distill", student="mlp-8", dataset=labels, output_dir=student, distance="dirichlet", **QUICK)
    capsys.readouterr()
    run("evaluate", student, dataset=home / "table_test.csv", **columns)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{student} (dirichlet) on 60 examples")
    parts = {name: float(value) for name, value in re.findall(r"(\w+) (\d\.\d{4})", said[-1])}
    assert parts["total"] == pytest.approx(parts["aleatoric"] + parts["epistemic"], abs=2e-4)
    assert parts["epistemic"] > 0
    status(capsys, "label", teacher=home / "table-teacher", dataset=table, output_dir=tmp_path / "o", mean_log_probs=1)
