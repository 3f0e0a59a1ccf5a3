"""The code on the pages of docs/ runs, with a small network and a few images in the place of the reader's."""

import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

import hf_bkd

DOCS = Path(__file__).parent.parent / "docs"
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
    resident = hf_bkd.ResidentDataset.from_images(images, hf_bkd.ImagePreprocessor.for_model(network))
    return names | {"network": network, "args": args, "train": resident, "images": images}


@pytest.mark.parametrize("how", ["make_variational(network", "IVON("])
def test_posteriors_are_trained_as_the_page_says_and_answer(world, how):
    exec(block("teachers.md", how), world)
    batch, _ = hf_bkd.teachers.network.split(next(world["train"].batches()))
    world |= {"inputs": batch, "generator": torch.Generator().manual_seed(0)}
    exec(block("teachers.md", "teacher.predict("), world)
    assert world["prediction"].variance.shape == (12, CLASSES)
    assert (world["prediction"].variance > 0).all()


def test_the_worked_example_labels_is_saved_and_loaded(world):
    world["train"] = world["images"]
    exec(block("teachers.md", "class ShiftTeacher"), world)
    probs = np.array(world["labelled"]["teacher_probs"])
    assert probs.shape == (12, CLASSES)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=2e-3)
    loaded, batch = world["teacher"], {"pixel_values": torch.randn(4, 1, 8, 8)}
    assert type(loaded).__name__ == "ShiftTeacher" and loaded.max_shift == 2
    saved = world["ShiftTeacher"](world["network"], max_shift=2)
    draws = [t.predict(batch, 5, torch.Generator().manual_seed(1)) for t in (saved, loaded)]
    torch.testing.assert_close(draws[0].mean, draws[1].mean, rtol=0, atol=0)
    assert (draws[0].variance > 0).any()
