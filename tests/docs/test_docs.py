"""The code on the pages of docs/ runs, with a small network and a few images in the place of the reader's."""

import dataclasses
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

import hf_bkd
from hf_bkd.soft_labels import attach, read
from hf_bkd.soft_labels.storage import STORAGES

DOCS = Path(__file__).parents[2] / "docs"
CLASSES = 3


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)


def block(page: str, containing: str) -> str:
    (found,) = [code for code in blocks(page) if containing in code]
    return found


@pytest.fixture
def world(tmp_path, monkeypatch):
    """What the pages take for granted: all public names, a network, a dataset, arguments and a batch."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 255, (12, 8, 8), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=CLASSES)})
    images = datasets.Dataset.from_dict(
        {"image": [Image.fromarray(image) for image in pixels], "label": [i % CLASSES for i in range(12)]}, features
    )
    network = hf_bkd.create_classifier("cnn6_small", CLASSES, in_chans=1, image_size=8, mean=[0.5], std=[0.25])
    args = hf_bkd.DistillationTrainingArguments(
        "out", kd_lambda=0.0, max_steps=2, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no"
    )
    names = {name: getattr(hf_bkd, name) for name in hf_bkd.__all__}
    resident = hf_bkd.BatchedDataset.from_images(images, hf_bkd.ImagePreprocessor.for_model(network))
    return names | {"network": network, "args": args, "train": resident, "images": images}


@pytest.mark.parametrize("how", ["make_variational(network", "IVON("])
def test_posteriors_are_trained_as_the_page_says_and_answer(world, how):
    exec(block("teachers.md", how), world)
    batch, _ = hf_bkd.models.calling.split(next(world["train"].batches()))
    world |= {"inputs": batch, "generator": torch.Generator().manual_seed(0)}
    exec(block("teachers.md", "teacher.predict("), world)
    assert world["prediction"].variance.shape == (12, CLASSES)
    assert (world["prediction"].variance > 0).all()


def test_the_worked_example_labels_is_saved_and_loaded(world):
    world["train"] = world["images"]
    exec(block("teachers.md", "class ShiftTeacher"), world)
    probs = np.array(world["labeled"]["teacher_probs"])
    assert probs.shape == (12, CLASSES)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=2e-3)
    loaded, batch = world["teacher"], {"pixel_values": torch.randn(4, 1, 8, 8)}
    assert type(loaded).__name__ == "ShiftTeacher" and loaded.max_shift == 2
    saved = world["ShiftTeacher"](world["network"], max_shift=2)
    draws = [t.predict(batch, 5, torch.Generator().manual_seed(1)) for t in (saved, loaded)]
    torch.testing.assert_close(draws[0].mean, draws[1].mean, rtol=0, atol=0)
    assert (draws[0].variance > 0).any()


def test_a_student_is_sampled_and_reported_as_the_page_says(world):
    batch, labels = hf_bkd.models.calling.split(next(world["train"].batches()))
    world |= {"inputs": batch, "labels": labels, "generator": torch.Generator().manual_seed(0)}
    world["teacher_probs"] = torch.randn(12, CLASSES).softmax(dim=-1)
    exec(block("teachers.md", "LangevinTeacher.fit"), world)
    assert world["prediction"].samples.shape == (100, 12, CLASSES)
    assert {"posterior_mean", "map", "credible_sets"} < world["report"].keys()


@pytest.fixture
def labels(world):
    """Images, a teacher of them, and a way to label three views of each."""
    teacher = hf_bkd.DeterministicTeacher(world["network"])
    preprocess = hf_bkd.ImagePreprocessor.for_model(world["network"])
    views = hf_bkd.Views(hf_bkd.CropAndFlip(padding=2), number=3, seed=5)

    def label(**how):
        return hf_bkd.add_soft_labels(
            world["images"], teacher, preprocess=preprocess, views=views, progress=False, **how
        )

    return label


@pytest.mark.parametrize("storage", STORAGES)
def test_the_plain_reader_reads_every_storage(labels, storage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labeled = labels(storage=storage, top_k=2)
    hf_bkd.only_soft_labels(labeled).to_parquet("labels.parquet")
    code = block("soft_labels.md", "pyarrow.parquet")
    assert "hf_bkd" not in code
    exec(code, found := {})
    probs = read(labeled).probs
    np.testing.assert_allclose(found["probs"], probs / probs.sum(dim=-1, keepdim=True), rtol=0, atol=1e-6)
    assert found["probs"].shape == (12, 3, CLASSES)


def test_the_plain_views_are_the_pictures_that_were_labeled(world, labels):
    exec(block("soft_labels.md", "def crop_and_flip"), found := {"np": np})
    labeled = labels()
    preprocess = hf_bkd.ImagePreprocessor.for_model(world["network"])
    dataset = hf_bkd.BatchedDataset.from_images(labeled, preprocess)
    for view in range(3):
        dataset.set_epoch(view)
        shown = dataset[list(range(12))]["pixel_values"]
        for row in range(12):
            image = np.asarray(labeled[row]["image"])[:, :, None]
            picture = found["crop_and_flip"](image, labeled[row]["example_id"], 5, view, padding=2)
            expected = preprocess.normalize(torch.from_numpy(picture.copy()).permute(2, 0, 1)[None])[0]
            torch.testing.assert_close(shown[row], expected, rtol=0, atol=1e-6)


def test_the_pages_own_example_trains(world, labels, monkeypatch):
    pushed = {}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: pushed[name])
    world |= {
        "teacher": hf_bkd.DeterministicTeacher(world["network"]),
        "student": world["network"],
        "preprocessor": hf_bkd.ImagePreprocessor.for_model(world["network"]),
        "push_soft_labels": lambda labeled, name, labels_only: pushed.update({name: hf_bkd.only_soft_labels(labeled)}),
        "datasets": datasets,
    }
    exec(block("soft_labels.md", "number=16"), world)
    world["args"].kd_lambda = 1.0
    exec(block("soft_labels.md", "join_soft_labels(images"), world)
    assert world["train"].views == hf_bkd.Views(hf_bkd.CropAndFlip(), number=16)


def test_the_theory_page_computes_what_it_says(world):
    world["torch"] = torch
    for containing in ("GaussianMixture", "score_gram", "conjugate_posterior"):
        exec(block("theory.md", containing), world)
    torch.testing.assert_close(world["student"](world["x"]).softmax(dim=-1), world["p"])
    assert 0 < world["floor"] == pytest.approx(0.02 * world["noise"] / 4)
    assert world["cost"].rank > 0 and world["cost"].variance == pytest.approx(0, abs=1e-9)
    assert sum(world["cost"]) == pytest.approx(world["cost"].total)
    theory = world["theory"]
    world |= {"responses": torch.randn(5, 3), "other": theory.average_responses(torch.randn(4, 3))}
    exec(block("theory.md", "inverse_variance_combine"), world)
    assert (world["both"].variance < world["teacher"].variance).all()


def test_the_theory_pages_training_is_adaptive_and_looked_into(world, monkeypatch):
    preprocess = hf_bkd.ImagePreprocessor.for_model(world["network"])
    probs = torch.randn(12, CLASSES).softmax(dim=-1).numpy()
    teacher = {"method": "variational", "num_classes": CLASSES}
    record = {"format": 1, "temperature": 1.0, "tempering": "post_average", "num_samples": 10, "teacher": teacher}
    labeled = attach(world["images"], probs, record | {"dataset": {}}, variance=0.01 * probs)
    world |= {"labeled": hf_bkd.BatchedDataset.from_images(labeled, preprocess), "student": world["network"]}
    exec(block("theory.md", "lambda_schedule"), world)
    world["args"] = dataclasses.replace(world["args"], max_steps=2, use_cpu=True, report_to="none", save_strategy="no")
    exec(block("theory.md", "DiagnosticsCallback"), world)
    logged = world["trainer"].state.log_history
    assert {"gradient_noise_one_hot", "gradient_noise_stored", "mc_variance", "lambda_hat"} < set(logged[0])


def test_the_pages_several_teachers_label_and_import(world):
    world |= {
        name: hf_bkd.DeterministicTeacher(world["network"], temperature=t) for name, t in (("wide", 1), ("deep", 2))
    }
    world["preprocessor"] = hf_bkd.ImagePreprocessor.for_model(world["network"])
    rows = {"accession": ["a", "b"], "label": [0, 1]}
    features = {"accession": datasets.Value("string"), "label": datasets.ClassLabel(num_classes=CLASSES)}
    world["proteins"] = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    world |= {"logits": np.eye(CLASSES)[[1, 0]], "accessions": ["b", "a"]}
    exec(block("soft_labels.md", "MultiTeacher"), world)
    assert {"teacher_probs__wide", "teacher_probs__deep"} < set(world["labeled"].column_names)
    assert world["args"].combine == "mixture"
    exec(block("soft_labels.md", "import_soft_labels"), world)
    assert np.argmax(world["labeled"]["teacher_probs__esm"], axis=1).tolist() == [0, 1]


def test_a_study_of_ones_own_runs_as_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["mine", "--seeds", "0", "--num_train_epochs", "2", "--report_to", "none"])
    numbers = np.arange(36)
    kinds = {"features": datasets.List(datasets.Value("float32"), length=2), "id": datasets.Value("string")}
    kinds |= {"label": datasets.ClassLabel(num_classes=CLASSES)}
    rows = {"features": np.stack([numbers % 3, numbers / 36], axis=1).tolist(), "id": list(map(str, numbers))}
    rows = datasets.Dataset.from_dict(rows | {"label": (numbers % 3).tolist()}, datasets.Features(kinds))
    world = {"train": rows, "validation": rows, "test": rows, "ids": rows["id"][:]}
    world |= {"first_logits": np.eye(3)[numbers % 3], "second_logits": 3 * np.eye(3)[numbers % 3]}
    exec(block("studies.md", "from hf_bkd.study import"), world)
    page = (tmp_path / "runs" / "mine" / "report.md").read_text()
    assert "| average, entropy weights |" in page and "| vs one-hot (nats, [95 % CI]) |" in page
    assert "## What the students do not know" in page
