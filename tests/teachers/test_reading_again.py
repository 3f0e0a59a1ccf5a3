"""What read a teacher's examples and can't be saved with it is asked for again, and never replaced in silence."""

import functools

import datasets
import numpy as np
import pytest
import torch
from torchvision import transforms

from hf_bkd import (
    DeterministicTeacher,
    EnsembleTeacher,
    ImagePreprocessor,
    LaplaceTeacher,
    MultiTeacher,
    Teacher,
    UserError,
)
from hf_bkd.data.preprocessors import preprocessor_for
from hf_bkd.soft_labels import add_soft_labels, read
from hf_bkd.teachers import predict_all
from tests.data.test_preprocessor_for import mixed, timm_vit


def pixels(rows, size=160, factor=1.0):
    """A user's own function."""
    images = [np.asarray(image.convert("RGB").resize((size, size)), np.float32) / 255 for image in rows["image"]]
    return {"pixel_values": torch.from_numpy(factor * np.stack(images)).permute(0, 3, 1, 2)}


class Prepared:
    def __call__(self, rows):
        return pixels(rows)


TRANSFORM = transforms.Compose([transforms.Resize((160, 160)), transforms.ToTensor(), transforms.Lambda(torch.sqrt)])
READERS = {
    "function": (pixels, r"test_reading_again\.pixels"),
    "partial": (functools.partial(pixels, factor=2.0), r"test_reading_again\.pixels"),
    "object": (Prepared(), r"test_reading_again\.Prepared object"),
    "transform": (TRANSFORM, r"Compose\( Resize\(size=\(160, 160\).*Lambda"),
    "Preprocessor": (preprocessor_for(timm_vit(), mixed(), TRANSFORM), r"Compose\( Resize\(size=\(160, 160\)"),
}


def labeled(teacher, **settings):
    return read(add_soft_labels(mixed(), teacher, storage="float32", progress=False, **settings)).probs


@pytest.mark.parametrize("case", READERS)
@pytest.mark.parametrize("make", [lambda each: each, lambda each: EnsembleTeacher([each, each])])
def test_it_is_named_and_either_advice_works(case, make, tmp_path):
    reader, name = READERS[case]
    teacher = DeterministicTeacher(timm_vit())
    teacher.processing_class = reader
    expected = labeled(make(teacher))
    make(teacher).save_pretrained(tmp_path / "first")
    Teacher.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "again")  # it is asked for all the same
    loaded = Teacher.from_pretrained(tmp_path / "again")
    for use in (lambda: labeled(loaded), lambda: predict_all(loaded, mixed())):
        with pytest.raises(UserError, match=rf"{name}.* was not saved with the teacher, .* set teacher.processing_cl"):
            use()
    assert torch.equal(labeled(loaded, processing_class=reader), expected)
    loaded.processing_class = reader
    assert torch.equal(labeled(loaded), expected)


@pytest.mark.parametrize("reader", [None, ImagePreprocessor((0.5,) * 3, (0.25,) * 3), "own"])
def test_what_is_saved_is_not_asked_for(reader, tmp_path):
    teacher = DeterministicTeacher(timm_vit())
    images = mixed().select([0, 0]) if isinstance(reader, ImagePreprocessor) else mixed()
    teacher.processing_class = preprocessor_for(teacher.network, images) if reader == "own" else reader
    expected = read(add_soft_labels(images, teacher, storage="float32", progress=False)).probs
    teacher.save_pretrained(tmp_path / "teacher")
    loaded = Teacher.from_pretrained(tmp_path / "teacher")
    assert torch.equal(read(add_soft_labels(images, loaded, storage="float32", progress=False)).probs, expected)


@pytest.mark.parametrize(
    "readers",
    [
        [functools.partial(pixels, factor=1.0), functools.partial(pixels, factor=2.0)],
        [transforms.Compose([TRANSFORM, transforms.Lambda(change)]) for change in (torch.sqrt, torch.square)],
    ],
)
def test_members_with_functions_of_their_own_are_not_taken_to_read_the_same(readers):
    members = [DeterministicTeacher(timm_vit()) for _ in readers]
    for member, reader in zip(members, readers, strict=True):
        member.processing_class = reader
    with pytest.raises(UserError, match="prepare examples differently"):
        EnsembleTeacher(members).preprocessor_for(mixed())
    assert MultiTeacher({"a": members[0], "b": members[1]}).preprocessor_for(mixed()).kind == "several"
    for member in members:
        member.processing_class = readers[0]
    assert EnsembleTeacher(members).preprocessor_for(mixed()).kind != "several"


def test_columns_of_numbers_are_read_in_the_order_that_they_were_fitted_in(tmp_path):
    values = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    rows = datasets.Dataset.from_dict({"a": values[:, 0], "b": values[:, 1], "label": [0, 1, 2] * 3})
    network = torch.nn.Linear(2, 3)
    teacher = LaplaceTeacher.fit(network, rows, prior_precision=1.0)
    expected = network(torch.from_numpy(values)).softmax(-1)
    turned = rows.select_columns(["label", "b", "a"])
    for make in (lambda each: each, lambda each: EnsembleTeacher([each])):
        make(DeterministicTeacher(teacher.network)).save_pretrained(tmp_path / "teacher")
        loaded = Teacher.from_pretrained(tmp_path / "teacher", torch.nn.Linear(2, 3))
        assert torch.allclose(predict_all(loaded, turned)[0], expected, atol=1e-6)
