"""`hf-bkd label` with what it offers beyond one label an image: views, storages, streams, labels alone, going on."""

import json

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hf_bkd import (
    BatchedDataset,
    CropAndFlip,
    DeterministicTeacher,
    ImagePreprocessor,
    UserError,
    Views,
    add_soft_labels,
    create_classifier,
    join_soft_labels,
)
from hf_bkd.cli.label import main as label
from hf_bkd.data.augmentations import RandomResizedCrop
from hf_bkd.metrics import classification_metrics
from hf_bkd.soft_labels import read

PREPROCESS = ImagePreprocessor((0.5,), (0.3,))


def rows(number, seed):
    pixels = np.random.default_rng(seed).integers(256, size=(number, 8, 8), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    content = {"image": [Image.fromarray(p) for p in pixels], "label": np.arange(number) % 3}
    return datasets.Dataset.from_dict(content, features=features)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A teacher, its dataset as written by save_to_disk, and as parquet files."""
    home = tmp_path_factory.mktemp("home")
    torch.manual_seed(0)
    network = create_classifier("cnn6_small", 3, in_chans=1, image_size=8, mean=(0.5,), std=(0.3,))
    DeterministicTeacher(network, temperature=2.0).save_pretrained(home / "teacher")
    splits = datasets.DatasetDict(train=rows(40, 0), validation=rows(20, 1))
    splits.save_to_disk(home / "data")
    (home / "files").mkdir()
    for name, split in splits.items():
        split.to_parquet(home / "files" / f"{name}.parquet")
    return home


def run(home, output, *options, dataset="data", teacher=None):
    places = {"teacher": teacher or home / "teacher", "dataset": home / dataset, "output_dir": output}
    label([*(word for name, path in places.items() for word in (f"--{name}", str(path))), *options])
    return datasets.load_from_disk(output)


def teacher(home):
    return DeterministicTeacher.from_pretrained(home / "teacher")


@pytest.mark.parametrize(
    ("options", "views"),
    [
        (["--seed", "5"], Views(CropAndFlip(), number=3, seed=5)),
        (["--augmentation", "resized_crop"], Views(RandomResizedCrop(8), number=3)),
    ],
)
def test_views_and_storage(home, tmp_path, options, views):
    labeled = run(home, tmp_path / "o", "--views", "3", "--storage", "top_k", "--top_k", "2", *options)
    expected = add_soft_labels(
        rows(40, 0), teacher(home), preprocess=PREPROCESS, views=views, storage="top_k", top_k=2, progress=False
    )
    assert labeled["teacher_probs"][:] == expected["teacher_probs"][:]
    assert BatchedDataset.from_images(labeled, PREPROCESS).views == views


def test_another_temperature_and_a_few_at_a_time(home, tmp_path):
    labeled = run(home, tmp_path / "o", "--temperature", "4", "--batch_size", "7", "--storage", "float32")
    sharp, soft = teacher(home), teacher(home)
    soft.temperature = 4.0
    for by, same in ((sharp, False), (soft, True)):
        expected = read(add_soft_labels(rows(40, 0), by, preprocess=PREPROCESS, storage="float32", progress=False))
        assert torch.allclose(read(labeled).probs, expected.probs, atol=1e-6) == same
    assert read(labeled).record.temperature == 4


def test_labels_alone_are_joined_to_anybodys_images(home, tmp_path):
    alone = run(home, tmp_path / "alone", "--labels_only")
    assert set(alone.column_names) == {"teacher_probs", "teacher_provenance", "example_id"}
    whole = run(home, tmp_path / "whole")
    joined = join_soft_labels(whole.select_columns(["image", "label"]).shuffle(seed=1), alone.shuffle(seed=2))
    assert joined["teacher_probs"][:] == whole.shuffle(seed=1)["teacher_probs"][:]


def test_a_stream_gives_the_same_labels(home, tmp_path):
    streamed = run(home, tmp_path / "streamed", "--streaming", dataset="files")
    whole = run(home, tmp_path / "whole", "--labels_only", dataset="files")
    assert streamed["teacher_probs"][:] == whole["teacher_probs"][:]
    assert streamed["example_id"][:] == whole["example_id"][:]
    assert read(streamed).record.dataset.fingerprint == read(whole).record.dataset.fingerprint


def test_the_teacher_is_measured_on_the_validation_split(home, tmp_path):
    record = read(run(home, tmp_path / "o")).record
    held_out = rows(20, 1)
    probs = teacher(home).predict(PREPROCESS(held_out[:])).mean
    assert record.held_out == pytest.approx(classification_metrics(probs, torch.tensor(held_out["label"][:])))
    assert record.teacher.source == {"folder": "teacher"}
    assert str(home) not in str(record.json)


def test_an_interrupted_run_goes_on(home, tmp_path, monkeypatch):
    """Whatever was finished is kept beside the output folder, and gone when that is there."""
    asked = []
    predict = DeterministicTeacher.predict

    def failing(self, *args, **kwargs):
        asked.append(1)
        if len(asked) == 6:
            raise KeyboardInterrupt
        return predict(self, *args, **kwargs)

    monkeypatch.setattr(DeterministicTeacher, "predict", failing)
    monkeypatch.setattr("hf_bkd.cli.label.SHARD_ROWS", 8)
    with pytest.raises(KeyboardInterrupt):
        run(home, tmp_path / "o", "--batch_size", "4")
    assert not (tmp_path / "o").exists() and list((tmp_path / "o.shards").glob("*.arrow"))
    labeled = run(home, tmp_path / "o", "--batch_size", "4")
    assert labeled["teacher_probs"][:] == run(home, tmp_path / "other", "--batch_size", "4")["teacher_probs"][:]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o", "other"]
    assert len(asked) < 1 + 6 + 10 + 12


def test_photographs_of_all_sizes_and_modes_are_cropped_to_one(home, tmp_path):
    rng = np.random.default_rng(0)
    shapes = [(12, 9), (20, 31, 3), (8, 8, 4), (15, 15)]
    photographs = [Image.fromarray(rng.integers(256, size=shape, dtype=np.uint8)) for shape in shapes]
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": photographs}, features=features).save_to_disk(tmp_path / "photographs")
    options = ["--views", "2", "--augmentation", "resized_crop", "--storage", "float32"]
    labeled = run(tmp_path, tmp_path / "o", *options, dataset="photographs", teacher=home / "teacher")
    views, gray = Views(RandomResizedCrop(8), number=2), [image.convert("L") for image in photographs]
    for view in range(2):
        seen = [
            views(torch.from_numpy(np.array(image))[None, None], torch.tensor([number]), view)
            for image, number in zip(gray, labeled["example_id"], strict=True)
        ]
        expected = teacher(home).predict({"pixel_values": PREPROCESS.normalize(torch.cat(seen))}).mean
        torch.testing.assert_close(read(labeled).probs[:, view], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [[], ["--views", "2"]])
def test_photographs_of_16_bits_are_not_clipped(home, tmp_path, options):
    deep = [Image.fromarray((np.arange(64).reshape(8, 8) * 1000).astype("uint16"))] * 2
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": deep}, features=features).save_to_disk(tmp_path / "deep")
    with pytest.raises(UserError, match="images of mode I;16 have more than 8 bits a channel, and would be clipped"):
        run(tmp_path, tmp_path / "o", *options, dataset="deep", teacher=home / "teacher")


@pytest.mark.filterwarnings("ignore:.*left out")
def test_rows_that_cannot_be_read_are_left_out(home, tmp_path, capsys):
    whole = rows(6, 3).cast_column("image", datasets.Image(decode=False))
    files = whole["image"][:]
    files[0], files[4] = {"bytes": b"no image", "path": None}, None
    broken = whole.remove_columns("image").add_column("image", files, feature=whole.features["image"])
    broken.cast_column("image", datasets.Image()).save_to_disk(tmp_path / "broken")
    places = {"dataset": "broken", "teacher": home / "teacher"}
    with pytest.raises(UserError, match="row 0 of column image holds an image that can't be read"):
        run(tmp_path, tmp_path / "o", **places)
    labeled = run(tmp_path, tmp_path / "o", "--on_error", "skip", **places)
    assert "4 examples labeled and 2 left out that can't be read (left_out.json says why)" in capsys.readouterr().out
    assert [each["row"] for each in json.loads((tmp_path / "o" / "left_out.json").read_text())] == [0, 4]
    assert read(labeled).record.dataset.left_out == [0, 4]
    expected = add_soft_labels(rows(6, 3).select([1, 2, 3, 5]), teacher(home), preprocessor=PREPROCESS)
    assert labeled["teacher_probs"][:] == expected["teacher_probs"][:]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--views", "0"], "num_views must be a whole number of at least 1"),
        (["--temperature", "0"], "--temperature must be above 0"),
        (["--held_out", "dev"], "no split 'dev'"),
        (["--split", "dev"], "no split 'dev'"),
        (["--storage", "top_k", "--top_k", "0"], "top_k must be a whole number of at least 1"),
    ],
)
def test_mistakes_are_told(home, tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        run(home, tmp_path / "o", *options)
    assert not (tmp_path / "o").exists()
