"""`hf-bkd` on a saved teacher, a saved student and a saved dataset."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hf_bkd import DeterministicTeacher, EnsembleTeacher, ImagePreprocessor, create_classifier
from hf_bkd.cli import main
from hf_bkd.metrics import classification_metrics
from hf_bkd.soft_labels import read


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
    assert "40 examples labelled by a deterministic teacher" in capsys.readouterr().out
    labels = read(datasets.load_from_disk(tmp_path / "o"))
    torch.testing.assert_close(labels.probs, expected_probs(home, 2.0)[0], rtol=2**-10, atol=1e-6)
    assert labels.provenance["temperature"] == 2.0


@pytest.mark.parametrize(("model", "temperature"), [("network", 1.0), ("teacher", 2.0), ("ensemble", 1.0)])
def test_evaluate_prints_the_metrics(home, capsys, model, temperature):
    main(["evaluate", str(home / model), "--dataset", str(home / "data"), "--split", "train"])
    said = capsys.readouterr().out
    for name, value in classification_metrics(*expected_probs(home, temperature)).items():
        assert f"{name} {value:.4f}" in said


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
        (["report", "/nowhere"], "cannot read /nowhere/results.json: No such file"),
        (
            ["label", "--teacher", "TEACHER", "--dataset", "DATA", "--output_dir", "NEW", "--num_samples", "0"],
            "num_samples must be at least 1",
        ),
    ],
)
def test_mistakes_end_in_a_sentence(home, tmp_path, capsys, arguments, words):
    places = {"DATA": home / "data", "NETWORK": home / "network", "TEACHER": home / "teacher", "NEW": tmp_path / "new"}
    assert status(*[places.get(argument, argument) for argument in arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and words in said and "\n" not in said
    assert not (tmp_path / "new").exists()


def test_report_is_written_anew(tmp_path, capsys):
    (tmp_path / "results.json").write_text('{"recipe": "r", "dataset": "d", "environment": {}, "arms": []}')
    main(["report", str(tmp_path)])
    assert (tmp_path / "report.md").is_file() and "report: " in capsys.readouterr().out
