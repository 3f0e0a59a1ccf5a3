"""Weighted rows: an estimator that weighs rows learns the cross-entropy with the soft labels."""

import datasets
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from hf_bkd import SklearnTeacher, UserError, add_soft_labels, weighted_rows

PROBS = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.05, 0.05, 0.9]])


class Says:
    """An estimator with known probabilities of each row, by its only feature."""

    classes_, n_features_in_ = np.arange(3), 1

    def __init__(self, probs=PROBS):
        self.probs = probs

    def predict(self, features):
        return self.predict_proba(features).argmax(axis=1)

    def predict_proba(self, features):
        return self.probs[np.asarray(features)[:, 0].astype(int)]


def labeled(labels=(0, 1, 2), **columns) -> datasets.Dataset:
    rows = datasets.Dataset.from_dict({"x": [0.0, 1.0, 2.0], **({"label": list(labels)} if labels else {}), **columns})
    return add_soft_labels(rows, SklearnTeacher(Says()), progress=False, storage="float32")


def test_each_class_of_each_row_has_its_probability():
    table, labels, weights = weighted_rows(labeled())
    assert table["x"].tolist() == [0, 0, 0, 1, 2, 2, 2] and labels.tolist() == [0, 1, 2, 1, 0, 1, 2]
    assert weights == pytest.approx([0.7, 0.2, 0.1, 1, 0.05, 0.05, 0.9], abs=1e-6)


def test_labels_have_the_rest_of_the_weight():
    table, labels, weights = weighted_rows(labeled([2, 1, -1]), kd_lambda=0.25)
    totals = {(x, y): w for x, y, w in zip(table["x"], labels, weights, strict=True)}
    assert totals[0, 2] == pytest.approx(0.75 + 0.025) and totals[0, 0] == pytest.approx(0.175)
    assert totals[2, 2] == pytest.approx(0.9)  # it has no label, and learns from the teacher alone
    with pytest.raises(UserError, match="no label column"):
        weighted_rows(labeled(None), kd_lambda=0.5)


def test_a_tree_says_what_the_teacher_said():
    rows = weighted_rows(labeled())
    tree = DecisionTreeClassifier().fit(rows.features, rows.labels, sample_weight=rows.weights)
    assert np.allclose(tree.predict_proba(rows.features.drop_duplicates()), PROBS, atol=1e-6)


def test_a_logistic_regression_has_the_gradient_of_soft_cross_entropy():
    rows = weighted_rows(labeled())
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)
    model.fit(rows.features, rows.labels, sample_weight=rows.weights)
    x = np.array([[0.0], [1.0], [2.0]])
    error = model.predict_proba(x) - PROBS  # at the optimum orthogonal to the features and the constant
    assert np.abs(error.sum(axis=0)).max() < 1e-4 and np.abs((error * x).sum(axis=0)).max() < 1e-4


def test_small_weights_are_thinned_without_a_bias():
    many = np.tile([0.996, 0.003, 0.001], (20_000, 1))
    rows = datasets.Dataset.from_dict({"x": np.arange(20_000.0)})
    soft = add_soft_labels(rows, SklearnTeacher(Says(many)), progress=False, storage="float32")
    _, labels, weights = weighted_rows(soft, least_weight=0.02)
    assert len(labels) < 26_000 and weights.min() == pytest.approx(0.02)
    totals = np.bincount(labels, weights) / 20_000
    sigma = np.sqrt(0.003 * 0.017 / 20_000)  # of a mean of numbers that are 0.02 with probability 0.15
    assert abs(totals[1] - 0.003) < 5 * sigma and abs(totals[2] - 0.001) < 5 * sigma
    assert len(weighted_rows(soft, least_weight=0).labels) == 60_000


def test_classes_are_as_the_label_column_holds_them():
    rows = datasets.Dataset.from_dict({"x": [0.0, 1.0, 2.0], "label": ["a", "b", "c"]})
    named = SklearnTeacher(Says(), class_names=["a", "b", "c"])
    assert weighted_rows(add_soft_labels(rows, named, progress=False)).labels.tolist()[:3] == ["a", "b", "c"]
    numbered = rows.cast_column("label", datasets.ClassLabel(names=["c", "b", "a"]))
    assert weighted_rows(add_soft_labels(numbered, named, progress=False)).labels.tolist()[:3] == [0, 1, 2]
    unlabeled = add_soft_labels(rows.remove_columns("label"), named, progress=False)
    assert weighted_rows(unlabeled).labels.tolist()[:3] == [0, 1, 2]


