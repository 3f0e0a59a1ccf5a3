"""The context of `hf-bkd teacher fit` in which an estimator is fitted on a table, without any network."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from ..teachers import Teacher, TeacherSpec
from ..training.arguments import DistillationTrainingArguments
from .architectures import StandIn
from .examples import Examples, reader_of
from .fitting import CommandLineFitting


class Tables(CommandLineFitting):
    """The rows of a table: columns of numbers and words, and labels.

    Raises:
        UserError: a dataset, split or column that is not there, or rows without labels.
    """

    def __init__(self, options: Any, args: DistillationTrainingArguments):
        super().__init__(options, args)
        self.examples = Examples(options, StandIn(options.method, "table"), None)

    def fitted(self, spec: TeacherSpec) -> Teacher:
        """Fit a specification's estimator; what reads the validation examples is then the estimator's own."""
        self.teacher = spec.fit(self)
        return self.teacher

    def train_rows(self) -> Any:
        """Return the training examples as rows of a dataset."""
        return self.examples.train

    def validation_batches(self) -> Iterator[dict[str, Any]]:
        """Iterate over the validation examples."""
        validation = self.examples.validation
        return reader_of(self.teacher.network, validation).batches(validation)

    def supplied(self, method: str) -> None:
        """Return nothing: all teachers are new."""

    def network(self, **settings: Any) -> nn.Module:
        raise NotImplementedError("a table's teacher has no network to train")
