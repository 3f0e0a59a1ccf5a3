"""Several labels, numbers, one label per token and tables go through the same commands as one class an example."""

import json
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from transformers import BertConfig, BertModel

from hf_bkd import Teacher
from hf_bkd.soft_labels import read
from tests.cli.fitting_helpers import FAST, run, tokenizer

TAGS = ("O", "PER", "LOC")
TOPICS = ("art", "law", "sport")
COMMON = {"num_train_epochs": 16, "learning_rate": 0.02, "per_device_train_batch_size": 16}


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def write(name: str, make) -> None:
    """A folder of JSON lines with two splits."""
    Path(name).mkdir()
    for seed, (split, number) in enumerate((("train", 64), ("test", 24))):
        rng = np.random.default_rng(seed)
        Path(name, f"{split}.jsonl").write_text("".join(json.dumps(make(rng)) + "\n" for _ in range(number)))


def write_csv(name: str, columns: dict) -> None:
    Path(name).mkdir()
    for split, rows in (("train", slice(0, 64)), ("test", slice(64, None))):
        datasets.Dataset.from_dict({key: each[rows] for key, each in columns.items()}).to_csv(f"{name}/{split}.csv")


def encoder(folder: str = "encoder") -> str:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=25, max_position_embeddings=12, pad_token_id=0, **sizes)
    BertModel(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def chain(data: str, model: str, method: str = "deterministic", measured: str | None = None, **asked) -> str:
    """Fit, label, distill and evaluate; return the student's card."""
    own = {} if method == "forest" else {"model": model, **FAST, **COMMON}
    labels = asked.pop("label_column", None)
    words = ["--label_column", *labels] if labels else []
    run("teacher", "fit", *words, method=method, dataset=data, output_dir="teacher", **{"use_cpu": 1, **own, **asked})
    run("label", *words, teacher="teacher", dataset=data, output_dir="labeled")
    student = model if model != "" else "mlp-8"
    options = {"eval_dataset": data, "eval_split": "test", "output_dir": "student", **FAST, **COMMON}
    run("distill", *words, student=student, dataset="labeled", kd_lambda=0.5, **options)
    run("evaluate", "student", *words, dataset=data)
    run("evaluate", "teacher", *words, dataset=data)
    return Path("student/README.md").read_text()


def topics(rng) -> dict:
    there = rng.integers(0, 2, 3)
    words = [f"w{place}" for place, each in enumerate(there) if each]
    words += [f"w{number}" for number in rng.integers(3, 9, 2)]
    return {"text": " ".join(rng.permutation(words)), "label": [TOPICS[place] for place in np.flatnonzero(there)]}


def sentence(rng) -> dict:
    numbers = rng.integers(0, 9, rng.integers(2, 7))
    return {"tokens": [f"w{each}" for each in numbers], "ner_tags": [TAGS[each % 3] for each in numbers]}


def table(number: int = 88) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(number, 2))
    noise = rng.normal(size=number) / 9
    return {"x": x[:, 0], "y": x[:, 1], "price": 2 * x[:, 0] + noise, "rent": x[:, 0] - x[:, 1] + noise}


def printed_measures(capsys) -> dict[str, float]:
    lines = capsys.readouterr().out.splitlines()
    line = next(each for each, before in zip(lines[::-1], lines[-2::-1], strict=False) if " on 24 examples" in before)
    return {name: float(value) for name, value in re.findall(r"(\w+) (-?\d+\.\d{4})", line)}


def test_texts_with_several_labels_by_name(desk, capsys):
    write("data", topics)
    card = chain("data", encoder())
    teacher = Teacher.from_pretrained("teacher")
    assert teacher.likelihood.problem_type == "multi_label_classification" and teacher.class_names == list(TOPICS)
    assert printed_measures(capsys)["mean_average_precision"] > 0.9
    labels = read(datasets.load_from_disk("labeled"))
    assert labels.record.class_names == list(TOPICS) and labels.record.problem_type == "multi_label_classification"
    assert "mAP" in card and "micro F1" in card and "multi_label_classification" in card
    config = json.loads(Path("student/config.json").read_text())
    assert config["problem_type"] == "multi_label_classification" and config["id2label"]["2"] == "sport"