class Numbers:
    """A regressor with known numbers."""

    _estimator_type = "regressor"
    n_features_in_, fitted_ = 1, True

    def __init__(self):
        self.fitted_ = True

    def predict(self, features):
        return 10 * np.asarray(features)[:, 0]


def test_numbers_are_the_means():
    rows = datasets.Dataset.from_dict({"x": [0.0, 1.0, 2.0], "label": [1.0, 1.0, 1.0]})
    soft = add_soft_labels(rows, SklearnTeacher(Numbers()), progress=False)
    assert weighted_rows(soft).labels.tolist() == [0, 10, 20] and weighted_rows(soft).weights.tolist() == [1, 1, 1]
    assert weighted_rows(soft, kd_lambda=0.5).labels.tolist() == pytest.approx([0.5, 5.5, 10.5])
    spread = soft.add_column("teacher_variance", [[1.0], [2.0], [0.0]])
    assert weighted_rows(spread).weights == pytest.approx(np.array([1, 0.5, 100]) / (101.5 / 3))


@pytest.mark.parametrize("options", [{"kd_lambda": 1.5}, {"kd_lambda": np.nan}, {"least_weight": -1}])
def test_shares_out_of_range_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        weighted_rows(labeled(), **options)


def test_labels_of_other_rows_are_refused():
    moved = labeled().remove_columns("x").add_column("x", [1.0, 0.0, 2.0])
    with pytest.raises(UserError, match="made for other examples"):
        weighted_rows(moved)
    with pytest.raises(UserError, match="no teacher_probs"):
        weighted_rows(datasets.Dataset.from_dict({"x": [0.0], "label": [1]}))


def test_a_row_without_a_number_keeps_the_teachers():
    rows = datasets.Dataset.from_dict({"x": [0.0, 1.0, 2.0], "label": [2.0, None, 2.0]})
    soft = add_soft_labels(rows, SklearnTeacher(Numbers()), progress=False)
    assert weighted_rows(soft, kd_lambda=0.25).labels.tolist() == pytest.approx([1.5, 10, 6.5])


class Several:
    """An estimator of two labels with known probabilities of each row."""

    classes_ = [np.array([0, 1]), np.array([0, 1])]
    n_features_in_ = 1

    def predict(self, features):
        return (self.predict_proba(features)[0] > 0.5).astype(int)

    def predict_proba(self, features):
        probs = np.array([[0.7, 0.2], [0.5, 0.5], [0.1, 1.0]])[np.asarray(features)[:, 0].astype(int)]
        return [np.stack([1 - each, each], axis=1) for each in probs.T]


def several(**columns) -> datasets.Dataset:
    rows = datasets.Dataset.from_dict({"x": [0.0, 1.0, 2.0], **columns})
    return add_soft_labels(rows, SklearnTeacher(Several()), progress=False, storage="float32")


def test_several_labels_weigh_what_each_is_likely():
    table, labels, weights = weighted_rows(several())
    assert table["x"].tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert labels.tolist() == [[0, 0], [1, 0], [1, 1], [0, 0], [1, 1], [0, 1], [1, 1]]
    assert weights == pytest.approx([0.3, 0.5, 0.2, 0.5, 0.5, 0.9, 0.1], abs=1e-6)
    tree = DecisionTreeClassifier().fit(table, labels, sample_weight=weights)
    probs = np.stack([each[:, 1] for each in tree.predict_proba(table.drop_duplicates())], axis=1)
    assert np.allclose(probs, [[0.7, 0.2], [0.5, 0.5], [0.1, 1.0]], atol=1e-6)


def test_several_labels_are_mixed_with_the_rows_own():
    soft = several(labels=[[0.0, 1.0], None, [0.0, 1.0]])
    table, labels, weights = weighted_rows(soft, kd_lambda=0.5)
    shares = [[(weights * labels[:, c])[table["x"] == x].sum() for c in range(2)] for x in range(3)]
    assert np.allclose(shares, [[0.35, 0.6], [0.5, 0.5], [0.05, 1.0]], atol=1e-6)
    names = datasets.List(datasets.ClassLabel(names=["a", "b"]))
    sets = several().add_column("labels", [[1], [], [1]], feature=names)
    assert np.allclose(weighted_rows(sets, kd_lambda=0.0).labels, [[0, 1], [0, 0], [0, 1]])


def test_labels_of_tokens_are_refused():
    rows = datasets.Dataset.from_dict({"x": [0.0, 1.0], "teacher_probs": [[[0.5, 0.5]] * 2, [[0.5, 0.5]]]})
    with pytest.raises(UserError, match="of the tokens of each row, and a table has one label a row"):
        weighted_rows(rows, allow_unrecorded_labels=True)
