"""Estimators of scikit-learn, and of libraries with its interface, called as networks that read tables."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..utils.errors import UserError

AVERAGING = ("ForestClassifier", "BaggingClassifier", "VotingClassifier", "CalibratedClassifierCV")
"""Ensembles of scikit-learn whose ``predict_proba`` is the mean of their members'."""


class Member(NamedTuple):
    """One of the estimators that an ensemble averages.

    columns: numbers of the features that it reads, or ``None`` for all.
    weight: what it counts, with a sum of 1 over the members.
    """

    estimator: Any
    columns: Any
    weight: float


class EstimatorNetwork(nn.Module):
    """A fitted estimator as a network: its input is a table of B rows, its logits are log-probabilities [B, C].

    Args:
        estimator: anything fitted with ``predict_proba``, or ``predict`` alone, and ``classes_``: an estimator of
            scikit-learn, a pipeline or a search of these, or a class with the same interface.
        class_names: C names in the order of the answers. Names among ``classes_`` are matched, and a number k is the
            k-th; classes that the estimator has never seen get probability 0. If not given, the estimator's own.
        feature_names: the columns of a dataset in the order of the estimator's features; ``feature_names_in_`` if not
            given.

    Raises:
        UserError: an estimator that is not fitted or no classifier, or names that don't fit it.
    """

    def __init__(
        self, estimator: Any, class_names: Sequence[str] | None = None, feature_names: Sequence[str] | None = None
    ):
        super().__init__()
        self.estimator = fitted(estimator)
        self.anchor = nn.Parameter(torch.empty(0, dtype=torch.float64), requires_grad=False)  # knows the device
        own = classes_of(self.estimator)
        self.label_names, self.places = _named(own, class_names)
        self.num_classes = len(self.label_names or own)
        self.fitted_names = _names_of_features(self.estimator)
        self.num_features = _number_of_features(self.estimator)
        self.feature_names = list(feature_names or self.fitted_names or ()) or None
        self.read: tuple[str, ...] | None = None  # columns of a dataset that nothing names, in their order
        if feature_names is not None and self.num_features not in (None, len(feature_names)):
            raise UserError(
                f"{len(feature_names)} feature_names are given, and {name_of(estimator)} was fitted on "
                f"{self.num_features} features: name each of them once, in their order"
            )

    @property
    def reads_texts(self) -> bool:
        """Whether the estimator reads a text in each row, as a pipeline that begins with a vectorizer does."""
        first = _steps(self.estimator)[0]
        return any(kind.__name__ in ("CountVectorizer", "HashingVectorizer") for kind in type(first).__mro__)

    @property
    def members(self) -> list[Member]:
        """What the estimator averages, equally or by weights; itself alone where it is no average."""
        return _members(_steps(self.estimator)[-1])

    def forward(self, table: Any) -> Tensor:
        """Return log-probabilities [B, C] of a table."""
        logs, weights = self.draws(table)
        logs = logs if weights is None else logs + weights[..., None].log()
        return logs.log_softmax(dim=-1) if len(logs) == 1 else logs.logsumexp(dim=0).log_softmax(dim=-1)

    def draws(self, table: Any) -> tuple[Tensor, Tensor | None]:
        """Return each member's log-probabilities [S, B, C] of a table, and what it counts [S, B] unless equally."""
        features, members = self._as_fitted(table), self.members
        if len(members) == 1:
            probs = self._in_places(answers_of(self.estimator, features))[None]
        else:
            features = self._transformed(features)
            probs = np.stack([self._in_places(self._of_member(each, features)) for each in members])
        with np.errstate(divide="ignore"):
            logs = torch.from_numpy(np.log(probs)).to(self.anchor.device)
        weights = torch.tensor([each.weight for each in members], dtype=logs.dtype, device=logs.device)
        equal = bool((weights == weights[0]).all())
        return logs, None if equal else weights[:, None].expand(-1, logs.shape[1])

    def _as_fitted(self, table: Any) -> Any:
        """Return a table as the estimator's ``fit`` got it: with names of columns, as an array, or as texts."""
        if isinstance(table, Tensor):
            table = table.detach().cpu().numpy()
        if not isinstance(table, pd.DataFrame):
            table = pd.DataFrame(np.asarray(table))
        elif self.feature_names is not None and set(self.feature_names) <= set(table.columns):
            table = table[self.feature_names]
        if self.reads_texts:
            return table.iloc[:, 0].tolist()
        if self.fitted_names is None:
            return table.to_numpy()
        if len(table.columns) == len(self.fitted_names):
            table = table.set_axis(self.fitted_names, axis=1)
        return table

    def _transformed(self, features: Any) -> Any:
        for step in _steps(self.estimator)[:-1]:
            features = step.transform(features) if hasattr(step, "transform") else features
        return features

    def _of_member(self, member: Member, features: Any) -> np.ndarray:
        """Return the probabilities of a member for all classes that its ensemble knows."""
        estimator, own = member.estimator, len(self.places)
        if not _takes_names(estimator):
            features = features.to_numpy() if isinstance(features, pd.DataFrame) else features
            features = features.astype(np.float32) if _is_tree(estimator) else features  # as a forest rounds them
        if member.columns is not None:
            features = features[:, member.columns]
        answers = answers_of(estimator, features)
        if answers.shape[1] == own:
            return answers
        return _spread(answers, np.asarray(estimator.classes_, dtype=int), own)  # it has not drawn all classes

    def _in_places(self, answers: np.ndarray) -> np.ndarray:
        """Return probabilities [B, C] in the order of the answers."""
        own = len(self.places)
        if answers.ndim != 2 or answers.shape[1] != own:
            raise UserError(
                f"{name_of(self.estimator)} answers with an array of shape {list(answers.shape)}, and probabilities "
                f"[{len(answers)}, {own}] of its classes_ are needed"
            )
        return _spread(answers, np.asarray(self.places), self.num_classes)


