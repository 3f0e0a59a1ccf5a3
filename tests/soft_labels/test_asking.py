"""What labeling may not depend on (batches, order, streams, shards), what views show, and answers refused."""

import math

import datasets
import numpy as np
import pytest
import torch

from hf_bkd import CropAndFlip, UserError, Views
from hf_bkd.data.preprocessing import decoded, look
from hf_bkd.soft_labels import only_soft_labels, read
from hf_bkd.soft_labels.identity import content_ids
from hf_bkd.utils.random import ExampleGenerator
from tests.soft_labels.label_helpers import (
    PREPROCESS,
    STORAGES,
    VIEWS,
    Answer,
    Teacher,
    column_bytes,
    image_teacher,
    images,
    quiet,
    rows,
    text_inputs,
    texts,
)

HOW = {"preprocessor": text_inputs}


class TestTheSameLabels:
    @pytest.fixture(scope="class")
    def whole(self):
        return quiet(texts(23), Teacher(), seed=3, **HOW)

    @pytest.mark.parametrize("batch_size", [1, 2, 7, 22, 23])
    def test_in_whatever_batches(self, whole, batch_size):
        assert column_bytes(quiet(texts(23), Teacher(), seed=3, batch_size=batch_size, **HOW)) == column_bytes(whole)

    @pytest.mark.parametrize("shard_rows", [1, 5, 23])
    def test_in_whatever_shards(self, whole, shard_rows):
        assert column_bytes(quiet(texts(23), Teacher(), seed=3, shard_rows=shard_rows, **HOW)) == column_bytes(whole)

    def test_in_whatever_order(self, whole):
        shuffled = quiet(texts(23).shuffle(seed=2), Teacher(), seed=3, batch_size=4, **HOW)
        assert shuffled["number"][:] != whole["number"][:]
        assert column_bytes(shuffled.sort("number")) == column_bytes(whole)

    def test_of_some_of_the_rows(self, whole):
        some = quiet(texts(23).select([20, 3, 4]), Teacher(), seed=3, **HOW)
        assert torch.equal(read(some).probs, read(whole).probs[[20, 3, 4]])

    @pytest.mark.parametrize("storage", STORAGES)
    def test_in_a_folder_and_in_memory(self, tmp_path, storage):
        how = HOW | {"storage": storage, "top_k": 2, "shard_rows": 5}
        expected = column_bytes(quiet(texts(23), Teacher(), **how))
        for _ in range(2):  # made, and found there
            assert column_bytes(quiet(texts(23), Teacher(), folder=tmp_path, **how)) == expected

    def test_but_others_of_another_seed(self, whole):
        other = read(quiet(texts(23), Teacher(), seed=4, **HOW)).probs
        assert not torch.isclose(other, read(whole).probs).all(dim=1).any()


class TestStreams:
    @pytest.mark.parametrize("shard_rows", [4, 23, 100])
    def test_give_the_label_set_of_the_dataset(self, shard_rows):
        whole = quiet(texts(23), Teacher(), batch_size=3, **HOW)
        found = quiet(texts(23).to_iterable_dataset(), Teacher(), batch_size=3, shard_rows=shard_rows, **HOW)
        assert isinstance(found, datasets.Dataset)
        assert column_bytes(found) == column_bytes(only_soft_labels(whole))
        assert found.column_names == only_soft_labels(whole).column_names

    def test_of_images_in_views_do_so_too(self, tmp_path):
        images(11).to_parquet(tmp_path / "images.parquet")
        how = {"preprocessor": PREPROCESS, "views": VIEWS, "shard_rows": 4, "storage": "uint8"}
        found = []
        for streaming in (True, False):
            loaded = datasets.load_dataset(
                "parquet", data_files=str(tmp_path / "images.parquet"), streaming=streaming, cache_dir=tmp_path
            )["train"]
            found.append(only_soft_labels(quiet(loaded, image_teacher(), **how)))
        assert column_bytes(found[0]) == column_bytes(found[1])
        assert read(found[0]).record.dataset.image_size == [3, 2, 2]

    def test_that_do_not_say_what_their_columns_are_are_refused(self):
        stream = texts().to_iterable_dataset().map(lambda row: row)
        assert stream.features is None
        with pytest.raises(UserError, match=r"doesn't say what its columns are, .*: pass dataset.cast\(features\)"):
            quiet(stream, Teacher(), **HOW)
        assert column_bytes(quiet(stream.cast(texts().features), Teacher(), **HOW)) == column_bytes(
            only_soft_labels(quiet(texts(), Teacher(), **HOW))
        )

    def test_of_tensors_are_inputs_as_they_are(self):
        stream = rows(9).select_columns("x").to_iterable_dataset().with_format("torch")
        found = quiet(stream, Teacher(), shard_rows=4)
        assert found["example_id"][:] == content_ids(rows(9)["x"][:]).tolist()
        torch.testing.assert_close(read(found).probs, read(quiet(rows(9).select_columns("x"), Teacher())).probs)

    def test_cannot_be_divided_into_folds(self):
        with pytest.raises(UserError, match="streamed dataset can't be divided into folds: load it without streaming"):
            quiet(texts().to_iterable_dataset(), folds=2, fit=lambda rest, fold: Teacher(), **HOW)

    def test_that_hold_nothing_are_refused(self):
        empty = texts().to_iterable_dataset().filter(lambda row: False)
        with pytest.raises(UserError, match="dataset to label is empty"):
            quiet(empty, Teacher(), **HOW)


