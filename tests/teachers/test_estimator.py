"""The teacher of tables: a forest's trees are its draws, columns and classes go by name, nothing is guessed."""

import warnings

import datasets
import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.ensemble import (
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputRegressor, RegressorChain
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, KBinsDiscretizer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from hf_bkd import EnsembleTeacher, SklearnTeacher, Teacher, UserError, add_soft_labels
from hf_bkd.models.saving import load_network
from hf_bkd.soft_labels import read

NAMES = ["setosa", "versicolor", "virginica"]
COLUMNS = ["sepal length", "sepal width", "petal length", "petal width"]
X = pd.DataFrame(load_iris().data, columns=COLUMNS)
Y = load_iris().target
FOREST = RandomForestClassifier(5, random_state=0)


def table(labels=Y, names=NAMES, frame=X) -> datasets.Dataset:
    rows = datasets.Dataset.from_pandas(frame, preserve_index=False).add_column("label", np.asarray(labels).tolist())
    return rows if names is None else rows.cast_column("label", datasets.ClassLabel(names=names))


def probs(rows, teacher, **options) -> np.ndarray:
    return np.array(add_soft_labels(rows, teacher, progress=False, storage="float32", **options)["teacher_probs"])


def linear(frame=X, labels=Y):
    return LogisticRegression(max_iter=500).fit(frame, labels)


def test_trees_are_draws_by_hand():
    tree = DecisionTreeClassifier(max_depth=1)
    forest = RandomForestClassifier(3, max_depth=1, bootstrap=False, max_features=1.0).fit([[0.0], [1.0]], [0, 1])
    forest.estimators_[2] = tree.fit(np.float32([[0], [1]]), [0.0, 0.0])  # says that all are of class 0
    forest.estimators_[2].classes_ = np.array([0])
    answer = SklearnTeacher(forest).predict(np.array([[1.0]]))
    assert answer.mean[0].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert answer.variance[0].tolist() == pytest.approx([1 / 3, 1 / 3])  # of 0, 0, 1 with ddof 1


AVERAGES = {
    "forest": (FOREST, 5),
    "extra trees": (ExtraTreesClassifier(4), 4),
    "one tree": (RandomForestClassifier(1), 1),
    "bagging of columns and few rows": (BaggingClassifier(n_estimators=6, max_features=0.5, max_samples=0.05), 6),
    "bagging without probabilities": (BaggingClassifier(LinearSVC(), n_estimators=3), 3),
    "vote": (
        VotingClassifier([("a", linear()), ("b", GaussianNB()), ("c", FOREST)], voting="soft", weights=[1, 2, 0]),
        2,
    ),
    "calibrated": (CalibratedClassifierCV(LinearSVC(), cv=3), 3),
    "boosting": (GradientBoostingClassifier(n_estimators=2), 1),
    "search": (GridSearchCV(FOREST, {"max_depth": [1, 2]}, cv=2), 5),
    "sparse pipeline": (
        make_pipeline(make_column_transformer((KBinsDiscretizer(encode="onehot"), COLUMNS)), FOREST),
        5,
    ),
    "pandas pipeline": (make_pipeline(StandardScaler().set_output(transform="pandas"), FOREST), 5),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", AVERAGES)
@pytest.mark.parametrize("labels", [Y, np.array(NAMES)[Y]], ids=["numbers", "names"])
def test_the_mean_of_the_draws_is_what_the_estimator_says(kind, labels):
    estimator, draws = AVERAGES[kind]
    teacher = SklearnTeacher(estimator.fit(X, labels))
    labeled = add_soft_labels(table(), teacher, progress=False, storage="float32", num_samples=3)
    assert np.allclose(labeled["teacher_probs"], estimator.predict_proba(X), atol=1e-6)
    assert teacher.num_draws(3) == draws == read(labeled).record.draws
    assert ("teacher_variance" in labeled.column_names) == (draws > 1)


def test_a_subclass_that_answers_otherwise_is_one_draw():
    class Own(RandomForestClassifier):
        def predict_proba(self, features):
            return np.full((len(features), 3), 1 / 3)

    teacher = SklearnTeacher(Own(3).fit(X, Y))
    assert teacher.num_draws(10) == 1 and np.allclose(teacher.predict(X).mean, 1 / 3)


def test_columns_go_by_name_in_whatever_order():
    teacher = SklearnTeacher(linear())
    rows = table()
    assert np.array_equal(probs(rows, teacher), probs(rows.select_columns(rows.column_names[::-1]), teacher))
    with pytest.raises(UserError, match="has no 'sepal width'"):
        probs(rows.remove_columns("sepal width"), teacher)
    renamed = rows.rename_columns({"sepal width": "sw", "petal width": "pw"})
    named = SklearnTeacher(linear(), feature_names=["sepal length", "sw", "petal length", "pw"])
    assert np.array_equal(probs(renamed, named), probs(rows, teacher))


def test_columns_without_names_are_counted_and_keep_the_first_order():
    teacher, rows = SklearnTeacher(linear(X.to_numpy())), table()
    with pytest.warns(
        UserWarning, match="4 features without names, and they are taken to be the columns sepal length"
    ):
        first = probs(rows, teacher)
    with warnings.catch_warnings(action="error"):  # it is said once, and not of an order that is told
        assert np.array_equal(first, probs(rows.select_columns(rows.column_names[::-1]), teacher))
        told = SklearnTeacher(linear(X.to_numpy()[:, ::-1]), feature_names=COLUMNS[::-1])
        assert np.allclose(probs(rows, told), first, atol=1e-3)
    assert np.allclose(first, linear().predict_proba(X), atol=1e-6)
    with pytest.raises(UserError, match="4 features without names, and the dataset has 3"):
        probs(rows.remove_columns("sepal width"), teacher)
    vectors = datasets.Dataset.from_dict({"v": X.to_numpy().tolist(), "label": Y.tolist()})
    assert np.array_equal(probs(vectors, SklearnTeacher(linear(X.to_numpy()))), first)


@pytest.mark.parametrize("names", [COLUMNS[:3], [*COLUMNS[:3], COLUMNS[0]]])
def test_names_of_features_are_as_many_and_each_once(names):
    with pytest.raises(UserError, match="fitted on 4 features: name each of them once"):
        SklearnTeacher(linear(X.to_numpy()), feature_names=names)


class Booster(LogisticRegression):
    """A class as LightGBM's and CatBoost's are: its own module, and its own word for the names of columns."""

    def fit(self, features, labels, sample_weight=None):
        super().fit(np.asarray(features), labels)
        named = isinstance(features, pd.DataFrame)
        names = [name.replace(" ", "_") for name in features] if named else None
        setattr(self, self.word, names or [f"{self.start}{number}" for number in range(features.shape[1])])
        return self


@pytest.mark.parametrize(("word", "start"), [("feature_name_", "Column_"), ("feature_names_", "")])
def test_names_of_columns_by_another_librarys_word(word, start):
    kind = type("Own", (Booster,), {"word": word, "start": start})
    rows = table()
    expected = linear().predict_proba(X)
    fitted = SklearnTeacher.fit(kind(max_iter=500), rows)  # knows its columns by names without blanks
    turned = rows.select_columns(rows.column_names[::-1])
    assert np.allclose(probs(turned, fitted), expected, atol=1e-6)
    renamed = rows.rename_columns({name: name.replace(" ", "_") for name in COLUMNS})
    own = SklearnTeacher(kind(max_iter=500).fit(X, Y))
    assert np.allclose(probs(renamed.select_columns(renamed.column_names[::-1]), own), expected, atol=1e-6)
    with pytest.warns(UserWarning, match="without names"):
        assert np.allclose(probs(rows, SklearnTeacher(kind(max_iter=500).fit(X.to_numpy(), Y))), expected, atol=1e-6)


def test_labels_among_the_columns_are_refused():
    with pytest.raises(UserError, match="fitted on the column 'label'"):
        probs(table(), SklearnTeacher(linear(X.assign(label=Y))))


def test_strings_are_names_also_when_they_look_like_numbers():
    teacher = SklearnTeacher(linear(X, (Y > 0).astype(int).astype(str)))
    straight = probs(table(Y > 0, ["0", "1"]), teacher)
    assert np.array_equal(probs(table(Y > 0, ["1", "0"]), teacher), straight[:, ::-1])
    assert np.array_equal(probs(table(Y > 0, ["no", "yes"]), teacher), straight)  # numbers, as everywhere
    with pytest.raises(UserError, match="can't be matched by name"):
        probs(table(Y > 0, ["no", "yes"]), SklearnTeacher(linear(X, np.array(["left", "right"])[(Y > 0) + 0])))


def test_numbers_that_may_be_names_are_refused():
    with pytest.raises(UserError, match="pass class_names"):
        probs(table(names=["0", "2", "1"]), SklearnTeacher(linear()))
    told = SklearnTeacher(linear(), class_names=["0", "1", "2"])
    with pytest.raises(UserError, match="pass class_names"):
        probs(table(names=["0", "2", "1"]), told)


def test_classes_that_were_never_seen_have_probability_zero():
    seen = Y != 1
    with pytest.raises(UserError, match="2 classes and the dataset's column label has 3"):
        probs(table(), SklearnTeacher(linear(X[seen], Y[seen])))
    for labels in (Y[seen], np.array(NAMES)[Y[seen]]):
        answers = probs(table(), SklearnTeacher(linear(X[seen], labels), class_names=NAMES))
        assert (answers[:, 1] == 0).all() and np.allclose(answers.sum(axis=1), 1)


def test_truth_values_and_numbers_as_labels():
    assert SklearnTeacher(linear(X, Y > 0)).class_names == ["False", "True"]
    rows = table(Y > 0, None)
    teacher = SklearnTeacher.fit(GaussianNB(), rows)
    assert teacher.class_names == ["False", "True"] and probs(rows, teacher)[0, 0] > 0.9
    assert SklearnTeacher(linear(X, Y + 3)).class_names == ["3", "4", "5"]


def test_missing_values_are_the_estimators_to_take():
    holes = X.copy()
    holes.iloc[7, 1] = np.nan
    rows = table(frame=holes)
    assert np.isfinite(probs(rows, SklearnTeacher.fit(FOREST, rows))).all()
    with pytest.raises(UserError, match="row 7: a value of column sepal width is missing, and LogisticRegression"):
        probs(rows, SklearnTeacher(linear()))
    assert len(probs(rows, SklearnTeacher(linear()), on_error="skip")) == 149


def test_words_are_read_as_pandas_has_them():
    words = X.assign(color=np.array(["red", "green", None], dtype=object)[Y])
    rows = table(frame=words)
    encoder = make_column_transformer((OneHotEncoder(), ["color"]), remainder="passthrough")
    estimator = make_pipeline(encoder, RandomForestClassifier(3, random_state=0))
    teacher = SklearnTeacher.fit(estimator, rows)
    assert probs(rows, teacher).argmax(axis=1).tolist() == Y.tolist()
    assert read(add_soft_labels(rows, teacher, progress=False)).record.dataset.identity["columns"] == sorted(words)
    with pytest.raises(UserError, match="unknown categories"):
        probs(rows.map(lambda row: {"color": "blue"}), teacher)
    with pytest.raises(UserError, match="OneHotEncoder"):
        SklearnTeacher.fit(RandomForestClassifier(2), rows)


def test_a_pipeline_of_texts():
    texts = ["good film", "bad film"] * 5
    rows = datasets.Dataset.from_dict({"text": texts, "label": [1, 0] * 5})
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, [1, 0] * 5)
    assert np.allclose(probs(rows, SklearnTeacher(pipeline)), pipeline.predict_proba(texts), atol=1e-6)


def test_numbers_with_the_spread_of_the_trees():
    forest = RandomForestRegressor(4, random_state=0).fit(X, 2.5 * X["petal width"])
    teacher = SklearnTeacher(forest)
    answer = teacher.predict(X)
    trees = np.stack([tree.predict(X.to_numpy()) for tree in forest.estimators_])
    assert np.allclose(answer.mean[:, 0], trees.mean(axis=0), rtol=1e-5)
    assert np.allclose(answer.variance[:, 0], trees.var(axis=0, ddof=1), rtol=1e-3, atol=1e-6)
    assert teacher.likelihood.problem_type == "regression" and teacher.num_classes == 1
    assert SklearnTeacher(Ridge().fit(X, np.stack([Y, Y + 1.5], 1))).num_classes == 2
    with pytest.raises(UserError, match="predicts numbers, and the column label holds one class a row"):
        probs(table(), teacher)
    with pytest.raises(UserError, match="regressor, and the column label holds classes"):
        SklearnTeacher.fit(RandomForestRegressor(2), table())


def test_labels_of_their_own():
    labels = np.stack([Y == 0, Y > 0, X["sepal length"] > 5.8, Y < 0], 1).astype(int)
    forest = RandomForestClassifier(4, random_state=0).fit(X, labels)
    teacher = SklearnTeacher(forest)
    expected = [each[:, 1] if each.shape[1] == 2 else 0 * each[:, 0] for each in forest.predict_proba(X)]
    assert np.allclose(teacher.predict(X).mean, np.stack(expected, 1), atol=1e-6)
    assert teacher.likelihood.problem_type == "multi_label_classification"
    with pytest.raises(UserError, match="fit an estimator for each question"):
        SklearnTeacher(RandomForestClassifier(2).fit(X, np.stack([Y, Y], 1)))


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (RandomForestClassifier(), "is not fitted"),
        (RandomForestRegressor(), "is not fitted"),
        (RandomForestClassifier, "no fitted estimator"),
        ("forest", "no fitted estimator"),
        (KMeans(2, n_init=1).fit(X), "predicts no labels"),
    ],
)
def test_what_is_no_fitted_classifier_is_refused(estimator, message):
    with pytest.raises(UserError, match=message):
        SklearnTeacher(estimator)


