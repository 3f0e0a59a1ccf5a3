"""Labeling: what is stored is what the teacher says of the inputs that the dataset makes, example by example."""

import datasets
import numpy as np
import pytest
import torch

from hf_bkd import ImagePreprocessor, UserError
from hf_bkd.soft_labels import add_soft_labels, read
from hf_bkd.soft_labels.identity import content_ids
from hf_bkd.utils.random import ExampleGenerator
from tests.soft_labels.label_helpers import Teacher, image_teacher, images, quiet, rows, text_inputs, texts


@pytest.fixture
def inputs():
    return rows(10).with_format("torch", columns=["x"])


class TestWhatIsStored:
    def test_is_the_teachers_prediction(self, inputs):
        """With one generator a batch, that knows the batch's rows."""
        labeled = quiet(inputs, Teacher(), batch_size=4, seed=3)
        found, all_ids = read(labeled), labeled.with_format("torch")["example_id"][:]
        for start in (0, 4, 8):
            x = inputs[start : start + 4]["x"]
            expected = Teacher().predict({"x": x}, 3, ExampleGenerator(all_ids[start : start + 4], 3))
            assert torch.equal(found.probs[start : start + 4], expected.mean)
            assert torch.equal(found.variance[start : start + 4], expected.variance)

    def test_is_in_float16_unless_told(self, inputs):
        found = add_soft_labels(inputs, Teacher(), 3, progress=False)
        assert found.features["teacher_probs"].feature.dtype == "float16"
        assert found.features["teacher_variance"].feature.dtype == "float32"
        torch.testing.assert_close(read(found).probs, read(quiet(inputs, Teacher())).probs, rtol=2**-11, atol=2**-25)

    def test_has_no_variance_of_a_single_draw(self, inputs):
        assert "teacher_variance" not in quiet(inputs, Teacher(), 1).column_names
        again = quiet(quiet(inputs, Teacher()), Teacher(), 1)
        assert "teacher_variance" not in again.column_names

    def test_is_the_same_for_the_same_seed_only(self, inputs):
        first, second, other = (read(quiet(inputs, Teacher(), batch_size=4, seed=seed)).probs for seed in (0, 0, 1))
        assert torch.equal(first, second)
        assert not torch.isclose(first, other).all(dim=1).any()

    def test_is_the_same_for_the_same_input(self):
        """Its draws belong to what is read of it, not to where it stands."""
        same = rows(1).select([0] * 6).with_format("torch", columns=["x"])
        found = read(quiet(same, Teacher(), batch_size=2)).probs
        assert len({tuple(row) for row in found.tolist()}) == 1

    def test_is_the_same_for_examples_that_are_equal(self):
        same = texts(3).select([0, 1, 0, 0, 2, 1])
        found = read(quiet(same, Teacher(), preprocessor=text_inputs, batch_size=2)).probs
        assert torch.equal(found[[0, 0, 1]], found[[2, 3, 5]])
        assert len({tuple(row) for row in found.tolist()}) == 3

    def test_does_not_touch_the_global_random_state(self, inputs):
        state = torch.get_rng_state()
        quiet(inputs, Teacher())
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize("seed", [-5, 2**40, 2**63])
    def test_takes_any_seed(self, inputs, seed):
        quiet(inputs, Teacher(), seed=seed)

    def test_goes_with_the_shuffled_rows(self, inputs):
        teacher = Teacher()
        teacher.predict = lambda x, *_: (
            Teacher().predict(x, 1, ExampleGenerator(torch.tensor([7]), 0))._replace(variance=None)
        )
        plain = quiet(inputs, teacher, batch_size=1).with_format(None)
        shuffled = quiet(inputs.shuffle(seed=5), teacher, batch_size=1).with_format(None)
        assert shuffled["number"][:] != plain["number"][:]
        assert torch.equal(read(shuffled.sort("number")).probs, read(plain).probs)

    def test_says_where_it_comes_from(self, inputs):
        teacher = Teacher(temperature=2.5)
        record = read(quiet(inputs, teacher, seed=9)).record
        assert record.teacher.to_json() == teacher.describe()
        assert record.temperature == 2.5
        assert (record.num_samples, record.seed, record.storage) == (3, 9, "float32")
        assert record.class_names == [f"class {c}" for c in range(4)]
        assert record.folds is None
        assert record.preprocessing is None

    def test_replaces_older_labels_and_stands_beside_those_of_named_teachers(self, inputs):
        both = quiet(quiet(inputs, Teacher()), Teacher(name="other"), name="other", seed=1)
        assert read(both).record.teacher.weights == "weights"
        assert read(both, "other").record.teacher.weights == "other"
        again = quiet(both, Teacher(temperature=2.0))
        assert read(again).record.temperature == 2
        assert torch.equal(read(again, "other").probs, read(both, "other").probs)