class TestViews:
    @pytest.mark.parametrize("batch_size", [4, 512])
    def test_are_what_look_shows(self, batch_size):
        """The teacher's answer for each view, its draws those of the view."""
        dataset, views = images(10, side=6), Views(CropAndFlip(padding=2), num_views=3, seed=5)
        teacher = Teacher(num_features=108, input_name="pixel_values")
        found = read(quiet(dataset, teacher, preprocessor=PREPROCESS, views=views, seed=8, batch_size=batch_size))
        ids = torch.from_numpy(content_ids(dataset["picture"][:]).copy())
        for view in range(3):
            seen = look(decoded(dataset["picture"][:]), ids, views, view, None)
            inputs = {"pixel_values": PREPROCESS.normalize(seen)}
            expected = teacher.predict(inputs, 3, ExampleGenerator(ids, 8, view))
            assert torch.equal(found.probs[:, view], expected.mean)
            assert torch.equal(found.variance[:, view], expected.variance)
        assert (found.probs[:, 0] - found.probs[:, 1]).abs().max() > 0.01
        assert found.record.views == views.to_dict()
        assert Views.from_dict(found.record.views) == views

    def test_belong_to_the_images_wherever_they_stand(self):
        how = {"preprocessor": PREPROCESS, "views": VIEWS, "batch_size": 4}
        whole = quiet(images(10), image_teacher(), **how)
        order = np.random.default_rng(0).permutation(10)
        shuffled = quiet(images(10).select(order), image_teacher(), **how)
        assert torch.equal(read(shuffled).probs, read(whole).probs[order])

    def test_of_no_images_are_refused(self):
        with pytest.raises(UserError, match="views are made of images: pass a dataset that has some and"):
            quiet(texts(), Teacher(), views=VIEWS, **HOW)
        with pytest.raises(UserError, match="views are made of images"):
            quiet(images(), image_teacher(), views=VIEWS, preprocessor=lambda rows: PREPROCESS(rows))

    def test_without_a_number_are_refused(self):
        with pytest.raises(UserError, match=r"need a number: pass Views\(..., num_views=V\)"):
            quiet(images(), image_teacher(), views=Views(CropAndFlip(padding=1)), preprocessor=PREPROCESS)


class TestVariance:
    @pytest.mark.parametrize("storage", STORAGES)
    @pytest.mark.parametrize("kept", ["auto", "full", "sum", "none"])
    def test_is_kept_as_told(self, storage, kept):
        found = read(quiet(texts(), Teacher(), storage=storage, variance=kept, **HOW)).variance
        exact = read(quiet(texts(), Teacher(), **HOW)).variance
        kept = ("full" if storage.startswith("float") else "sum") if kept == "auto" else kept
        if kept == "none":
            assert found is None
        else:
            expected = exact if kept == "full" else exact.sum(dim=-1)
            coarse = kept == "full" and storage != "float32"
            torch.testing.assert_close(found, expected, rtol=2**-11 if coarse else 1e-6, atol=2**-25)

    def test_otherwise_called_is_refused(self):
        with pytest.raises(UserError, match="variance is 'some'; it must be one of auto, full, sum, none"):
            quiet(texts(), Teacher(), variance="some", **HOW)


