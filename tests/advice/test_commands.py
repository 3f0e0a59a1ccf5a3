"""Advice about options of the command line, limits and what recipes read."""

import datasets
import numpy as np
import pytest

import hf_bkd
from hf_bkd import DeterministicTeacher, EnsembleTeacher, ImagePreprocessor
from hf_bkd.cli.distill import main as distill
from hf_bkd.cli.label import main as label
from hf_bkd.cli.teacher import main as fit
from hf_bkd.data.columns import as_classification
from hf_bkd.data.preprocessors import class_names
from hf_bkd.soft_labels import read
from hf_bkd.teachers.loading import load_teacher
from hf_bkd.utils.files import writable_folder
from hf_bkd.utils.limits import LIMITS, Limits

from ..cli.fitting_helpers import CLASSES, bert, cnn, images, texts, tokenizer
from .following import advises, code, follow, refused
from .things import by_hand, linear, points, same

FAST = ["--max_steps", "1", "--use_cpu", "1", "--disable_tqdm", "1", "--per_device_train_batch_size", "4"]
OPTION = r"(--\w+)"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Images and texts, and a teacher of each."""
    home = tmp_path_factory.mktemp("home")
    datasets.DatasetDict(train=images(12, 0), validation=images(9, 1)).save_to_disk(home / "images")
    texts(12, 0).save_to_disk(home / "texts")
    DeterministicTeacher(cnn()).save_pretrained(home / "teacher")
    DeterministicTeacher(cnn(1)).save_pretrained(home / "other")
    reading = DeterministicTeacher(bert())
    reading.processing_class = tokenizer()
    reading.save_pretrained(home / "reading")
    return home


def run(command, *words):
    command([str(word) for word in words], "hf-bkd")


def probs(folder):
    return np.asarray(read(datasets.load_from_disk(folder)).probs)


def teaching(home):
    pixels = np.stack([np.asarray(image, np.float32) for image in images(12, 0)["image"][:]])[:, None]
    return by_hand(cnn(), (pixels / 255 - 0.4) / 0.3)


@advises("the name of the output folder is empty")
def test_labels_are_given_a_folder(home, tmp_path):
    option = code(refused(lambda: writable_folder(" ")), OPTION)
    run(label, "--teacher", home / "teacher", "--dataset", home / "images", option, tmp_path / "labeled")
    same(probs(tmp_path / "labeled"), teaching(home), 1e-3)


@advises("pass --output_dir, a new folder for the student", "or a --teacher to be asked at each step")
def test_a_student_is_given_what_it_needs(home, tmp_path):
    values = {"--student": home / "other", "--dataset": home / "images", "--output_dir": tmp_path / "student"}
    values["--teacher"] = home / "teacher"
    words = []
    for _ in values:
        option = code(refused(lambda: run(distill, *words, *FAST)), OPTION)  # noqa: B023
        words += [option, values[option]]
    run(distill, *words, *FAST, "--learning_rate", "0")
    network = load_teacher(tmp_path / "student")[0].network
    assert all(
        np.allclose(a.detach(), b.detach()) for a, b in zip(network.parameters(), cnn(1).parameters(), strict=True)
    )


@advises("pass --output_dir, a new folder for the teacher")
def test_a_teacher_is_given_what_it_needs(home, tmp_path):
    values = {"--method": "deterministic", "--model": home / "teacher", "--dataset": home / "images"}
    values["--output_dir"] = tmp_path / "fitted"
    words = []
    for _ in values:
        option = code(refused(lambda: run(fit, *words)), OPTION)  # noqa: B023
        words += [option, values[option]]
    run(fit, *words)
    assert load_teacher(tmp_path / "fitted")[0].temperature > 0


@advises("holds labels without the examples that they are of")
def test_labels_are_joined_to_their_examples(home, tmp_path):
    given = ["--teacher", home / "teacher", "--dataset", home / "images"]
    run(label, *given, "--labels_only", "--output_dir", tmp_path / "alone")
    training = ["--student", home / "other", *FAST, "--output_dir", tmp_path / "student", "--dataset"]
    message = refused(lambda: run(distill, *training, tmp_path / "alone"))
    examples, labels = datasets.load_from_disk(home / "images"), datasets.load_from_disk(tmp_path / "alone")
    joined = follow(code(message, r"with (hf_bkd\.\w+\(.*?\))"), examples=examples["train"], labels=labels)
    joined.save_to_disk(tmp_path / "joined")
    same(probs(tmp_path / "joined"), teaching(home), 1e-3)
    run(distill, *training, tmp_path / "joined")
    assert code(message, r"without (--\w+)") == "--labels_only"  # as which it was labeled in the other tests


@advises("is there already, and does not say which command made it")
def test_a_new_folder_is_taken(home, tmp_path):
    given = ["--teacher", home / "teacher", "--dataset", home / "images"]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "notes.txt").write_text("mine")
    option = code(refused(lambda: run(label, *given, "--output_dir", tmp_path / "own")), OPTION)
    run(label, *given, option, tmp_path / "new")
    same(probs(tmp_path / "new"), teaching(home), 1e-3)


@advises(" (--input_column names the columns to read)")
def test_a_column_of_texts_is_named(home, tmp_path):
    rows = datasets.load_from_disk(home / "texts").rename_column("text", "review")
    rows.add_column("title", ["who"] * len(rows)).save_to_disk(tmp_path / "texts")
    words = ["--teacher", home / "reading", "--dataset", tmp_path / "texts", "--output_dir", tmp_path / "labeled"]
    option = code(refused(lambda: run(label, *words)), r"\((--\w+)")
    run(label, *words, option, "review")
    run(label, "--teacher", home / "reading", "--dataset", home / "texts", "--output_dir", tmp_path / "same")
    same(probs(tmp_path / "labeled"), probs(tmp_path / "same"))


@advises("): pass --input_column")
def test_a_column_of_texts_is_named_to_a_recipe():
    rows = datasets.Dataset.from_dict({"a": ["x", "y"], "b": ["u", "v"], "label": [0, 1]})
    option = code(refused(lambda: as_classification(rows, "text")), OPTION)
    assert as_classification(rows, "text", **{option.removeprefix("--"): "b"})["text"][:] == ["u", "v"]


@advises("an ensemble of one network is that network")
def test_an_ensemble_is_given_several_networks(home, tmp_path):
    words = ["--method", "ensemble", "--dataset", home / "images", "--output_dir", tmp_path / "both"]
    option = code(refused(lambda: run(fit, *words, "--model", home / "teacher")), r"as (--\w+)")
    run(fit, *words, option, home / "teacher", home / "other")
    assert isinstance(load_teacher(tmp_path / "both")[0], EnsembleTeacher)


@advises("for a new head, or another network")
def test_a_network_of_other_classes_is_given_a_new_head(home, tmp_path):
    rows = datasets.load_from_disk(home / "images")
    names = {name: [f"{name}s" for name in CLASSES] for name in rows}
    for split in rows:
        rows[split] = rows[split].cast_column("label", datasets.ClassLabel(names=names[split]))
    rows.save_to_disk(tmp_path / "others")
    words = ["--student", home / "other", "--dataset", tmp_path / "others", "--kd_lambda", "0", *FAST]
    words += ["--output_dir", tmp_path / "student"]
    run(distill, *words, code(refused(lambda: run(distill, *words)), OPTION))
    network = load_teacher(tmp_path / "student")[0].network
    assert class_names(network) == names["train"]  # and neither the weights nor the names of the others
    assert not np.allclose(network.timm_model.fc.weight.detach(), cnn(1).timm_model.fc.weight.detach(), atol=1e-2)


@advises("has a label to measure the student by: pass another one as --eval_split")
def test_a_split_whose_labels_are_hidden_measures_nothing(home, tmp_path, capsys):
    rows = datasets.load_from_disk(home / "images")
    rows["test"] = rows["validation"].map(lambda row: {"label": -1})
    rows.save_to_disk(tmp_path / "rows")
    words = ["--student", home / "other", "--dataset", tmp_path / "rows", "--kd_lambda", "0", *FAST]
    message = refused(lambda: run(distill, *words, "--output_dir", tmp_path / "one", "--eval_split", "test"))
    run(distill, *words, "--output_dir", tmp_path / "two", code(message, r"as (--\w+)"), "validation")
    assert "on 9 examples" in capsys.readouterr().out
    del rows["validation"]
    rows.save_to_disk(tmp_path / "hidden")
    words[words.index(tmp_path / "rows")] = tmp_path / "hidden"
    run(distill, *words, "--output_dir", tmp_path / "three")  # which was trained, and then ended in an error or NaN
    assert "it was not measured" in capsys.readouterr().out


@advises("this network doesn't say what size of images it takes")
def test_views_of_a_network_of_any_size_are_crops_and_flips(home, tmp_path):
    teacher = DeterministicTeacher(cnn())
    teacher.processing_class = ImagePreprocessor((0.4,), (0.3,))
    teacher.save_pretrained(tmp_path / "teacher")
    words = ["--teacher", tmp_path / "teacher", "--dataset", home / "images", "--output_dir", tmp_path / "labeled"]
    words += ["--views", "2", "--augmentation"]
    message = refused(lambda: run(label, *words, "resized_crop"))
    run(label, *words, code(message, r"use --augmentation (\w+)"))
    assert probs(tmp_path / "labeled").shape == (12, 2, 3)


@advises(" (--help lists all arguments)")
def test_help_lists_all_arguments(capsys):
    message = refused(lambda: run(label, "--teacher", "x"))
    with pytest.raises(SystemExit) as end:
        hf_bkd.cli.main(["label", code(message, r"\((--\w+)")])
    assert not end.value.code and "--teacher" in capsys.readouterr().out


@advises("if you trust it, set hf_bkd.utils.limits.LIMITS")
def test_a_limit_is_raised(monkeypatch):
    monkeypatch.setattr(LIMITS, "num_views", LIMITS.num_views)  # to be put back
    message = refused(lambda: LIMITS.check("a record", num_views=10**6))
    import hf_bkd.utils.limits  # noqa: F401

    follow(f"{code(message, r'set (hf_bkd[.a-zA-Z_]+)')} = 10**6")
    LIMITS.check("a record", num_views=10**6)
    monkeypatch.setenv(code(message, r"variable (\w+)"), str(10**6))
    Limits().check("a record", num_views=10**6)


@advises("take a network or a label column (--label_column) that fits")
def test_a_network_is_given_the_columns_names(home, tmp_path):
    from .test_data import fitted

    class Config:
        id2label = {0: "chat", 1: "chien", 2: "anguille"}

    network, dataset = linear(), points().cast_column("label", datasets.ClassLabel(names=["cat", "dog", "eel"]))
    network.config = Config()
    message = refused(lambda: fitted(dataset, network))
    name = code(message, r"give the network's (config\.\w+)")
    follow(f"network.{name} = dict(enumerate(dataset.features['label'].names))", network=network, dataset=dataset)
    same(fitted(dataset, network), fitted(points()))
    assert code(message, r"\((--\w+)\)") == "--label_column"