def answers_of(estimator: Any, features: Any) -> np.ndarray:
    """Return an estimator's probabilities of its classes [B, C], 0 and 1 where it only predicts a class."""
    if not has_probabilities(estimator):
        predicted, known = np.asarray(estimator.predict(features)), np.asarray(estimator.classes_)
        return (predicted.reshape(-1, 1) == known[None]).astype(np.float64)
    answers = estimator.predict_proba(features)
    return np.asarray(answers.toarray() if hasattr(answers, "toarray") else answers, dtype=np.float64)


def fitted(estimator: Any) -> Any:
    """Return a fitted classifier, that of a search as the best one that was found.

    Raises:
        UserError: a class, an estimator that is not fitted, or one that answers with something else than classes.
    """
    if isinstance(estimator, type) or not hasattr(estimator, "predict"):
        what = estimator.__name__ if isinstance(estimator, type) else type(estimator).__name__
        raise UserError(f"{what} is no fitted estimator: pass an object with predict_proba, after its fit(X, y)")
    estimator = getattr(estimator, "best_estimator_", estimator)
    final = _steps(estimator)[-1]
    if hasattr(final, "classes_"):
        return estimator
    kind = _estimator_type(final)
    if kind not in (None, "classifier"):
        raise UserError(f"{name_of(final)} is a {kind}, and a teacher of classes is needed: pass a fitted classifier")
    raise UserError(
        f"{name_of(final)} has no classes_, as if it were not fitted: call its fit(X, y) first, or "
        "SklearnTeacher.fit(estimator, dataset)"
    )


def classes_of(estimator: Any) -> list[Any]:
    """Return the values that an estimator knows as classes; UserError if they are several answers for each row."""
    classes = _steps(estimator)[-1].classes_
    if isinstance(classes, (list, tuple)) and any(np.ndim(each) for each in classes):
        raise UserError(
            f"{name_of(estimator)} answers {len(classes)} questions for each row, and only one class for each can be "
            "taught: fit an estimator for each of them"
        )
    return np.asarray(classes).tolist()


def name_of(estimator: Any) -> str:
    """Return the name of an estimator's class, of a pipeline that of its last step."""
    return type(_steps(estimator)[-1]).__name__


def has_probabilities(estimator: Any) -> bool:
    """Return whether an estimator answers with probabilities, and not with classes alone."""
    return hasattr(estimator, "predict_proba")