class TestInputs:
    def test_are_the_torch_columns(self, inputs):
        teacher = Teacher()
        found = quiet(inputs, teacher)
        assert torch.equal(teacher.calls[0]["x"], inputs[:]["x"])
        assert found.format["type"] == "torch"

    def test_are_all_columns_that_are_no_labels_if_there_is_no_format(self):
        teacher = Teacher()
        fine = datasets.ClassLabel(num_classes=50)
        dataset = rows().remove_columns("number").add_column("fine_label", list(range(10)), feature=fine)
        labeled = quiet(dataset.add_column("labels", [0] * 10), teacher)
        assert torch.equal(teacher.calls[0]["x"], torch.tensor(dataset["x"][:]))
        quiet(labeled, teacher)  # older soft labels are no inputs

    @pytest.mark.parametrize("stacked", [True, False])
    def test_are_what_the_transform_returns(self, stacked):
        def transform(batch):
            x = [torch.tensor(row) + 1 for row in batch["x"]]
            return {
                "x": torch.stack(x) if stacked else x,
                "label": torch.tensor(batch["label"]),
                "text": batch["number"],
            }

        teacher = Teacher()
        found = quiet(rows().with_transform(transform), teacher, batch_size=4)
        expected = torch.tensor(rows()["x"][:]) + 1
        assert torch.equal(torch.cat([call["x"] for call in teacher.calls]), expected)
        assert torch.equal(found[:2]["x"] if stacked else torch.stack(found[:2]["x"]), expected[:2])

    def test_are_what_the_preprocessor_makes_of_the_rows(self):
        teacher, seen = Teacher(), []

        def preprocess(batch):
            seen.append(batch)
            return {"x": torch.tensor(batch["x"]) * 2}

        found = quiet(rows(), teacher, preprocessor=preprocess, batch_size=4)
        asked, *seen = seen  # which columns are read of the first row
        assert list(asked["number"]) == [0]
        assert sum((batch["number"] for batch in seen), []) == list(range(10))
        assert torch.equal(torch.cat([call["x"] for call in teacher.calls]), 2 * torch.tensor(rows()["x"][:]))
        assert read(found).record.preprocessing is None

    def test_of_images_are_normalized_pixels_and_the_record_says_how(self):
        dataset, preprocess = images(), ImagePreprocessor((0.5, 0.25, 0.125), (1.0, 0.5, 0.25))
        teacher = image_teacher()
        labeled = quiet(dataset, teacher, preprocessor=preprocess, batch_size=4)
        pixels = np.stack([np.asarray(image) for image in dataset["picture"]]).astype(np.float64) / 255
        expected = ((pixels - [0.5, 0.25, 0.125]) / [1.0, 0.5, 0.25]).transpose(0, 3, 1, 2)
        found = torch.cat([call["pixel_values"] for call in teacher.calls])
        torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=0, atol=1e-6)
        record = read(labeled).record
        assert record.preprocessing == {"mean": [0.5, 0.25, 0.125], "std": [1.0, 0.5, 0.25]}
        assert record.dataset.content_column == "picture"
        assert labeled["example_id"][:] == content_ids(dataset["picture"][:]).tolist()

    def test_that_are_images_need_preprocess(self):
        teacher = image_teacher()
        for dataset in (images(), images().with_format("torch"), images().rename_column("picture", "img")):
            with pytest.raises(UserError, match="are not a network's inputs as they are; pass preprocessor="):
                quiet(dataset, teacher)
        assert not teacher.calls

    def test_that_are_texts_need_preprocess(self):
        dataset = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
        with pytest.raises(UserError, match="columns text, label are not a network's inputs .*; pass preprocessor="):
            quiet(dataset, Teacher())

    def test_of_several_lengths_need_preprocess(self):
        dataset = datasets.Dataset.from_dict({"x": [[1, 2], [3]]})
        with pytest.raises(UserError, match="columns x are not a network's inputs .*; pass preprocessor="):
            quiet(dataset, Teacher())

    def test_are_the_rows_that_example_ids_are_of(self):
        texts = [f"text {i}" for i in range(5)]
        dataset = datasets.Dataset.from_dict({"text": texts, "label": [0, 1, 2, 3, 0]})
        found = quiet(
            dataset, Teacher(), preprocessor=lambda batch: {"x": torch.zeros(len(batch["text"]), 3)}, batch_size=2
        )
        assert found["example_id"][:] == content_ids(texts).tolist()
        features = quiet(rows(), Teacher(), preprocessor=lambda batch: {"x": torch.tensor(batch["x"])})
        assert features["example_id"][:] == content_ids(rows()["x"][:]).tolist()
        assert read(features).record.dataset.identity == {"form": 2, "columns": ["x"]}


