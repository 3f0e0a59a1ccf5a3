"""`hf-bkd` on a saved teacher, a saved student and a saved dataset."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hf_bkd import DeterministicTeacher, EnsembleTeacher, ImagePreprocessor, MCDropoutTeacher, create_classifier
from hf_bkd.cli import main
from hf_bkd.dirichlet import dirichlet_parts
from hf_bkd.metrics import auroc, classification_metrics, entropy
from hf_bkd.models.problem_types import name_dirichlet
from hf_bkd.soft_labels import read
from hf_bkd.teachers.deterministic import best_temperature
from tests.cli.fitting_helpers import bert, texts, tokenizer


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A dataset of 40 images, a network and two teachers, saved."""
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)) for _ in range(40)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    rows = datasets.Dataset.from_dict({"image": images, "label": [i % 3 for i in range(40)]}, features=features)
    datasets.DatasetDict({"train": rows, "test": rows.select(range(10))}).save_to_disk(home / "data")
    network = create_classifier("cnn6_small", 3, in_chans=1, image_size=8, mean=(0.5,), std=(0.3,))
    network.eval().save_pretrained(home / "network")
    DeterministicTeacher(network, temperature=2.0).save_pretrained(home / "teacher")
    EnsembleTeacher([DeterministicTeacher(network)] * 2).save_pretrained(home / "ensemble")
    splits = {name: texts(number, number) for name, number in (("train", 50), ("validation", 20), ("test", 30))}
    datasets.DatasetDict(splits).save_to_disk(home / "texts")
    bert().save_pretrained(home / "bert")
    tokenizer().save_pretrained(home / "bert")
    return home


