"""Which problem a training poses: what the student's outputs mean, as all say who know it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import datasets
from torch import Tensor, nn

from ..data.labels import IN_WORDS, problem_type_of_column
from ..likelihoods import CATEGORICAL, Likelihood, likelihood_from
from ..models.problem_types import likelihood_of, problem_type_of_labels, stated_problem_type
from ..utils.errors import UserError


class Problem(NamedTuple):
    """What a student predicts.

    likelihood: of its outputs.
    per_token: whether it answers for each token of an example.
    num_values: C of its answers; ``None`` where the student can't be asked.
    next_tokens: whether its answers are of the token after each one.
    """

    likelihood: Likelihood = CATEGORICAL
    per_token: bool = False
    num_values: int | None = None
    next_tokens: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it is one class for each example."""
        return not (self.likelihood.independent or self.per_token)

    def check_labels(self, labels: Tensor) -> None:
        """Raise a UserError if labels that somebody else has read are none of this problem; NaN and -100 are none."""
        labels = self.likelihood.as_columns(labels)
        there = labels[self.likelihood.labeled(labels)]
        if len(there) and self.num_values is not None:
            self.likelihood.checked_labels(there.cpu(), self.num_values)


def stated_likelihood(
    network: nn.Module, problem_type: str | None, teachers: Mapping[str, Likelihood]
) -> Likelihood | None:
    """Return the likelihood of a student where somebody else than its labels says it; ``None`` otherwise.

    Args:
        network: the student.
        problem_type: of the training's arguments.
        teachers: the likelihoods of what it is to be taught, by their names in errors.

    Raises:
        UserError: two of them say different ones.
    """
    taught = next((likelihood.problem_type for likelihood in teachers.values()), None)
    likelihood = likelihood_of(network, problem_type, otherwise=taught)
    for name, teacher in teachers.items():
        if teacher.problem_type != likelihood.problem_type:
            raise UserError(
                f"the student predicts {IN_WORDS[likelihood.problem_type]} ({likelihood.problem_type}), and {name} "
                f"{IN_WORDS[teacher.problem_type]} ({teacher.problem_type}): take a student of that problem_type, or "
                "another teacher"
            )
    stated = problem_type or stated_problem_type(network) or taught
    return likelihood if stated or likelihood != CATEGORICAL else None


def problem_of_column(
    stated: Likelihood | None, dataset: Any, name: str | None, outputs: Tensor | None, num_values: int | None
) -> Problem:
    """Return the problem that a column of labels poses a student.

    Args:
        stated: what others say.
        dataset: has the column.
        name: of it; ``None`` if there are no labels.
        outputs: the student's of a few rows [B, K] or [B, L, K]; ``None`` where it can't be asked.
        num_values: C of the targets, where there are some.

    Raises:
        UserError: labels of another number than the outputs.
    """
    feature = None if name is None else dataset.features[name]
    per_token = outputs is not None and outputs.ndim == 3 and (name is None or hasattr(feature, "feature"))
    width = None if outputs is None else outputs.shape[-1]
    if stated is None:
        stated = likelihood_from(None if name is None else problem_type_of_column(dataset, name, per_token, width))
    if width is None:
        return Problem(stated, per_token)
    stated.check_outputs(width)
    if num_values is None and name is not None and stated.independent:
        num_values = _width(dataset, name)
    return Problem(likelihood := stated.of_student(width, num_values), per_token, likelihood.num_values(width))


def problem_of_batch(
    stated: Likelihood | None, labels: Tensor | None, outputs: Tensor | None, num_values: int | None
) -> Problem:
    """Return the problem that labels pose which somebody else has read; as :func:`problem_of_column`."""
    per_token = outputs is not None and outputs.ndim == 3
    if outputs is None:
        return Problem(stated or CATEGORICAL)
    if stated is None:
        stated = likelihood_from(None if labels is None else problem_type_of_labels(labels, outputs))
    width = outputs.shape[-1]
    stated.check_outputs(width)
    if labels is not None and stated.independent:
        labels = stated.as_columns(labels)
        num_values = num_values or labels.shape[-1]
    likelihood = stated.of_student(width, num_values)
    problem = Problem(likelihood, per_token, likelihood.num_values(width))
    if labels is not None:
        problem.check_labels(labels)
    return problem


def _width(dataset: Any, name: str) -> int | None:
    """Return how many numbers a row of a column holds, where its feature or one of the first rows tells."""
    feature = dataset.features[name]
    if not hasattr(feature, "feature"):
        return 1
    if getattr(feature, "length", -1) > 0:
        return feature.length
    rows = dataset.with_format(None)[name][:100] if isinstance(dataset, datasets.Dataset) else []
    return next((len(row) for row in rows if row is not None), None)
