"""Studies whose networks predict several labels or numbers, of features, images and texts alike."""

import datasets
import numpy as np
import pytest

from hf_bkd.study import (
    DETERMINISTIC,
    LABEL_SMOOTHING,
    LAPLACE,
    ONE_HOT,
    SCALED,
    TUNED,
    Arm,
    Images,
    Several,
    Splits,
    Study,
    Texts,
    Vectors,
)
from hf_bkd.teachers import Ensemble, Laplace, Variational
from tests.cli.fitting_helpers import bert, tokenizer
from tests.study.study_helpers import run, status

MULTI, NUMBERS = "multi_label_classification", "regression"
WORDS = ["red", "green", "blue"]
PREDICTS = {"predict_variance": True}
REGRESSION = (
    ONE_HOT,
    Arm("variances", student_args=PREDICTS),
    DETERMINISTIC,
    LAPLACE,
    Arm("Laplace, variances", Laplace(), student_args=PREDICTS),
    Arm("variational", Variational(), architecture_args=PREDICTS, student_args=PREDICTS),
)
SEVERAL = (ONE_HOT, LABEL_SMOOTHING, DETERMINISTIC, LAPLACE, Arm("ensemble", Ensemble(), kd_lambda=0.5))


def rows(kind: str, problem: str, size: int, seed: int) -> datasets.Dataset:
    """Examples whose red, green and blue say which labels are there, or a price in thousands."""
    rng = np.random.default_rng(seed)
    amounts = rng.random((size, 3))
    if kind == "image":
        values = (amounts[:, None, None, :] * 200 + rng.integers(0, 50, (size, 8, 8, 3))).astype(np.uint8)
        column, feature = list(values), datasets.Image()
    elif kind == "text":
        column = [
            " ".join(w for w, a in zip(WORDS, row, strict=True) for _ in range(int(4 * a) + 1)) for row in amounts
        ]
        feature = datasets.Value("string")
    else:
        column, feature = amounts.tolist(), datasets.List(datasets.Value("float32"), length=3)
    if problem == MULTI:
        labels = [[place for place in range(3) if row[place] > 0.5] for row in amounts]
        label = datasets.List(datasets.ClassLabel(names=WORDS))
    else:
        labels, label = (200 + 300 * amounts[:, 0]).tolist(), datasets.Value("float64")
    name = {"image": "image", "text": "text", "features": "features"}[kind]
    return datasets.Dataset.from_dict(
        {name: column, "label": labels}, datasets.Features({name: feature, "label": label})
    )


def inputs(kind: str, problem: str, weights=None):
    if kind == "image":
        return Images([0.5] * 3, [0.25] * 3, augment=True, problem_type=problem)
    return Texts(str(weights), problem) if kind == "text" else Vectors(problem)


def study(kind: str, problem: str, arms, weights=None, **settings) -> Study:
    def data(options, seed):
        return Splits(*(rows(kind, problem, 40, part) for part in range(3)), inputs(kind, problem, weights))

    measure = "rmse" if problem == NUMBERS else "mean_average_precision"
    return Study("problems", arms, {"": data}, reference="one-hot", measure=measure, **settings)


@pytest.fixture
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    bert().bert.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("features", MULTI),
        ("features", NUMBERS),
        ("image", MULTI),
        ("text", NUMBERS),
        pytest.param("image", NUMBERS, marks=pytest.mark.slow),
        pytest.param("text", MULTI, marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_input_has_every_problem(tmp_path, kind, problem, weights):
    networks = {"features": ("mlp-8", "mlp-16"), "image": ("test_resnet",) * 2, "text": ("all-layers",) * 2}[kind]
    arms = REGRESSION if problem == NUMBERS else SEVERAL
    if kind != "features":
        arms = arms[:1] + arms[-2:]
    options = {"student_model": networks[0], "teacher_model": networks[1], "learning_rate": 2e-3}
    results = run(study(kind, problem, arms, weights), tmp_path / "run", **options)
    by_arm = {record["arm"]: record for record in results["arms"]}
    assert list(by_arm) == [arm.name for arm in arms]
    for record in by_arm.values():
        if problem == MULTI:
            assert 0 <= record["metrics"]["mean_average_precision"] <= 1
        else:
            assert record["metrics"]["rmse"] < 200  # the numbers' standard deviation is 87, their mean 350
            predicts = "varia" in record["arm"]
            assert ("coverage" in record["metrics"]) == predicts
    assert "RMSE" in (tmp_path / "run" / "report.md").read_text() or problem == MULTI


@pytest.mark.parametrize(
    ("problem", "arm", "sentence"),
    [
        (NUMBERS, LABEL_SMOOTHING, "arm 'label smoothing': label smoothing means nothing for regression"),
        (NUMBERS, TUNED, "arm 'deterministic, best T': a temperature means nothing"),
        (NUMBERS, SCALED, "arm 'deterministic, scaled': a temperature means nothing"),
        (NUMBERS, Arm("both", Several((DETERMINISTIC, LAPLACE), "entropy")), "weights by entropy mean nothing"),
        (
            MULTI,
            Arm("both", Several((DETERMINISTIC, LAPLACE), combine="mixture")),
            "is a mixture of distributions",
        ),
        (MULTI, Arm("wide", student_args=PREDICTS), "predicts variances, which are a regression's"),
    ],
)
def test_arms_that_mean_nothing_are_refused_before_the_first_is_run(tmp_path, problem, arm, sentence, capsys):
    assert status(tmp_path / "run", study("features", problem, (ONE_HOT, arm)), student_model="mlp-8") == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / "run" / "arms").exists()


def test_labels_of_another_problem_are_refused_in_a_sentence(tmp_path, capsys):
    def data(options, seed):
        return Splits(*[rows("image", MULTI, 8, 0)] * 3, Images([0.5] * 3, [0.25] * 3))

    assert status(tmp_path / "run", Study("wrong", (ONE_HOT,), {"": data})) == 2
    assert "predict one class for each example, and the column label holds List" in capsys.readouterr().err


def test_teachers_of_numbers_are_not_compared_as_classifiers(tmp_path, capsys):
    compared = study("features", NUMBERS, (DETERMINISTIC,), students=False)
    assert status(tmp_path / "run", compared, teacher_model="mlp-8") == 2
    assert "declare it with students=True" in capsys.readouterr().err
