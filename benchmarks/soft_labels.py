"""The cost of soft labels: to make them beside the teacher's own, to read them beside a training step, and in bytes.

python benchmarks/soft_labels.py
"""

from collections.abc import Callable, Iterator

import datasets
import numpy as np
import torch
from harness import Bench, Claim, claim_of, main
from PIL import Image
from subjects import NUM_CLASSES, classifier, forward, images, labels
from torch import Tensor, nn

from hf_bkd import CropAndFlip, DeterministicTeacher, ImagePreprocessor, Views, add_soft_labels, create_classifier
from hf_bkd.data.columns import PROBS
from hf_bkd.soft_labels import SoftLabels, only_soft_labels
from hf_bkd.soft_labels.layout import Layout
from hf_bkd.soft_labels.reading import bytes_per_example
from hf_bkd.soft_labels.storage import encode

STUDENT = "resnet18_cifar"
VIEWS, TOP = 4, 10
PREPROCESS = ImagePreprocessor((0.5,) * 3, (0.25,) * 3)


def claims(bench: Bench) -> Iterator[Claim]:
    yield from labeling(bench)
    yield from reading(bench)
    yield size()


def labeling(bench: Bench) -> Iterator[Claim]:
    """Measure labeling of tensors in memory, and of PNG images in views."""
    examples, batch = (50_000, 512) if bench.on_gpu else (256, 64)
    network = with_config(STUDENT).to(bench.device)
    teacher, inputs = DeterministicTeacher(network), images(examples, bench.device)
    rows = datasets.Dataset.from_dict({"row": range(examples)})
    options = {"batch_size": batch, "progress": False}

    def bare() -> None:
        for start in range(0, examples, batch):
            forward(network, inputs[start : start + batch])

    yield bench.speedup(
        f"add_soft_labels / the bare forward loop over the same tensors ({STUDENT}, batch {batch}): examples a second",
        lambda: add_soft_labels(rows, teacher, preprocessor=lambda rows: _at(inputs, rows["row"]), **options),
        bare,
        bar=0.90,
    )
    pictures, views = png_images(examples), Views(CropAndFlip(), num_views=1)
    yield bench.speedup(
        f"the same of PNG files, decoded, identified and augmented ({STUDENT}, batch {batch})",
        lambda: add_soft_labels(pictures, teacher, preprocessor=PREPROCESS, views=views, **options),
        bare,
        bar=None,
    )


def reading(bench: Bench) -> Iterator[Claim]:
    """Measure reading a batch's labels, from memory and from a `datasets.Dataset`, against a training step."""
    batch, examples = 512 if bench.on_gpu else 32, 5000
    step = training_step(bench, batch)
    probs = torch.randn(examples, VIEWS, NUM_CLASSES).mul(3).softmax(dim=-1).numpy()
    chosen = torch.randint(examples, (batch,), generator=torch.Generator().manual_seed(0))
    for storage in ("float16", "top_k"):
        parts = {name: torch.from_numpy(part) for name, part in encode(probs, storage, TOP).items()}
        stored = SoftLabels(Layout(PROBS, VIEWS, NUM_CLASSES, None), parts).to(bench.device)
        rows = chosen.to(bench.device)
        yield bench.slowdown(
            f"reading and decoding a batch of {storage} labels in memory / a training step ({STUDENT}, batch {batch}, "
            f"{NUM_CLASSES} classes)",
            lambda stored=stored, rows=rows: stored.at(rows, 1),
            step,
            bar=0.02,
        )
    labeled = only_soft_labels(small_labels(storage="top_k"))
    layout = Layout.of(labeled.features)
    numbers = (chosen % len(labeled)).tolist()
    yield bench.slowdown(
        f"the same of top_k labels in a datasets.Dataset, row by row as its collator gets them (batch {batch})",
        lambda: layout.of_rows(labeled[numbers][PROBS]),
        step,
        bar=0.02,
    )


def size() -> Claim:
    """Bytes of probabilities a view, in Arrow."""
    views = Views(CropAndFlip(), num_views=VIEWS)
    taken = bytes_per_example(small_labels(storage="top_k", top_k=TOP, views=views)) / VIEWS
    text = f"bytes of a view's probabilities, top {TOP} and tail of {NUM_CLASSES} classes"
    return claim_of(text, [(taken, 1.0)] * 3, 32, unit="bytes")


def small_labels(**options) -> datasets.Dataset:
    teacher = DeterministicTeacher(with_config("cnn6_small"))
    return add_soft_labels(png_images(256), teacher, preprocessor=PREPROCESS, progress=False, **options)


def with_config(architecture: str) -> nn.Module:
    """Make a network as the library does, one of transformers that reads ``pixel_values``."""
    settings = {"in_chans": 3, "image_size": 32, "mean": PREPROCESS.mean, "std": PREPROCESS.std}
    return create_classifier(architecture, NUM_CLASSES, **settings).eval()


def png_images(number: int) -> datasets.Dataset:
    pixels = np.random.default_rng(0).integers(256, size=(number, 32, 32, 3), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=NUM_CLASSES)})
    rows = {"image": [Image.fromarray(image) for image in pixels], "label": np.arange(number) % NUM_CLASSES}
    return datasets.Dataset.from_dict(rows, features=features)


def training_step(bench: Bench, batch: int) -> Callable[[], None]:
    student = classifier(STUDENT, bench.device).train()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    inputs, targets = images(batch, bench.device), labels(batch, bench.device)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(student(inputs), targets).backward()
        optimizer.step()

    return step


def _at(inputs: Tensor, rows: list[int]) -> dict[str, Tensor]:
    return {"pixel_values": inputs[rows[0] : rows[-1] + 1]}


if __name__ == "__main__":
    main(claims)
