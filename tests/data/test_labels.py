"""What label columns hold, and what their rows become for a network of each kind."""

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Features, List, Value

from hf_bkd.data.columns import find_label, is_label
from hf_bkd.data.labels import problem_type_of_column, read_labels
from hf_bkd.likelihoods import Bernoulli, Categorical, Gaussian
from hf_bkd.utils.errors import UserError

NAN = float("nan")
SINGLE, MULTI, NUMBERS = Categorical(), Bernoulli(), Gaussian()


def column(values, feature=None, name="labels"):
    features = None if feature is None else Features({name: feature})
    return datasets.Dataset.from_dict({name: values}, features=features)


def read(values, likelihood, feature=None, **how):
    dataset = column(values, feature)
    return read_labels(dataset, "labels", likelihood, **how)(dataset["labels"][:])


@pytest.mark.parametrize(
    ("values", "feature", "how", "expected"),
    [
        ([0, 1, None, -1, -100], None, {}, [0, 1, -100, -100, -100]),
        ([0.0, 1.0, NAN], None, {"num_values": 2}, [0, 1, -100]),
        ([True, False], None, {}, [1, 0]),
        ([0, 1], ClassLabel(names=["a", "b"]), {"classes": ["B", "A"]}, [1, 0]),
        ([0, 1], ClassLabel(names=["a", "b"]), {"classes": ["LABEL_0", "LABEL_1"]}, [0, 1]),
        (["A", "b", None], None, {"classes": ["b", "a"]}, [1, 0, -100]),
    ],
)
def test_one_class_a_row(values, feature, how, expected):
    assert read(values, SINGLE, feature, **how).tolist() == expected


@pytest.mark.parametrize(
    ("values", "feature", "how", "expected"),
    [
        ([[0, 1], [1, 1], None], None, {"num_values": 2}, [[0, 1], [1, 1], [NAN, NAN]]),
        ([[0.0, 1.0]], None, {}, [[0, 1]]),
        ([[0.25, 1.0]], None, {"num_values": 2}, [[0.25, 1]]),
        ([[0, 1], [2], []], None, {"num_values": 3}, [[1, 1, 0], [0, 0, 1], [0, 0, 0]]),
        (
            [["x"], ["Y", "x"], []],
            None,
            {"num_values": 3, "classes": ["z", "y", "x"]},
            [[0, 0, 1], [0, 1, 1], [0] * 3],
        ),
        ([[0], [1, 0]], List(ClassLabel(names=["x", "y"])), {"classes": ["z", "y", "x"]}, [[0, 0, 1], [0, 1, 1]]),
        ([[0], [1, 0]], List(ClassLabel(names=["x", "y"])), {}, [[1, 0], [1, 1]]),
    ],
)
def test_which_labels_are_there(values, feature, how, expected):
    np.testing.assert_array_equal(read(values, MULTI, feature, **how).numpy(), np.float32(expected))


@pytest.mark.parametrize(
    ("values", "how", "expected"),
    [
        ([0.5, None, 3.0], {"num_values": 1}, [[0.5], [NAN], [3]]),
        ([2, 3], {}, [[2], [3]]),
        ([[0.5, -1.25], [0.0, 7.0]], {"num_values": 2}, [[0.5, -1.25], [0, 7]]),
    ],
)
def test_numbers(values, how, expected):
    np.testing.assert_array_equal(read(values, NUMBERS, **how).numpy(), np.float32(expected))


def test_one_class_for_each_token_keeps_its_rows():
    rows = read([[3, 4, -100], [1]], SINGLE, per_token=True, num_values=5)
    assert [row.tolist() for row in rows] == [[3, 4, -100], [1]]
    rows = read([["B-X", "O"], ["O"]], SINGLE, per_token=True, classes=["o", "b-x"])
    assert [row.tolist() for row in rows] == [[1, 0], [0]]


def test_tensors_and_arrays_are_read_like_lists():
    reader = read_labels(column([[0, 1], [1, 0]]), "labels", MULTI, 2)
    for rows in ([torch.tensor([0, 1])], torch.tensor([[0, 1]]), np.array([[0, 1]])):
        assert reader(rows).tolist() == [[0, 1]]
    assert reader([None]).isnan().all()


@pytest.mark.parametrize(
    ("values", "likelihood", "how", "sentence"),
    [
        ([0.5, NAN], NUMBERS, {}, "row 1 of column labels has the label nan, which is no finite number"),
        ([1e300], NUMBERS, {}, "no finite number"),
        (
            [[0.5, 1.0], [0.5]],
            NUMBERS,
            {"num_values": 2},
            "row 1 of column labels has 1 numbers, and the network has 2",
        ),
        ([[0.5, 1.0]], NUMBERS, {"num_values": 3}, "has 2 numbers, and the network has 3"),
        ([0.5], NUMBERS, {"num_values": 2}, "one number a row, and the network predicts 2"),
        (["0.5"], NUMBERS, {}, "the network predicts numbers"),
        ([[0, 1]], SINGLE, {"num_values": 2}, "the network predicts one class for each example"),
        ([0, 1], MULTI, {"num_values": 2}, "the network predicts labels that are each there or not"),
        ([0, 1], SINGLE, {"per_token": True}, "the network predicts one class for each token"),
        ([[0, 1], [1, 1]], MULTI, {"num_values": 3}, "has 2 numbers, and the network has 3"),
        ([[0, 1, 1], [1]], MULTI, {"num_values": 3}, "names the class 1 twice"),
        ([[0.5, 1.5]], MULTI, {"num_values": 2}, "label 1.5, which is no label that is there"),
        ([[0, 3], [1]], MULTI, {"num_values": 3}, "row 0 of column labels has the label 3"),
        ([["x", "w"]], MULTI, {"classes": ["x", "y"]}, "label 'w', and the network's classes are 'x', 'y'"),
        ([["x"]], MULTI, {}, "nothing says which number each has"),
        ([[[0, 1]]], MULTI, {}, "which is no label"),
        ([3.5], SINGLE, {"num_values": 5}, "label 3.5, and the network's classes are 0 to 4"),
        ([0, 5], SINGLE, {"num_values": 5}, "row 1 of column labels has the label 5"),
    ],
)
def test_labels_of_another_kind_are_refused(values, likelihood, how, sentence):
    with pytest.raises(UserError, match=sentence):
        read(values, likelihood, **how)


