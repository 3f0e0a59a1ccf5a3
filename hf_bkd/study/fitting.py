"""The engine that fits teachers: what their specifications ask for, answered by the distillation trainer."""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from ..teachers import Deterministic, DeterministicTeacher, FitContext, Teacher, TeacherSpec
from ..teachers.examples import likelihood_by
from ..training.arguments import DistillationTrainingArguments
from ..training.progress import show_progress
from ..training.trainer import DistillationTrainer
from ..utils.files import slug


def train_network(
    network: nn.Module,
    args: DistillationTrainingArguments,
    train: Any,
    *,
    folder: Path,
    optimizer: torch.optim.Optimizer | None = None,
    callbacks: Sequence[Any] = (),
    evaluated: Any = None,
    teacher: Teacher | None = None,
    processing_class: Any = None,
    prints: bool = True,
    **changes: Any,
) -> DistillationTrainer:
    """Train a network in place, going on from its last complete checkpoint if there is one.

    Args:
        network: to be trained.
        args: training arguments.
        train: the training set.
        folder: where its checkpoints go.
        optimizer: of its parameters, in place of the arguments' own.
        callbacks: of the Trainer, that are told of its steps.
        evaluated: what it is evaluated on meanwhile.
        teacher: asked at each step, with ``online_teacher``.
        processing_class: the network's tokenizer, image processor or feature extractor, where it doesn't know it.
        prints: whether what is logged is printed.
        changes: to the training arguments.
    """
    trainer = DistillationTrainer(
        network,
        dataclasses.replace(args, output_dir=str(folder), push_to_hub=False, **changes),
        train_dataset=train,
        eval_dataset=evaluated,
        teacher=teacher,
        optimizers=(optimizer, None),
        callbacks=list(callbacks),
        processing_class=processing_class,
    )
    progress = show_progress(trainer, bars=not args.disable_tqdm, logs=prints)
    try:
        trainer.train(resume_from_checkpoint=True)
    finally:
        progress.stop()
    return trainer


class Fitting(FitContext):
    """A context of specifications that trains networks by :func:`train_network`, one subclass a source of networks.

    Attributes:
        spec: what is being fitted at present, if it is more than a trained network.
        name: of that, or of the network.
        number: which of an ensemble's members it is for.
    """

    spec: TeacherSpec | None = None
    name = ""
    number = 0

    def fitted(self, spec: TeacherSpec) -> Teacher:
        """Return the teacher of a specification: supplied, kept from an earlier run, or fitted now."""
        # a deterministic one is asked for as a network below: its temperature may have to be chosen yet
        supplied = None if isinstance(spec, Deterministic) else self.supplied(spec.method)
        if supplied is not None:
            return supplied
        if not spec.kept:
            return spec.fit(self)
        context = self.with_(spec=spec, name=f"{spec.name}-{self.number}" if self.number else spec.name)
        return context.keep(lambda: spec.fit(context))

    def trained(self, **settings: Any) -> Teacher:
        """Return a teacher of a trained network: supplied, kept from an earlier run, or trained now."""
        supplied = None if settings else self.supplied(DeterministicTeacher.method)
        if supplied is not None:
            return supplied
        changes = [slug(f"{name} {value}") for name, value in settings.items()]
        context = self.with_(spec=None, name="-".join([Deterministic.kind, *changes, str(self.number)]))
        return context.keep(lambda: self._teacher_of(context.train(context.network(**settings))), **settings)

    def _teacher_of(self, network: nn.Module) -> Teacher:
        likelihood = likelihood_by(network, self.validation_batches(), self.problem_type)
        return DeterministicTeacher(network, likelihood=likelihood)

    def with_(self, **changes: Any) -> Self:
        """Return a copy with other attributes."""
        changed = copy(self)
        vars(changed).update(changes)
        return changed

    @abstractmethod
    def supplied(self, method: str) -> Teacher | None:
        """Return the user's own teacher of this method, if there is one to be used here."""

    def keep(self, fit: Callable[[], Teacher], **settings: Any) -> Teacher:
        """Return what ``fit`` makes, or what it made in an earlier run; ``settings`` are those of its network."""
        return fit()