def test_a_table_with_a_column_of_zeros_and_ones_for_each_label(desk, capsys):
    values = table()
    hot = {"warm": (values["x"] > 0).astype(int), "wet": (values["y"] > 0).astype(int)}
    write_csv("data", {"x": values["x"], "y": values["y"], **hot})
    chain("data", "mlp-8", label_column=["warm", "wet"])
    assert printed_measures(capsys)["accuracy"] > 0.6
    assert Teacher.from_pretrained("teacher").class_names == ["warm", "wet"]
    run("evaluate", "student", "--label_column", "wet", "warm", dataset="data")  # in another order
    one = printed_measures(capsys)
    run("evaluate", "student", "--label_column", "warm", "wet", dataset="data")
    assert printed_measures(capsys) == one


@pytest.mark.parametrize("columns", [["price"], ["price", "rent"]])
def test_one_number_and_several(desk, capsys, columns):
    values = table()
    write_csv("data", {name: values[name] for name in ("x", "y", *columns)})
    card = chain("data", "mlp-8", "laplace", label_column=columns, num_train_epochs=30)
    measured = printed_measures(capsys)
    assert measured["rmse"] < 0.7 and {"nll", "coverage"} < measured.keys()
    assert "RMSE" in card and "regression" in card
    labeled = datasets.load_from_disk("labeled")
    assert len(labeled[0]["teacher_mean"]) == len(columns)
    assert read(labeled).record.class_names == (columns if len(columns) == 2 else None)
    if len(columns) == 2:
        run("evaluate", "teacher", "--label_column", *columns[::-1], dataset="data")
        assert printed_measures(capsys) == measured


@pytest.mark.parametrize("columns", [["price"], ["price", "rent"]])
def test_means_and_variances_of_numbers_far_from_zero(desk, capsys, columns):
    """A mean of 150 and a standard deviation of 77: what is learned in standard units is answered in the user's."""
    values = {name: 150 + 35 * each if name in columns else each for name, each in table().items()}
    write_csv("data", {name: values[name] for name in ("x", "y", *columns)})
    words = ["--label_column", *columns]
    own = {"model": "mlp-8", **FAST, "num_train_epochs": 30}
    given = {"dataset": "data", "output_dir": "teacher"}
    run("teacher", "fit", *words, "--predict_variance", method="variational", **given, **own)
    run("label", *words, teacher="teacher", dataset="data", output_dir="labeled")
    labeled = datasets.load_from_disk("labeled")
    means = np.array(labeled["teacher_mean"][:])
    assert means.shape == (64, len(columns)) and abs(means.mean() - 150) < 30
    assert {"teacher_variance", "teacher_noise"} < set(labeled.column_names)
    own |= {"student": "mlp-8"}
    own.pop("model")
    options = {"dataset": "labeled", "eval_dataset": "data", "eval_split": "test", "output_dir": "student"}
    run("distill", *words, "--predict_variance", kd_lambda=0.5, **options, **own)
    run("evaluate", "student", *words, dataset="data")
    measured = printed_measures(capsys)
    assert measured["rmse"] < 40 and measured["nll"] < 5.5 and 0.6 < measured["coverage"] <= 1
    names = json.loads(Path("student/config.json").read_text())["label_names"]
    numbers = columns if len(columns) == 2 else ["LABEL_0"]
    assert names == [*numbers, *(f"log-variance of {name}" for name in numbers)]


