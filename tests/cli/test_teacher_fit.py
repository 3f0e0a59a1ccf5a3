"""`hf-bkd teacher fit`: every method, on images and on texts, and what can go wrong."""

import json
import re
from dataclasses import dataclass

import datasets
import pytest
import torch

from hf_bkd import DeterministicTeacher, DistillationTrainer, LaplaceTeacher, Teacher
from hf_bkd.cli import teacher as command
from hf_bkd.cli.examples import reader_of
from hf_bkd.data.preprocessors import class_names, preprocessor_for
from hf_bkd.metrics import classification_metrics
from hf_bkd.teachers import SPECIFICATIONS, TeacherSpec, predict_all
from hf_bkd.teachers.loading import load_teacher
from hf_bkd.teachers.specification import option
from tests.cli.fitting_helpers import CLASSES, bert, cnn, fit, images, run, splits, texts, tokenizer, trained_bert


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Datasets, a trained network of each kind, and a teacher fitted by the command line."""
    home = tmp_path_factory.mktemp("home")
    torch.set_num_threads(1)
    splits(images).save_to_disk(home / "images")
    splits(texts).save_to_disk(home / "texts")
    for seed in (0, 1):
        trained_bert(texts(600, 9), seed).save_pretrained(home / f"bert{seed}")
        tokenizer().save_pretrained(home / f"bert{seed}")
    fit(home, home / "cnn", "deterministic", "cnn6_small", "images")
    return home


def probabilities(folder, data, split="validation", num_samples=10):
    """What a reloaded teacher says of a split, and its labels."""
    teacher, _ = load_teacher(str(folder))
    rows = datasets.load_from_disk(data)[split]
    return predict_all(teacher, reader_of(teacher.network, rows, teacher.processing_class).batches(rows), num_samples)


def status(capsys, home, *arguments, **options) -> str:
    """The one sentence that a mistake ends in."""
    with pytest.raises(SystemExit) as stop:
        fit(home, *arguments, **options)
    said = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and said[-1].startswith("error: ")
    return said[-1]


def test_an_architecture_is_trained_and_its_temperature_chosen(home):
    teacher = Teacher.from_pretrained(home / "cnn")
    probs, labels = probabilities(home / "cnn", home / "images")
    metrics = classification_metrics(probs, labels)
    assert metrics["accuracy"] > 0.9 and teacher.temperature != 1
    assert teacher.record["validation"] == pytest.approx(metrics, abs=1e-6)
    assert teacher.record["dataset"] == "images" and teacher.record["network"] == "cnn6_small"
    assert teacher.record["learning rate"] == 0.02 and teacher.record["epochs"] == 4
    assert class_names(teacher.network) == CLASSES
    assert [path.name for path in home.glob("cnn*")] == ["cnn"]  # no checkpoints are left
    card = (home / "cnn" / "README.md").read_text()
    assert "| network | cnn6_small |" in card and f"{metrics['nll']:.4f}" in card and str(home) not in card


def test_the_images_statistics_are_the_training_splits(home):
    config = Teacher.from_pretrained(home / "cnn").network.config.pretrained_cfg
    pixels = torch.tensor(
        [list(image.getdata()) for image in datasets.load_from_disk(home / "images")["train"]["image"]]
    )
    assert config["mean"] == pytest.approx([pixels.double().mean().item() / 255], abs=1e-4)
    assert config["std"] == pytest.approx([pixels.double().std(correction=0).item() / 255], abs=1e-4)
    assert config["input_size"] == [1, 9, 9]


METHODS = {
    "deterministic": {},
    "laplace": {"structure": "diag", "link": "probit", "prior_precision": 2.5},
    "mc_dropout": {},
    "variational": {"rank": 2},
    "variational full": {"posterior": "full"},
    "ivon": {"hess_init": 100, "learning_rate": 0.01},
    "variational ivon": {"posterior": "ivon", "hess_init": 100, "learning_rate": 0.01},  # as it was called
}


@pytest.mark.parametrize("name", METHODS)
def test_a_classifier_of_texts(home, tmp_path, capsys, name):
    method = name.split()[0]
    options = {"learning_rate": 1e-4, "num_train_epochs": 2} | METHODS[name]
    fit(home, tmp_path / "teacher", method, "bert0", "texts", **options)
    said = capsys.readouterr().out.strip().splitlines()[-1]
    teacher, method = Teacher.from_pretrained(tmp_path / "teacher"), method.replace("ivon", "variational")
    assert teacher.method == method and class_names(teacher.network) == ["who", "where", "when"]
    probs, labels = probabilities(tmp_path / "teacher", home / "texts", "test")
    assert classification_metrics(probs, labels)["accuracy"] > 0.85
    measured = teacher.record["validation"]
    assert said == (
        f"{method} teacher in {tmp_path / 'teacher'}; on 30 validation examples: "
        + "  ".join(f"{key} {value:.4f}" for key, value in measured.items())
    )
    again = classification_metrics(*probabilities(tmp_path / "teacher", home / "texts"))
    assert measured == pytest.approx(again, abs=1e-5 if method != "laplace" else 0.05)
    assert ("learning rate" in teacher.record) == (method == "variational")


@pytest.mark.parametrize("method", ["laplace", "variational"])
def test_a_classifier_of_images(home, tmp_path, method):
    cnn().save_pretrained(tmp_path / "plain")
    given = tmp_path / "plain" if method == "variational" else home / "cnn"  # a plain network, and that of a teacher
    fit(home, tmp_path / "teacher", method, str(given), "images")
    teacher = Teacher.from_pretrained(tmp_path / "teacher")
    assert teacher.record["network"] == given.name
    if method == "laplace":
        assert teacher.record["prior precision chosen by"] == "validation NLL" and teacher.record["examples"] == 96
        before = Teacher.from_pretrained(home / "cnn").network.state_dict()
        assert all(torch.equal(value, before[name]) for name, value in teacher.network.state_dict().items())
    assert classification_metrics(*probabilities(tmp_path / "teacher", home / "images"))["accuracy"] > 0.6


def test_laplace_is_fitted_on_the_training_split_as_it_is(home, tmp_path):
    fit(home, tmp_path / "teacher", "laplace", "cnn", "images", prior_precision=4)
    teacher, rows = Teacher.from_pretrained(tmp_path / "teacher"), datasets.load_from_disk(home / "images")
    reader = preprocessor_for(teacher.network, rows["train"])
    expected = LaplaceTeacher.fit(teacher.network, reader.batches(rows["train"]), prior_precision=4.0)
    assert teacher.fingerprint() == expected.fingerprint()


def test_classes_that_both_sides_name_are_compared(home, tmp_path, capsys):
    rows = datasets.load_from_disk(home / "images")
    for names in (["a", "b", "c"], ["left", "b", "c"]):
        feature = datasets.ClassLabel(names=names)
        named = datasets.DatasetDict({name: each.cast_column("label", feature) for name, each in rows.items()})
        named.save_to_disk(tmp_path / names[0])
        said = status(capsys, home, tmp_path / "o", "laplace", "cnn", tmp_path / names[0])
        assert (
            f"knows 3 classes (left, middle, right), and the column label has 3 classes ({', '.join(names)})" in said
        )


def test_mc_dropout_from_scratch(home, tmp_path):
    options = {"drop_rate": 0.4, "max_steps": 3, "learning_rate": 1e-3}
    fit(home, tmp_path / "teacher", "mc_dropout", "resnet20_cifar", "images", **options)
    teacher = Teacher.from_pretrained(tmp_path / "teacher")
    assert teacher.network.timm_model.drop_rate == 0.4 and teacher.record["steps"] == 3
    (tmp_path / "t.csv").write_text("a,label\n" + "".join(f"{row % 2},{row % 2}\n" for row in range(40)))
    fit(home, tmp_path / "features", "mc_dropout", "mlp-8", tmp_path / "t.csv", **options | {"max_steps": 1})
    assert Teacher.from_pretrained(tmp_path / "features").network.body[2].p == 0.4


def test_an_ensemble_of_one_architecture(home, tmp_path):
    fit(home, tmp_path / "teacher", "ensemble", "cnn6_small", "images", members=2)
    teacher = Teacher.from_pretrained(tmp_path / "teacher")
    first, second = (member.network.state_dict() for member in teacher.members)
    assert not any(torch.equal(first[name], second[name]) for name in first if name.endswith("weight"))
    alone = Teacher.from_pretrained(home / "cnn").network.state_dict()
    assert all(torch.equal(value, alone[name]) for name, value in first.items())  # the first has the seed itself
    assert classification_metrics(*probabilities(tmp_path / "teacher", home / "images"))["accuracy"] > 0.9


def test_an_ensemble_of_swag_teachers_is_multiswag(home, tmp_path):
    options = {"max_steps": 12, "snapshots": 3, "draws": 4, "rank": 2, "num_samples": 4}
    for seed in (0, 1):
        fit(home, tmp_path / f"swag{seed}", "swag", "cnn6_small", "images", seed=seed, **options)
    given = f"{tmp_path / 'swag0'} {tmp_path / 'swag1'}"
    fit(home, tmp_path / "many", "ensemble", given, "images", num_samples=4)
    many = Teacher.from_pretrained(tmp_path / "many")
    assert [member.method for member in many.members] == ["swag", "swag"] and many.num_draws(4) == 2
    probs, _ = probabilities(tmp_path / "many", home / "images", num_samples=4)
    each = [probabilities(tmp_path / f"swag{seed}", home / "images", num_samples=4)[0] for seed in (0, 1)]
    torch.testing.assert_close(probs, sum(each) / 2)


def test_dropout_of_filters(home, tmp_path):
    options = {"drop_rate": 0.2, "filter_wise": 1, "masks": 2, "max_steps": 3}
    fit(home, tmp_path / "teacher", "mc_dropout", "cnn6_small", "images", **options)
    teacher = Teacher.from_pretrained(tmp_path / "teacher")
    assert teacher.filter_rate == 0.2 and teacher.record["steps"] == 3


def test_an_ensemble_of_trained_networks(home, tmp_path):
    fit(home, tmp_path / "teacher", "ensemble", "bert0 bert1", "texts")
    probs, _ = probabilities(tmp_path / "teacher", home / "texts")
    each = [probabilities(home / name, home / "texts")[0] for name in ("bert0", "bert1")]
    torch.testing.assert_close(probs, sum(each) / 2)
    assert Teacher.from_pretrained(tmp_path / "teacher").record["network"] == "bert0, bert1"


def test_members_must_read_and_number_alike(home, tmp_path, capsys):
    bert(["when", "where", "who"]).save_pretrained(tmp_path / "turned")
    tokenizer().save_pretrained(tmp_path / "turned")
    said = status(capsys, home, tmp_path / "o", "ensemble", f"bert0 {tmp_path / 'turned'}", "texts")
    assert "has the classes of" in said and "in another order" in said
    cnn().save_pretrained(tmp_path / "cnn")
    said = status(capsys, home, tmp_path / "o", "ensemble", f"cnn {tmp_path / 'cnn'}", "images")
    assert "reads images in another way" in said


@pytest.mark.parametrize(
    ("method", "options"),
    [("ensemble", {"members": 2}), ("variational", {}), ("ivon", {})],
)
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(home, tmp_path, monkeypatch, capsys, method, options):
    fit(home, tmp_path / "whole", method, "cnn6_small", "images", augment=1, **options)
    logged = []

    def interrupt(self, logs, start_time=None):
        logged.append(logs)
        if len(logged) == (7 if method == "ensemble" else 3):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(DistillationTrainer, "log", interrupt)
        fit(home, tmp_path / "broken", method, "cnn6_small", "images", augment=1, **options)
    assert stop.value.code == 130 and "the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "broken").exists() and (tmp_path / "broken.training" / "0").is_dir()

    said = status(capsys, home, tmp_path / "broken", method, "cnn6_small", "images", **options)
    assert "holds a training with augment True, and this one has False" in said
    fit(home, tmp_path / "broken", method, "cnn6_small", "images", augment=1, **options)
    whole, broken = (Teacher.from_pretrained(tmp_path / name) for name in ("whole", "broken"))
    assert broken.fingerprint() == whole.fingerprint()
    assert not (tmp_path / "broken.training").exists()


def test_validation_examples_are_held_out_where_there_is_no_split(home, tmp_path, capsys):
    rows = datasets.load_from_disk(home / "images")
    datasets.DatasetDict(train=rows["train"]).save_to_disk(tmp_path / "data")
    fit(home, tmp_path / "teacher", "deterministic", "cnn", tmp_path / "data", validation_size=20)
    assert "20 examples of the split train are used for validation" in capsys.readouterr().err
    assert Teacher.from_pretrained(tmp_path / "teacher").record["validation examples"] == 20
    fit(home, tmp_path / "other", "deterministic", "cnn", "images", validation_split="test")
    assert Teacher.from_pretrained(tmp_path / "other").record["validation examples"] == 60


def test_a_new_kind_has_its_method_and_options(monkeypatch):
    monkeypatch.setattr("hf_bkd.teachers.specification.SPECIFICATIONS", known := dict(SPECIFICATIONS))
    monkeypatch.setattr(command, "SPECIFICATIONS", known)

    @dataclass(frozen=True)
    class Divided(TeacherSpec):
        kind, method = "divided", "deterministic"
        by: float = option(2.0, "what logits are divided by", command_line=4.0)

        def fit(self, context):
            return DeterministicTeacher(context.trained().network, temperature=self.by)

    assert known["divided"] is Divided
    given = ["--method", "divided", "--model", "bert", "--dataset", "d", "--output_dir", "o"]
    assert command.parse_fit(given, "fit")[0].spec == Divided(4.0)
    assert command.parse_fit([*given, "--by", "3"], "fit")[0].spec == Divided(3.0)


def test_arguments_from_a_file(home, tmp_path):
    file = tmp_path / "fit.yaml"
    file.write_text(f"method: laplace\nmodel: {home / 'cnn'}\nprior_precision: 3.0\nlink: bridge\n")
    run(
        "teacher",
        "fit",
        "--config",
        file,
        dataset=home / "images",
        output_dir=tmp_path / "o",
        link="probit",
        use_cpu=1,
    )
    settings = json.loads((tmp_path / "o" / "teacher.json").read_text())["settings"]
    assert (settings["prior_precision"], settings["link"]) == (3.0, "probit")


@pytest.mark.parametrize(
    ("method", "model", "data", "options", "words"),
    [
        ("bayes", "cnn", "images", {}, "method is 'bayes'; it must be one of deterministic, ensemble"),
        ("laplace", "cnn", "images", {"link": "logit"}, "link is 'logit'; it must be one of mc, probit, bridge"),
        ("laplace", "cnn", "images", {"structure": "eye"}, "structure is 'eye'"),
        ("laplace", "cnn", "images", {"prior_precision": "small"}, "prior_precision is 'small'; it must be a number"),
        ("laplace", "cnn", "images", {"prior_precision": -1}, "prior_precision is '-1'"),
        (
            "variational",
            "cnn",
            "images",
            {"posterior": "all"},
            "posterior is 'all'; it must be one of head, full",
        ),
        ("variational", "cnn", "images", {"rank": -1}, "rank must be a whole number of at least 0"),
        ("ensemble", "cnn6_small", "images", {"members": 0}, "members must be a whole number of at least 1"),
        ("mc_dropout", "resnet20_cifar", "images", {"drop_rate": 1}, "drop_rate must be between 0 and 1"),
        ("mc_dropout", "cnn6_small", "images", {}, "cnn6_small can't be built with in_chans"),
        ("laplace", "cnn", "images", {"rank": 2}, "--rank is no option of a laplace teacher: omit it"),
        ("mc_dropout", "cnn", "images", {"drop_rate": 0.2}, "--drop_rate is of a new architecture, and --model is"),
        ("ensemble", "bert0 bert1", "texts", {"members": 2}, "--members is of an ensemble of one new architecture"),
        ("mc_dropout", "cnn", "images", {}, "this network has no dropout"),
        ("laplace", "cnn", "images", {"kd_lambda": 0.9}, "kd_lambda is 0.9: omit it"),
        ("laplace", "cnn", "images", {"learning_rate": "fast"}, "invalid float value: 'fast'"),
        ("laplace", "cnn", "images", {"lamda": 1}, "unrecognized arguments: --lamda 1"),
        ("laplace", "cnn bert0", "images", {}, "a laplace teacher is of one network, and --model names 2"),
        ("ensemble", "cnn", "images", {}, "an ensemble of one network is that network"),
        ("ensemble", "cnn cnn6_small", "images", {}, "names architectures and trained networks"),
        ("laplace", "resnet21_cifar", "images", {}, "there is no folder resnet21_cifar.*resnet20_cifar"),
        ("laplace", "/nowhere/net", "images", {}, "there is no folder /nowhere/net"),
        ("laplace", "cnn", "/nowhere/data", {}, "there is no folder /nowhere/data"),
        ("laplace", "cnn", "texts", {}, "no column of images, only text"),
        ("laplace", "bert0", "images", {}, "no column of texts, only image"),
        ("laplace", "cnn", "images", {"train_split": "training"}, "no split 'training', only train, validation, test"),
        ("laplace", "cnn", "images", {"validation_split": "dev"}, "no split 'dev'"),
        ("laplace", "cnn", "images", {"label_column": "kind"}, "no column 'kind', only image, label"),
        ("laplace", "cnn", "images", {"input_column": "label"}, "no column of images, only label"),
        ("variational", "bert0", "texts", {"augment": 1}, "--augment is for images"),
        ("laplace", "cnn", "images", {"validation_size": 0}, "validation_size must be a whole number of at least 1"),
        ("deterministic", "cnn6_small", "texts", {}, "no column of images"),
        ("variational", "cnn6_small", "images", {"num_train_epochs": 0}, "num_train_epochs must be above 0"),
    ],
)
def test_mistakes_end_in_a_sentence(home, tmp_path, capsys, method, model, data, options, words):
    said = status(capsys, home, tmp_path / "new", method, model, data, **options)
    assert re.search(words, said), said
    assert not (tmp_path / "new").exists() and not (tmp_path / "new.training").exists()


def test_networks_and_data_that_do_not_fit(home, tmp_path, capsys):
    def refused(model, data="texts", method="laplace"):
        return status(capsys, home, tmp_path / "new", method, str(model), str(data))

    bert(["yes", "no"]).save_pretrained(tmp_path / "two")
    tokenizer().save_pretrained(tmp_path / "two")
    assert "knows 2 classes (yes, no), and the column label has 3 classes (who, where, when)" in refused(
        tmp_path / "two"
    )

    bert().save_pretrained(tmp_path / "mute")
    assert "mute holds no tokenizer (tokenizer.json): put the files" in refused(tmp_path / "mute")

    bert().bert.save_pretrained(tmp_path / "body")
    assert "body holds no tokenizer (tokenizer.json): put the files" in refused(tmp_path / "body")

    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    assert "broken holds no weights in safetensors" in refused(tmp_path / "broken")

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    with pytest.raises(SystemExit):
        fit(home, tmp_path / "mine", "laplace", "bert0", "texts")
    assert "is there already" in capsys.readouterr().err and (tmp_path / "mine" / "file").read_text() == "mine"

    fit(home, tmp_path / "ensemble", "ensemble", "bert0 bert1", "texts")
    capsys.readouterr()
    assert "is an ensemble: pass one of its members" in refused(tmp_path / "ensemble")

    rows = texts(30, 0).to_dict() | {"label": [-1] * 30}
    rows = datasets.Dataset.from_dict(rows, features=texts(3, 0).features)
    datasets.DatasetDict(train=texts(30, 0), validation=rows).save_to_disk(tmp_path / "unlabeled")
    assert "30 of the 30 examples of the split 'validation' have no label" in refused("bert0", tmp_path / "unlabeled")
