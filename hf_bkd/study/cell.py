"""One condition and seed of a study: its teachers, their soft labels, and a student per arm."""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PrinterCallback, set_seed

from ..backbones import create_classifier
from ..cards import write_student_card
from ..files import whole_folder, write_json
from ..metrics import agreement, classification_metrics, reliability
from ..resident import CropAndFlip, ImagePreprocessor, ResidentDataset
from ..soft_labels import add_soft_labels, attach
from ..soft_labels.columns import is_soft_label_column
from ..soft_labels.provenance import content_ids, make_provenance
from ..teachers import (
    DeterministicTeacher,
    EnsembleTeacher,
    LaplaceTeacher,
    Teacher,
    VariationalTeacher,
    make_variational,
    predict_all,
)
from ..trainer import DistillationTrainer
from ..training_args import DistillationTrainingArguments
from .arms import Arm, Study, slug


class Outcome(NamedTuple):
    """A trained student: the network, its test probabilities [N, C], and what its training logged."""

    model: nn.Module
    probs: Tensor
    validation_accuracy: float
    epochs: list[float]
    accuracies: list[float]
    noise: float | None
    noise_window: int
    teacher_temperature: float
    seconds: float


class Cell:
    """What the arms of one condition and seed share.

    Everything that is finished stands under ``output_dir`` and is taken from there the next time.

    Args:
        study, condition, seed: which cell.
        options: the study's arguments.
        args: the students' training arguments; teachers are trained with the same, without distillation.
        on_trained: called after each training.
    """

    def __init__(
        self,
        study: Study,
        condition: str,
        seed: int,
        options: Any,
        args: DistillationTrainingArguments,
        on_trained: Callable[[], None] = lambda: None,
    ):
        self.study, self.condition, self.seed, self.options, self.args = study, condition, seed, options, args
        self.on_trained = on_trained
        self.root, self.key = Path(args.output_dir), Path(slug(condition) or "all", f"seed-{seed}")
        self.splits = study.conditions[condition](options, seed)
        self.num_classes = self.splits.train.features["label"].num_classes
        self.preprocessor = ImagePreprocessor(study.mean, study.std)
        self.train = self._resident(self.splits.train, augment=True)
        self.validation = self._resident(self.splits.validation)
        self.test = self._resident(self.splits.test)
        self._given = Teacher.from_pretrained(options.teacher).to(args.device) if options.teacher else None
        self._outcomes: dict[tuple, Outcome] = {}

    def _resident(self, dataset: datasets.Dataset, augment: bool = False) -> ResidentDataset:
        augmentation = CropAndFlip(self.seed) if augment and self.study.augment else None
        return ResidentDataset.from_images(
            dataset, self.preprocessor, augmentation, self.args.device, progress=not self.args.disable_tqdm
        )

    def arms(self) -> list[Arm]:
        return [arm for arm in self.study.arms if arm.teacher != "bayes" or self.splits.bayes is not None]

    # Networks

    def _train(
        self,
        architecture: str,
        model_args: dict[str, Any],
        train: ResidentDataset,
        seed: int,
        place: Path,
        prepare: Callable[[nn.Module], nn.Module] = lambda network: network,
        evaluated: ResidentDataset | None = None,
        **changes: Any,
    ) -> DistillationTrainer:
        """Train a new network, going on from the last complete checkpoint in ``place`` if there is one."""
        set_seed(seed)
        names = self.splits.train.features["label"].names
        network = create_classifier(
            architecture,
            self.num_classes,
            in_chans=len(self.study.mean),
            image_size=train.values["pixel_values"].shape[-1],
            mean=self.study.mean,
            std=self.study.std,
            label_names=names,
            **model_args,
        )
        epochs = changes.pop("num_train_epochs") * self.study.epochs.get(self.condition, 1)
        args = dataclasses.replace(
            self.args,
            output_dir=str(self.root / place),
            seed=seed,
            num_train_epochs=epochs,
            eval_strategy="no" if evaluated is None else "epoch",
            push_to_hub=False,
            dataloader_pin_memory=False,
            **changes,
        )
        trainer = DistillationTrainer(prepare(network), args, train_dataset=train, eval_dataset=evaluated)
        if args.disable_tqdm:
            trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=True)
        self.on_trained()
        return trainer

    # Teachers

    def teacher(self, kind: str, rows: datasets.Dataset | None = None, place: str = "") -> Teacher:
        """A fitted teacher, of the whole training split or of some of its rows (which then need a ``place``)."""
        if rows is None and self._given is not None and self._given.method == kind:
            return self._given
        if kind == "ensemble":
            return EnsembleTeacher([self._member(rows, place, number) for number in range(self.options.ensemble_size)])
        if kind == "deterministic":
            return self._member(rows, place, 0)
        fit = {"laplace": self._fit_laplace, "variational": self._fit_variational}[kind]
        return self._kept(f"{place}{kind}", lambda: fit(rows, place))

    def _member(self, rows: datasets.Dataset | None, place: str, number: int) -> Teacher:
        if rows is None and number == 0 and self._given is not None and self._given.method == "deterministic":
            return self._given
        name = f"{place}deterministic-{number}"
        return self._kept(name, lambda: DeterministicTeacher(self._train_teacher(rows, name, number)))

    def _fit_laplace(self, rows: datasets.Dataset | None, place: str) -> Teacher:
        network = self._member(rows, place, 0).network
        return LaplaceTeacher.fit(network, self._rows(rows).batches(), self.validation.batches())

    def _fit_variational(self, rows: datasets.Dataset | None, place: str) -> Teacher:
        return VariationalTeacher(self._train_teacher(rows, f"{place}variational", 0, make_variational))

    def _rows(self, rows: datasets.Dataset | None) -> ResidentDataset:
        return self.train if rows is None else self._resident(rows, augment=True)

    def _train_teacher(
        self, rows: datasets.Dataset | None, name: str, number: int, prepare: Callable = lambda network: network
    ) -> nn.Module:
        trainer = self._train(
            self.options.teacher_model,
            self.study.teacher_args,
            self._rows(rows),
            seed=1000 * (self.seed + 1) + number,
            place=Path("checkpoints", self.key, "teachers", slug(name)),
            prepare=prepare,
            num_train_epochs=self.options.teacher_epochs or self.args.num_train_epochs,
            kd_lambda=0.0,
        )
        return trainer.model

    def _kept(self, name: str, make: Callable[[], Teacher]) -> Teacher:
        folder = self.root / "teachers" / self.key / name
        if _decided_by_main(lambda: not folder.is_dir()):
            made = make()
            if PartialState().is_main_process:
                made.save_pretrained(folder)
            PartialState().wait_for_everyone()
        return Teacher.from_pretrained(folder).to(self.args.device)

    def _arm_teacher(
        self, arm: Arm, temperature: float, rows: datasets.Dataset | None = None, place: str = ""
    ) -> Teacher:
        teacher = self.teacher(arm.teacher, rows, place)
        if arm.scaled:
            return DeterministicTeacher.fit(teacher.network, self.validation.batches())
        teacher.temperature = temperature
        return teacher

    # Soft labels

    def labels(self, arm: Arm, temperature: float) -> tuple[datasets.Dataset, Tensor | None]:
        """The training split with the arm's soft labels, and the teacher's probabilities [N, C] on the test split."""
        name = f"{slug(arm.name)}-T{temperature:g}"
        folder = self.root / "labels" / self.key / name
        if _decided_by_main(lambda: not folder.is_dir()):
            labelled, test_probs = self._label(arm, temperature)
            if PartialState().is_main_process:
                with whole_folder(folder) as temporary:
                    kept = [column for column in labelled.column_names if is_soft_label_column(column)]
                    labelled.select_columns(kept).save_to_disk(temporary / "train")
                    save_file({} if test_probs is None else {"probs": test_probs}, temporary / "test.safetensors")
            PartialState().wait_for_everyone()
        stored = datasets.load_from_disk(folder / "train")
        labelled = datasets.concatenate_datasets([self.splits.train, stored], axis=1)
        return labelled, load_file(folder / "test.safetensors").get("probs")

    def _label(self, arm: Arm, temperature: float) -> tuple[datasets.Dataset, Tensor | None]:
        if arm.teacher == "bayes":
            return self._label_exactly(), None
        how = {"num_samples": self.options.num_samples, "preprocess": self.preprocessor, "seed": self.seed}
        how |= {"progress": not self.args.disable_tqdm}
        if arm.folds:
            fitted = []

            def fit(rest: datasets.Dataset, fold: int) -> Teacher:
                fitted.append(self._arm_teacher(arm, temperature, rest, f"fold-{fold}-of-{arm.folds}/"))
                return fitted[-1]

            labelled = add_soft_labels(self.splits.train, folds=arm.folds, fit=fit, **how)
            teacher = EnsembleTeacher(fitted)
        else:
            teacher = self._arm_teacher(arm, temperature)
            labelled = add_soft_labels(self.splits.train, teacher, **how)
        test_probs, _ = predict_all(teacher, self.test.batches(), self.options.num_samples, self.seed)
        return labelled, test_probs

    def _label_exactly(self) -> datasets.Dataset:
        rows = self.splits.train
        exact = {"method": "bayes", "num_classes": self.num_classes, "temperature": 1.0, "tempering": "post_average"}
        record = make_provenance(
            exact | {"weights": "exact"}, rows, num_samples=1, seed=self.seed, storage="float16", content_column="image",
            preprocessing=None,
        )  # fmt: skip
        return attach(rows, self.splits.bayes, record, example_ids=content_ids(rows["image"][:]))

    # Students

    def run(self, arm: Arm) -> dict[str, Any]:
        """Train and measure an arm's student, or take its record from an earlier run."""
        record_file = self.root / "arms" / self.key / f"{slug(arm.name)}.json"
        if _decided_by_main(record_file.is_file):
            return json.loads(record_file.read_text())
        candidates = [self._student(arm, temperature) for temperature in arm.temperatures]
        best = max(range(len(candidates)), key=lambda i: candidates[i].validation_accuracy)
        record = self._record(arm, candidates[best], arm.temperatures[best])
        if PartialState().is_main_process:
            with whole_folder(self.root / "students" / self.key / slug(arm.name)) as temporary:
                candidates[best].model.save_pretrained(temporary)
                write_student_card(temporary, self.study.name, self.options.dataset, record)
            write_json(record_file, record)
            shutil.rmtree(self.root / "checkpoints" / self.key, ignore_errors=True)
        PartialState().wait_for_everyone()
        return record

    def _student(self, arm: Arm, temperature: float) -> Outcome:
        same = (arm.teacher, arm.folds, arm.scaled, arm.label_smoothing, temperature)
        if same not in self._outcomes:
            self._outcomes[same] = self._train_student(arm, temperature)
        return self._outcomes[same]

    def _train_student(self, arm: Arm, temperature: float) -> Outcome:
        taught = arm.teacher != "none"
        train = self.train.with_soft_labels(self.labels(arm, temperature)[0]) if taught else self.train
        started = time.perf_counter()
        trainer = self._train(
            self.options.student_model,
            self.study.student_args,
            train,
            seed=self.seed,
            place=Path("checkpoints", self.key, "students", f"{slug(arm.name)}-T{temperature:g}"),
            evaluated=self.test,
            num_train_epochs=self.args.num_train_epochs,
            kd_lambda=self.args.kd_lambda if taught else 0.0,
            label_smoothing_factor=arm.label_smoothing or self.args.label_smoothing_factor,
        )
        seconds = time.perf_counter() - started
        validation = trainer.evaluate(self.validation, metric_key_prefix="validation")
        logits = torch.as_tensor(trainer.predict(self.test).predictions)
        return Outcome(
            trainer.model,
            logits.double().softmax(dim=-1),
            validation["validation_accuracy"],
            *trainer.evaluations(),
            trainer.convergence_noise(),
            trainer.noise_window(),
            trainer.teacher_temperature,
            seconds,
        )

    def _record(self, arm: Arm, outcome: Outcome, temperature: float) -> dict[str, Any]:
        test_labels = self.test.values["labels"].cpu()
        teacher_probs = None if arm.teacher == "none" else self.labels(arm, temperature)[1]
        known = teacher_probs is not None
        bins = reliability(outcome.probs, test_labels)
        return {
            "arm": arm.name,
            "condition": self.condition,
            "teacher": arm.teacher,
            "student": self.options.student_model,
            "seed": self.seed,
            "kd_lambda": 0.0 if arm.teacher == "none" else self.args.kd_lambda,
            "teacher_temperature": outcome.teacher_temperature,
            "student_temperature": self.args.student_temperature,
            "num_samples": self.options.num_samples,
            "views": 1,
            "folds": arm.folds,
            "metrics": classification_metrics(outcome.probs, test_labels)
            | {
                "convergence_noise": outcome.noise,
                "best_accuracy": max(outcome.accuracies),
                "agreement": agreement(outcome.probs, teacher_probs) if known else None,
            },
            "teacher_metrics": classification_metrics(teacher_probs, test_labels) if known else None,
            "validation_accuracy": outcome.validation_accuracy,
            "seconds": outcome.seconds,
            "history": {"epoch": outcome.epochs, "accuracy": outcome.accuracies},
            "noise_window": outcome.noise_window,
            "reliability": {
                "confidence": _without_nan(bins.confidence),
                "accuracy": _without_nan(bins.accuracy),
                "count": bins.count.tolist(),
            },
        }


def _without_nan(values: Tensor) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]


def _decided_by_main(question: Callable[[], bool]) -> bool:
    """The main process' answer in every process: another one may look at a file later, when it is already there."""
    return broadcast_object_list([question()])[0]
