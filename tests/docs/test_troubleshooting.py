"""Each message that the page of troubleshooting quotes is one that a reader can get."""

import errno
import os
import re
from collections.abc import Callable

import datasets
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import PreTrainedTokenizerFast

from hf_bkd import (
    BatchedDataset,
    DeterministicTeacher,
    DistillationTrainer,
    DistillationTrainingArguments,
    LaplaceTeacher,
    MultiTeacher,
    UserError,
)
from hf_bkd.data.loading import check_split, load_splits
from hf_bkd.data.preprocessors import preprocessor_for
from hf_bkd.data.preprocessors.saved import NotSaved
from hf_bkd.data.sounds import Sound
from hf_bkd.models.saving import load_network, save_network
from hf_bkd.soft_labels import attach
from hf_bkd.soft_labels.reading import stored_labels
from hf_bkd.training.classes import places_among
from hf_bkd.utils.files import writing
from tests.cli.fitting_helpers import bert, tokenizer
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


def numbers(label: str, values: list) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"features": [[0.0] * 4] * len(values), label: values})


def larger_tokenizer() -> PreTrainedTokenizerFast:
    tokens = tokenizer()
    tokens.add_tokens(["another"])
    return tokens


def full_disk() -> None:
    with writing("labels"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def of_views() -> datasets.Dataset:
    return quiet(images(), image_teacher(), preprocessor=PREPROCESS, views=VIEWS)


def of_several() -> MultiTeacher:
    return MultiTeacher({name: DeterministicTeacher(nn.Linear(3, 4)) for name in "ab"})


CASES: dict[str, Callable] = {
    "nothing says how ... become the inputs of ...": lambda: preprocessor_for(bert(), texts().select_columns("text")),
    "... holds the tokens ..., and the network's tokenizer makes ... of its ...": lambda: preprocessor_for(
        bert(), datasets.Dataset.from_dict({"text": ["w1 w2"], "input_ids": [[9, 3]]}), tokenizer()
    ),
    "what makes the inputs of this ..., was not saved with the teacher": lambda: preprocessor_for(
        nn.Linear(4, 3), texts(), NotSaved("my_function")
    ),
    "nothing says which of the columns ... reads": lambda: preprocessor_for(nn.Linear(4, 3), texts()),
    "the columns of texts ..., and nothing says which the network reads": lambda: preprocessor_for(
        bert(), datasets.Dataset.from_dict({"title": ["a"], "review": ["b"]}), tokenizer()
    ),
    "... reads ..., and the dataset has no column of ...": lambda: preprocessor_for(bert(), images(), tokenizer()),
    "the tokenizer's tokens are numbered up to ..., and ... knows ...": lambda: preprocessor_for(
        bert(), texts(), larger_tokenizer()
    ),
    "images of mode ... have more than 8 bits a channel": lambda: quiet(
        pictures(Image.new("I;16", (2, 2))), image_teacher(), preprocessor=PREPROCESS
    ),
    "row ... of column ... holds no value": lambda: preprocessor_for(bert(), texts(), tokenizer())(
        {"text": ["a", None]}
    ),
    "... is no wav file of plain samples, and nothing is installed that decodes others": lambda: Sound(
        {"path": "a.flac", "bytes": b"fLaC"}
    )["array"],
    "the images differ in size or mode": lambda: BatchedDataset.from_images(
        pictures(Image.new("RGB", (2, 2)), Image.new("RGB", (3, 2))), PREPROCESS
    ),
    "... holds no dataset that can be read": lambda: load_splits("."),
    "... has no split ..., only ...": lambda: check_split(datasets.DatasetDict(train=texts()), "test", "photos"),
    "the dataset has no labels column": lambda: LaplaceTeacher.fit(
        nn.Linear(4, 3), numbers("species", [0]), prior_precision=1.0
    ),
    "the network knows ..., and the column ... has ...": lambda: LaplaceTeacher.fit(
        nn.Linear(4, 3), numbers("label", ["ape", "bee"]), prior_precision=1.0
    ),
    "... classes ..., which can't be matched by name": lambda: places_among("ab", "ac", "the dataset", "do that"),
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
    "compute_loss_func takes the place of the whole loss": lambda: DistillationTrainer(
        nn.Linear(4, 3), DistillationTrainingArguments("out", kd_lambda=0.5), compute_loss_func=max
    ),
    "... could not be written (No space left on device)": full_disk,
    "... holds the weights of a plain nn.Module": lambda: (save_network(Doubled(), "mine"), load_network("mine")),
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
