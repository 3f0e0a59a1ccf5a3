"""Each message that the page of troubleshooting quotes is one that a reader can get."""

import re
from collections.abc import Callable

import datasets
import pytest
import torch
from PIL import Image
from torch import nn

from hf_bkd import BatchedDataset, DeterministicTeacher, ImagePreprocessor, LaplaceTeacher, MultiTeacher, UserError
from hf_bkd.data.loading import load_splits
from hf_bkd.soft_labels import attach
from hf_bkd.soft_labels.reading import stored_labels
from tests.soft_labels.label_helpers import (
    PREPROCESS,
    RECORD,
    VIEWS,
    Teacher,
    image_teacher,
    images,
    quiet,
    some_probs,
    text_inputs,
    texts,
)

from .pages import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
SEEN = re.compile(r"^\| (?P<seen>.*?) \|", re.MULTILINE)
QUOTES = [quote for row in SEEN.finditer(PAGE) for quote in re.findall("`([^`]+)`", row["seen"]) if " " in quote]
BATCH = (torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3)


class Doubled(nn.Module):
    """Puts out something else than its linear layer."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return 2 * self.head(x)


def labeled(**how) -> datasets.Dataset:
    return quiet(texts(), Teacher(), preprocessor=text_inputs, **how)


def pictures(*made: Image.Image) -> datasets.Dataset:
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.Value("int64")})
    return datasets.Dataset.from_dict({"picture": list(made), "label": [0] * len(made)}, features=features)


def of_views() -> datasets.Dataset:
    return quiet(images(), image_teacher(), preprocessor=PREPROCESS, views=VIEWS)


def of_several() -> MultiTeacher:
    return MultiTeacher({name: DeterministicTeacher(nn.Linear(3, 4)) for name in "ab"})


CASES: dict[str, Callable] = {
    "the columns ... are not a network's inputs as they are": lambda: quiet(texts().select_columns("text"), Teacher()),
    "this model's config names no mean and std": lambda: ImagePreprocessor.for_model(nn.Linear(2, 2)),
    "the images differ in size or mode": lambda: BatchedDataset.from_images(
        pictures(Image.new("RGB", (2, 2)), Image.new("RGB", (3, 2))), PREPROCESS
    ),
    "images of mode ... can't be read as 8-bit channels": lambda: quiet(
        pictures(Image.new("P", (2, 2))), image_teacher(), preprocessor=PREPROCESS
    ),
    "batches must be (inputs, labels) pairs or dicts with a 'labels' entry": lambda: LaplaceTeacher.fit(
        nn.Linear(4, 3), [{"x": BATCH[0], "label": BATCH[1]}], prior_precision=1.0
    ),
    "... has no linear layer ... that could be its head": lambda: LaplaceTeacher.fit(
        nn.Sequential(nn.BatchNorm1d(4)), [BATCH], prior_precision=1.0
    ),
    "the logits of ... are not what its linear layer ... puts out": lambda: LaplaceTeacher.fit(
        Doubled(), [BATCH], prior_precision=1.0
    ),
    "pass validation batches to choose the prior precision on": lambda: LaplaceTeacher.fit(nn.Linear(4, 3), [BATCH]),
    "the training set has no teacher_probs column": lambda: stored_labels(texts(), None, 4),
    "... has no teacher_provenance": lambda: stored_labels(
        attach(texts(), some_probs(10, 4), RECORD).remove_columns("teacher_provenance"), None, 4
    ),
    "the soft labels came with a column example_id and it is gone": lambda: stored_labels(
        labeled().remove_columns("example_id"), None, 4
    ),
    "made for other examples": lambda: stored_labels(
        labeled().remove_columns("text").add_column("text", texts(prefix="other")["text"][:]), None, 4
    ),
    "... classes and the model has ...": lambda: stored_labels(labeled(), None, 7),
    "... was made for augmented views of each image": lambda: stored_labels(of_views(), None, 4),
    "... is stored as ..., which loses the small probabilities": lambda: stored_labels(
        labeled(storage="top_k", top_k=2), 4.0, 4
    ),
    "several teachers name their labels themselves": lambda: quiet(texts(), of_several(), name="mine"),
    "the Hub could not deliver ...": lambda: load_splits("nobody/has-this"),
}


def test_every_quoted_message_is_produced_here():
    assert sorted(QUOTES) == sorted(CASES)


@pytest.mark.parametrize("quote", CASES)
def test_the_message_is_what_is_said(quote, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    pattern = ".*".join(re.escape(part.strip()) for part in quote.split("..."))
    with pytest.raises(UserError) as error:
        CASES[quote]()
    assert re.search(pattern, str(error.value)), str(error.value)