def status(*arguments) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def expected_probs(home, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    from transformers import AutoModelForImageClassification

    network = AutoModelForImageClassification.from_pretrained(home / "network").eval()
    test = datasets.load_from_disk(home / "data")["train"]
    pixels = ImagePreprocessor((0.5,), (0.3,))({"image": test["image"][:]})["pixel_values"]
    with torch.no_grad():
        return (network(pixels).logits / temperature).softmax(dim=-1), torch.tensor(test["label"][:])


def test_label_writes_a_dataset_with_the_teachers_probabilities(home, tmp_path, capsys):
    main(
        [
            "label",
            "--teacher",
            str(home / "teacher"),
            "--dataset",
            str(home / "data"),
            "--output_dir",
            str(tmp_path / "o"),
        ]
    )
    assert "40 examples labeled, teacher deterministic" in capsys.readouterr().out
    labels = read(datasets.load_from_disk(tmp_path / "o"))
    torch.testing.assert_close(labels.probs, expected_probs(home, 2.0)[0], rtol=2**-10, atol=1e-6)
    assert labels.record.temperature == 2.0


@pytest.mark.parametrize("command", [["evaluate"], ["teacher", "evaluate"]])
@pytest.mark.parametrize(("model", "temperature"), [("network", 1.0), ("teacher", 2.0), ("ensemble", 1.0)])
def test_evaluate_prints_the_metrics(home, capsys, command, model, temperature):
    main([*command, str(home / model), "--dataset", str(home / "data"), "--split", "train"])
    said = capsys.readouterr().out.splitlines()
    method = model if model == "ensemble" else "deterministic"
    probs, labels = expected_probs(home, temperature)
    total = entropy(probs.double()).mean().item()
    parts = {"total": total, "aleatoric": total, "epistemic": 0.0}  # of members that are one network
    drawn = ["entropy in nats, of which the epistemic part is what the draws disagree about:", line(parts)]
    assert [each.replace("-0.0000", "0.0000") for each in said] == [
        f"{home / model} ({method}) on 40 examples of {home / 'data'}, train:",
        line(classification_metrics(probs, labels)),
        *(drawn if model == "ensemble" else []),
    ]


def line(metrics) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def text_probs(rows, softmax: bool = True) -> torch.Tensor:
    batch = tokenizer()(rows["text"][:], padding=True, truncation=True, max_length=8, return_tensors="pt")
    with torch.no_grad():
        logits = bert()(batch["input_ids"], batch["attention_mask"]).logits.double()
    return logits.softmax(dim=-1) if softmax else logits


def test_evaluate_scales_temperature_on_validation_and_detects_examples_of_other_classes(home, tmp_path, capsys):
    rows = datasets.load_from_disk(home / "texts")
    ood = datasets.Dataset.from_dict({"id": [1, 2, 3], "text": ["w1", "nothing known here", "who where when"]})
    datasets.DatasetDict(other=ood).save_to_disk(tmp_path / "ood")
    arguments = ["evaluate", home / "bert", "--dataset", home / "texts", "--ood", tmp_path / "ood"]
    main([*map(str, arguments), "--ood_split", "other"])
    said = capsys.readouterr().out.splitlines()
    probs, held_out = text_probs(rows["test"]), text_probs(rows["validation"])
    labels = torch.tensor(rows["test"]["label"][:])
    temperature = best_temperature(held_out.log(), torch.tensor(rows["validation"]["label"][:]))
    assert said[1] == line(classification_metrics(probs, labels))
    assert said[2] == f"after temperature scaling, T = {temperature:.2f} chosen on 20 validation examples:"
    assert said[3] == line(classification_metrics((probs.log() / temperature).softmax(dim=-1), labels))
    assert said[4] == f"entropy tells 3 examples of {tmp_path / 'ood'}, other apart:"
    assert said[5] == f"auroc {auroc(entropy(probs), entropy(text_probs(ood))):.4f}"


def test_evaluate_splits_the_entropy_of_a_dirichlet_and_makes_conformal_sets(home, tmp_path, capsys):
    rows = datasets.load_from_disk(home / "texts")
    student = bert()
    name_dirichlet(student, True)
    student.save_pretrained(tmp_path / "student")
    tokenizer().save_pretrained(tmp_path / "student")
    arguments = ["evaluate", tmp_path / "student", "--dataset", home / "texts", "--ood", home / "texts"]
    main([*map(str, arguments), "--ood_split", "train", "--conformal", "0.8"])
    said = capsys.readouterr().out.splitlines()
    parts, outside = (dirichlet_parts(text_probs(rows[name], softmax=False)) for name in ("test", "train"))
    assert said[1] == line(classification_metrics(text_probs(rows["test"]), torch.tensor(rows["test"]["label"][:])))
    assert said[5] == line({name: each.mean().item() for name, each in parts._asdict().items()})
    assert said[7].endswith(f"by its epistemic part {auroc(parts.epistemic, outside.epistemic):.4f}")
    assert said[8] == "conformal sets of level 0.8, calibrated on 20 validation examples:"
    assert said[9].startswith("lac covers 0.") and ", aps covers " in said[9]


def test_conformal_sets_are_not_calibrated_on_what_was_trained_on(home, tmp_path, capsys):
    rows = datasets.load_from_disk(home / "texts")
    both = datasets.DatasetDict(train=rows["train"], validation=rows["train"].select(range(20)), test=rows["test"])
    both.save_to_disk(tmp_path / "both")
    bare = ["evaluate", home / "bert", "--dataset"]
    assert status(*bare, tmp_path / "both", "--conformal", "0.8") == 2
    assert (
        "20 of the 20 examples of the split validation are among those of the split train" in capsys.readouterr().err
    )
    assert status("evaluate", home / "network", "--dataset", home / "data", "--conformal", "0.8") == 2
    assert "has none: pass a dataset with one" in capsys.readouterr().err
    assert status(*bare, home / "texts", "--conformal", "0.99") == 2
    assert "20 examples can't calibrate sets of level 0.99: pass at least 99" in capsys.readouterr().err
    assert status(*bare, home / "texts", "--conformal", "2") == 2
    assert "--conformal must be between 0 and 1" in capsys.readouterr().err


@pytest.mark.parametrize("labeled", [True, False])
def test_label_takes_texts_with_and_without_labels(home, tmp_path, labeled):
    rows = datasets.load_from_disk(home / "texts")["train"].rename_column("text", "question")
    rows = rows.add_column("number", list(range(50)))
    datasets.DatasetDict(train=rows if labeled else rows.remove_columns("label")).save_to_disk(tmp_path / "data")
    main(
        [
            "label",
            "--teacher",
            str(home / "bert"),
            "--dataset",
            str(tmp_path / "data"),
            "--output_dir",
            str(tmp_path / "o"),
        ]
    )
    labeled_rows = datasets.load_from_disk(tmp_path / "o")
    labels = read(labeled_rows)
    assert labeled_rows["text"][:] == rows["question"][:] and ("label" in labeled_rows.column_names) == labeled
    torch.testing.assert_close(labels.probs.double(), text_probs(labeled_rows), rtol=2**-10, atol=1e-6)
    assert labels.record.preprocessing["max_length"] == 8


def test_label_numbers_classes_as_the_teacher_does(home, tmp_path):
    bert(["when", "who", "where"]).save_pretrained(tmp_path / "bert")
    MCDropoutTeacher(bert(["when", "who", "where"])).save_pretrained(tmp_path / "teacher")
    tokenizer().save_pretrained(tmp_path / "teacher")
    teacher, data = str(tmp_path / "teacher"), str(home / "texts")
    main(["label", "--teacher", teacher, "--dataset", data, "--output_dir", str(tmp_path / "o"), "--num_samples", "3"])
    labeled_rows, rows = datasets.load_from_disk(tmp_path / "o"), datasets.load_from_disk(data)["train"]
    assert labeled_rows.features["label"].names == read(labeled_rows).record.class_names == ["when", "who", "where"]
    assert labeled_rows["label"][:] == [(label + 1) % 3 for label in rows["label"]]
    assert read(labeled_rows).variance is not None


@pytest.mark.parametrize("command", ["teacher", "teacher fit", "teacher evaluate", "label"])
def test_help(capsys, command):
    assert status(*command.split(), "--help") == 0
    assert f"usage: hf-bkd {command}" in capsys.readouterr().out


def test_an_existing_folder_is_left_alone(home, tmp_path, capsys):
    (tmp_path / "mine").write_text("mine")
    assert (
        status("label", "--teacher", home / "teacher", "--dataset", home / "data", "--output_dir", tmp_path / "mine")
        == 2
    )
    assert "is there already" in capsys.readouterr().err and (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "/nowhere", "--dataset", "DATA"], "there is no folder /nowhere"),
        (["evaluate", "somebody/model", "--dataset", "DATA"], "the Hub could not deliver it"),
        (["evaluate", "NETWORK", "--dataset", "/nowhere"], "there is no folder /nowhere"),
        (["evaluate", "NETWORK", "--dataset", "DATA", "--split", "dev"], "no split 'dev', only train, test"),
        (["evaluate", "DATA", "--dataset", "DATA"], "holds no teacher"),
        (["evaluate", "NETWORK", "--dataset", "TEXTS"], "no column of images, only text"),
        (["evaluate", "TEACHER", "--dataset", "DATA", "--label_column", "kind"], "no column 'kind'"),
        (["evaluate", "NETWORK", "--dataset", "DATA", "--ood", "/nowhere"], "there is no folder /nowhere"),
        (["evaluate", "NETWORK", "--dataset", "DATA", "--ood", "TEXTS"], "no column of images"),
        (["evaluate", "NETWORK", "--dataset", "DATA", "--ood", "DATA", "--ood_split", "dev"], "no split 'dev'"),
        (
            ["evaluate", "NETWORK", "--dataset", "DATA", "--num_samples", "0"],
            "num_samples must be a whole number of at",
        ),
        (["teacher", "fit"], "pass --method, one of deterministic, ensemble"),
        (["teacher", "fit", "--method", "laplace"], "pass --model"),
        (["teacher", "fit", "--method", "laplace", "--model", "NETWORK", "--dataset", "DATA"], "pass --output_dir"),
        (["report", "/nowhere"], "cannot read /nowhere/results.json: No such file"),
        (
            ["label", "--teacher", "TEACHER", "--dataset", "DATA", "--output_dir", "NEW", "--num_samples", "0"],
            "num_samples must be a whole number of at",
        ),
    ],
)
def test_mistakes_end_in_a_sentence(home, tmp_path, capsys, arguments, words):
    places = {
        "DATA": home / "data",
        "TEXTS": home / "texts",
        "NETWORK": home / "network",
        "TEACHER": home / "teacher",
        "NEW": tmp_path / "new",
    }
    assert status(*[places.get(argument, argument) for argument in arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and words in said and "\n" not in said, said
    assert not (tmp_path / "new").exists()


def test_report_is_written_anew(tmp_path, capsys):
    (tmp_path / "results.json").write_text('{"recipe": "r", "dataset": "d", "environment": {}, "arms": []}')
    main(["report", str(tmp_path)])
    assert (tmp_path / "report.md").is_file() and "report: " in capsys.readouterr().out
