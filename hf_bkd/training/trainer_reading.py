"""The trainer's layer that reads datasets, each by the student's own preprocessor, and finds its targets."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import datasets
import torch
from torch.utils.data import DataLoader, Sampler
from transformers import TrainerCallback

from ..likelihoods import CATEGORICAL, UNLABELED
from ..models.calling import unwrapped
from ..models.class_names import with_variances
from ..models.token_networks import check_no_other_language_model, predicts_next_tokens, vocabulary_size
from ..utils.errors import UserError
from ..utils.seeding import unmoved_randomness
from .classes import classes_of_student
from .collating import Collator
from .first_batch import first_batch, spread_batches
from .given import check_length, check_views
from .next_token_reader import NextTokenReader, TokenRows
from .next_token_targets import StoredTokens
from .online_teacher import OnlineTeacher, Source
from .prepared_rows import PreparedDataset
from .problem import Problem, stated_likelihood
from .reader import TRAINING_SET, Loaded, Reader, is_prepared
from .settings import check_rows
from .supervision import StoredLabels, likelihoods_taught
from .trainer_resuming import ResumableTrainer


class ReadingTrainer(ResumableTrainer):
    """A `transformers.Trainer` that decides itself which column of a dataset goes where; see `prepared_rows`."""

    _source: Source | None = None
    _read: Sequence[tuple[Any, Loaded]] = ()  # what is evaluated at the moment

    def _read_data(self, teacher: Any, processing: Any, prepares: bool) -> None:
        """Say how each dataset is read, and refuse those on which the training could not go on.

        Args:
            teacher: of an online training.
            processing: what makes the student's inputs, if it was given.
            prepares: whether rows are prepared here, and not by the caller's collator.
        """
        args, train, student = self.args, self.train_dataset, self.model
        check_no_other_language_model(student)
        check_length(student, train)
        is_taught = train is not None and args.kd_lambda > 0
        taught = likelihoods_taught(train, teacher if args.online_teacher else None) if is_taught else {}
        stated = stated_likelihood(student, args.problem_type, taught)
        if predicts_next_tokens(student):
            reader, classes, stated = NextTokenReader, None, CATEGORICAL
        else:
            alphabetical = args.kd_lambda == 0  # else the soft labels number the classes
            reader, classes = Reader, classes_of_student(student, train, args.label_names, alphabetical)
        asks = self.place_model_on_device and not self.is_model_parallel
        self._reader = reader(student, processing, self.data_collator, args, classes, prepares, asks, stated)
        self._source = self._source_of_targets(teacher) if is_taught else None
        self.data_collator = Collator(self.data_collator, self._source)
        self._train: Loaded | None = None
        if train is not None:
            reads_labels = self._source is None or self._source.reads_labels
            check_views(train, args, reads_labels)
            self._train = self._reader.loaded(TRAINING_SET, train, self._source, reads_labels)
            form = getattr(getattr(self._train.preparation, "labels", None), "form", None)
            self._reader = replace(self._reader, problem=self._train.problem, form=form)
            check_rows(train, self._train.dataset, args)
            self._watch_training_set(self._train.dataset, reads_labels)
            self._keep_processor()
        several = isinstance(self.eval_dataset, dict)
        evaluated = self.eval_dataset.values() if several else [self.eval_dataset]
        self._evaluated = [
            (each, self._reader.loaded("the evaluation set", each)) for each in evaluated if each is not None
        ]
        if args.eval_strategy != "no":
            for each, _ in self._evaluated:
                self._check_measured(each)
        read = [loaded.dataset for loaded in (self._train, *(loaded for _, loaded in self._evaluated)) if loaded]
        on_card = any(getattr(each, "device", torch.device("cpu")).type != "cpu" for each in read)
        if on_card or args.device.type == "cpu":
            args.dataloader_pin_memory = False  # only what is in the CPU's memory, and for another device

    def _source_of_targets(self, teacher: Any) -> Source:
        args, train, student, reader = self.args, self.train_dataset, self.model, self._reader
        if predicts_next_tokens(student):
            num_labels = vocabulary_size(student)
        elif reader.stated is not None and not reader.stated.has_temperature:
            num_labels = None  # which may count variances
        else:
            num_labels = getattr(getattr(unwrapped(student), "config", None), "num_labels", None)
        if args.online_teacher:
            return OnlineTeacher(teacher, train, args, num_labels, reader.classes)
        if predicts_next_tokens(student):
            return StoredTokens(train, args, num_labels)
        shows_views = reader.prepares and isinstance(train, datasets.Dataset) and is_prepared(train)
        return StoredLabels(train, args, num_labels, reader.classes, shows_views)

    @property
    def problem(self) -> Problem:
        """What the student predicts, as its training set says, or the first one that is to be evaluated."""
        loaded = [*([self._train] if self._train else []), *(loaded for _, loaded in self._evaluated)]
        return loaded[0].problem if loaded else Problem(self._reader.stated or CATEGORICAL)

    @property
    def output_names(self) -> list[str] | None:
        """The names of the student's outputs in order, where they are known: its classes', and of log-variances."""
        classes, problem = self._reader.classes, self.problem
        if not getattr(problem.likelihood, "predicts_variance", False):
            return None if classes is None else list(classes)
        return with_variances(classes or [f"LABEL_{number}" for number in range(problem.num_values or 0)])

    @cached_property
    def num_train_items(self) -> int:
        """How many items a pass over the training set averages: its rows, or their tokens that the loss counts."""
        if not self.problem.per_token:
            return len(self.train_dataset)
        dataset, collate = self._train.dataset, self._train.collate
        with unmoved_randomness():
            batches = spread_batches(dataset, collate, len(dataset), self.args.train_batch_size)
            return sum(int(self._count_items(batch)) for batch in batches)

    def _watch_training_set(self, dataset: Any, reads_labels: bool) -> None:
        """Keep what knows the epoch's view in step with the training."""
        check_views(dataset, self.args, reads_labels)
        if hasattr(self.train_dataset, "view_order"):
            self.train_dataset = dataset  # the trainer's own copy
        if isinstance(self._source, OnlineTeacher):
            self._source.dataset = dataset
        if hasattr(dataset, "set_epoch"):
            self.add_callback(_SetEpoch(dataset))

    def _keep_processor(self) -> None:
        """Save what was found beside the student's weights with every checkpoint, as what the caller gives is."""
        processor = getattr(self._train.prepare, "processor", None)
        if self.processing_class is None and hasattr(processor, "save_pretrained"):
            self.processing_class = self.callback_handler.processing_class = processor

    def _loaded(self, dataset: Any) -> Loaded:
        if dataset is self.train_dataset and self._train is not None:
            return self._train
        known = next((loaded for each, loaded in (*self._evaluated, *self._read) if each is dataset), None)
        return known or self._reader.loaded("the dataset", dataset)

    @contextmanager
    def _reading(self, dataset: Any) -> Iterator[None]:
        """Decide once, for the block, how a dataset is read."""
        self._read = [(dataset, self._loaded(dataset))]
        try:
            yield
        finally:
            self._read = []

    def _check_measured(self, dataset: Any) -> None:
        """Raise a UserError if there is nothing to measure on a dataset, for no row has a label."""
        if not has_labels(self._loaded(dataset)):
            raise UserError(
                "no row of the evaluation set has a label, so that nothing can be measured on it: pass another "
                "eval_dataset, or ask for the answers alone by trainer.predict(dataset)"
            )

    def batch_of(self, rows: list[int]) -> dict[str, Any]:
        """Return a batch of the training set's rows of some numbers, as the loader makes it."""
        return self._prepare_inputs(self._train.collate(self._train.dataset.__getitems__(rows)))

    def _get_dataloader(self, dataset: Any, *args: Any, is_training: bool = False, **kwargs: Any) -> DataLoader:
        """Load a dataset as `Trainer` does; of one to evaluate, the last batch is never dropped."""
        loaded, collator, drop_last = self._loaded(dataset), self.data_collator, self.args.dataloader_drop_last
        self.data_collator, self.args.dataloader_drop_last = loaded.collate, drop_last and is_training
        try:
            return super()._get_dataloader(loaded.dataset, *args, is_training=is_training, **kwargs)
        finally:
            self.data_collator, self.args.dataloader_drop_last = collator, drop_last

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        """Return the dataset as it is, since what is read of it has been decided already."""
        return dataset

    def _get_collator_with_removed_columns(self, data_collator: Any, description: str | None = None) -> Any:
        """Return the collator as it is, for the same reason."""
        return data_collator

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        """Sample as `Trainer` does; by the column of lengths where the rows have one."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if isinstance(dataset, (PreparedDataset, TokenRows)):
            rows = dataset.dataset if isinstance(dataset, TokenRows) else dataset.preparation.dataset
            dataset = rows if self.args.length_column_name in rows.column_names else dataset
        return super()._get_train_sampler(dataset)

    def _get_eval_sampler(self, eval_dataset: Any) -> None:
        """Keep the dataset's order, so that predictions are its rows', also where training groups them by length."""


def has_labels(loaded: Loaded) -> bool:
    """Return whether any row of a dataset has a label, as far as it can be said before a stream is read."""
    if loaded.preparation is None:
        with unmoved_randomness():
            batch = first_batch(loaded.dataset, loaded.collate, 1)
        return not isinstance(batch, Mapping) or "labels" in batch
    column, rows = loaded.preparation.labels, loaded.preparation.dataset
    if column is None or column.form != "class" or not isinstance(rows, datasets.Dataset):
        return column is not None
    return bool((column(rows.with_format(None)[column.name][:]) != UNLABELED).any())


class _SetEpoch(TrainerCallback):
    """A callback that sets the dataset's epoch, and so its view: accelerate does so in one process, not in several."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.dataset.set_epoch(int(state.epoch or 0))