def test_an_estimator_without_probabilities_says_zero_and_one():
    with pytest.warns(UserWarning, match="CalibratedClassifierCV"):
        teacher = SklearnTeacher(SVC().fit(X, Y))
    assert set(teacher.predict(X).mean.flatten().tolist()) == {0.0, 1.0}


def test_a_class_of_another_library():
    class Booster:
        def __init__(self):
            self.classes_, self.n_features_in_ = np.array([0, 1, 2]), 4

        def predict(self, features):
            return np.zeros(len(features), int)

        def predict_proba(self, features):
            return np.tile(np.float32([0.5, 0.3, 0.2]), (len(features), 1))

    assert np.allclose(probs(table(), SklearnTeacher(Booster())), [0.5, 0.3, 0.2])


def test_cross_fitted_forests_know_all_classes():
    rows = table().select([*range(100), 149])  # one of the third class, which one of the folds lacks
    labeled = add_soft_labels(rows, folds=3, fit=SklearnTeacher.fitting(FOREST), progress=False)
    assert np.array(labeled["teacher_probs"]).shape == (101, 3) and labeled[100]["teacher_probs"][2] == 0
    words = rows.map(lambda row: {"name": NAMES[row["label"]]}).remove_columns("label").rename_column("name", "label")
    with pytest.raises(UserError, match="since a fold lacks some"):
        add_soft_labels(words, folds=3, fit=SklearnTeacher.fitting(FOREST), progress=False)
    fit = SklearnTeacher.fitting(FOREST, class_names=NAMES)
    assert add_soft_labels(words, folds=3, fit=fit, progress=False)["teacher_probs"][:] == labeled["teacher_probs"][:]


