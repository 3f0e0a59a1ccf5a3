"""A name that the Hub doesn't deliver, a folder that holds no network, and a processor of another network."""

from types import SimpleNamespace

import datasets
import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, Wav2Vec2FeatureExtractor

from hf_bkd import (
    DeterministicTeacher,
    DistillationTrainer,
    DistillationTrainingArguments,
    LaplaceTeacher,
    UserError,
    add_soft_labels,
)
from tests.cli.fitting_helpers import CLASSES, bert, images, labeled_table, run, splits, texts, tokenizer

QUICK = {"use_cpu": 1, "disable_tqdm": 1, "num_train_epochs": 1}
PLACES = {
    "student": lambda name, data: (["distill"], {"student": name, "dataset": data / "labeled", **QUICK}),
    "teacher": lambda name, data: (
        ["distill"],
        {"student": "mlp-4", "teacher": name, "dataset": data / "labeled", **QUICK},
    ),
    "label": lambda name, data: (["label"], {"teacher": name, "dataset": data / "texts"}),
    "model": lambda name, data: (
        ["teacher", "fit"],
        {"method": "laplace", "model": name, "dataset": data / "texts", **QUICK},
    ),
    "evaluate": lambda name, data: (["evaluate", name], {"dataset": data / "texts"}),
}


def answer(status: int) -> SimpleNamespace:
    return SimpleNamespace(status_code=status, headers={}, request=None)


ERRORS = {
    "gated": (GatedRepoError("", response=answer(403)), "is gated: accept its conditions on the Hub, log in"),
    "missing": (RepositoryNotFoundError("", response=answer(404)), "check the name, or log in if it is private"),
    "token": (HfHubHTTPError("", response=answer(401)), "could not deliver it (it refuses the token: hf auth login)"),
    "trouble": (HfHubHTTPError("", response=answer(503)), "could not deliver it (its answer was 503)"),
    "unreachable": (LocalEntryNotFoundError(""), "could not deliver it (it can't be reached, and the cache does not"),
    "offline": (OfflineModeIsEnabled(""), "could not deliver it (HF_HUB_OFFLINE is set, and the cache does not"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    labeled_table().save_to_disk(home / "labeled")
    splits(texts).save_to_disk(home / "texts")
    bert().save_pretrained(home / "bert")
    tokenizer().save_pretrained(home / "bert")
    torch.save({}, home / "weights.pt")
    for name in ("empty", "adapters", "pickled"):
        (home / name).mkdir()
    (home / "adapters" / "adapter_config.json").write_text("{}")
    bert().config.save_pretrained(home / "pickled")
    torch.save({}, home / "pickled" / "pytorch_model.bin")
    return home


def refused(home, tmp_path, capsys, place: str, name) -> str:
    words, options = PLACES[place](name, home)
    output = {} if words[0] == "evaluate" else {"output_dir": tmp_path / "out"}
    with pytest.raises(SystemExit) as stop:
        run(*words, **options, **output)
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and lines[0].startswith("error: "), lines
    assert not list(tmp_path.iterdir())
    return lines[0]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("error", "words"), ERRORS.values(), ids=ERRORS)
def test_a_network_that_the_hub_does_not_deliver(home, tmp_path, capsys, monkeypatch, place, error, words):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("hf_bkd.hub.transfer.snapshot_download", fail)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    said = refused(home, tmp_path, capsys, place, "somebody/network")
    assert words in said and "somebody/network" in said


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty", "holds no "),
        ("labeled", "holds no "),
        ("weights.pt", "weights.pt is a file: pass the folder that a network was saved in"),
        ("adapters", "holds PEFT's adapters without their network"),
        ("pickled", "pickled ones (pytorch_model.bin) could run code"),
    ],
)
def test_a_folder_without_a_network(home, tmp_path, capsys, place, name, words):
    assert words in refused(home, tmp_path, capsys, place, str(home / name))