@pytest.mark.parametrize(
    ("values", "how", "expected"),
    [
        ([0, 1], {}, SINGLE),
        (["a"], {}, SINGLE),
        ([0.0, 1.0], {"num_values": 2}, SINGLE),
        ([0.0, 1.0], {"num_values": 1}, NUMBERS),
        ([[0, 1], [1, 1]], {}, MULTI),
        ([[0.0, 1.0]], {}, MULTI),
        ([[0, 3], [1]], {}, MULTI),
        ([["a", "b"]], {}, MULTI),
        ([["a", "b"]], {"per_token": True}, SINGLE),
        ([[0, 3], [1, 2]], {"per_token": True}, SINGLE),
        ([[0.5, 1.0]], {}, NUMBERS),
    ],
)
def test_labels_tell_the_problem_where_the_network_does_not(values, how, expected):
    assert problem_type_of_column(column(values), "labels", **how) == expected.problem_type


def test_whole_numbers_that_may_be_either_are_refused():
    with pytest.raises(UserError, match="pass problem_type='multi_label_classification' or 'regression'"):
        problem_type_of_column(column([[0, 3], [1, 2]]), "labels")


def test_streams_are_read_by_their_features_alone():
    stream = column([[0, 1]], List(ClassLabel(names=["a", "b"]))).to_iterable_dataset()
    assert read_labels(stream, "labels", MULTI)([[1]]).tolist() == [[0, 1]]
    stream = column([[0, 1]], List(Value("int64"))).to_iterable_dataset()
    with pytest.raises(UserError, match="nothing says whether the whole numbers"):
        read_labels(stream, "labels", MULTI, 2)


def test_columns_of_token_labels_are_found_by_their_feature_and_their_names():
    tags = {"ner_tags": List(ClassLabel(names=["O", "PER"])), "pos_tags": List(ClassLabel(names=["N", "V", "."]))}
    features = Features({"tokens": List(Value("string")), **tags})
    dataset = datasets.Dataset.from_dict({"tokens": [["a"]], "ner_tags": [[0]], "pos_tags": [[1]]}, features=features)
    assert find_label(dataset, ["per", "o"]) == "ner_tags"
    assert find_label(dataset.remove_columns("ner_tags")) == "pos_tags"
    assert is_label("own", tags["ner_tags"]) and not is_label("tokens", features["tokens"])
    with pytest.raises(UserError, match="several columns of labels"):
        find_label(dataset)


def labels(values, feature):
    return datasets.Dataset.from_dict({"label": values}, Features({"label": feature}))


def test_whole_numbers_of_two_labels_are_told_by_all_rows():
    one_hot = labels([[0, 1], [1, 0], [0, 1]], List(Value("int64")))
    assert read_labels(one_hot, "label", Bernoulli(), 2)(one_hot["label"][:]).tolist() == [[0, 1], [1, 0], [0, 1]]
    sets = labels([[0], [1], [0, 1], []], List(Value("int64")))
    assert read_labels(sets, "label", Bernoulli(), 2)(sets["label"][:]).tolist() == [[1, 0], [0, 1], [1, 1], [0, 0]]
    unclear = labels([[0, 1], [0, 1]], List(Value("int64")))
    with pytest.raises(UserError, match="all rows of column label are \\[0, 1\\], which are both labels by number"):
        read_labels(unclear, "label", Bernoulli(), 2)
    fixed = labels([[0, 1], [0, 1]], List(Value("int64"), length=2))
    assert read_labels(fixed, "label", Bernoulli(), 2)(fixed["label"][:]).tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize(("form", "expected"), [("set", [[1, 1], [1, 1]]), ("hot", [[0, 1], [1, 0]])])
def test_other_splits_have_the_form_of_the_training_set(form, expected):
    few = labels([[0, 1], [1, 0]], List(Value("int64")))
    assert read_labels(few, "label", Bernoulli(), 2, form=form)(few["label"][:]).tolist() == expected


@pytest.mark.parametrize("feature", [Value("int64"), Value("bool"), Value("float32")])
def test_a_single_label_is_there_or_not(feature):
    single = labels([0, 1, 1, None], feature)
    read = read_labels(single, "label", Bernoulli(), 1)(single["label"][:])
    assert read[:3].tolist() == [[0], [1], [1]] and read[3].isnan()
    with pytest.raises(UserError, match="the network predicts labels that are each there or not, and column label"):
        read_labels(single, "label", Bernoulli(), 3)