def test_members_of_an_ensemble_may_be_forests():
    parts = [SklearnTeacher.fit(each, table()) for each in (FOREST, GaussianNB())]
    expected = np.mean([part.network.estimator.predict_proba(X) for part in parts], axis=0)
    assert np.allclose(probs(table(), EnsembleTeacher(parts)), expected, atol=1e-6)


def test_the_record_says_what_labeled():
    labeled = add_soft_labels(table(), SklearnTeacher.fit(FOREST, table()), progress=False)
    said = read(labeled).record.teacher.json
    assert said["estimator"] == "RandomForestClassifier" and said["parameters"]["n_estimators"] == 5
    assert said["features"] == COLUMNS and "scikit-learn" in said["versions"]


def test_the_fingerprint_is_of_what_was_learned():
    one, same, other = (RandomForestClassifier(3, random_state=seed).fit(X, Y) for seed in (0, 0, 1))
    same.n_jobs = 2
    assert SklearnTeacher(one).fingerprint() == SklearnTeacher(same).fingerprint()
    assert SklearnTeacher(one).fingerprint() != SklearnTeacher(other).fingerprint()


SAVED = {
    "forest": FOREST,
    "boosting": GradientBoostingClassifier(n_estimators=2, random_state=0),
    "pipeline": make_pipeline(make_column_transformer((KBinsDiscretizer(), COLUMNS)), FOREST),
    "numbers": RandomForestRegressor(3, random_state=0),
}