class TestPrecision:
    def test_of_the_passes_is_that_asked_for_and_recorded(self):
        class Reduced(Teacher):
            def logits(self, x):
                seen.append((x @ self.weight).dtype)
                return super().logits(x)

        seen = []
        found = quiet(texts(2), Reduced(), mixed_precision="bf16", **HOW)
        assert seen == [torch.bfloat16]
        assert read(found).record.mixed_precision == "bf16"
        assert read(quiet(texts(2), Reduced(), **HOW)).record.mixed_precision is None
        assert seen == [torch.bfloat16, torch.float32]

    def test_that_is_unknown_is_refused(self):
        with pytest.raises(UserError, match="mixed_precision is 'int8'; it must be one of None, bf16, fp16"):
            quiet(texts(2), Teacher(), mixed_precision="int8", **HOW)


class Says(Teacher):
    """Answers something else from the fifth example on."""

    def __init__(self, change, asked=5, **how):
        super().__init__(**how)
        self.change, self.asked, self.count = change, asked, 0

    def predict(self, inputs, num_samples, generator):
        answer = super().predict(inputs, num_samples, generator)
        self.count += len(answer.mean)
        return answer if self.count <= self.asked else Answer(self.change(answer.mean), answer.variance)


ANSWERS = {
    "nan": (lambda p: p.clone().fill_(torch.nan), "holds a value that is not a finite number .*and label again"),
    "one nan": (lambda p: p.index_fill(1, torch.tensor([2]), torch.nan), "row . of .* not a finite number"),
    "infinite": (lambda p: p / 0, "not a finite number"),
    "logits": (lambda p: p.log(), "holds a negative probability .*not logits or counts"),
    "negative": (lambda p: p - p.amin(dim=1, keepdim=True) - 0.1, "holds a negative probability"),
    "counts": (lambda p: p * 10, r"does not sum to one \(sum 10"),
    "nothing": (lambda p: p * 0, "does not sum to one"),
    "too many classes": (
        lambda p: torch.cat([p, 0 * p], dim=1),
        r"teacher answered with probabilities \[5, 8\], and for 5 examples of 4 classes they would be \[5, 4\]",
    ),
    "too few classes": (lambda p: p[:, :2] / p[:, :2].sum(1, keepdim=True), r"answered with probabilities \[5, 2\]"),
    "too few examples": (lambda p: p[1:], r"answered with probabilities \[4, 4\], and for 5 examples"),
    "all draws": (lambda p: p.expand(3, *p.shape), r"answered with probabilities \[3, 5, 4\]"),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_an_answer_that_is_no_distribution_is_refused_and_nothing_is_lost(tmp_path, what):
    change, message = ANSWERS[what]
    how = HOW | {"batch_size": 5, "shard_rows": 5, "folder": tmp_path}
    with pytest.raises(UserError, match=message):
        quiet(texts(15), Says(change), **how)
    assert len(list(tmp_path.glob("*.arrow"))) == 1  # what was good is kept
    mended = Teacher()
    expected = column_bytes(quiet(texts(15), Teacher(), **HOW))
    assert column_bytes(quiet(texts(15), mended, **how)) == expected
    assert len(mended.calls) == 2


def test_a_teacher_whose_metrics_diverged_can_be_told_of(tmp_path):
    """JSON has no infinity."""
    teacher = Teacher()
    teacher.describe = lambda: Teacher().describe() | {"record": {"validation": {"accuracy": 0.25, "nll": math.inf}}}
    labeled = quiet(texts(6), teacher, folder=tmp_path / "shards", **HOW)
    assert read(labeled).record.held_out == {"accuracy": 0.25, "nll": None}


@pytest.mark.parametrize("wrong", [math.nan, -0.5])
def test_a_variance_that_is_none_is_refused(wrong):
    teacher = Teacher()
    teacher.predict = lambda *args: Teacher().predict(*args)._replace(variance=torch.full((6, 4), wrong))
    with pytest.raises(UserError, match="a variance is negative or no finite number"):
        quiet(texts(6), teacher, **HOW)
