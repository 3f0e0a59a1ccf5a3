"""Estimators of scikit-learn, and of libraries with its interface, called as networks that read tables."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..likelihoods import Bernoulli, Categorical, Gaussian, likelihood_from
from ..utils.errors import UserError
from .class_names import given_names
from .estimator_parts import (
    answers_of,
    classes_of,
    fitted,
    members_of,
    name_of,
    problem_type_of,
    steps_of,
    transformed,
)
from .out_of_bag import OutOfBag


class EstimatorNetwork(nn.Module):
    """A fitted estimator as a network: its input is a table of B rows, its outputs are those of its likelihood.

    A classifier's are log-probabilities [B, C], those of an estimator of labels that are each there or not the logits
    of their probabilities [B, C], and a regressor's its numbers [B, C].

    Args:
        estimator: anything fitted with ``predict_proba``, or ``predict`` alone: an estimator of scikit-learn, a
            pipeline or a search of these, or a class with the same interface.
        class_names: C names in the order of the answers. Names among ``classes_`` are matched, and a number k is the
            k-th; classes that the estimator has never seen get probability 0. If not given, the estimator's own.
        feature_names: the columns of a dataset in the order of the estimator's features; ``feature_names_in_`` if not
            given.

    Raises:
        UserError: an estimator that is not fitted or none that predicts labels, or names that don't fit it.
    """

    def __init__(
        self, estimator: Any, class_names: Sequence[str] | None = None, feature_names: Sequence[str] | None = None
    ):
        super().__init__()
        self.estimator = fitted(estimator)
        self.anchor = nn.Parameter(torch.empty(0, dtype=torch.float64), requires_grad=False)  # knows the device
        self.problem_type = problem_type_of(self.estimator)
        self.label_names, self.places, self.num_classes = self._answers(class_names)
        self.fitted_names = names_of_features(self.estimator)
        self.num_features = _number_of_features(self.estimator)
        self.out_of_bag: OutOfBag | None = None
        self.feature_names = list(feature_names or self.fitted_names or ()) or None
        names = self.feature_names or ()
        if feature_names is not None and (self.num_features not in (None, len(names)) or len(set(names)) < len(names)):
            raise UserError(
                f"feature_names are {', '.join(names)}, and {name_of(estimator)} was fitted on {self.num_features} "
                "features: name each of them once, in their order"
            )

    def _answers(self, names: Sequence[str] | None) -> tuple[list[str] | None, list[int] | None, int]:
        """Return the names of the C values, the place of each of the estimator's classes among them, and C."""
        if self.problem_type == Categorical.problem_type:
            own = classes_of(self.estimator)
            names, places = _named(own, names)
            return names, places, len(names or own)
        own = classes_of(self.estimator) if self.problem_type == Bernoulli.problem_type else None
        final = steps_of(self.estimator)[-1]
        number = _number_of_outputs(final) if own is None else len(own)
        if names is not None and len(names) != number and own is not None:
            raise UserError(f"class_names has {len(names)} names, and {name_of(final)} predicts {number} values")
        return (None, None, number) if names is None else ([str(name) for name in names], None, len(names))

    @property
    def known_names(self) -> list[str] | None:
        """The names of the C values, without those that only say a class' own number."""
        return given_names(self.label_names) if self.is_numbered else self.label_names

    @property
    def is_numbered(self) -> bool:
        """Whether the estimator knows its classes by whole numbers."""
        own = classes_of(self.estimator) if self.problem_type == Categorical.problem_type else None
        return own is not None and all(map(is_number, own))

    @property
    def takes_missing(self) -> bool | None:
        """Whether the estimator takes tables in which values are missing; ``None`` if it doesn't say."""
        if len(steps_of(self.estimator)) > 1 or not hasattr(self.estimator, "__sklearn_tags__"):
            return None
        return bool(self.estimator.__sklearn_tags__().input_tags.allow_nan)

    @property
    def reads_texts(self) -> bool:
        """Whether the estimator reads a text in each row, as a pipeline that begins with a vectorizer does."""
        first = steps_of(self.estimator)[0]
        return any(kind.__name__ in ("CountVectorizer", "HashingVectorizer") for kind in type(first).__mro__)

    @property
    def num_members(self) -> int:
        """Number of members that the estimator averages, its draws; 1 where it is no average."""
        return len(members_of(self.estimator))

    def forward(self, table: Any) -> Tensor:
        """Return outputs [B, C] of a table."""
        outputs, weights = self.draws(table)
        return likelihood_from(self.problem_type).averaged_outputs(outputs, weights)

    def draws(self, table: Any) -> tuple[Tensor, Tensor | None]:
        """Return each member's outputs [S, B, C] of a table, and what it counts [S, B] unless all count equally."""
        features, members = self._as_fitted(table), members_of(self.estimator)
        if len(members) == 1:
            values = self._in_places(answers_of(self.estimator, features, self.problem_type))[None]
        else:
            features, classes = transformed(self.estimator, features), classes_of(self.estimator)
            answers = (each.answers(features, classes, self.problem_type) for each in members)
            values = np.stack([self._in_places(each) for each in answers])
        outputs = torch.from_numpy(values)
        if self.problem_type != Gaussian.problem_type:
            outputs = likelihood_from(self.problem_type).outputs_of(outputs)
        device = self.anchor.device
        if self.out_of_bag is not None:
            return outputs.to(device), outputs.new_tensor(self.out_of_bag.weights_of(features)).to(device)
        weights = outputs.new_tensor([each.weight for each in members])
        equal = bool((weights == weights[0]).all())
        return outputs.to(device), None if equal else weights[:, None].expand(-1, outputs.shape[1]).to(device)

    def answer_out_of_bag(self, table: Any) -> None:
        """Answer each row of the table that a forest was fitted on by the trees that were fitted without it.

        Raises:
            UserError: no forest that draws samples, or not all rows of that table in their order.
        """
        features = transformed(self.estimator, self._as_fitted(table))
        self.out_of_bag = OutOfBag.of(steps_of(self.estimator)[-1], features)

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
        return table.set_axis(self.fitted_names, axis=1) if table.shape[1] == len(self.fitted_names) else table

    def _in_places(self, answers: np.ndarray) -> np.ndarray:
        """Return an estimator's answers [B, K] in the order of the C values, 0 for classes that it has never seen."""
        expected = self.num_classes if self.places is None else len(self.places)
        if answers.ndim != 2 or answers.shape[1] != expected:
            raise UserError(
                f"{name_of(self.estimator)} answers with an array of shape {list(answers.shape)}, and "
                f"[{len(answers)}, {expected}] is expected: pass class_names, the names of all that it predicts"
            )
        if self.places in (None, list(range(self.num_classes))):
            return answers
        spread = np.zeros((len(answers), self.num_classes))
        spread[:, self.places] = answers
        return spread


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