class TestRefusals:
    def fit(self, rest, fold):
        raise AssertionError("nothing may be fitted")

    @pytest.mark.parametrize(
        "how",
        [
            {},
            {"teacher": Teacher(), "folds": 2},
            {"teacher": Teacher(), "fit": fit},
            {"teacher": Teacher(), "folds": 2, "fit": fit},
            {"folds": 2},
            {"fit": fit},
        ],
    )
    def test_teacher_or_folds(self, inputs, how):
        with pytest.raises(UserError, match="pass either a teacher, or folds together with fit"):
            quiet(inputs, **how)

    @pytest.mark.parametrize("number", [0, -1])
    def test_numbers_below_one(self, inputs, number):
        with pytest.raises(UserError, match=f"num_samples must be a whole number of at least 1, and it is {number}"):
            quiet(inputs, Teacher(), number)
        with pytest.raises(UserError, match=f"batch_size must be a whole number of at least 1, and it is {number}"):
            quiet(inputs, Teacher(), batch_size=number)

    def test_empty_dataset(self):
        with pytest.raises(UserError, match="dataset to label is empty"):
            quiet(rows().select([]), Teacher())

    def test_another_number_of_classes(self, inputs):
        teacher = Teacher(7)
        with pytest.raises(UserError, match="the teacher has 7 classes and the dataset's column label has 4"):
            quiet(inputs, teacher)
        with pytest.raises(UserError, match="the teacher has 7 classes and the dataset's column label has 4"):
            quiet(inputs, folds=2, fit=lambda rest, fold: teacher)
        assert not teacher.calls

    def test_unknown_storage_before_the_work(self, inputs):
        teacher = Teacher()
        with pytest.raises(UserError, match="storage is 'bfloat16'"):
            add_soft_labels(inputs, teacher, storage="bfloat16", progress=False)
        assert not teacher.calls

    def test_a_teacher_that_diverged(self, inputs):
        teacher = Teacher()
        teacher.weight[0, 0] = torch.nan
        with pytest.raises(UserError, match="row 0 of the soft labels holds a value that is not a finite number"):
            quiet(inputs, teacher)


def test_progress_is_shown_unless_switched_off(inputs, capsys):
    add_soft_labels(inputs, Teacher(), 2, progress=False)
    assert capsys.readouterr().out == ""
    add_soft_labels(inputs, Teacher(), 2, batch_size=4)
    assert "labeling" in capsys.readouterr().out
    add_soft_labels(inputs, folds=2, fit=lambda rest, fold: Teacher())
    assert "labeling fold 2 of 2" in capsys.readouterr().out
