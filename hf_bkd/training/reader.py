"""The reader of a trainer's datasets: which rows are prepared, by whose preprocessor, and what their labels mean."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import datasets
from torch import Tensor, nn

from ..data.columns import is_label, is_soft_label_column
from ..data.label_values import LabelColumn
from ..data.preprocessors import check_ready, preprocessor_for, ready_columns
from ..likelihoods import CATEGORICAL, Likelihood
from ..models.calling import check_logits
from ..utils.errors import UserError
from ..utils.seeding import unmoved_randomness
from .arguments import DistillationTrainingArguments
from .classes import (
    check_number_of_outputs,
    check_one_label,
    label_column,
    read_column,
    warn_of_missing,
    warn_of_more_outputs,
)
from .collating import Collator, kept_columns
from .first_batch import ROWS, check_outputs, check_posterior, first_batch, outputs_of_first_batch
from .given import own_dataset
from .online_teacher import OnlineTeacher, Source
from .prepared_rows import (
    AsTheyAre,
    Preparation,
    Prepare,
    PreparedDataset,
    PreparingCollator,
    asked_rows,
    reader_of_pictures,
    shown_views,
)
from .problem import Problem, problem_of_batch, problem_of_column
from .settings import check_problem
from .supervision import StoredLabels
from .token_labels import ONE_EACH, check_all_lengths

TRAINING_SET = "the training set"
MORE_ROWS = 16  # by which a sigmoid's values are told from logits


class Loaded(NamedTuple):
    """What the Trainer's loader reads of a dataset, what makes its batches, and which problem its labels pose."""

    dataset: Any
    collate: Callable[[Any], Any]
    problem: Problem = Problem()

    @property
    def preparation(self) -> Preparation | None:
        """How its rows become batches, if they are prepared here."""
        return getattr(self.collate, "preparation", None)

    @property
    def prepare(self) -> Prepare | None:
        """What makes the student's inputs, if it is done here."""
        return getattr(self.preparation or self.collate, "prepare", None)