@pytest.mark.parametrize("method", ["ensemble", "swag"])
def test_teachers_of_numbers_know_their_noise(desk, capsys, method):
    write_csv("data", table() | {"price": 150 + 35 * table()["price"]})
    given = {"dataset": "data", "output_dir": "teacher", "model": "mlp-8", **FAST, "num_train_epochs": 20}
    given |= {"members": 2} if method == "ensemble" else {"snapshots": 4}
    run("teacher", "fit", "--label_column", "price", "--input_column", "x", "y", method=method, **given)
    run("label", "--label_column", "price", teacher="teacher", dataset="data", output_dir="labeled")
    labeled = datasets.load_from_disk("labeled")
    noise = np.array(labeled["teacher_noise"][:])
    errors = np.array(labeled["teacher_mean"][:])[:, 0] - np.array(labeled["label"][:])
    assert (noise > 0).all() and 0.1 < np.sqrt(noise.mean()) / errors.std() < 10


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("laplace --label_column price --predict_variance", "curvature of a predicted variance"),
        ("variational --label_column price", "commands --predict_variance"),
        ("deterministic --label_column kind --predict_variance", "--predict_variance is for numbers"),
    ],
)
def test_variances_that_cannot_be_predicted(desk, capsys, words, sentence):
    write_csv("data", table() | {"kind": np.arange(88) % 2})
    given = ["--dataset", "data", "--output_dir", "teacher", "--model", "mlp-8", "--input_column", "x", "y"]
    with pytest.raises(SystemExit):
        run("teacher", "fit", *given, "--method", *words.split(), **FAST)
    assert sentence in capsys.readouterr().err


def test_a_single_label_in_a_column_of_zeros_and_ones(desk, capsys):
    write("data", lambda rng: {"text": f"w{rng.integers(3, 9)}", "label": int(rng.integers(0, 2))})
    write("pairs", lambda rng: {"text": f"w{rng.integers(3, 9)}", "label": [[0], [1], [0, 1]][rng.integers(0, 3)]})
    model, told = encoder(), {"problem_type": "multi_label_classification"}
    quick = {**FAST, "num_train_epochs": 1}
    for data, given, width in (("data", told, 1), ("pairs", {}, 2)):
        run(
            "teacher",
            "fit",
            method="deterministic",
            model=model,
            dataset=data,
            output_dir=f"t-{data}",
            **quick,
            **given,
        )
        run("label", teacher=f"t-{data}", dataset=data, output_dir=f"l-{data}")
        run("distill", student=model, dataset=f"l-{data}", kd_lambda=0.5, output_dir=f"s-{data}", **quick)
        assert len(datasets.load_from_disk(f"l-{data}")[0]["teacher_probs"]) == width
        run("evaluate", f"s-{data}", dataset=data)
        assert printed_measures(capsys).keys() > {"mean_average_precision"}


