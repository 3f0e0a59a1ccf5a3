"""What a fitted estimator is made of and how it answers: steps, members that are averaged, classes, values."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..likelihoods import Bernoulli, Categorical, Gaussian
from ..utils.errors import UserError

AVERAGING = {
    "predict_proba": ("ForestClassifier", "BaggingClassifier", "VotingClassifier", "CalibratedClassifierCV"),
    "predict": ("ForestRegressor", "BaggingRegressor", "VotingRegressor"),
}
"""The classes of scikit-learn whose answer is the mean of their members', by the method that says so."""


@dataclass(frozen=True)
class Member:
    """One of the estimators that an ensemble averages.

    Args:
        estimator: the member.
        columns: numbers of the features that it reads; ``None`` for all.
        weight: what it counts, with a sum of 1 over the members.
    """

    estimator: Any
    columns: Any
    weight: float

    def answers(self, features: Any, classes: list[Any] | None, problem_type: str) -> np.ndarray:
        """Return its values [B, K], of all K classes that its ensemble knows.

        Args:
            features: what the ensemble was asked.
            classes: the ensemble's.
            problem_type: of both.
        """
        if not _takes_names(self.estimator):
            features = features.to_numpy() if isinstance(features, pd.DataFrame) else features
            features = features.astype(np.float32) if _is_tree(self.estimator) else features  # as forests do
        if self.columns is not None:
            features = features[:, self.columns]
        answers = answers_of(self.estimator, features, problem_type, classes)
        if problem_type != Categorical.problem_type or answers.shape[1] == len(classes):
            return answers
        spread = np.zeros((len(answers), len(classes)))  # a member of a sample that lacks some of the classes
        spread[:, np.asarray(self.estimator.classes_, dtype=int)] = answers
        return spread


def fitted(estimator: Any) -> Any:
    """Return a fitted estimator, that of a search as the best one that was found.

    Raises:
        UserError: a class, something that isn't fitted, or an estimator that doesn't predict labels.
    """
    if isinstance(estimator, type) or not hasattr(estimator, "predict"):
        what = estimator.__name__ if isinstance(estimator, type) else type(estimator).__name__
        raise UserError(f"{what} is no fitted estimator: pass an object with predict, after its fit(X, y)")
    estimator = getattr(estimator, "best_estimator_", estimator)
    final = steps_of(estimator)[-1]
    kind = estimator_type(final)
    if kind not in (None, "classifier", "regressor"):
        raise UserError(
            f"{name_of(final)} is of the kind {kind!r}, which predicts no labels: pass a classifier or a regressor"
        )
    if kind == "regressor" and _is_fitted(final) or hasattr(final, "classes_"):
        return estimator
    raise UserError(
        f"{name_of(final)} is not fitted, for it has no {'fitted attributes' if kind == 'regressor' else 'classes_'}: "
        "call its fit(X, y) first, or SklearnTeacher.fit(estimator, dataset)"
    )


def problem_type_of(estimator: Any) -> str:
    """Return what a fitted estimator predicts, in transformers' words.

    Raises:
        UserError: several answers a row of more than two classes each.
    """
    final = steps_of(estimator)[-1]
    if not hasattr(final, "classes_"):
        return Gaussian.problem_type
    if getattr(final, "multilabel_", False) or "multilabel" in str(
        getattr(getattr(final, "_label_binarizer", None), "y_type_", "")
    ):
        return Bernoulli.problem_type
    if not _has_several(final):
        return Categorical.problem_type
    for each in final.classes_:
        if not set(np.asarray(each).tolist()) <= {0, 1}:
            raise UserError(
                f"{name_of(estimator)} answers {len(final.classes_)} questions a row, one of them with the classes "
                f"{', '.join(map(str, each[:4]))}: only labels that are there or not (0 and 1) can be taught several "
                "at a time; fit an estimator for each question"
            )
    return Bernoulli.problem_type


def classes_of(estimator: Any) -> list[Any] | None:
    """Return the values that an estimator knows as classes, lists of them for several labels; ``None`` of numbers."""
    classes = getattr(steps_of(estimator)[-1], "classes_", None)
    if classes is None:
        return None
    return [np.asarray(each).tolist() for each in classes]


