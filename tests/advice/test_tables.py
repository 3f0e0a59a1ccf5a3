"""Advice about tables and the estimators that read them."""

from importlib.util import find_spec

import datasets
import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from hf_bkd import SklearnTeacher, Teacher, add_soft_labels
from hf_bkd.cli.teacher import main as fit
from hf_bkd.models.estimator_files import ESTIMATOR
from hf_bkd.models.saving import load_network
from hf_bkd.teachers.forest import Forest
from hf_bkd.teachers.specification import FitContext

from .following import advises, code, follow, refused
from .test_commands import run
from .things import NAMES, labeled, same, stored

A, B = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 0.0, 3.0, 0.0, 2.0, 9.0]
FRAME = pd.DataFrame({"a": A, "b": B})
Y = [0, 0, 1, 1, 2, 2]
FOREST = RandomForestClassifier(3, random_state=0)


def table(labels=tuple(Y), **columns):
    own = {} if labels is None else {"label": list(labels)}
    return datasets.Dataset.from_dict({"a": A, "b": B} | columns | own)


def regression():
    return LogisticRegression().fit(FRAME, Y)


@advises("or fit a pipeline that begins with SimpleImputer")
def test_missing_values_are_left_out_or_filled_in():
    holes = [None, *B[1:]]
    dataset = table(None, b=holes)
    message = refused(lambda: labeled(dataset, SklearnTeacher(regression())))
    left = labeled(dataset, SklearnTeacher(regression()), **follow(f"dict({code(message, r'(on_error=.skip.)')})"))
    same(stored(left), regression().predict_proba(FRAME)[1:])
    step = follow(code(message, r"begins with (\w+\(\))"), SimpleImputer=SimpleImputer)
    pipeline = make_pipeline(step, LogisticRegression()).fit(FRAME.assign(b=[np.nan, *B[1:]]), Y)
    filled = FRAME.assign(b=[np.mean(B[1:]), *B[1:]])
    same(stored(labeled(dataset, SklearnTeacher(pipeline))), LogisticRegression().fit(filled, Y).predict_proba(filled))


@advises("the estimator is a classifier, and the column")
def test_classes_with_decimals_are_cast():
    dataset = table([float(each) for each in Y])
    message = refused(lambda: SklearnTeacher.fit(LogisticRegression(), dataset))
    whole = follow(code(message, r"by (dataset\.cast_column\(.*\))"), dataset=dataset)
    same(SklearnTeacher.fit(LogisticRegression(), whole).predict(FRAME).mean, regression().predict_proba(FRAME))


@advises("is not fitted, for it has no", "is no fitted estimator")
def test_an_estimator_is_fitted():
    for given in (LogisticRegression(), LogisticRegression):
        message = refused(lambda: SklearnTeacher(given))  # noqa: B023
        estimator, dataset = LogisticRegression(), table()
        follow(f"estimator.{code(message, r'its (fit.X, y.)')}", estimator=estimator, X=FRAME, y=Y)
        same(SklearnTeacher(estimator).predict(FRAME).mean, regression().predict_proba(FRAME))
        if given is not LogisticRegression:
            teacher = follow(code(message, r"or (\w+\.fit\(.*\))"), estimator=given, dataset=dataset)
            same(teacher.predict(FRAME).mean, regression().predict_proba(FRAME))


@advises("holds an estimator of scikit-learn, which is no network")
def test_an_estimator_teaches_and_learns_as_such(tmp_path):
    (tmp_path / ESTIMATOR).touch()
    message, teacher = refused(lambda: load_network(tmp_path)), SklearnTeacher(regression())
    if find_spec("skops"):  # without which it can't be saved
        teacher.save_pretrained(tmp_path / "saved")
        teacher = follow(code(message, r"\((\w+\.from_pretrained)\)"))(tmp_path / "saved")
    dataset = labeled(table(), teacher)
    same(stored(dataset), regression().predict_proba(FRAME))
    rows = follow(code(message, r"from (weighted_rows\(dataset\))"), dataset=dataset)
    student = LogisticRegression(C=1e6, max_iter=5000).fit(*rows)
    same(student.predict_proba(FRAME), regression().predict_proba(FRAME), 2e-2)