def test_a_row_with_a_tag_too_few_is_named(desk, capsys):
    write("data", sentence)
    rows = [json.loads(line) for line in Path("data/train.jsonl").read_text().splitlines()]
    rows[5]["ner_tags"].pop()
    Path("data/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SystemExit):
        run("teacher", "fit", method="deterministic", model=encoder(), dataset="data", output_dir="teacher", **FAST)
    assert re.search(r"row 5 of column ner_tags has \d labels, and its column tokens \d", capsys.readouterr().err)


@pytest.mark.usefixtures("blank_pictures")
def test_images_of_one_number(desk, capsys):
    for split, number in (("train", 24), ("test", 24)):
        Path("data", split).mkdir(parents=True)
        lines = []
        for place in range(number):
            Image.new("L", (8, 8), 10 * place).save(f"data/{split}/{place}.png")
            lines.append(json.dumps({"file_name": f"{place}.png", "angle": 100.0 + 6 * place}))
        Path("data", split, "metadata.jsonl").write_text("\n".join(lines))
    quick = {**FAST, "num_train_epochs": 30, "dataset": "data"}
    words = ["--label_column", "angle"]
    run(
        "teacher",
        "fit",
        *words,
        "--augment",
        method="deterministic",
        model="cnn6_small",
        output_dir="teacher",
        **quick,
    )
    run("evaluate", "teacher", *words, dataset="data")
    assert printed_measures(capsys)["rmse"] < 40  # their standard deviation is 41.5, their mean 169


def test_sentences_with_a_tag_for_each_word(desk, capsys):
    write("data", sentence)
    card = chain("data", encoder())
    assert printed_measures(capsys)["accuracy"] > 0.9 and "accuracy" in card
    assert json.loads(Path("student/config.json").read_text())["architectures"] == ["BertForTokenClassification"]
    assert Teacher.from_pretrained("teacher").class_names == sorted(TAGS)
    labeled = datasets.load_from_disk("labeled")
    assert len(labeled[0]["teacher_probs"]) == len(labeled[0]["tokens"])
    write("others", topics)
    words = {
        "student": "student",
        "dataset": "others",
        "kd_lambda": 0,
        "output_dir": "s2",
        **FAST,
        "num_train_epochs": 1,
    }
    with pytest.raises(SystemExit):
        run("distill", **words)
    assert "predicts one class for each token, and the labels are labels that are each" in capsys.readouterr().err
    run("distill", ignore_mismatched_sizes=1, **words)
    assert json.loads(Path("s2/config.json").read_text())["architectures"] == ["BertForSequenceClassification"]


def test_sets_of_numbers_and_a_choice_of_tags(desk, capsys):
    encoder()
    write("sets", lambda rng: topics(rng) | {"label": sorted({*rng.integers(0, 4, rng.integers(1, 4)).tolist(), 3})})
    fast = {"method": "deterministic", "model": "encoder", **FAST, "num_train_epochs": 1}
    run("teacher", "fit", dataset="sets", output_dir="t", **fast)
    assert Teacher.from_pretrained("t").num_classes == 4
    write("tags", lambda rng: (each := sentence(rng)) | {"pos_tags": each["ner_tags"][::-1]})
    with pytest.raises(SystemExit):
        run("teacher", "fit", dataset="tags", output_dir="t2", **fast)
    assert "or --label_column ner_tags" in capsys.readouterr().err
    run("teacher", "fit", dataset="tags", label_column="ner_tags", output_dir="t2", **fast)
    with pytest.raises(SystemExit):
        run("evaluate", "t2", dataset="tags", label_column="ner_tags", ood="sets")
    assert "--ood compares entropies of whole examples" in capsys.readouterr().err


def test_a_forest_of_numbers(desk, capsys):
    pytest.importorskip("skops")
    values = table()
    write_csv("data", {name: values[name] for name in ("x", "y", "price")})
    run("teacher", "fit", method="forest", trees=29, dataset="data", label_column="price", output_dir="t", use_cpu=1)
    run("evaluate", "t", dataset="data", label_column="price")
    assert printed_measures(capsys)["rmse"] < 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--label_column", "x", "word"], "column word holds"),
        (["--label_column", "hole", "x"], "row 1 has no label in column hole"),
        (["--label_column", "gone"], "no column 'gone'"),
        (["--label_column", "x", "y", "--problem_type", "single_label_classification"], "name one"),
        (["--label_column", "word", "--problem_type", "regression"], "the network predicts numbers"),
        (["--label_column", "same"], "have the same label"),
    ],
)
def test_what_is_no_label_is_refused(desk, capsys, words, message):
    columns = {"x": [0.5, 1.5, 2.5] * 6, "y": [1.5, 0.5, 0.1] * 6, "word": ["a", "b", "c"] * 6}
    columns |= {"hole": [1.0, None, 2.0] * 6, "same": [0.5] * 18}
    datasets.Dataset.from_dict(columns).to_csv("data.csv")
    with pytest.raises(SystemExit):
        run(
            "teacher",
            "fit",
            *words,
            method="deterministic",
            model="mlp-4",
            dataset="data.csv",
            output_dir="t",
            use_cpu=1,
        )
    assert message in capsys.readouterr().err
    assert not Path("t").exists()
