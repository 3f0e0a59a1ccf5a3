"""Advice about labels that stand in several columns, on the command line, and about networks of other kinds."""

import datasets
import numpy as np
import pytest

from hf_bkd import Teacher
from hf_bkd.cli.distill import main as distill
from hf_bkd.cli.evaluate import main as evaluate
from hf_bkd.cli.teacher import main as fit
from hf_bkd.teachers.loading import load_teacher

from ..cli.fitting_helpers import WORDS, bert, texts, tokenizer
from .following import advises, code, refused
from .test_commands import FAST, run

PRICES = [0.5, 1.5, 2.5, 1.0] * 4
FIT = ["--method", "deterministic", "--model", "mlp-4", *FAST, "--validation_size", "4"]
INPUTS = ["--input_column", "x", "y"]


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Numbers, two columns of zeros and ones, one of words and a price."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    x = np.linspace(-1, 1, 16)
    columns = {"x": x, "y": x[::-1], "warm": (x > 0).astype(int), "wet": [0, 1] * 8, "kind": ["a", "b"] * 8}
    datasets.Dataset.from_dict(columns | {"price": PRICES}).save_to_disk(tmp_path / "table")
    return "table"


@advises("and several columns of labels are numbers")
def test_one_column_of_words_is_named_alone_or_zeros_and_ones(table):
    words = ["--student", "mlp-4", "--dataset", table, "--kd_lambda", "0", *FAST]
    message = refused(lambda: run(distill, *words, "--label_column", "kind", "price", "--output_dir", "a"))
    option = code(message, r"name one (--\w+)")
    run(distill, *words, option, "kind", "--output_dir", "a")
    run(distill, *words, option, "warm", "wet", "--output_dir", "b")
    for folder, names in (("a", ["a", "b"]), ("b", ["warm", "wet"])):
        assert load_teacher(folder)[0].class_names == names


@advises("the labels are in the columns")
def test_columns_of_labels_are_those_that_the_network_knows(table, capsys):
    run(fit, *FIT, "--dataset", table, "--label_column", "warm", "wet", "--output_dir", "teacher", *INPUTS)
    words = ["teacher", "--dataset", table, *INPUTS, "--label_column"]
    message = refused(lambda: run(evaluate, *words, "warm", "price"))
    assert code(message, r"pass these as (--\w+)") == "--label_column"
    run(evaluate, *words, *code(message, r"own are called (.*): pass").split(", "))
    assert "mean_average_precision" in capsys.readouterr().out


@advises("the network predicts one class for each example, and --label_column names")
def test_several_columns_are_of_several_labels_or_numbers(table):
    words = [*FIT, "--dataset", table, "--output_dir"]
    one_class = ["--label_column", "warm", "wet", "--problem_type", "single_label_classification"]
    message = refused(lambda: run(fit, *words, "a", *one_class))
    option = code(message, r"or pass (--\w+)")
    for problem_type in code(message, r"pass --\w+ (.*)").split(" or "):
        run(fit, *words, problem_type, *one_class[:3], option, problem_type)
        assert Teacher.from_pretrained(problem_type).likelihood.problem_type == problem_type
    run(fit, *words, "b", one_class[0], "warm", *one_class[3:])
    assert Teacher.from_pretrained("b").likelihood.problem_type == one_class[-1]


@advises(": pass --ignore_mismatched_sizes for a new head, or another network")
def test_a_student_of_another_kind_gets_a_new_head(table):
    rows = texts(12, 0).map(lambda row: {"labels": [row["label"]]}, remove_columns="label")
    rows.cast_column("labels", datasets.List(datasets.ClassLabel(names=WORDS))).save_to_disk("texts")
    network = bert()
    network.config.problem_type = "single_label_classification"
    network.save_pretrained("bert")
    tokenizer().save_pretrained("bert")
    words = ["--dataset", "texts", "--kd_lambda", "0", *FAST, "--output_dir", "student"]
    message = refused(lambda: run(distill, "--student", "bert", *words))
    run(distill, "--student", "bert", *words, code(message, r"pass (--\w+)"))
    assert load_teacher("student")[0].likelihood.problem_type == "multi_label_classification"


@advises(": pass an architecture, as --student mlp-64-64, or another network")
def test_a_student_of_numbers_in_columns_is_a_new_one(table):
    run(fit, *FIT, "--dataset", table, "--label_column", "kind", "--output_dir", "teacher", *INPUTS)
    words = ["--dataset", table, "--kd_lambda", "0", *INPUTS, *FAST, "--label_column", "warm", "wet"]
    words += ["--output_dir", "student"]
    message = refused(lambda: run(distill, "--student", "teacher", *words))
    run(distill, *code(message, r"as (--\w+ [\w-]+)").split(), *words)
    assert load_teacher("student")[0].class_names == ["warm", "wet"]


NUMBER = r"(--\w+ [a-z]+)"


@advises(
    "--predict_variance is for numbers, and the labels are",
    "the curvature of a predicted variance is not known in closed form",
    "a posterior that is trained by squared errors would be as wide as their unit makes it",
)
def test_variances_are_predicted_of_numbers_by_what_can(table):
    words = ["--model", "mlp-4", *FAST, "--validation_size", "4", "--dataset", table, *INPUTS, "--output_dir"]
    price, warm = ["--label_column", "price"], ["--label_column", "warm"]
    message = refused(lambda: run(fit, *words, "a", *price, "--method", "variational"))
    option = code(message, r"with the commands (--\w+)")
    run(fit, *words, "a", *price, "--method", "variational", option)
    run(fit, *words, "b", *price, "--method", "laplace")
    message = refused(lambda: run(fit, *words, "c", *price, "--method", "laplace", option))
    run(fit, *words, "c", *price, *code(message, r"take (--method \w+)").split(), option)
    message = refused(lambda: run(fit, *words, "d", *warm, "--method", "deterministic", option))
    run(fit, *words, "d", *warm, "--method", "deterministic", *code(message, r"pass " + NUMBER).split(), option)
    predicts = [Teacher.from_pretrained(folder).likelihood.predicts_variance for folder in "abcd"]
    assert predicts == [True, False, True, True]