@pytest.mark.parametrize("place", PLACES)
def test_a_typo_names_what_was_meant(home, tmp_path, capsys, place):
    assert "architectures with such a name: resnet18" in refused(home, tmp_path, capsys, place, "Resnt18")


def test_a_layer_has_a_unit(home, tmp_path, capsys):
    said = refused(home, tmp_path, capsys, "student", "mlp-0")
    assert said.endswith("architectures with such a name: mlp-64")


@pytest.mark.parametrize("place", ["label", "model", "evaluate", "student"])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub."),
            "is a gated dataset",
        ),
        (datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub."), "doesn't exist"),
        (ConnectionError("Couldn't reach 'a/b' on the Hub"), "Couldn't reach 'a/b'"),
    ],
)
def test_a_dataset_that_the_hub_does_not_deliver(home, tmp_path, capsys, monkeypatch, place, error, words):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    network = "mlp-4" if place == "student" else str(home / "bert")
    command, options = PLACES[place](network, home)
    output = {} if place == "evaluate" else {"output_dir": tmp_path / "out"}
    with pytest.raises(SystemExit):
        run(*command, **options | {"dataset": "a/b"} | output)
    said = capsys.readouterr().err.strip()
    assert "\n" not in said and words in said and "log in (hf auth login) if it is private or gated" in said


def test_a_network_in_the_place_of_a_dataset(home, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run("label", teacher=home / "bert", dataset=home / "bert", output_dir=tmp_path / "out")
    assert "bert holds a network, and a dataset is needed" in capsys.readouterr().err


def vit(size: int = 16, channels: int = 3) -> ViTForImageClassification:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = ViTConfig(
        **sizes, image_size=size, patch_size=8, num_channels=channels, id2label=dict(enumerate(CLASSES))
    )
    return ViTForImageClassification(config).eval()


def processor(size: int) -> ViTImageProcessor:
    return ViTImageProcessor(size={"height": size, "width": size})


MISMATCHES = {
    "tokenizer": (vit, tokenizer, "reads images, and the "),
    "feature extractor": (vit, Wav2Vec2FeatureExtractor, "reads images, and the "),
    "another size": (vit, lambda: processor(32), r"Input image size \(32\*32\) doesn't match model \(16\*16\)"),
    "another number of channels": (lambda: vit(channels=1), lambda: processor(16), "reads images of mode L, and the "),
}


@pytest.mark.parametrize(("network", "processing", "words"), MISMATCHES.values(), ids=MISMATCHES)
def test_a_processor_of_another_network_is_refused_by_every_entry(tmp_path, network, processing, words):
    rows = images(36, 0, size=16, mode="RGB")
    network, processing = network(), processing()
    with pytest.raises(UserError, match=words):
        LaplaceTeacher.fit(network, rows, rows, processing_class=processing)
    with pytest.raises(UserError, match=words):
        add_soft_labels(rows, DeterministicTeacher(network), processing_class=processing)
    args = DistillationTrainingArguments(str(tmp_path), kd_lambda=0, max_steps=1, use_cpu=True, report_to="none")
    with pytest.raises(UserError, match=words):
        DistillationTrainer(network, args, train_dataset=rows, processing_class=processing).train()


@pytest.mark.parametrize("method", ["laplace", "mc_dropout", "variational", "ivon", "deterministic"])
def test_a_processor_of_another_size_in_the_folder(tmp_path, capsys, method):
    vit().save_pretrained(tmp_path / "network")
    processor(32).save_pretrained(tmp_path / "network")
    images(36, 0, size=16, mode="RGB").save_to_disk(tmp_path / "images")
    given = {"dataset": tmp_path / "images", "validation_size": 6}
    with pytest.raises(SystemExit) as stop:
        run("teacher", "fit", method=method, model=tmp_path / "network", output_dir=tmp_path / "o", **given, **QUICK)
    assert stop.value.code == 2 and "doesn't match model (16*16)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("evaluate", tmp_path / "network", dataset=tmp_path / "images", split="train")
    assert "can't take pixel_values [36, 3, 32, 32]" in capsys.readouterr().err
