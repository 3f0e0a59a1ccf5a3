"""A cell of a study, one condition and seed: its data, made ready once, its folders, and how networks are timed."""

import math
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import PartialState
from torch import nn
from transformers import set_seed

from ..data.labels import IN_WORDS, can_hold
from ..data.views import Views
from ..likelihoods import CATEGORICAL, Likelihood, likelihood_from
from ..models.calling import Inputs, call_network, evaluation_mode, split, to_network
from ..models.class_names import with_variances
from ..soft_labels.identity import content_column, dataset_ids
from ..training.arguments import DistillationTrainingArguments
from ..training.batched_dataset import BatchedDataset
from ..training.trainer import DistillationTrainer
from ..utils.errors import UserError
from ..utils.files import read_json, slug, write_json
from ..utils.processes import decided_by_main
from .arms import Arm, ExactBayes, Splits, Study
from .fitting import train_network
from .settings import FINISHED, check_same_data

PREDICT_VARIANCE = "predict_variance"
TIMED = 128  # examples of a pass that is timed
ROUNDS = 7


class Cell:
    """The data and the folders that the arms of one condition and seed share.

    Args:
        study, condition, seed: which one.
        options: the study's arguments.
        args: the students' training arguments; teachers are trained with the same, but without distillation.
    """

    def __init__(self, study: Study, condition: str, seed: int, options: Any, args: DistillationTrainingArguments):
        self.study, self.condition, self.seed, self.options, self.args = study, condition, seed, options, args
        self.root, self.key = Path(args.output_dir), Path(slug(condition) or "all", f"seed-{seed}")
        self.splits = study.conditions[condition](options, seed)
        self.inputs = self.splits.inputs
        self.likelihood = likelihood_from(self.inputs.problem_type)
        _check_arms(self.arms(), self.likelihood)
        if study.posterior is not None and self.likelihood != CATEGORICAL:
            raise UserError(
                "a study samples posteriors of networks of one class alone: declare it with posterior=None"
            )
        _check_labels(self.splits, self.inputs.problem_type)
        decided_by_main(self._check_same_data)
        self.classes = _classes(self.splits.train.features["label"])
        self.train = self.batched(self.splits.train, augment=True)
        transfer = self.splits.transfer
        self.taught = self.train if transfer is None else self.batched(transfer, augment=True)
        self.validation = self.batched(self.splits.validation)
        self.test = self.batched(self.splits.test)
        self._times: dict[str, float] = {}  # of students' passes, by the settings of their networks

    def arms(self) -> list[Arm]:
        """The arms of the study that the data allows."""
        known = self.splits.bayes is not None
        return [arm for arm in self.study.arms if known or not isinstance(arm.teacher, ExactBayes)]

    def recorded(self, arm: Arm, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return an arm's record: from an earlier run, or of running it now."""
        file = self.folder("arms", f"{slug(arm.name)}.json")
        earlier = decided_by_main(lambda: read_json(file) if file.is_file() else None)
        if earlier is not None:
            return earlier
        record = run()
        decided_by_main(lambda: write_json(file, record))
        return record

    def _check_same_data(self) -> None:
        used = any(self.folder(kind).is_dir() for kind in FINISHED)
        check_same_data(self.folder("data", "digests.json"), self.splits, used)

    @property
    def progress(self) -> bool:
        """Whether trainings say where they are; else the study's own bar does."""
        return not self.args.disable_tqdm

    def batched(self, dataset: datasets.Dataset, augment: bool = False) -> BatchedDataset:
        """Return rows as training and evaluation read them."""
        views = self.inputs.views(self.seed) if augment else None
        return self.inputs.batched(dataset, views, self.args.device, self.progress)

    @cached_property
    def asked(self) -> BatchedDataset:
        """The rows that an online teacher is asked about, by the ids that its stored labels would have."""
        rows, column = self.splits.taught, self.inputs.column
        if column not in rows.features or content_column(rows.features) in (None, column):
            return self.taught
        return self.taught.known_by(dataset_ids(rows, column))

    def views(self, arm: Arm) -> Views | None:
        """Return the augmented views that an arm's soft labels are of, ``None`` for the examples as they are."""
        asked = (arm.num_views, self.options.views, self.study.num_views)
        number = next(number for number in asked if number is not None)
        unseen = arm.teacher is None or isinstance(arm.teacher, ExactBayes)
        return self.inputs.views(self.seed, number) if number and not unseen else None

    def relative_time(self, arm: Arm) -> float | None:
        """Return the seconds of a pass of an arm's student over those of the teachers' network, if it is known."""
        if self.options.teacher or not any(each.fits_teacher and not each.architecture for each in self.study.arms):
            return None
        settings = self.study.student_args | arm.student_args
        if repr(settings) not in self._times:
            self._times[repr(settings)] = self._relative_time(settings)
        return self._times[repr(settings)]

    def _relative_time(self, student_args: dict[str, Any]) -> float:
        inputs, _ = split(next(iter(self.test.batches(TIMED))))
        student, teacher = (
            self.new_network(architecture, settings, self.train).to(self.args.device)
            for architecture, settings in (
                (self.options.student_model, student_args),
                (self.options.teacher_model, self.study.teacher_args),
            )
        )
        return relative_time(lambda: plain_pass(student, inputs), lambda: plain_pass(teacher, inputs))

    def folder(self, kind: str, *names: str) -> Path:
        """Return where a finished or half-finished thing of this cell stands."""
        return self.root.joinpath(kind, self.key, *names)

    def forget_checkpoints(self, name: str) -> None:
        """Remove those of one finished training; a training that was interrupted keeps its own."""
        folder = self.folder("checkpoints", name)
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # not empty, or gone; those above belong to other processes too
            folder.parent.rmdir()

    def network(self, architecture: str, settings: dict[str, Any], train: BatchedDataset, seed: int) -> nn.Module:
        """Return a new network for what ``train`` holds, initialized by ``seed``; see :meth:`new_network`."""
        set_seed(seed)
        return self.new_network(architecture, settings, train)

    def new_network(self, architecture: str, settings: dict[str, Any], train: BatchedDataset) -> nn.Module:
        """Return a new network for what ``train`` holds.

        Of its settings ``predict_variance`` gives a regression's as many outputs again, the numbers' log-variances.
        """
        settings = dict(settings)
        outputs = with_variances(self.classes) if settings.pop(PREDICT_VARIANCE, False) else self.classes
        return self.inputs.network(architecture, outputs, train, **settings)

    def train_network(
        self,
        network: nn.Module,
        train: BatchedDataset,
        *,
        name: str,
        epochs: float,
        evaluated: BatchedDataset | None = None,
        epoch_steps: int | None = None,
        **options: Any,
    ) -> DistillationTrainer:
        """Train a network of this cell, going on from its last complete checkpoint if there is one.

        Args:
            network: a new one.
            train: the training set.
            name: of the folder of its checkpoints.
            epochs: how many.
            evaluated: what it is evaluated on after each epoch.
            epoch_steps: how long an epoch is, if not a pass over ``train``.
            options: of :func:`~hf_bkd.study.fitting.train_network`.
        """
        if self.progress and PartialState().is_main_process:
            print(f"training {name} ({self.condition or self.study.name}, seed {self.seed})", flush=True)
        length: dict[str, Any] = {"num_train_epochs": epochs}
        length["eval_strategy"] = "no" if evaluated is None else "epoch"
        if epoch_steps is not None:
            length |= {"max_steps": round(epochs * epoch_steps), "eval_strategy": "steps", "eval_steps": epoch_steps}
        return train_network(
            network,
            self.args,
            train,
            folder=self.folder("checkpoints", name),
            evaluated=evaluated,
            prints=self.progress,
            **length,
            **options,
        )

    @property
    def student_epochs(self) -> float:
        """How long students of this condition are trained."""
        return self.args.num_train_epochs * self._factors[0]

    @property
    def teacher_epochs(self) -> float:
        """How long teachers' networks are."""
        return (self.options.teacher_epochs or self.args.num_train_epochs) * self._factors[1]

    @property
    def _factors(self) -> tuple[float, float]:
        factor = self.study.epochs.get(self.condition, 1)
        return factor if isinstance(factor, tuple) else (factor, factor)

    @property
    def epoch_steps(self) -> int | None:
        """How many steps a pass over the training split has, if what is taught is another set."""
        if self.splits.transfer is None:
            return None
        args = self.args
        return math.ceil(
            len(self.train) / (args.train_batch_size * args.gradient_accumulation_steps * args.world_size)
        )


def relative_time(run: Callable[[], Any], reference: Callable[[], Any]) -> float:
    """Return seconds of one function over those of another, each the least of rounds in which they take turns.

    Other work on the machine makes a round longer, never shorter.
    """
    mine, other = zip(*((_seconds(run), _seconds(reference)) for _ in range(ROUNDS)), strict=True)
    return min(mine) / min(other)


@torch.no_grad()
def plain_pass(network: nn.Module, inputs: Inputs) -> None:
    """Pass a batch through a network once."""
    with evaluation_mode(network):
        call_network(network, to_network(inputs, network))


def _seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _check_arms(arms: list[Arm], likelihood: Likelihood) -> None:
    """Refuse arms that mean nothing for what a study's networks predict, before the first is run.

    Raises:
        UserError: smoothed labels, temperatures or weights by entropy of a regression, and predicted variances or
            mixtures where there is none, or no classes.
    """
    for arm in arms:
        parts, settings = arm.parts, [arm.student_args, *(part.architecture_args for part in arm.parts)]
        scaled = any(part.fits_teacher and part.teacher.sets_temperature for part in parts)
        try:
            likelihood.check_label_smoothing(arm.label_smoothing)
            for temperature in (*arm.temperatures, 2.0 if scaled else 1.0):
                likelihood.check_temperature(temperature)
            if getattr(arm.teacher, "weights", None) == "entropy" and likelihood.target_has_variance:
                likelihood.entropy(torch.zeros(2))
        except UserError as error:
            raise UserError(f"arm {arm.name!r}: {error}; or leave this arm out") from None
        if likelihood.independent and (arm.strengths or getattr(arm.teacher, "combine", None) == "mixture"):
            raise UserError(f"arm {arm.name!r} is a mixture of distributions over classes: leave it out")
        if not likelihood.target_has_variance and any(each.get(PREDICT_VARIANCE) for each in settings):
            raise UserError(f"arm {arm.name!r} predicts variances, which are a regression's: leave it out")


def _check_labels(splits: Splits, problem_type: str) -> None:
    """Refuse a column of labels that can't be what a study's networks predict."""
    for rows in (splits.train, splits.validation, splits.test):
        feature = rows.features["label"]
        if not can_hold(feature, "label", likelihood_from(problem_type), num_values=1):
            raise UserError(
                f"the study's networks predict {IN_WORDS[problem_type]}, and the column label holds {feature}: pass "
                "problem_type= to its inputs (classes of each token are for DistillationTrainer and hf-bkd distill)"
            )


def _classes(label: Any) -> list[str]:
    """Return the names of what a column of labels is to be predicted of: classes, labels, or the numbers' places."""
    names = getattr(getattr(label, "feature", label), "names", None)
    return names or [str(place) for place in range(max(getattr(label, "length", 1), 1))]