@advises("since a fold lacks some")
def test_all_folds_know_all_classes():
    dataset = table([NAMES[each] for each in (0, 0, 0, 1, 1, 2)])
    ask = lambda rows, **options: add_soft_labels(  # noqa: E731
        rows, folds=3, fit=SklearnTeacher.fitting(FOREST, **options), progress=False, storage="float32"
    )
    message = refused(lambda: ask(dataset))
    encoded = ask(follow(code(message, r"or (dataset\.\w+\(.*?\))"), dataset=dataset))
    named = ask(dataset, **{code(message, r"by (\w+) or"): NAMES})
    assert stored(named).shape == (6, 3) and stored(named)[5, 2] == 0  # the only one of its class
    same(stored(encoded), stored(named))


@advises("the teacher reads a table, and gets")
def test_a_teacher_of_tables_is_given_one():
    teacher, dataset = SklearnTeacher(regression()), table(None)
    message = refused(lambda: labeled(dataset, teacher, preprocessor=lambda rows: {"x": np.asarray(rows["a"])}))
    name, value = code(message, r"or (preprocessor=.*\))").split("=", 1)
    soft = labeled(dataset, teacher, **{name: follow(value, teacher=teacher, dataset=dataset)})
    same(stored(soft), regression().predict_proba(FRAME))
    same(teacher.predict(FRAME).mean, regression().predict_proba(FRAME))


class Study:
    """What a study of networks lets a specification ask for."""

    seed = 0
    train_rows = FitContext.train_rows


@advises("a forest is fitted on a table", "is fitted on the dataset alone: omit --model")
def test_a_forest_is_fitted_on_a_table(tmp_path):
    dataset = table()
    message = refused(lambda: Forest().fit(Study()))
    teacher = follow(code(message, r"or (\w+\.fit\(.*\))"), estimator=FOREST, dataset=dataset)
    same(teacher.predict(FRAME).mean, clone(FOREST).fit(FRAME, Y).predict_proba(FRAME))
    datasets.concatenate_datasets([dataset] * 8).save_to_disk(tmp_path / "table")
    words = [*code(message, r"hf-bkd teacher fit (--\w+ \w+)").split(), "--dataset", tmp_path / "table"]
    words += ["--trees", "30", "--output_dir", tmp_path / "forest"]
    option = code(refused(lambda: run(fit, *words, "--model", "mlp-8")), r"omit (--\w+)")
    assert option == "--model"
    if find_spec("skops"):  # without which it can't be saved
        run(fit, *words)
        same(Teacher.from_pretrained(tmp_path / "forest").predict(FRAME).mean.argmax(dim=1), Y)


@advises("has no answers out of bag", "was drawn by all but", "hold other rows than these")
def test_rows_of_a_forest_are_answered_by_others_than_have_seen_them():
    dataset = datasets.concatenate_datasets([table(a=[each + shift for each in A]) for shift in (0, 0.1, 0.2)])
    frame = dataset.remove_columns("label").to_pandas()
    by = lambda estimator: SklearnTeacher.fit(estimator, dataset, out_of_bag=True)  # noqa: E731
    few, none = FOREST, RandomForestClassifier(20, bootstrap=False)
    for message in (refused(lambda: by(few)), refused(lambda: by(none))):
        options = follow(f"dict({code(message, r'label by (folds=.*)')})", estimator=none)
        soft = add_soft_labels(dataset, progress=False, **options)
        assert stored(soft).shape == (18, 3)
    trees = int(code(refused(lambda: by(few)), r"more trees \((\d+)\)"))
    expected = by(RandomForestClassifier(trees, random_state=0)).predict(frame).mean
    fitted = RandomForestClassifier(trees, random_state=0).fit(frame, dataset["label"])
    message = refused(lambda: SklearnTeacher(fitted, fitted_on=frame[::-1]))
    call = code(message, r"by (SklearnTeacher\.fit\(.*\))")
    same(follow(call, estimator=fitted, dataset=dataset).predict(frame).mean, expected)
    same(SklearnTeacher(fitted, fitted_on=frame).predict(frame).mean, expected)


@advises("a DataFrame is no dataset: label", "a DataFrame is no dataset: pass")
def test_a_data_frame_is_made_a_dataset():
    frame, teacher = FRAME.assign(label=Y), SklearnTeacher(regression())
    message = refused(lambda: labeled(frame, teacher))
    same(
        stored(labeled(follow(code(message, r"label (.*)"), frame=frame), teacher)), regression().predict_proba(FRAME)
    )
    message = refused(lambda: SklearnTeacher.fit(LogisticRegression(), frame))
    dataset = follow(code(message, r"pass (.*)"), frame=frame)
    same(SklearnTeacher.fit(LogisticRegression(), dataset).predict(FRAME).mean, regression().predict_proba(FRAME))