def is_number(value: Any) -> bool:
    """Return whether a class is known by a whole number."""
    return not isinstance(value, (bool, str)) and isinstance(value, (int, float)) and float(value).is_integer()


def _named(classes: list[Any], names: Sequence[str] | None) -> tuple[list[str] | None, list[int]]:
    """Return the classes' names in the order of the answers, and the place of each of the estimator's among them."""
    numbers = [int(value) for value in classes] if all(map(is_number, classes)) else None
    own = [str(value) for value in (classes if numbers is None else numbers)]
    if names is None:
        return (None if numbers == list(range(len(classes))) else own), list(range(len(classes)))
    names = [str(name) for name in names]
    if len(set(names)) < len(names):
        raise UserError(f"class_names repeats a name ({', '.join(names)}): each class needs its own")
    if numbers is not None:
        missing = [number for number in numbers if not 0 <= number < len(names)]
        places = numbers
    else:
        missing = [name for name in own if name not in names]
        places = [] if missing else [names.index(name) for name in own]
    if missing:
        raise UserError(
            f"the estimator knows the class {missing[0]!r}, and class_names has {len(names)} "
            f"({', '.join(names[:5])}): name all its classes ({', '.join(own[:5])})"
        )
    return names, places


def _steps(estimator: Any) -> list[Any]:
    """Return the steps of a pipeline, ``None`` for those that do nothing; of any other estimator itself alone."""
    steps = getattr(estimator, "steps", None)
    if not isinstance(steps, list) or not any(kind.__name__ == "Pipeline" for kind in type(estimator).__mro__):
        return [estimator]
    steps = [None if step in (None, "passthrough") else step for _, step in steps]
    return [*steps[:-1], *_steps(getattr(steps[-1], "best_estimator_", steps[-1]))]


def _members(estimator: Any) -> list[Member]:
    definer = next((kind for kind in type(estimator).__mro__ if "predict_proba" in vars(kind)), None)
    kind = definer.__name__ if definer is not None and definer.__module__.startswith("sklearn.") else None
    single = [Member(estimator, None, 1.0)]
    if kind not in AVERAGING or not has_probabilities(estimator):
        return single
    if kind == "CalibratedClassifierCV":
        members, columns, weights = estimator.calibrated_classifiers_, None, None
    else:
        members, weights = list(estimator.estimators_), getattr(estimator, "_weights_not_none", None)
        columns = getattr(estimator, "estimators_features_", None)
    if len(members) == 1:
        return single
    weights = np.ones(len(members)) if weights is None else np.asarray(weights, dtype=np.float64)
    weights = weights / weights.sum()
    columns = [None] * len(members) if columns is None else columns
    return [Member(*each) for each in zip(members, columns, weights.tolist(), strict=True) if each[2] > 0]


def _is_tree(estimator: Any) -> bool:
    return any(kind.__name__ == "BaseDecisionTree" for kind in type(estimator).__mro__)


def _takes_names(estimator: Any) -> bool:
    """Whether a member was fitted on a table with names, as those of a vote are; those of a forest are not."""
    first = getattr(estimator, "estimator", estimator)
    return hasattr(first, "feature_names_in_")


def _spread(answers: np.ndarray, places: np.ndarray, width: int) -> np.ndarray:
    """Put columns into their places among ``width``, all others 0."""
    if width == answers.shape[1] and np.array_equal(places, np.arange(width)):
        return answers
    spread = np.zeros((len(answers), width))
    spread[:, places] = answers
    return spread


def _names_of_features(estimator: Any) -> list[str] | None:
    names = getattr(estimator, "feature_names_in_", None)
    return None if names is None else [str(name) for name in names]


def _number_of_features(estimator: Any) -> int | None:
    try:
        return int(estimator.n_features_in_)
    except (AttributeError, TypeError):
        return None


def _estimator_type(estimator: Any) -> str | None:
    """Return what scikit-learn calls the kind of an estimator, such as ``"regressor"``, if it says so."""
    own = getattr(estimator, "_estimator_type", None)
    if own is None and hasattr(estimator, "__sklearn_tags__"):
        try:
            own = estimator.__sklearn_tags__().estimator_type
        except (AttributeError, TypeError):
            own = None
    return own
