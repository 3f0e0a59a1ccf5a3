"""The teacher of tables: a classifier of scikit-learn, or any with its interface; a forest's trees are its draws."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from ..likelihoods import Gaussian
from ..models.calling import Inputs
from ..models.estimator_files import fingerprint_of, load_estimator, parameters_of, save_estimator, versions_of
from ..models.estimator_parts import estimator_type, has_probabilities, name_of, steps_of
from ..models.estimators import EstimatorNetwork, names_of_features
from ..models.out_of_bag import OutOfBag, check_samples
from ..utils.errors import UserError
from .base import Teacher
from .predictive import Draws


class SklearnTeacher(Teacher):
    """A fitted scikit-learn estimator as a teacher, which reads a dataset as a table of pandas.

    The draws are the members' answers where the estimator averages some, whatever ``num_samples`` says: the trees of
    `RandomForestClassifier` and `ExtraTreesClassifier`, the members of `BaggingClassifier`, of a soft
    `VotingClassifier` and of `CalibratedClassifierCV`. All others, boosted trees among them, are a single draw. A
    pipeline or a search is what its last step or its best estimator is; so are classes of other libraries that have
    ``predict_proba``, or ``predict``, and ``classes_``. An estimator without ``predict_proba`` answers with
    probabilities of 0 and 1.

    A forest knows the rows by heart that it was fitted on. With ``fitted_on`` each of these, which it tells by their
    values, is answered out of bag: by the trees that did not draw it for their sample. Any other estimator's rows are
    labeled by one that was fitted without them (``add_soft_labels(rows, folds=5, fit=SklearnTeacher.fitting(it))``).

    Args:
        estimator: fitted.
        class_names: C names in the order of the answers. A number k among the estimator's ``classes_`` is the k-th,
            a name the one that is called so; classes that it has never seen get probability 0. If not given,
            its ``classes_``, of which 0, 1, 2 and so on are the numbers of the dataset's classes.
        feature_names: columns of the dataset in the order of the estimator's features; if not given,
            ``feature_names_in_``, or else all columns of numbers, of which there must be as many.
        temperature, tempering: see :class:`Teacher`.
        fitted_on: the dataset, table or array that a forest was fitted on, all its rows in their order.

    Raises:
        UserError: an estimator that is not fitted or no classifier, names that don't fit it, or with ``fitted_on`` no
            forest that draws samples, other rows than it was fitted on, or so few trees that one of them is in nearly
            all samples.
    """

    method = "sklearn"
    network: EstimatorNetwork

    def __init__(
        self,
        estimator: Any,
        class_names: Sequence[str] | None = None,
        feature_names: Sequence[str] | None = None,
        temperature: float = 1.0,
        tempering: str = "post_average",
        *,
        fitted_on: Any = None,
    ):
        network = EstimatorNetwork(estimator, class_names, feature_names)
        super().__init__(network, temperature, tempering)
        self.settings = {
            "class_names": None if class_names is None else list(network.label_names),
            "feature_names": None if feature_names is None else list(feature_names),
        }
        classifies = self.likelihood.problem_type != Gaussian.problem_type
        if classifies and network.num_members == 1 and not has_probabilities(network.estimator):
            warnings.warn(
                f"{name_of(estimator)} has no predict_proba, so that its soft labels are 0 and 1: "
                "CalibratedClassifierCV(FrozenEstimator(estimator)).fit(X, y) has probabilities",
                stacklevel=2,
            )
        if fitted_on is not None:
            network.answer_out_of_bag(self._whole_table(fitted_on))

    @classmethod
    def fit(
        cls,
        estimator: Any,
        dataset: Any,
        *,
        label_column: str | None = None,
        class_names: Sequence[str] | None = None,
        feature_names: Sequence[str] | None = None,
        out_of_bag: bool = False,
        **settings: Any,
    ) -> Self:
        """Fit a copy of an estimator to a labeled dataset.

        Args:
            estimator: any of scikit-learn's classifiers, or a pipeline that ends in one; it is left as it is.
            dataset: N rows of a `datasets.Dataset`, each with a label.
            label_column: by default ``label``, ``labels`` or ``fine_label``.
            class_names: of all classes, where the dataset may lack some; if not given, those of its labels.
            feature_names: the columns to read; all of numbers and words if not given, less labels and ids.
            out_of_bag: whether a forest answers each of these rows by the trees that were fitted without it.
            settings: ``temperature`` and ``tempering``.

        Raises:
            UserError: no such columns, rows without a label, values that the estimator can't be fitted on, or out of
                bag no forest that draws samples.
        """
        from ..data.tables import labels_and_names, table_and_columns  # teachers need no datasets to answer

        table, columns = table_and_columns(dataset, feature_names, label_column)
        estimator = _copy(estimator)
        if out_of_bag:
            check_samples(estimator)
        labels, names = labels_and_names(dataset, label_column, class_names, estimator_type(steps_of(estimator)[-1]))
        try:
            estimator.fit(table, labels)
        except (ValueError, TypeError) as error:
            raise _unfit(estimator, error) from error
        named = names_of_features(estimator) == list(columns) or table.shape[1] != len(columns)
        settings |= {"fitted_on": table} if out_of_bag else {}
        teacher = cls(estimator, names, None if named else columns, **settings)
        teacher.record = {"examples": len(labels), "columns": list(columns)}
        return teacher

    @classmethod
    def fitting(cls, estimator: Any, **options: Any) -> Callable[[Any, int], Self]:
        """Return what fits a teacher of this estimator for each fold: ``add_soft_labels(rows, folds=5, fit=...)``.

        ``options`` are those of :meth:`fit`; of labels that are names without a ``ClassLabel``, ``class_names`` are
        needed if a fold may lack one.
        """
        return lambda rest, fold: cls.fit(estimator, rest, **options)

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes in the order of the answers; ``None`` where they are only numbered."""
        return self.network.known_names

    def draws(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Draws:
        return Draws(*self.network.draws(_table(inputs)))

    def draw_logits(self, inputs: Inputs, num_samples: int, generator: torch.Generator | None) -> Tensor:
        return self.draws(inputs, num_samples, generator).logits

    def predict(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Predict class probabilities of a table of B rows, a ``pandas.DataFrame`` or an array [B, d].

        All else is as in :meth:`Teacher.predict`.
        """
        return super().predict({"table": _table(inputs)}, *args, **kwargs)

    def num_draws(self, num_samples: int) -> int:
        """Number of members that are averaged."""
        return self.network.num_members

    def fingerprint(self) -> str:
        """Hash all that the estimator has learned and its parameters to 16 hexadecimal digits."""
        learned = [self.network.estimator, self.settings["class_names"]]
        out_of_bag = self.network.out_of_bag
        return fingerprint_of(learned if out_of_bag is None else [*learned, out_of_bag.digests])

    def describe(self) -> dict[str, Any]:
        """Describe the teacher as JSON, with the estimator's class, parameters and columns."""
        estimator = self.network.estimator
        facts = {"estimator": name_of(estimator), "parameters": parameters_of(estimator)}
        facts |= {"features": self.network.feature_names or self.network.num_features}
        return super().describe() | facts | {"versions": versions_of(estimator)}

    def get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        out_of_bag = self.network.out_of_bag
        if out_of_bag is None:
            return dict(self.settings), {}
        weights = {"digests": torch.from_numpy(out_of_bag.digests), "weights": torch.from_numpy(out_of_bag.weights)}
        return self.settings | {"out_of_bag": True}, weights

    @classmethod
    def from_state(cls, network: Any, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        teacher = cls(network, **{name: value for name, value in settings.items() if name != "out_of_bag"})
        if settings.get("out_of_bag"):
            teacher.network.out_of_bag = OutOfBag(*(tensors[name].numpy() for name in ("digests", "weights")))
        return teacher

    def _whole_table(self, rows: Any) -> Any:
        if not hasattr(rows, "features"):
            if np.ndim(rows) != 2:
                raise UserError(
                    f"fitted_on is a {type(rows).__name__}, and has to be all rows that the forest was fitted on: a "
                    "datasets.Dataset, a table of pandas or an array [N, d]"
                )
            return rows
        return _table(self.preprocessor_for(rows)(rows.with_format(None)[:]))

    def _save_networks(self, folder: Path) -> None:
        save_estimator(self.network.estimator, folder / "network")

    @classmethod
    def _load_networks(cls, folder: Path, network: nn.Module | None) -> Any:
        return load_estimator(folder / "network")


def _table(inputs: Any) -> Any:
    if not isinstance(inputs, Mapping):
        return inputs
    if "table" not in inputs:
        raise UserError(
            f"the teacher reads a table, and gets {', '.join(inputs)}: pass it as {{'table': table}}, "
            "or preprocessor=teacher.preprocessor_for(dataset)"
        )
    return inputs["table"]


def _copy(estimator: Any) -> Any:
    """Return an estimator of the same parameters that has learned nothing."""
    if isinstance(estimator, type) or not hasattr(estimator, "fit"):
        raise UserError(f"{estimator!r} is no estimator: pass an object with fit, such as RandomForestClassifier()")
    if not hasattr(estimator, "get_params"):
        return deepcopy(estimator)
    from sklearn.base import clone

    return clone(estimator)


def _unfit(estimator: Any, error: Exception) -> UserError:
    from ..data.rows import reason

    remedy = ""
    if "convert string to float" in str(error):
        remedy = (
            ": put make_column_transformer((OneHotEncoder(handle_unknown='ignore'), "
            "make_column_selector(dtype_include=object)), remainder='passthrough') before it "
            "in a pipeline, which makes numbers of words"
        )
    return UserError(f"{name_of(estimator)} can't be fitted on these rows ({reason(error)}){remedy}")