@dataclass(frozen=True)
class Reader:
    """A trainer's way to read datasets, the same for training, evaluation and prediction.

    Args:
        network: the student.
        processing: its tokenizer, image processor, preprocessor or function, if one was given.
        per_example: the Trainer's collator, or the caller's.
        args: of the trainer.
        classes: names of the student's classes in the order of its outputs, where they are known.
        prepares: whether rows are prepared here, and not by the caller's own collator.
        asks: whether the student can be asked about a few rows before it is trained.
        stated: what the student's outputs mean, where somebody else than its labels says it.
        problem: the training set's, which all others pose too.
        form: of its labels, which theirs have too.
    """

    network: nn.Module
    processing: Any
    per_example: Callable[[list], Any]
    args: DistillationTrainingArguments
    classes: Sequence[str] | None
    prepares: bool
    asks: bool
    stated: Likelihood | None = None
    problem: Problem | None = None
    form: str | None = None

    def loaded(
        self, what: str, dataset: Any, source: Source | None = None, needs_labels: bool | None = None
    ) -> Loaded:
        """Say how the Trainer reads a dataset, after a look at a few of its rows.

        Args:
            what: its name in errors.
            dataset: what the trainer was given.
            source: of its targets, if they are wanted.
            needs_labels: whether it must have labels; ``None`` if those that it has must be the student's.

        Raises:
            UserError: nothing says how rows become inputs, the student can't take them, it has other classes than the
                labels, or there are no labels though they are needed.
        """
        with unmoved_randomness(), naming(what):
            if not (self.prepares and is_prepared(dataset)):
                loaded = self._as_given(dataset, source)
                batch, outputs = self._ask(what, loaded, needs_labels)
                labels = batch.get("labels") if isinstance(batch, Mapping) else None
                asked = labels if source is None or source.reads_labels else None
                problem = problem_of_batch(self._stated, _all_labels(dataset, asked), outputs, _values_of(source))
                self._check(loaded, outputs, batch, asked, problem, source)
                if is_prepared(dataset) and needs_labels:
                    self._check_number_of_outputs(dataset, problem)
                read = None if asked is None else problem
                return loaded._replace(collate=replace(loaded.collate, problem=read), problem=problem)
            preparation = self._preparation(dataset, source)
            unlabeled = _loaded(preparation, self.args.view_order)
            batch, outputs = self._ask(what, unlabeled)
            problem, labels = self._labels(dataset, preparation.prepare, outputs, source, needs_labels)
            if labels is None and needs_labels:
                raise _without_labels(what, dataset.column_names)
            if isinstance(preparation.prepare, AsTheyAre) and isinstance(dataset, datasets.Dataset):
                for name in source.of_tokens if isinstance(source, StoredLabels) else ():
                    check_all_lengths(dataset, name, preparation.prepare.columns)
            self._check(unlabeled, outputs, batch, None, problem, source)
            if needs_labels:
                self._check_number_of_outputs(dataset, problem)
            return _with_labels(unlabeled, labels)._replace(problem=problem)

    @property
    def _stated(self) -> Likelihood | None:
        return self.stated if self.problem is None else self.problem.likelihood

    def _check_number_of_outputs(self, dataset: Any, problem: Problem) -> None:
        """Compare a classifier's number of outputs with its labels' classes, where these are known."""
        name = label_column(dataset.features, self.args.label_names)
        if name is not None and problem.num_values is not None:
            check_number_of_outputs(dataset.features, name, self.classes, problem.num_values)

    def _ask(self, what: str, loaded: Loaded, needs_labels: bool | None = None) -> tuple[Any, Tensor | None]:
        """Return a batch of a few rows, and the student's outputs for it where it can be asked."""
        args, trains = self.args, what == TRAINING_SET
        size = args.per_device_train_batch_size if trains else args.per_device_eval_batch_size
        batch = first_batch(loaded.dataset, loaded.collate, min(ROWS, size))
        if not isinstance(batch, Mapping):
            return batch, None
        if needs_labels and "labels" not in batch:
            raise _without_labels(what, batch)
        if not self.asks:
            return batch, None
        outputs = outputs_of_first_batch(self.network, batch, what)
        if trains:
            check_posterior(self.network, batch)
        return batch, outputs

    def _check(
        self,
        loaded: Loaded,
        outputs: Tensor | None,
        batch: Any,
        labels: Tensor | None,
        problem: Problem,
        source: Source | None,
    ) -> None:
        """Refuse outputs that labels or targets of a batch don't go together with."""
        check_problem(problem.likelihood, self.args)
        if outputs is not None:
            check_outputs(self.network, outputs, labels, problem)
            if problem.likelihood.independent and problem.likelihood.has_temperature:  # which few logits don't tell
                more = first_batch(loaded.dataset, loaded.collate, MORE_ROWS)
                if isinstance(more, Mapping):
                    outputs_of_more = outputs_of_first_batch(self.network, more, "the dataset")
                    check_logits(outputs_of_more, self.network, problem.likelihood)
        if source is not None and isinstance(batch, Mapping):
            source.check_batch(batch, problem, outputs)

    def _as_given(self, dataset: Any, source: Source | None) -> Loaded:
        """Read a dataset whose owner, transform or collator makes the student's inputs."""
        network = self.network if self.args.remove_unused_columns else None
        if is_prepared(dataset):
            check_ready(self.network, dataset, self.processing)
        if isinstance(dataset, datasets.Dataset) and is_prepared(dataset) and network is not None:
            features = dataset.features
            names = [name for name in features if not is_soft_label_column(name)]
            lists = [name for name in names if not isinstance(features[name], datasets.Value)]
            keep = kept_columns(network, names, lists)
            dataset = dataset.select_columns([name for name in features if name in keep or is_soft_label_column(name)])
            network = None
        own = own_dataset(dataset, self.args, self.classes)
        if isinstance(source, OnlineTeacher) and getattr(own, "preprocessor", None) is not None:
            own.teacher_preprocessor = reader_of_pictures(source.teacher)
        return Loaded(own, Collator(self.per_example, source, network))

    def _preparation(self, dataset: Any, source: Source | None) -> Preparation:
        rows = self._without_labels(dataset)
        own: Prepare | None = preprocessor_for(self.network, rows, self.processing)
        if own is None:
            own = AsTheyAre(ready_columns(self.network, rows), self.per_example)
        if isinstance(source, StoredLabels):
            source.check_tokenizer(own)
            views, pool = shown_views(dataset, source, own)
            return Preparation(dataset, own, stored=source, views=views, pool=pool)
        asked = None if source is None else asked_rows(source.teacher, rows, own)
        return Preparation(dataset, own, asked=asked)

    def _without_labels(self, dataset: Any) -> Any:
        """Return a dataset without a column of labels that only the arguments tell from the inputs."""
        name = label_column(dataset.features, self.args.label_names)
        usual = name is None or is_label(name, dataset.features[name])
        return dataset if usual else dataset.remove_columns(name)

    def _labels(
        self, dataset: Any, prepare: Prepare, outputs: Tensor | None, source: Source | None, needs_labels: bool | None
    ) -> tuple[Problem, LabelColumn | None]:
        """Return the problem that labels pose, and how they are read, after a look at all of them.

        There is ``None`` to read where there are none; those that aren't needed, since they aren't read in this
        training, are left alone if they don't fit.
        """
        optional = needs_labels is False
        num_values = _values_of(source)
        try:
            name = label_column(dataset.features, self.args.label_names)
            problem = problem_of_column(self._stated, dataset, name, outputs, num_values)
            if name is None:
                return problem, None
            column = read_column(dataset, name, self.classes, problem, self.form)
            if isinstance(dataset, datasets.Dataset):
                values = dataset.with_format(None)
                labels = column(values[name][:], first=0)
                check_one_label(values, name)
                if problem.per_token and isinstance(prepare, AsTheyAre):
                    check_all_lengths(dataset, name, prepare.columns, ONE_EACH)
                if not optional:
                    warn_of_missing(labels, name, problem.likelihood)
                if needs_labels and self.args.kd_lambda == 0 and problem.is_plain:
                    warn_of_more_outputs(dataset.features[name], name, int(labels.max()), problem.num_values)
            return problem, column
        except UserError:
            if optional:
                return problem_of_column(self._stated or CATEGORICAL, dataset, None, outputs, num_values), None
            raise


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Name the dataset in a UserError that would be taken to speak of the training set."""
    try:
        yield
    except UserError as error:
        if what == TRAINING_SET or what in str(error):
            raise
        raise UserError(f"{what}: {error}") from error


def is_prepared(dataset: Any) -> bool:
    """Return whether a dataset is rows to prepare: it is of `datasets`, says its columns and has no transform."""
    if isinstance(dataset, datasets.Dataset):
        return dataset.format["type"] != "custom"
    return isinstance(dataset, datasets.IterableDataset) and dataset.features is not None


def _loaded(preparation: Preparation, view_order: str = "cycle") -> Loaded:
    if isinstance(preparation.dataset, datasets.Dataset):
        return Loaded(PreparedDataset(preparation, view_order), PreparingCollator(preparation))
    stream = preparation.dataset.select_columns(preparation.columns)
    return Loaded(stream.with_format(None).decode(False), PreparingCollator(preparation))


def _with_labels(loaded: Loaded, labels: LabelColumn | None) -> Loaded:
    collate = PreparingCollator(replace(loaded.preparation, labels=labels))
    if isinstance(loaded.dataset, PreparedDataset):
        return Loaded(loaded.dataset.with_labels(labels), collate)
    return _loaded(collate.preparation)


def _all_labels(dataset: Any, labels: Tensor | None) -> Tensor | None:
    """Return the labels of all rows, of a dataset that has them in memory, or those of a few."""
    return labels if labels is None else getattr(dataset, "values", {}).get("labels", labels)


def _values_of(source: Source | None) -> int | None:
    return None if source is None else source.num_values


def _without_labels(what: str, names: Any) -> UserError:
    return UserError(
        f"{what} has no labels column (only {', '.join(names)}): name it 'label' or 'labels', pass label_names, or "
        "train with kd_lambda=1"
    )
