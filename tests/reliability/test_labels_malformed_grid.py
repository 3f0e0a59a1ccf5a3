"""Malformed inputs of labeling, by kind: each fault in each place where it can be, with the exact sentence.

Beside the single ones of ``test_labels_malformed``.
"""

import io
from itertools import product

import numpy as np
import pytest
from PIL import Image

from hf_bkd import BatchedDataset, CropAndFlip, UserError, Views, import_soft_labels, join_soft_labels
from hf_bkd.soft_labels import attach
from tests.reliability.test_labels_malformed import (
    SENTENCES,
    bomb,
    imported,
    label_images,
    label_texts,
    png,
    undecoded,
)
from tests.soft_labels.label_helpers import PREPROCESS, RECORD, image_teacher, images, quiet, some_probs, texts


def said(act) -> str:
    with pytest.raises(UserError) as error:
        act()
    return str(error.value)


# Numbers

NUMBERS = ("num_samples", "batch_size", "shard_rows", "top_k")
NO_COUNTS = (0, -1, 2.5, True, "3", None, float("nan"), float("inf"), [1])
COUNTS = [each for each in product(NUMBERS, NO_COUNTS) if each != ("top_k", None)]  # which is the default
CHOICES = {
    "storage": "float16, float32, uint8, top_k, sampled",
    "variance": "auto, full, sum, none",
    "mixed_precision": "None, bf16, fp16",
}
NO_CHOICES = list(product(CHOICES, ("", "FLOAT16", 16, True)))


@pytest.mark.parametrize(("name", "value"), COUNTS)
def test_numbers_of_rows_and_draws(name, value):
    words = f"{value:g}" if isinstance(value, float) else repr(value)
    assert said(lambda: label_texts(**{name: value})) == (
        f"{name} must be a whole number of at least 1, and it is {words}"
    )


@pytest.mark.parametrize(("name", "value"), NO_CHOICES)
def test_words_for_a_way_of_storing(name, value):
    words = f"{name} is {value!r}; it must be one of {CHOICES[name]}"
    assert said(lambda: label_texts(**{name: value})) == words


# Images


def tiff() -> bytes:
    """Half of a file of another format."""
    buffer = io.BytesIO()
    Image.effect_noise((32, 32), 9).save(buffer, "tiff")
    return buffer.getvalue()[:300]


LEFT_OUT = "mend it, or leave the row out with dataset.select([i for i in range(len(dataset)) if i != 5])"
DAMAGES = {
    "none": (None, SENTENCES["no image"]),
    "no bytes": (b"", SENTENCES["empty image"].replace("row 6", "row 5").replace("!= 6", "!= 5")),
    "text": (b"GIF8", SENTENCES["corrupt image"].replace("row 6", "row 5").replace("!= 6", "!= 5")),
    "cut off": (
        png(Image.effect_noise((64, 64), 9).convert("RGB"))[:900],
        SENTENCES["truncated image"].replace("row 6", "row 5").replace("!= 6", "!= 5"),
    ),
    "bomb": (bomb(), SENTENCES["decompression bomb"].replace("row 7", "row 5").replace("!= 7", "!= 5")),
}
READERS = {
    "labeled": label_images,
    "labeled into a folder": lambda rows: label_images(rows, folder=READERS["folder"]),
    "in views": lambda rows: label_images(rows, views=Views(CropAndFlip(1), num_views=2)),
    "in folds": lambda rows: quiet(rows, folds=2, fit=lambda *_: image_teacher(), preprocessor=PREPROCESS),
    "as a stream": lambda rows: label_images(rows.to_iterable_dataset()),
    "in memory": lambda rows: BatchedDataset.from_images(rows, PREPROCESS),
    "on demand": lambda rows: BatchedDataset.from_images(rows, PREPROCESS, resident=False),
}
DAMAGED = list(product(DAMAGES, READERS))


@pytest.mark.parametrize(("damage", "reader"), DAMAGED)
def test_an_image_that_cannot_be_read(damage, reader, tmp_path, monkeypatch):
    monkeypatch.setitem(READERS, "folder", tmp_path)
    content, sentence = DAMAGES[damage]
    assert said(lambda: READERS[reader](undecoded(5, content))) == sentence


# Columns of the user's own with the names of soft labels

OWN = ("example_id", "teacher_probs", "teacher_variance", "teacher_provenance", "teacher_probs__a")
WRITERS = {
    "labeled": label_texts,
    "imported": lambda rows: import_soft_labels(rows, np.ones((10, 2)), rows["text"][:], "text"),
    "attached": lambda rows: attach(rows, some_probs(10, 4), RECORD),
    "joined": lambda rows: join_soft_labels(rows, label_texts()),
    "images": lambda rows: label_images(images(10).add_column(rows.column_names[-1], list(range(10)))),
}
NAMED = list(product(OWN, WRITERS))


@pytest.mark.parametrize(("name", "writer"), NAMED)
def test_a_column_of_the_users_own(name, writer):
    assert said(lambda: WRITERS[writer](texts().add_column(name, list(range(10))))) == (
        f"the dataset has a column {name} of its own, a name that soft labels need: pass "
        f"dataset.rename_column('{name}', 'own_{name}')"
    )


# Arrays that are imported

SHAPES = {
    (): "[]",
    (2,): "[2]",
    (3, 2): "[3, 2]",
    (0, 2): "[0, 2]",
    (1, 3, 2): "[1, 3, 2]",
    (1, 1, 2, 2): "[1, 1, 2, 2]",
}
KINDS = {"S3": "|S3", "M8[s]": "datetime64[s]", "m8[s]": "timedelta64[s]", "O": "object", "c8": "complex64"}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_array_of_another_shape(shape):
    assert said(lambda: imported(np.ones(shape))) == (
        f"values must be [M, C] or [S, M, C] with an id for each of M; they are {SHAPES[shape]}, and there are 2 ids"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_array_of_something_else(kind):
    assert said(lambda: imported(np.zeros((2, 2)).astype(kind))) == (
        f"values must be an array of numbers, and they are {KINDS[kind]}: pass a float array [M, C]"
    )


def test_there_are_150_malformed_inputs_with_those_of_the_other_file():
    grids = (COUNTS, NO_CHOICES, DAMAGED, NAMED, SHAPES, KINDS)
    assert sum(map(len, grids)) + len(SENTENCES) >= 150