def test_the_order_of_columns_without_names_is_saved(tmp_path):
    pytest.importorskip("skops")
    teacher, rows = SklearnTeacher(linear(X.to_numpy())), table()
    first = probs(rows, teacher)
    teacher.save_pretrained(tmp_path / "teacher")
    loaded = Teacher.from_pretrained(tmp_path / "teacher")
    assert np.array_equal(first, probs(rows.select_columns(rows.column_names[::-1]), loaded))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", SAVED)
def test_it_is_saved_without_pickle(tmp_path, kind):
    pytest.importorskip("skops")
    teacher = SklearnTeacher(SAVED[kind].fit(X, Y))
    teacher.save_pretrained(tmp_path / "teacher")
    loaded = Teacher.from_pretrained(tmp_path / "teacher")
    assert loaded.describe() == teacher.describe() and (loaded.predict(X).mean == teacher.predict(X).mean).all()
    with pytest.raises(UserError, match="weighted_rows"):
        load_network(tmp_path / "teacher")


def doubled(features):
    return 2 * features


def test_what_would_run_code_is_neither_saved_nor_loaded(tmp_path):
    io = pytest.importorskip("skops.io")
    pipeline = make_pipeline(FunctionTransformer(doubled), FOREST).fit(X, Y)
    with pytest.raises(UserError, match="nothing of that kind is saved or loaded"):
        SklearnTeacher(pipeline).save_pretrained(tmp_path / "own")
    teacher = SklearnTeacher(FOREST.fit(X, Y))
    teacher.save_pretrained(tmp_path / "teacher")
    io.dump(pipeline, tmp_path / "teacher" / "network" / "estimator.skops")
    with pytest.raises(UserError, match="nothing of that kind is saved or loaded"):
        Teacher.from_pretrained(tmp_path / "teacher")
    (tmp_path / "teacher" / "network" / "estimator.skops").write_bytes(b"PK")
    with pytest.raises(UserError, match="cannot be loaded"):
        Teacher.from_pretrained(tmp_path / "teacher")


