"""Out-of-bag labels: each row that a forest was fitted on is labeled by the trees that were fitted without it."""

import datasets
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import (
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, TargetEncoder

from hf_bkd import SklearnTeacher, Teacher, UserError, add_soft_labels
from hf_bkd.soft_labels import read

X, Y = load_iris(return_X_y=True, as_frame=True)
X, Y = X.drop_duplicates(), Y[~X.duplicated()]
FOREST = RandomForestClassifier(30, random_state=0, oob_score=True)


def table(frame=X, labels=Y) -> datasets.Dataset:
    return datasets.Dataset.from_pandas(frame.assign(label=np.asarray(labels)), preserve_index=False)


def stored(rows, teacher) -> np.ndarray:
    labeled = add_soft_labels(rows, teacher, progress=False, storage="float32")
    return np.array(labeled["teacher_probs" if "teacher_probs" in labeled.column_names else "teacher_mean"])


def test_the_trees_that_did_not_draw_a_row_answer_it_by_hand():
    forest = RandomForestClassifier(25, random_state=3).fit(X.to_numpy(), Y)
    drawn = np.array([np.isin(np.arange(len(X)), sample) for sample in forest.estimators_samples_])
    answer = SklearnTeacher(forest, fitted_on=X).predict(X)
    single = np.stack([tree.predict_proba(np.float32(X)) for tree in forest.estimators_])
    for row in (0, 50, 77, 120):
        own = single[~drawn[:, row], row]
        assert answer.mean[row].numpy() == pytest.approx(own.mean(axis=0), abs=1e-6)
        # divided by all 25, it is the variance of the mean of those that answered
        assert answer.variance[row].numpy() == pytest.approx(own.var(axis=0, ddof=1) * 25 / len(own), abs=1e-6)


@pytest.mark.parametrize(
    "forest",
    [
        FOREST,
        ExtraTreesClassifier(40, bootstrap=True, oob_score=True, random_state=0, ccp_alpha=0.01),
        GridSearchCV(FOREST, {"max_depth": [2, 3]}, cv=2),
        make_pipeline(StandardScaler(), RandomForestClassifier(30, max_samples=0.5, random_state=0, oob_score=True)),
    ],
)
def test_labels_are_what_scikit_learn_calls_the_decision_function_out_of_bag(forest):
    rows = table()
    teacher = SklearnTeacher.fit(forest, rows, out_of_bag=True)
    estimator = teacher.network.estimator
    expected = getattr(estimator, "steps", [(0, estimator)])[-1][1].oob_decision_function_
    assert np.allclose(stored(rows, teacher), expected, atol=1e-6)
    some = rows.shuffle(seed=0).select(range(40))  # rows are known by their values, wherever they stand
    places = [next(number for number, each in enumerate(rows) if each == row) for row in some]
    assert np.allclose(stored(some, teacher), expected[places], atol=1e-6)


def test_numbers_too():
    frame, target = load_diabetes(return_X_y=True, as_frame=True)
    forest = RandomForestRegressor(40, oob_score=True, random_state=0)
    teacher = SklearnTeacher.fit(forest, table(frame, target), out_of_bag=True)
    expected = teacher.network.estimator.oob_prediction_
    assert np.allclose(stored(table(frame, target), teacher)[:, 0], expected, rtol=1e-5)


def test_other_rows_are_answered_by_all_trees():
    others = X + 0.01
    teacher = SklearnTeacher.fit(FOREST, table(), out_of_bag=True)
    assert np.allclose(stored(table(others), teacher), teacher.network.estimator.predict_proba(others), atol=1e-6)


def test_rows_with_the_same_values_share_the_mean_of_what_they_have_one_by_one():
    rows = pd.concat([X, X.iloc[:5], X.iloc[:5]], ignore_index=True)
    labels = np.concatenate([Y, [1] * 5, [2] * 5])
    teacher = SklearnTeacher.fit(FOREST, table(rows, labels), out_of_bag=True)
    single = teacher.network.estimator.oob_decision_function_
    copies = [single[[row, len(X) + row, len(X) + 5 + row]].mean(axis=0) for row in range(5)]
    assert np.allclose(stored(table(rows, labels), teacher)[:5], copies, atol=1e-6)


def test_a_file_in_single_precision_holds_the_same_rows():
    teacher = SklearnTeacher.fit(FOREST, table(), out_of_bag=True)
    assert np.array_equal(stored(table(X.astype(np.float32)), teacher), stored(table(), teacher))


def test_the_record_says_so_and_it_is_saved(tmp_path):
    pytest.importorskip("skops")
    rows = table()
    teacher = SklearnTeacher.fit(FOREST, rows, out_of_bag=True)
    assert read(add_soft_labels(rows, teacher, progress=False)).record.teacher.json["out_of_bag"] is True
    plain = SklearnTeacher(teacher.network.estimator)
    assert "out_of_bag" not in plain.describe() and plain.fingerprint() != teacher.fingerprint()
    teacher.save_pretrained(tmp_path / "teacher")
    loaded = Teacher.from_pretrained(tmp_path / "teacher")
    assert loaded.describe() == teacher.describe()
    assert np.array_equal(stored(rows, loaded), stored(rows, teacher))


FITTED = RandomForestClassifier(30, random_state=0).fit(X, Y)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (X.iloc[::-1], "hold other rows"),
        (X.iloc[:100], "hold other rows"),
        (X + 0.1 * np.arange(len(X))[:, None], "hold other rows"),
        (np.zeros((len(X), 7)), "hold other rows"),
        (datasets.DatasetDict(train=table()), "fitted_on is a DatasetDict"),
    ],
)
def test_other_rows_than_the_forest_was_fitted_on_are_refused(rows, message):
    with pytest.raises(UserError, match=message):
        SklearnTeacher(FITTED, fitted_on=rows)
    assert SklearnTeacher(FITTED, fitted_on=table()).network.out_of_bag is not None


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (RandomForestClassifier(30, bootstrap=False), "no answers out of bag"),
        (ExtraTreesClassifier(30), "no answers out of bag"),
        (GradientBoostingClassifier(), "no answers out of bag"),
        (BaggingClassifier(), "no answers out of bag"),
        (RandomForestClassifier(3, random_state=0), "was drawn by all but 0 of the 3 trees"),
        (make_pipeline(TargetEncoder(cv=2), FOREST), "hold other rows"),  # encodes otherwise what it is fitted on
    ],
)
def test_what_has_no_answers_out_of_bag_is_refused(estimator, message):
    frame = X.round().astype(int).astype(str) if "TargetEncoder" in str(estimator) else X
    with pytest.raises(UserError, match=message):
        SklearnTeacher.fit(estimator, table(frame), out_of_bag=True)
