"""One condition and seed of a study: its data, made ready once, and how networks are trained in it."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import PartialState
from torch import nn
from transformers import PrinterCallback, set_seed

from ..data.views import Views
from ..models.calling import split
from ..training.arguments import DistillationTrainingArguments
from ..training.batched_dataset import BatchedDataset
from ..training.trainer import DistillationTrainer
from ..utils.files import write_json
from ..utils.processes import decided_by_main
from .arms import Arm, Study, slug
from .timing import plain_pass, relative_time

TIMED = 128  # examples of a pass that is timed


class Setting:
    """What the arms of one condition and seed share.

    Args:
        study, condition, seed: which one.
        options: the study's arguments.
        args: the students' training arguments; teachers are trained with the same, but without distillation.
        on_trained: called after each training.
    """

    def __init__(
        self,
        study: Study,
        condition: str,
        seed: int,
        options: Any,
        args: DistillationTrainingArguments,
        on_trained: Callable[[], None],
    ):
        self.study, self.condition, self.seed, self.options, self.args = study, condition, seed, options, args
        self.on_trained = on_trained
        self.root, self.key = Path(args.output_dir), Path(slug(condition) or "all", f"seed-{seed}")
        self.splits = study.conditions[condition](options, seed)
        self.classes = self.splits.train.features["label"].names
        self.inputs = self.splits.inputs
        self.train = self.resident(self.splits.train, augment=True)
        transfer = self.splits.transfer
        self.taught = self.train if transfer is None else self.resident(transfer, augment=True)
        self.validation = self.resident(self.splits.validation)
        self.test = self.resident(self.splits.test)

    def arms(self) -> list[Arm]:
        """Those of the study that the data allows."""
        return [arm for arm in self.study.arms if arm.teacher != "bayes" or self.splits.bayes is not None]

    def recorded(self, arm: Arm, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """An arm's record: from an earlier run, or of running it now."""
        file = self.folder("arms", f"{slug(arm.name)}.json")
        if decided_by_main(file.is_file):
            return json.loads(file.read_text())
        record = run()
        if PartialState().is_main_process:
            write_json(file, record)
        PartialState().wait_for_everyone()
        return record

    @property
    def epoch_steps(self) -> int | None:
        """How many steps a pass over the training split has, if what is taught is another set."""
        if self.splits.transfer is None:
            return None
        args = self.args
        return math.ceil(
            len(self.train) / (args.train_batch_size * args.gradient_accumulation_steps * args.world_size)
        )

    @property
    def progress(self) -> bool:
        return not self.args.disable_tqdm

    def resident(self, dataset: datasets.Dataset, augment: bool = False) -> BatchedDataset:
        views = self.inputs.views(self.seed) if augment else None
        return self.inputs.resident(dataset, views, self.args.device, self.progress)

    def views(self, arm: Arm) -> Views | None:
        """What an arm's soft labels are made of: augmented views, or ``None`` for the examples as they are."""
        asked = (arm.views, self.options.views, self.study.views)
        number = next(views for views in asked if views is not None)
        return self.inputs.views(self.seed, number) if number and arm.teacher not in ("none", "bayes") else None

    @cached_property
    def relative_time(self) -> float | None:
        """Seconds of a student's pass over those of the teacher's network, where it is known which that is."""
        if self.options.teacher or not any(arm.fits_teacher and not arm.architecture for arm in self.study.arms):
            return None
        inputs, _ = split(next(iter(self.test.batches(TIMED))))
        student, teacher = (
            self.inputs.network(architecture, self.classes, self.train, **settings).to(self.args.device)
            for architecture, settings in (
                (self.options.student_model, self.study.student_args),
                (self.options.teacher_model, self.study.teacher_args),
            )
        )
        return relative_time(lambda: plain_pass(student, inputs), lambda: plain_pass(teacher, inputs))

    def folder(self, kind: str, *names: str) -> Path:
        """Where a finished or half-finished thing of this setting stands."""
        return self.root.joinpath(kind, self.key, *names)

    def forget_checkpoints(self, name: str) -> None:
        """Those of one finished training; a training that was interrupted keeps its own."""
        folder = self.folder("checkpoints", name)
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # not empty, or gone; those above belong to other processes too
            folder.parent.rmdir()

    def train_network(
        self,
        architecture: str,
        architecture_args: dict[str, Any],
        train: BatchedDataset,
        *,
        name: str,
        seed: int,
        epochs: float,
        epoch_steps: int | None = None,
        prepare: Callable[[nn.Module], nn.Module] | None = None,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
        evaluated: BatchedDataset | None = None,
        teacher: Any = None,
        **changes: Any,
    ) -> DistillationTrainer:
        """Train a new network, going on from its last complete checkpoint if there is one.

        Args:
            architecture, architecture_args: one that the data's inputs know.
            train: the training set.
            name: where its checkpoints go.
            seed: of its initialization and of the batches' order.
            epochs: before the condition's factor.
            epoch_steps: how long an epoch is, if not a pass over ``train``.
            prepare: changes the network before it is trained.
            optimizer: makes one for it, in place of the arguments' own.
            evaluated: what it is evaluated on meanwhile.
            teacher: asked at each step, with ``online_teacher``.
            changes: to the training arguments.
        """
        if self.progress and PartialState().is_main_process:
            print(f"training {name} ({self.condition or self.study.name}, seed {self.seed})", flush=True)
        set_seed(seed)
        network = self.inputs.network(architecture, self.classes, train, **architecture_args)
        epochs *= self.study.epochs.get(self.condition, 1)
        if epoch_steps is not None:
            changes |= {"max_steps": round(epochs * epoch_steps), "eval_strategy": "steps", "eval_steps": epoch_steps}
        args = dataclasses.replace(
            self.args,
            **{"eval_strategy": "no" if evaluated is None else "epoch", **changes},
            output_dir=str(self.folder("checkpoints", name)),
            seed=seed,
            num_train_epochs=epochs,
            push_to_hub=False,
        )
        network = prepare(network) if prepare else network
        optimizers = (optimizer(network) if optimizer else None, None)
        trainer = DistillationTrainer(
            network, args, train_dataset=train, eval_dataset=evaluated, teacher=teacher, optimizers=optimizers
        )
        if not self.progress:
            trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=True)
        self.on_trained()
        return trainer