def answers_of(estimator: Any, features: Any, problem_type: str, classes: list[Any] | None = None) -> np.ndarray:
    """Return what an estimator says of features: probabilities [B, K], of 0 and 1 if it has no others, or numbers.

    Args:
        estimator: a whole pipeline, or a member of an ensemble.
        features: what it reads.
        problem_type: what it predicts.
        classes: of its ensemble; its own if not given.
    """
    if problem_type == Gaussian.problem_type:
        numbers = _dense(estimator.predict(features))
        return numbers[:, None] if numbers.ndim == 1 else numbers
    classes = classes_of(estimator) if classes is None else classes
    if problem_type == Categorical.problem_type:
        if has_probabilities(estimator):
            return _dense(estimator.predict_proba(features))
        predicted = np.asarray(estimator.predict(features)).reshape(-1, 1)
        return (predicted == np.asarray(estimator.classes_)[None]).astype(np.float64)
    if not has_probabilities(estimator):
        return _dense(estimator.predict(features))
    answers = estimator.predict_proba(features)
    if not isinstance(answers, list):
        return _dense(answers)
    columns = [list(own).index(1) if 1 in own else None for own in classes]  # of a label that is there
    never = np.zeros(len(answers[0]))
    return np.stack(
        [never if column is None else _dense(each)[:, column] for each, column in zip(answers, columns, strict=True)],
        axis=1,
    )


def name_of(estimator: Any) -> str:
    """Return the name of an estimator's class, of a pipeline that of its last step."""
    return type(steps_of(estimator)[-1]).__name__


def has_probabilities(estimator: Any) -> bool:
    """Return whether an estimator answers with probabilities, and not with classes alone."""
    return hasattr(estimator, "predict_proba")


def steps_of(estimator: Any) -> list[Any]:
    """Return the steps of a pipeline, ``None`` for those that do nothing; of any other estimator itself alone."""
    steps = getattr(estimator, "steps", None)
    if not isinstance(steps, list) or not any(kind.__name__ == "Pipeline" for kind in type(estimator).__mro__):
        return [estimator]
    steps = [None if step in (None, "passthrough") else step for _, step in steps]
    return [*steps[:-1], *steps_of(getattr(steps[-1], "best_estimator_", steps[-1]))]


def transformed(estimator: Any, features: Any) -> Any:
    """Return features as the last step of a pipeline gets them."""
    for step in steps_of(estimator)[:-1]:
        features = step.transform(features) if hasattr(step, "transform") else features
    return features


def members_of(estimator: Any) -> list[Member]:
    """Return what an estimator averages, equally or by weights; itself alone where it is no average."""
    final = steps_of(estimator)[-1]
    method = "predict_proba" if hasattr(final, "classes_") else "predict"
    definer = next((kind for kind in type(final).__mro__ if method in vars(kind)), None)
    kind = definer.__name__ if definer is not None and definer.__module__.startswith("sklearn.") else None
    single = [Member(final, None, 1.0)]
    if kind not in AVERAGING[method] or not hasattr(final, method):
        return single
    if kind == "CalibratedClassifierCV":
        members, columns, weights = final.calibrated_classifiers_, None, None
    else:
        members, weights = list(final.estimators_), getattr(final, "_weights_not_none", None)
        columns = getattr(final, "estimators_features_", None)
    if len(members) == 1:
        return single
    weights = np.ones(len(members)) if weights is None else np.asarray(weights, dtype=np.float64)
    weights = weights / weights.sum()
    columns = [None] * len(members) if columns is None else columns
    return [Member(*each) for each in zip(members, columns, weights.tolist(), strict=True) if each[2] > 0]


def estimator_type(estimator: Any) -> str | None:
    """Return what scikit-learn calls the kind of an estimator, such as ``"regressor"``, if it says so."""
    own = getattr(estimator, "_estimator_type", None)
    if own is None and hasattr(estimator, "__sklearn_tags__"):
        try:
            own = estimator.__sklearn_tags__().estimator_type
        except (AttributeError, TypeError):
            own = None
    return own


def _is_fitted(estimator: Any) -> bool:
    """Whether an estimator has learned something, as scikit-learn tells it."""
    if hasattr(estimator, "__sklearn_is_fitted__"):
        return bool(estimator.__sklearn_is_fitted__())
    return any(name.endswith("_") and not name.startswith("__") for name in vars(estimator))


def _has_several(estimator: Any) -> bool:
    classes = estimator.classes_
    return isinstance(classes, (list, tuple)) and any(np.ndim(each) for each in classes)


def _dense(answers: Any) -> np.ndarray:
    return np.asarray(answers.toarray() if hasattr(answers, "toarray") else answers, dtype=np.float64)


def _is_tree(estimator: Any) -> bool:
    return any(kind.__name__ == "BaseDecisionTree" for kind in type(estimator).__mro__)


def _takes_names(estimator: Any) -> bool:
    """Whether a member was fitted on a table with names, as those of a vote are; those of a forest are not."""
    return hasattr(getattr(estimator, "estimator", estimator), "feature_names_in_")
