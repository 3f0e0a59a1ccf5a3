"""The check before the first step: temperatures, classes, and kinds of datasets (identity: tests/invariants)."""

import datasets
import numpy as np
import pytest
from label_helpers import RECORD, rows, some_probs

from hf_bkd import UserError
from hf_bkd.soft_labels import attach
from hf_bkd.soft_labels.check import column_names, soft_label_columns, stored_temperatures


def labelled(name=None, dataset=None, **record):
    return attach(dataset or rows(), some_probs(10, 4), RECORD | record, name=name)


class TestTemperatures:
    def test_of_the_labels_stay_unless_another_is_wanted(self):
        dataset = labelled(temperature=2.5)
        assert stored_temperatures(dataset, None, 4) == {"teacher_probs": (2.5, 2.5)}
        assert stored_temperatures(dataset, 4.0, 4) == {"teacher_probs": (2.5, 4.0)}
        assert stored_temperatures(dataset, 4.0, None) == {"teacher_probs": (2.5, 4.0)}

    def test_of_labels_added_by_hand_is_one(self):
        dataset = rows().add_column("teacher_probs", some_probs(10, 4).tolist())
        assert stored_temperatures(dataset, None, 4) == {"teacher_probs": (1.0, 1.0)}

    def test_of_averages_of_tempered_draws_cannot_be_changed(self):
        dataset = labelled(temperature=2.0, tempering="per_sample")
        assert stored_temperatures(dataset, None, 4) == stored_temperatures(dataset, 2.0, 4)
        with pytest.raises(UserError, match="averaged over draws at temperature 2 and can't be brought to 3: leave"):
            stored_temperatures(dataset, 3.0, 4)

    def test_of_plain_averages_can(self):
        """mean_s p_s at temperature 1 is the same under either rule."""
        dataset = labelled(tempering="per_sample")
        assert stored_temperatures(dataset, 3.0, 4) == {"teacher_probs": (1.0, 3.0)}

    def test_of_several_teachers_are_brought_together(self):
        both = labelled("b", labelled("a", temperature=2.0), temperature=4.0)
        with pytest.raises(
            UserError, match=r"\(teacher_probs__a at 2, teacher_probs__b at 4\): pass teacher_temperature"
        ):
            stored_temperatures(both, None, 4)
        wanted = {"teacher_probs__a": (2.0, 3.0), "teacher_probs__b": (4.0, 3.0)}
        assert stored_temperatures(both, 3.0, 4) == wanted


class TestRefusals:
    def test_no_labels(self):
        with pytest.raises(
            UserError, match=r"no teacher_probs column \(only x, label, number\): add it with add_soft"
        ):
            stored_temperatures(rows(), None, 4)

    def test_a_dataset_that_names_no_columns(self):
        with pytest.raises(UserError, match=r"no teacher_probs column \(only unnamed ones\)"):
            stored_temperatures([1, 2, 3], None, 4)

    def test_a_stream(self):
        with pytest.raises(
            UserError, match="can't be read from a IterableDataset: pass a datasets.Dataset or a Resid"
        ):
            stored_temperatures(labelled().to_iterable_dataset(), None, 4)

    def test_a_model_of_other_classes(self):
        with pytest.raises(
            UserError, match="teacher_probs has 4 classes and the model has 10: build the student with 4"
        ):
            stored_temperatures(labelled(), None, 10)

    def test_one_of_two_teachers_that_is_broken(self):
        both = labelled("good").add_column("teacher_probs__bad", np.full((10, 4), 0.3).tolist())
        with pytest.raises(UserError, match="row 0 of the soft labels does not sum to one"):
            stored_temperatures(both, None, 4)


def test_which_columns_there_are():
    assert soft_label_columns(labelled()) == ["teacher_probs", "teacher_provenance"]
    assert column_names([1, 2]) == []
    assert column_names(datasets.Dataset.from_dict({"a": [1]})) == ["a"]
