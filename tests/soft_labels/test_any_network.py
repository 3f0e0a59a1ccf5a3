"""`add_soft_labels(dataset, teacher)` and `fit(network, dataset)` for whatever is brought, without a preprocessor."""

import datasets
import numpy as np
import pytest
import timm
import torch
import transformers
from torch import nn

from hf_bkd import (
    DeterministicTeacher,
    EnsembleTeacher,
    ImagePreprocessor,
    LangevinTeacher,
    LaplaceTeacher,
    MultiTeacher,
    Teacher,
    UserError,
    Views,
    add_soft_labels,
)
from hf_bkd.data.augmentations import RandomResizedCrop
from hf_bkd.data.preprocessors import preprocessor_for
from hf_bkd.models.calling import call_network, logits_of
from hf_bkd.soft_labels import read
from hf_bkd.soft_labels.identity import Identity
from hf_bkd.teachers import predict_all
from tests.cli.fitting_helpers import WORDS, bert, texts, tokenizer
from tests.data.test_preprocessor_for import image, mixed, photographs, timm_vit, vit, wav2vec


def labeled(dataset, teacher, **settings):
    return add_soft_labels(dataset, teacher, storage="float32", progress=False, **settings)


@torch.no_grad()
def expected(network, inputs) -> np.ndarray:
    return logits_of(call_network(network, inputs)).softmax(-1).numpy()


def of_three_classes(rows: datasets.Dataset) -> datasets.Dataset:
    return rows.remove_columns("label").add_column("label", [number % 3 for number in range(len(rows))])


def numbers() -> datasets.Dataset:
    drawn = np.random.default_rng(0).normal(size=(30, 3)).astype("float32")
    return datasets.Dataset.from_dict({"id": range(30), "a": drawn[:, 0], "b": drawn[:, 1:], "label": [0, 1, 2] * 10})


def clips() -> datasets.Dataset:
    drawn = np.random.default_rng(0).normal(size=(6, 900)).tolist()
    return datasets.Dataset.from_dict({"clip": drawn, "label": [0, 1] * 3})


def brought() -> dict:
    processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16})
    pairs = datasets.Dataset.from_dict(
        {"premise": WORDS * 2, "hypothesis": ["w1 w2", "w3", "w4"] * 2, "label": [0, 1, 2] * 2}
    )
    return {
        "photographs": (timm_vit(), of_three_classes(mixed()), None),
        "image processor": (vit(num_labels=3), of_three_classes(mixed()), processor),
        "texts": (bert(), texts(9, 0), tokenizer()),
        "pairs": (bert(), pairs, tokenizer()),
        "features": (nn.Sequential(nn.Linear(3, 3)), numbers(), None),
        "one column of features": (nn.Linear(2, 3), numbers().select_columns(["b", "label"]), None),
        "sound": (wav2vec(), clips(), transformers.Wav2Vec2FeatureExtractor()),
    }


COLUMNS = {"pairs": ["hypothesis", "premise"], "features": ["a", "b"], "one column of features": ["b"]}
COLUMNS |= {"photographs": ["image"], "image processor": ["image"], "texts": ["text"], "sound": ["clip"]}


@pytest.mark.parametrize("case", COLUMNS)
def test_whatever_is_brought_is_fitted_labeled_saved_and_loaded(case, tmp_path):
    network, rows, processing_class = brought()[case]
    teacher = LaplaceTeacher.fit(network, rows, rows, processing_class=processing_class)
    assert teacher.record["examples"] == len(rows) and "accuracy" in teacher.record["validation"]
    soft = labeled(rows, teacher)
    preprocessor = preprocessor_for(network, rows, processing_class)
    inputs = preprocessor(rows[:]) if preprocessor else {"input": torch.tensor(rows["b"][:])}
    with torch.no_grad():
        answer = teacher.predict(inputs)
    np.testing.assert_allclose(soft["teacher_probs"][:], answer.mean.numpy(), atol=1e-6)
    record = read(soft).record
    assert record.dataset.json["identity"]["columns"] == COLUMNS[case]
    assert record.preprocessing == (preprocessor.to_dict() if preprocessor else None)
    assert Identity(tuple(COLUMNS[case])).of_dataset(rows).tolist() == soft["example_id"][:]
    teacher.save_pretrained(tmp_path / "teacher")
    again = Teacher.from_pretrained(tmp_path / "teacher", None if hasattr(network, "config") else network)
    if processing_class is not None:
        assert labeled(rows, again)["teacher_probs"][:] == soft["teacher_probs"][:]  # nothing has to be said twice
    probs, numbers = predict_all(teacher, rows)
    np.testing.assert_allclose(probs.numpy(), soft["teacher_probs"][:], atol=1e-6)
    assert numbers.tolist() == rows["label"][:]


