"""The check before the first step: temperatures, classes, and kinds of datasets (identity: tests/invariants)."""

import datasets
import numpy as np
import pytest

from hf_bkd import BatchedDataset, UserError
from hf_bkd.soft_labels import attach, read_record
from hf_bkd.soft_labels.belonging import Facts, check_belonging, check_class_count
from hf_bkd.soft_labels.columns import soft_label_columns
from hf_bkd.soft_labels.layout import Layout
from hf_bkd.soft_labels.reading import stored_labels
from hf_bkd.soft_labels.record import LabelRecord
from tests.soft_labels.label_helpers import PREPROCESS, RECORD, VIEWS, image_teacher, images, quiet, rows, some_probs


def labeled(name=None, dataset=None, storage="float32", **record):
    record = RECORD | {"storage": storage, "teacher": {"num_classes": 4}} | record
    return attach(dataset or rows(), some_probs(10, 4), record, name=name, storage=storage)


def temperatures(dataset, wanted, num_classes=4, **how):
    """Stored and wanted, by column."""
    found = stored_labels(dataset, wanted, num_classes, **how)
    assert all(name == each.layout.name for name, each in found.items())
    return {name: (each.temperature, each.wanted) for name, each in found.items()}


class TestTemperatures:
    def test_of_the_labels_stay_unless_another_is_wanted(self):
        dataset = labeled(temperature=2.5)
        assert temperatures(dataset, None) == {"teacher_probs": (2.5, 2.5)}
        assert temperatures(dataset, 4.0) == {"teacher_probs": (2.5, 4.0)}
        assert temperatures(dataset, 4.0, None) == {"teacher_probs": (2.5, 4.0)}

    def test_of_labels_added_by_hand_is_one(self):
        dataset = rows().add_column("teacher_probs", some_probs(10, 4).tolist())
        assert temperatures(dataset, None, allow_unrecorded=True) == {"teacher_probs": (1.0, 1.0)}

    def test_of_averages_of_tempered_draws_cannot_be_changed(self):
        dataset = labeled(temperature=2.0, tempering="per_sample")
        assert temperatures(dataset, None) == temperatures(dataset, 2.0)
        with pytest.raises(UserError, match="averaged over draws at temperature 2 and can't be brought to 3: omit"):
            temperatures(dataset, 3.0)

    def test_of_plain_averages_can(self):
        """mean_s p_s at temperature 1 is the same under either rule."""
        assert temperatures(labeled(tempering="per_sample"), 3.0) == {"teacher_probs": (1.0, 3.0)}

    def test_of_several_teachers_are_brought_together(self):
        both = labeled("b", labeled("a", temperature=2.0), temperature=4.0)
        with pytest.raises(
            UserError, match=r"\(teacher_probs__a at 2, teacher_probs__b at 4\): pass teacher_temperature"
        ):
            temperatures(both, None)
        assert temperatures(both, 4.0) == {"teacher_probs__a": (2.0, 4.0), "teacher_probs__b": (4.0, 4.0)}
        assert temperatures(both, 3.0) == {"teacher_probs__a": (2.0, 3.0), "teacher_probs__b": (4.0, 3.0)}

    @pytest.mark.parametrize("storage", ["float16", "uint8", "top_k"])
    def test_cannot_be_raised_where_small_probabilities_were_lost(self, storage):
        dataset = labeled(storage=storage, temperature=2.0)
        with pytest.raises(
            UserError, match=f"stored as {storage}, which loses the small .* at temperature 3 .*storage='float32'"
        ):
            temperatures(dataset, 3.0)
        for wanted in (None, 2.0, 1.0):
            assert temperatures(dataset, wanted) == {"teacher_probs": (2.0, wanted or 2.0)}


class TestRefusals:
    def test_no_labels(self):
        with pytest.raises(
            UserError, match=r"no teacher_probs column \(only x, label, number\): add it with add_soft"
        ):
            stored_labels(rows(), None, 4)

    def test_a_dataset_that_names_no_columns(self):
        with pytest.raises(UserError, match=r"no teacher_probs column \(only unnamed ones\)"):
            stored_labels([1, 2, 3], None, 4)

    def test_another_kind_of_dataset(self):
        class Odd:
            column_names = ["teacher_probs"]

        with pytest.raises(UserError, match="can't be read from a Odd: pass a datasets.Dataset or a BatchedData"):
            stored_labels(Odd(), None, 4)

    def test_labels_without_a_record(self):
        dataset = labeled().remove_columns("teacher_provenance")
        with pytest.raises(
            UserError,
            match="teacher_probs has no teacher_provenance, so nobody .*: label with add_soft_labels, or pass "
            "allow_unrecorded_labels=True if you know that it belongs here",
        ):
            stored_labels(dataset, None, 4)
        assert stored_labels(dataset, None, 4, allow_unrecorded=True)["teacher_probs"].layout.record is None

    def test_one_of_two_teachers_without_a_record(self):
        both = labeled("b", labeled("a")).remove_columns("teacher_provenance__b")
        with pytest.raises(UserError, match="teacher_probs__b has no teacher_provenance"):
            stored_labels(both, None, 4)
        assert len(stored_labels(both, None, 4, allow_unrecorded=True)) == 2

    def test_a_model_of_other_classes(self):
        with pytest.raises(
            UserError, match="teacher_probs has 4 classes and the model has 10: build the student with 4"
        ):
            stored_labels(labeled(), None, 10)

    def test_one_of_two_teachers_that_is_broken(self):
        both = labeled("good").add_column("teacher_probs__bad", np.full((10, 4), 0.3).tolist())
        with pytest.raises(UserError, match="row 0 of the soft labels does not sum to one"):
            stored_labels(both, None, 4)

    @pytest.mark.parametrize("streamed", [False, True])
    def test_labels_of_views_that_only_a_resident_dataset_can_show(self, streamed):
        dataset = labeled(views={"number": 1, "seed": 0, "transforms": [{"name": "CropAndFlip"}]})
        with pytest.raises(UserError, match="which a stream, a transform or a data_collator can't show"):
            stored_labels(dataset.to_iterable_dataset() if streamed else dataset, None, 4)


