"""Columns that were added by hand, or damaged: read if they are distributions, else refused with a sentence."""

import datasets
import numpy as np
import pytest
import torch

from hf_bkd import UserError
from hf_bkd.soft_labels import attach, read
from hf_bkd.soft_labels.record import LabelRecord, encode_record
from tests.soft_labels.label_helpers import RECORD, rows, some_probs

N, C = 40, 6


@pytest.fixture
def plain():
    return rows(N, C)


@pytest.fixture
def labeled(plain):
    return attach(plain, some_probs(N, C), RECORD)


class TestHandMadeColumns:
    def test_are_read_without_a_record(self, plain):
        probs = some_probs(N, C)
        found = read(plain.add_column("teacher_probs", probs.tolist()).shuffle(seed=0).sort("number"))
        assert torch.equal(found.probs, torch.from_numpy(probs).float())
        assert found.variance is None
        assert found.record is None

    def test_may_be_whole_numbers(self, plain):
        found = read(plain.add_column("teacher_probs", np.eye(C, dtype=int)[np.arange(N) % C].tolist()))
        assert torch.equal(found.probs, torch.eye(C)[torch.arange(N) % C])

    @pytest.mark.filterwarnings("error")
    def test_what_is_read_may_be_written_to(self, plain):
        labeled = attach(plain, some_probs(N, C), RECORD, storage="float32")
        torch.set_warn_always(True)  # that memory is read-only is said once in a process otherwise
        try:
            read(labeled).probs.fill_(0)
        finally:
            torch.set_warn_always(False)
        assert read(labeled).probs.sum() == pytest.approx(N)

    def test_absence_is_said(self, plain, labeled):
        with pytest.raises(UserError, match="no column teacher_probs; add it with add_soft_labels"):
            read(plain)
        with pytest.raises(UserError, match="no column teacher_probs__esm"):
            read(labeled, "esm")

    @pytest.mark.parametrize(
        "values",
        [
            [[0.5, 0.5], [0.2, 0.3, 0.5]],
            [[0.5, 0.5], [1.0], [0.2, 0.3, 0.5]],  # two values each, on average
            [[0.5, 0.5], None],
            [None, [0.5, 0.5]],
            [[0.5, 0.5], []],
        ],
    )
    def test_rows_of_different_length_are_refused(self, values):
        with pytest.raises(UserError, match="rows of column teacher_probs don't all hold a list of the same length"):
            read(datasets.Dataset.from_dict({"teacher_probs": values}))

    def test_so_are_those_of_a_variance(self):
        columns = {"teacher_probs": [[0.5, 0.5]] * 3, "teacher_variance": [[0.1, 0.1], [0.1], [0.1, 0.1, 0.1]]}
        with pytest.raises(UserError, match="rows of column teacher_variance don't all hold"):
            read(datasets.Dataset.from_dict(columns))

    def test_a_missing_probability_is_refused(self):
        with pytest.raises(UserError, match="row 1 .* not a finite number"):
            read(datasets.Dataset.from_dict({"teacher_probs": [[0.5, 0.5], [None, 1.0]]}))

    @pytest.mark.parametrize(
        ("values", "holds"),
        [
            ([0.5, 0.5], r"Value\('float64'\)"),
            (["cat", "dog"], r"Value\('string'\)"),
            ([["cat"], ["dog"]], r"List\(Value\('string'\)\)"),
            ([{"cat": 1.0}, {"cat": 0.5}], "{'cat': "),
            ([[[[0.5, 0.5]]], [[[0.5, 0.5]]]], r"List\(List\(List\("),
            ([{"probs": [0.5, 0.5], "tail": [0.0]}] * 2, "{'probs': "),
            ([{"probs": 0.5, "classes": [1], "tail": [0.0]}] * 2, "{'probs': "),
        ],
    )
    def test_another_type_is_refused(self, values, holds):
        with pytest.raises(UserError, match=f"teacher_probs holds {holds}.*, not a list of probabilities per row"):
            read(datasets.Dataset.from_dict({"teacher_probs": values}))

    def test_another_number_of_classes_than_the_label_column_has_is_refused(self, plain):
        with pytest.raises(UserError, match=f"teacher_probs has 3 classes and the dataset's column label has {C}"):
            read(plain.add_column("teacher_probs", some_probs(N, 3).tolist()))

    @pytest.mark.parametrize("values", [[0.5] * N, ["much"] * N, [["much"]] * N, [{"of it": 1.0}] * N])
    def test_a_variance_of_another_type_is_refused(self, labeled, values):
        with pytest.raises(UserError, match="column teacher_variance holds .*, not a list of numbers per row"):
            read(labeled.add_column("teacher_variance", values))

    def test_a_variance_of_another_length_is_refused(self, labeled):
        with pytest.raises(UserError, match=r"variance beside column .* has lists of length 5, not 1 \(views"):
            read(labeled.add_column("teacher_variance", [[0.1] * 5] * N))

    def test_the_long_lists_of_arrow_are_read_too(self, plain):
        feature = datasets.LargeList(datasets.Value("float64"))
        found = read(plain.add_column("teacher_probs", some_probs(N, C).tolist(), feature=feature))
        assert torch.equal(found.probs, torch.from_numpy(some_probs(N, C)).float())

    @pytest.mark.parametrize("storage", ["uint8", "top_k"])
    def test_compact_labels_without_a_record_are_refused(self, plain, storage):
        labeled = attach(plain, some_probs(N, C), RECORD | {"teacher": {"num_classes": C}}, storage=storage)
        with pytest.raises(UserError, match="stored in a form that can't be read without its teacher_provenance"):
            read(labeled.remove_columns("teacher_provenance"))

    def test_lists_of_another_length_than_the_record_tells_are_refused(self, plain):
        other = attach(plain.remove_columns("label"), some_probs(N, C), RECORD | {"teacher": {"num_classes": C + 1}})
        with pytest.raises(UserError, match="lengths 6, and for 1 views of 7 classes they would be 7: label again"):
            read(other)
        views = RECORD | {"teacher": {"num_classes": C}, "views": {"number": 2}}
        with pytest.raises(UserError, match="lengths 6, and for 2 views of 6 classes they would be 12: label again"):
            read(attach(plain, some_probs(N, C), views))
        three = attach(plain, some_probs(N, C), RECORD | {"teacher": {"num_classes": C}}, storage="top_k", top_k=3)
        record = datasets.ClassLabel(names=[encode_record(LabelRecord.from_json(views))])
        three = three.remove_columns("teacher_provenance").add_column("teacher_provenance", [0] * N, feature=record)
        with pytest.raises(UserError, match="have lengths 3 and 3 and 1, .* would be 2 and 3 and 2: label again"):
            read(three)

    def test_no_rows_have_no_labels(self, labeled):
        with pytest.raises(UserError, match="label again with add_soft_labels"):
            read(labeled.select([]))
