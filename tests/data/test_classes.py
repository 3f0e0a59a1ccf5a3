"""Images or texts with labels, whatever a dataset calls and numbers them, as a network numbers its classes."""

import datasets
import pytest

from hf_bkd import UserError
from hf_bkd.data.columns import as_classification, as_inputs
from hf_bkd.data.subsets import check_labeled
from hf_bkd.models.class_names import given_names

TEXTS = ["a b", "c", "d e f", "g"]
NAMES = datasets.ClassLabel(names=["neg", "pos"])
TEXT = datasets.Value("string")


def rows(labels, feature, name="label"):
    features = datasets.Features({"text": TEXT, name: feature})
    return datasets.Dataset.from_dict({"text": TEXTS, name: labels}, features=features)


def numbered(labels, feature, classes=None):
    found = as_classification(rows(labels, feature), "text", classes)
    assert found.column_names == ["text", "label"] and found["text"][:] == TEXTS
    return found.features["label"].names, found["label"][:]


def test_the_datasets_own_classes():
    assert numbered([0, 1, 1, 0], NAMES) == (["neg", "pos"], [0, 1, 1, 0])
    assert numbered(["b", "a", "c", "a"], TEXT) == (["a", "b", "c"], [1, 0, 2, 0])
    assert numbered([0, 2, 0, 2], datasets.Value("int32")) == (["0", "1", "2"], [0, 2, 0, 2])


def test_truth_values_and_numbers_that_are_names():
    truth = datasets.Value("bool")
    assert numbered([True, False, None, True], truth) == (["False", "True"], [1, 0, -1, 1])
    assert numbered([True, False, True, True], truth, ["True", "False"]) == (["True", "False"], [0, 1, 0, 0])
    assert numbered([3, 8, -1, 3], datasets.Value("int64"), ["8", "3"]) == (["8", "3"], [1, 0, -1, 1])
    for labels, feature, classes in (
        ([True] * 4, truth, ["no", "yes"]),
        ([3, 9, 3, 3], datasets.Value("int64"), ["8", "3"]),
    ):
        with pytest.raises(UserError, match="the network knows 2 classes"):
            numbered(labels, feature, classes)


def test_names_in_another_order_and_case_are_put_in_the_networks():
    assert numbered([0, 1, 1, 0], NAMES, ["POS", "NEG"]) == (["pos", "neg"], [1, 0, 0, 1])
    letters = datasets.ClassLabel(names=["A", "a"])
    assert numbered([0, 1, 1, 0], letters, ["a", "A"]) == (["a", "A"], [1, 0, 0, 1])
    with pytest.raises(UserError, match=r"knows 2 classes \(a, b\), and the column label has 2 classes \(A, a\)"):
        numbered([0, 1, 1, 0], letters, ["a", "b"])


def test_other_names_go_by_number():
    assert numbered([0, 1, 1, 0], NAMES, ["LABEL_0", "LABEL_1"]) == (["neg", "pos"], [0, 1, 1, 0])
    assert numbered([0, 1, 1, 0], datasets.Value("int8"), ["1", "0", "?"])[1] == [0, 1, 1, 0]


def test_other_names_on_both_sides_are_never_matched_by_number():
    animals = datasets.ClassLabel(names=["cat", "dog"])
    with pytest.raises(UserError, match=r"\(chien, chat\), and .* 2 classes \(cat, dog\): .*id2label"):
        numbered([0, 1, 1, 0], animals, ["chien", "chat"])
    assert numbered([0, 1, 1, 0], animals, ["LABEL_0", "LABEL_1"])[1] == [0, 1, 1, 0]
    assert numbered([0, 1, 1, 0], datasets.ClassLabel(names=["0", "1"]), ["chien", "chat"])[1] == [0, 1, 1, 0]


def test_bare_names_are_the_networks():
    assert numbered(["c", "A", "c", None], TEXT, ["c", "b", "a"]) == (["c", "b", "a"], [0, 2, 0, -1])


def test_other_classes_are_refused_naming_both():
    with pytest.raises(UserError, match=r"3 classes \(x, y, z\), and the column label has 2 classes \(neg, pos\)"):
        numbered([0, 1, 1, 0], NAMES, ["x", "y", "z"])
    with pytest.raises(UserError, match=r"2 classes \(neg, pos\), and .* has 3 classes \(0, 1, 2\)"):
        numbered([0, 1, 2, 0], datasets.Value("int64"), ["neg", "pos"])
    with pytest.raises(UserError, match=r"2 classes \(neg, pos\), and .* has 1 classes \(good\)"):
        numbered(["good"] * 4, TEXT, ["neg", "pos"])
    with pytest.raises(UserError, match=r"4 classes \(a, b, c, ...\)"):
        numbered([0, 1, 1, 0], NAMES, ["a", "b", "c", "d"])
    with pytest.raises(UserError, match="neither class numbers nor names but .*float"):
        numbered([0.5] * 4, datasets.Value("float32"))


def test_rows_without_a_label():
    found = as_classification(rows([0, -1, 1, None], NAMES), "text", ["pos", "neg"])
    assert found["label"][:] == [1, -1, 0, -1]
    with pytest.raises(UserError, match="2 of the 4 examples of the split 'test' have no label"):
        check_labeled(found, "test")
    check_labeled(found.select([0, 2]), "test")


def test_columns_of_other_names():
    dataset = rows([0, 1, 1, 0], NAMES, "mood").add_column("title", ["x"] * 4)
    found = as_classification(dataset, "text", label_column="mood")
    assert (found["text"][:], found["label"][:]) == (TEXTS, [0, 1, 1, 0])
    found = as_classification(dataset, "text", label_column="mood", input_column="title")
    assert found["text"][:] == ["x"] * 4
    bare = rows(["b"] * 4, TEXT).rename_column("text", "review")
    assert as_classification(bare, "text")["text"][:] == as_inputs(bare, "text")["text"][:] == TEXTS


def test_columns_that_are_not_clear():
    pairs = rows([0] * 4, NAMES).rename_column("text", "premise").add_column("hypothesis", ["x"] * 4)
    with pytest.raises(UserError, match=r"several columns of texts \(premise, hypothesis\): pass --input_column"):
        as_classification(pairs, "text")
    with pytest.raises(UserError, match="no column of images, only premise"):
        as_classification(pairs, "image")
    with pytest.raises(UserError, match="no column 'mood', only premise"):
        as_classification(pairs, "text", label_column="mood")
    with pytest.raises(UserError, match="the column 'label' holds no texts"):
        as_classification(pairs, "text", input_column="label")


def test_numbers_in_another_order_are_names():
    assert given_names(["0", "1", "2"]) is None and given_names(["LABEL_0", "LABEL_1"]) is None
    assert given_names(["1", "10", "2"]) == ["1", "10", "2"]
    assert given_names(["LABEL_1", "LABEL_0"]) == ["LABEL_1", "LABEL_0"]