def test_other_ways_to_fit_take_datasets_too():
    network, rows, _ = brought()["features"]
    batches = [{"input": preprocessor_for(network, rows)(rows[:])["input"], "labels": torch.tensor(rows["label"][:])}]
    assert (
        DeterministicTeacher.fit(network, rows).temperature == DeterministicTeacher.fit(network, batches).temperature
    )
    chains = {"steps": 40, "burn_in": 10, "thinning": 1, "chains": 2}
    for given in (rows, batches):
        sampled = LangevinTeacher.fit(network, given, given, seed=1, **chains)
        assert sampled.record["examples"] == 30


def test_labels_go_by_name_to_the_networks_classes():
    network, rows = bert(WORDS[::-1]), texts(9, 0)
    teacher = DeterministicTeacher.fit(network, rows, processing_class=tokenizer())
    _, numbers = predict_all(teacher, rows)
    assert numbers.tolist() == [2 - number for number in rows["label"]]
    named = (
        rows.cast_column("label", datasets.ClassLabel(names=WORDS))
        .map(lambda row: {"answer": WORDS[row["label"]]})
        .remove_columns("label")
        .rename_column("answer", "label")
    )
    assert predict_all(teacher, named)[1].tolist() == numbers.tolist()


def test_several_teachers_read_each_by_their_own():
    rows = of_three_classes(mixed())
    processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16})
    big, small = DeterministicTeacher(timm_vit()), DeterministicTeacher(vit(num_labels=3))
    small.processing_class = processor
    for teachers in ({"big": big, "small": small}, MultiTeacher({"big": big, "small": small})):
        soft = labeled(rows, teachers)
        assert soft["teacher_probs__big"][:] == labeled(rows, big)["teacher_probs"][:]
        assert soft["teacher_probs__small"][:] == labeled(rows, small)["teacher_probs"][:]
    with pytest.raises(UserError, match="the members of this EnsembleTeacher prepare examples differently"):
        labeled(rows, EnsembleTeacher([big, small]))
    pair = EnsembleTeacher([big, DeterministicTeacher(timm_vit())])
    assert np.shape(labeled(rows, pair)["teacher_probs"][:]) == (7, 3)


def test_an_ensembles_members_keep_what_they_read_by(tmp_path):
    ensemble = EnsembleTeacher([DeterministicTeacher(bert(seed=0)), DeterministicTeacher(bert(seed=1))])
    soft = labeled(texts(6, 0), ensemble, processing_class=tokenizer())
    ensemble.processing_class = tokenizer()
    ensemble.save_pretrained(tmp_path / "ensemble")
    again = Teacher.from_pretrained(tmp_path / "ensemble")
    assert labeled(texts(6, 0), again)["teacher_probs"][:] == soft["teacher_probs"][:]


def test_an_image_preprocessor_is_saved_as_what_transformers_reads(tmp_path):
    rows, own = (
        of_three_classes(photographs([image(16, 16, seed=seed) for seed in range(3)])),
        ImagePreprocessor((0.4,) * 3, (0.2,) * 3),
    )
    teacher = DeterministicTeacher(vit(num_labels=3))
    teacher.processing_class = own
    teacher.save_pretrained(tmp_path / "teacher")
    assert Teacher.from_pretrained(tmp_path / "teacher").processing_class == own
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path / "teacher" / "network")
    torch.testing.assert_close(
        theirs(rows["image"][:], return_tensors="pt")["pixel_values"], own(rows[:])["pixel_values"]
    )
    transformers.ViTImageProcessor().save_pretrained(tmp_path / "teacher" / "network")
    with pytest.raises(UserError, match=r"is not the file that teacher.json was written with"):
        Teacher.from_pretrained(tmp_path / "teacher")
    DeterministicTeacher(bert()).save_pretrained(tmp_path / "teacher")
    assert not (tmp_path / "teacher" / "network" / "preprocessor_config.json").exists()


def test_photographs_of_all_modes_are_seen_in_views():
    network, rows = timm_vit(img_size=32), of_three_classes(mixed(40))
    views = Views(RandomResizedCrop(32), num_views=2, seed=0)
    soft = labeled(rows, DeterministicTeacher(network), views=views)
    preprocessor = preprocessor_for(network, rows)
    ids = torch.tensor(soft["example_id"][:])
    pictures = preprocessor.pictures(rows[:])
    for view in range(2):
        shown = torch.cat([views(each[None], ids[i : i + 1], view) for i, each in enumerate(pictures)])
        answers = expected(network, preprocessor.of_pictures(shown))
        np.testing.assert_allclose(read(soft).probs[:, view].numpy(), answers, atol=1e-6)
    with pytest.raises(UserError, match="views are made of images: pass a dataset that has some"):
        labeled(texts(3, 0), DeterministicTeacher(bert()), processing_class=tokenizer(), views=views)