def _number_of_outputs(regressor: Any) -> int:
    """Return how many numbers a fitted regressor predicts, of a row of zeros; 1 if it can't be asked."""
    number = _number_of_features(regressor)
    if number is None:
        return 1
    try:
        row = pd.DataFrame(np.zeros((1, number)), columns=names_of_features(regressor))
        row = row if names_of_features(regressor) is not None else row.to_numpy()
        return answers_of(regressor, row, Gaussian.problem_type).shape[-1]
    except (ValueError, TypeError, AttributeError, LookupError, RuntimeError):
        return 1


def names_of_features(estimator: Any) -> list[str] | None:
    """Return the names of the columns that an estimator was fitted on; ``None`` of an array, which has none."""
    for attribute in ("feature_names_in_", "feature_name_", "feature_names_"):  # scikit-learn, LightGBM, CatBoost
        names = getattr(estimator, attribute, None)
        if isinstance(names, (list, tuple, np.ndarray)) and len(names):
            names = [str(name) for name in names]
            made_up = [[f"{start}{number}" for number in range(len(names))] for start in ("", "Column_")]
            return None if names in made_up and not type(estimator).__module__.startswith("sklearn.") else names
    return None


def _number_of_features(estimator: Any) -> int | None:
    try:
        return int(estimator.n_features_in_)
    except (AttributeError, TypeError):
        return None