class TestStreams:
    def test_tell_their_layout_by_their_features(self):
        found = stored_labels(labeled(temperature=2.0).to_iterable_dataset(), None, 4)["teacher_probs"]
        assert (found.layout.num_views, found.layout.num_classes, found.temperature) == (1, 4, 2.0)

    def test_of_other_classes_than_the_model_are_refused(self):
        with pytest.raises(UserError, match="teacher_probs has 4 classes and the model has 5"):
            stored_labels(labeled().to_iterable_dataset(), None, 5)

    def test_that_do_not_tell_their_classes_are_refused(self):
        by_hand = rows().add_column("teacher_probs", some_probs(10, 4).tolist()).to_iterable_dataset()
        with pytest.raises(
            UserError, match="don't tell how many classes teacher_probs has: cast the column .*, or load the dataset"
        ):
            stored_labels(by_hand, None, 4, allow_unrecorded=True)
        told = by_hand.cast_column("teacher_probs", datasets.List(datasets.Value("float32"), length=4))
        assert stored_labels(told, None, 4, allow_unrecorded=True)["teacher_probs"].layout.num_classes == 4

    def test_without_features_have_no_labels(self):
        nameless = datasets.IterableDataset.from_generator(lambda: iter([{"teacher_probs": [0.5, 0.5]}]))
        with pytest.raises(UserError, match=r"the stream doesn't say what its columns are.*features=stream.features"):
            stored_labels(nameless, None, 2)


def test_a_resident_dataset_tells_its_own():
    labeled = quiet(images(), image_teacher(), preprocessor=PREPROCESS, views=VIEWS)
    resident = BatchedDataset.from_images(labeled, PREPROCESS, progress=False)
    found = stored_labels(resident, None, 4)["teacher_probs"]
    assert (found.layout.num_views, found.layout.num_classes, found.wanted) == (3, 4, 1.0)
    assert found.layout.record == read_record(labeled.features)


def test_which_columns_there_are():
    assert soft_label_columns(labeled()) == ["teacher_probs", "teacher_provenance"]
    assert soft_label_columns([1, 2]) == []
    assert soft_label_columns(datasets.Dataset.from_dict({"a": [1], "teacher_variance__x": [1]})) == [
        "teacher_variance__x"
    ]


class TestClasses:
    @staticmethod
    def check(class_names, features):
        record = LabelRecord.from_json(RECORD | {"class_names": class_names})
        check_belonging(Layout("teacher_probs", 1, 0, record), Facts(features=datasets.Features(features)))

    def test_names_are_compared_where_both_are_known(self):
        features = {"label": datasets.ClassLabel(names=["cat", "dog", "eel"])}
        self.check(None, features)
        self.check(["cat", "dog", "eel"], features)
        self.check(["a", "b"], {"label": datasets.Value("int64")})
        check_belonging(Layout("teacher_probs", 1, 3, None), Facts(features=features))
        with pytest.raises(UserError, match="other classes .*: class 1 is 'eel' there and 'dog' here; label it again"):
            self.check(["cat", "eel", "dog"], features)
        with pytest.raises(UserError, match="other classes .*: 2 classes against 3"):
            self.check(["cat", "dog"], features)

    def test_counts_are_compared_with_the_label_column(self):
        two, three = datasets.ClassLabel(names=["cat", "dog"]), datasets.ClassLabel(num_classes=3)
        check_class_count("the teacher", 2, datasets.Features({"label": two, "fine_label": three}))
        check_class_count("the teacher", 5, datasets.Features({"label": datasets.Value("int64")}))
        with pytest.raises(
            UserError, match="the teacher has 2 classes and the dataset's column labels has 3: label it"
        ):
            check_class_count("the teacher", 2, datasets.Features({"labels": three}))

    def test_counts_of_which_any_may_be_meant(self):
        fine, coarse = datasets.ClassLabel(num_classes=100), datasets.ClassLabel(num_classes=20)
        both = datasets.Features({"fine_label": fine, "coarse_label": coarse})
        check_class_count("the teacher", 20, both)
        check_class_count("the teacher", 100, both)
        with pytest.raises(UserError, match="fine_label has 100 and coarse_label has 20"):
            check_class_count("the teacher", 3, both)