def test_a_misfit_is_refused_before_anything_is_labeled(tmp_path):
    wrong = transformers.ViTImageProcessor(size={"height": 24, "width": 24})
    rows, teacher = of_three_classes(mixed()), DeterministicTeacher(vit(num_labels=3))
    with pytest.raises(UserError, match="the teacher can't answer rows 0 to 1 .*compare what the preprocessor makes"):
        labeled(rows, teacher, processing_class=wrong, folder=tmp_path / "shards")
    assert not list((tmp_path / "shards").glob("*.*"))
    asked = []
    good = DeterministicTeacher(timm_vit())
    good.draw_logits = lambda inputs, *rest, own=good.draw_logits: asked.append(1) or own(inputs, *rest)
    teacher.processing_class = wrong
    with pytest.raises(UserError, match="the teacher can't answer rows 0 to 1"):
        labeled(rows, {"good": good, "bad": teacher})
    assert len(asked) == 1  # about two rows
    right = transformers.ViTImageProcessor(size={"height": 16, "width": 16})
    assert len(labeled(rows, teacher, processing_class=right, folder=tmp_path / "shards")) == 7


REFUSED = {
    "no labels": (lambda: mixed().remove_columns("label"), "has no labels column"),
    "a row without": (
        lambda: of_three_classes(mixed()).select([0]).map(lambda row: {"label": -1}),
        "row 0 of column label has no label",
    ),
    "other classes": (
        lambda: mixed().cast_column("label", datasets.ClassLabel(names=["a", "b"])),
        "the network knows 3 classes .* has 2 classes",
    ),
    "no rows": (lambda: mixed().select([]), "the dataset is empty"),
    "a stream": (lambda: mixed().to_iterable_dataset(), "load it without streaming"),
    "no images": (lambda: texts(3, 0), "no column of images"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_teacher_cannot_be_fitted_on(case):
    make, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        LaplaceTeacher.fit(timm_vit(), make(), prior_precision=1.0)


def test_arguments_that_say_the_same_twice_or_too_early():
    rows, teacher = texts(4, 0), DeterministicTeacher(bert())
    with pytest.raises(UserError, match="pass either preprocessor or processing_class"):
        labeled(rows, teacher, preprocessor=tokenizer(), processing_class=tokenizer())
    preprocessor = preprocessor_for(teacher.network, rows, tokenizer())
    assert len(labeled(rows, None, folds=2, fit=lambda rest, fold: teacher, preprocessor=preprocessor)) == 4


def test_an_unreadable_column_that_no_network_reads_does_no_harm():
    rows = texts(3, 0).add_column("picture", [{"path": None, "bytes": b"no image"}] * 3)
    rows = rows.cast_column("picture", datasets.Image())
    teacher = DeterministicTeacher(bert())
    assert len(labeled(rows, teacher, processing_class=tokenizer())) == 3
    missing = rows.remove_columns(["picture", "text"]).add_column("text", ["who", None, "when"])
    with pytest.raises(UserError, match="row 1 of column text holds no value"):
        labeled(missing, teacher, processing_class=tokenizer())


def test_a_stream_is_read_by_the_network_too():
    rows = texts(5, 0)
    teacher = DeterministicTeacher(bert())
    streamed = labeled(rows.to_iterable_dataset(), teacher, processing_class=tokenizer())
    assert streamed["teacher_probs"][:] == labeled(rows, teacher, processing_class=tokenizer())["teacher_probs"][:]
    photos = of_three_classes(mixed(40))
    teacher = DeterministicTeacher(timm_vit())
    seen = labeled(photos.to_iterable_dataset(), teacher)
    assert seen["teacher_probs"][:] == labeled(photos, teacher)["teacher_probs"][:]


def test_plain_timm_of_an_array_column_with_extras():
    pixels = np.random.default_rng(0).normal(size=(6, 3, 32, 32)).astype("f4")
    rows = datasets.Dataset.from_dict({"pixel_values": pixels.tolist(), "idx": list(range(6)), "label": [0, 1, 2] * 2})
    network = timm.create_model("resnet20_cifar", num_classes=3).eval()
    soft = labeled(rows, DeterministicTeacher(network))
    np.testing.assert_allclose(soft["teacher_probs"][:], expected(network, torch.tensor(pixels)), atol=1e-6)
    assert read(soft).record.dataset.json["identity"]["columns"] == ["pixel_values"]
