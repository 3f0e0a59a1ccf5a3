"""One condition and seed of a study: its data, decoded once, and how networks are trained in it."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import PartialState
from torch import nn
from transformers import PrinterCallback, set_seed

from ..augmentations import CropAndFlip
from ..backbones import create_classifier
from ..files import write_json
from ..images import ImagePreprocessor
from ..processes import decided_by_main
from ..resident import ResidentDataset
from ..trainer import DistillationTrainer
from ..training_args import DistillationTrainingArguments
from ..views import Views
from .arms import Arm, Study, slug


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
        self.preprocessor = ImagePreprocessor(self.splits.mean, self.splits.std)
        self.train = self.resident(self.splits.train, augment=True)
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
    def progress(self) -> bool:
        return not self.args.disable_tqdm

    def resident(self, dataset: datasets.Dataset, augment: bool = False) -> ResidentDataset:
        views = Views(CropAndFlip(), seed=self.seed) if augment and self.splits.augment else None
        return ResidentDataset.from_images(dataset, self.preprocessor, views, self.args.device, progress=self.progress)

    def views(self, arm: Arm) -> Views | None:
        """What an arm's soft labels are made of: augmented views, or ``None`` for the images as they are."""
        asked = (arm.views, self.options.views, self.study.views)
        number = next(views for views in asked if views is not None)
        if not (self.splits.augment and number) or arm.teacher in ("none", "bayes"):
            return None
        return Views(CropAndFlip(), number=number, seed=self.seed)

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
        train: ResidentDataset,
        *,
        name: str,
        seed: int,
        epochs: float,
        prepare: Callable[[nn.Module], nn.Module] | None = None,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
        evaluated: ResidentDataset | None = None,
        teacher: Any = None,
        **changes: Any,
    ) -> DistillationTrainer:
        """Train a new network, going on from its last complete checkpoint if there is one.

        Args:
            architecture, architecture_args: for ``create_classifier``.
            train: the training set.
            name: where its checkpoints go.
            seed: of its initialisation and of the batches' order.
            epochs: before the condition's factor.
            prepare: changes the network before it is trained.
            optimizer: makes one for it, in place of the arguments' own.
            evaluated: what it is evaluated on after each epoch.
            teacher: asked at each step, with ``online_teacher``.
            changes: to the training arguments.
        """
        if self.progress and PartialState().is_main_process:
            print(f"training {name} ({self.condition or self.study.name}, seed {self.seed})", flush=True)
        set_seed(seed)
        network = create_classifier(
            architecture,
            len(self.classes),
            in_chans=len(self.splits.mean),
            image_size=train.values["pixel_values"].shape[-1],
            mean=self.splits.mean,
            std=self.splits.std,
            label_names=self.classes,
            **architecture_args,
        )
        args = dataclasses.replace(
            self.args,
            output_dir=str(self.folder("checkpoints", name)),
            seed=seed,
            num_train_epochs=epochs * self.study.epochs.get(self.condition, 1),
            eval_strategy="no" if evaluated is None else "epoch",
            push_to_hub=False,
            **changes,
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