def test_a_tree_that_points_beyond_itself_is_refused(tmp_path):
    pytest.importorskip("skops")
    forest = RandomForestClassifier(2, random_state=0).fit(X, Y)
    forest.estimators_[1].tree_.children_left[0] = 10_000
    SklearnTeacher(forest).save_pretrained(tmp_path / "teacher")
    with pytest.raises(UserError, match="beyond its own nodes"):
        Teacher.from_pretrained(tmp_path / "teacher")


def test_saving_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "skops", None)
    monkeypatch.setitem(__import__("sys").modules, "skops.io", None)
    with pytest.raises(UserError, match="pip install 'hf_bkd\\[tables\\]'"):
        SklearnTeacher(linear()).save_pretrained(tmp_path / "teacher")


@pytest.mark.parametrize("regressor", [MultiOutputRegressor(Ridge()), RegressorChain(Ridge()), KNeighborsRegressor()])
def test_how_many_numbers_a_regressor_predicts_it_is_asked_where_it_does_not_say(regressor):
    targets = X.to_numpy() @ np.array([[1.0, 0], [0, 1], [1, 1], [2, 0]])
    for fitted in (regressor.fit(X, targets), make_pipeline(StandardScaler(), regressor).fit(X, targets)):
        made = add_soft_labels(table(names=None).remove_columns("label"), SklearnTeacher(fitted), progress=False)
        np.testing.assert_allclose(np.array(made["teacher_mean"]), fitted.predict(X), rtol=1e-5)


def test_a_table_for_an_ensemble_of_estimators_goes_by_its_name():
    both = EnsembleTeacher([SklearnTeacher(linear()), SklearnTeacher(linear(labels=Y[::-1]))])
    with pytest.raises(UserError, match="reads a table, and gets .*: pass it as .'table': table., or preprocessor"):
        both.predict(X, 1)
    assert both.predict({"table": X}, 1).mean.shape == (150, 3)
