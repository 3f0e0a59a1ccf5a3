"""A student per arm, and its record for `results.json`."""

import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from torch import Tensor, nn

from ..cards import write_student_card
from ..errors import UserError
from ..files import whole_folder
from ..metrics import agreement, classification_metrics, reliability
from ..soft_labels.columns import bytes_per_example
from .arms import DETERMINISTIC, Arm, slug
from .setting import Setting
from .teaching import Teaching

CARD_FACTS = {
    "teacher": "teacher",
    "kd_lambda": "lambda",
    "teacher_temperature": "T_t",
    "student_temperature": "T_s",
    "temperature_scale": "scale, by the rule",
    "num_samples": "draws of the teacher's posterior, where it has one",
    "views": "labelled views of each image",
}


class LabelCost(NamedTuple):
    """What an example's soft labels take in memory, and how long all of them took to make, where there are any."""

    bytes_per_example: float | None = None
    seconds: float | None = None


class Trained(NamedTuple):
    """A trained student: its network, test probabilities [N, C], its teacher's, and what its training logged."""

    model: nn.Module
    probs: Tensor
    teacher_probs: Tensor | None
    validation_accuracy: float
    epochs: list[float]
    accuracies: list[float]
    noise: float | None
    noise_window: int
    teacher_temperature: float
    seconds: float
    labels: LabelCost


class Students:
    """Trains and measures the students of a setting."""

    def __init__(self, setting: Setting):
        self.setting = setting
        self.teaching = Teaching(setting)
        self._trained: dict[tuple, Trained] = {}

    def run(self, arm: Arm) -> dict[str, Any]:
        """An arm's record: from an earlier run, or of a student that is trained, measured and saved now."""
        record = self.setting.recorded(arm, lambda: self._run(arm))
        if PartialState().is_main_process:
            for temperature in self._temperatures(arm):
                self.setting.forget_checkpoints(_training_name(arm, temperature))
        return record

    def _run(self, arm: Arm) -> dict[str, Any]:
        candidates = [self._student(arm, temperature) for temperature in self._temperatures(arm)]
        best = max(range(len(candidates)), key=lambda i: candidates[i].validation_accuracy)
        record = self._record(arm, candidates[best])
        if PartialState().is_main_process:
            with whole_folder(self.setting.folder("students", slug(arm.name))) as folder:
                candidates[best].model.save_pretrained(folder)
                self.setting.inputs.save(folder)
                self._write_card(folder, record)
        return record

    def _write_card(self, folder: Path, record: dict[str, Any]) -> None:
        condition = f" ({record['condition']})" if record["condition"] else ""
        write_student_card(
            folder,
            title=f"{record['student']} taught by: {record['arm']}",
            how=f" by the recipe `{self.setting.study.name}`{condition}, seed {record['seed']}",
            measured="Measured on the test split after the last epoch; nothing was selected on it.",
            metrics=record["metrics"],
            teacher_metrics=record["teacher_metrics"],
            facts={name: record[key] for key, name in CARD_FACTS.items()},
            dataset=self.setting.options.dataset,
            split="test",
            task=self.setting.inputs.task,
            tags=[record["teacher"]],
        )

    def _temperatures(self, arm: Arm) -> tuple[float, ...]:
        """The arm's own candidates; ``teacher_temperature`` moves arms that have a single one."""
        asked = self.setting.args.teacher_temperature
        movable = arm.temperatures == (1.0,) and not arm.scaled and arm.teacher not in ("none", "bayes")
        return (asked,) if asked is not None and movable else arm.temperatures

    def _kd_lambda(self, arm: Arm) -> float:
        asked = self.setting.args.kd_lambda if arm.kd_lambda is None else arm.kd_lambda
        return 0.0 if arm.teacher == "none" else asked

    def _student(self, arm: Arm, temperature: float) -> Trained:
        """Trained once, though several arms may ask for it."""
        same = (arm.labels_name(temperature), arm.label_smoothing, arm.kd_lambda, arm.lambda_schedule)
        if same not in self._trained:
            self._trained[same] = self._train(arm, temperature)
        return self._trained[same]

    def _train(self, arm: Arm, temperature: float) -> Trained:
        setting, taught = self.setting, arm.teacher != "none"
        train, teacher_probs, cost, online = setting.train, None, LabelCost(), None
        if arm.online:
            online = self.teaching.teacher(arm, temperature)
            teacher_probs = self.teaching.on_test(online)
        elif taught:
            labelled, teacher_probs, seconds = self.teaching.labels(arm, temperature)
            train = train.with_soft_labels(labelled)
            cost = LabelCost(bytes_per_example(labelled), seconds)
        student_args = setting.study.student_args
        if setting.study.from_teacher:
            student_args = student_args | {"start": self.teaching.teacher(DETERMINISTIC, 1.0).network}
        started = time.perf_counter()
        trainer = setting.train_network(
            setting.options.student_model,
            student_args,
            train,
            name=_training_name(arm, temperature),
            seed=setting.seed,
            epochs=setting.args.num_train_epochs,
            evaluated=setting.test,
            teacher=online,
            online_teacher=arm.online,
            teacher_samples=setting.options.num_samples,
            teacher_seed=setting.seed,
            kd_lambda=self._kd_lambda(arm),
            lambda_schedule=arm.lambda_schedule,
            teacher_temperature=None,  # labels are made at their temperature
            label_smoothing_factor=arm.label_smoothing or setting.args.label_smoothing_factor,
        )
        seconds = time.perf_counter() - started
        validation = trainer.evaluate(setting.validation, metric_key_prefix="validation")
        logits = torch.as_tensor(trainer.predict(setting.test).predictions)
        return Trained(
            trainer.model,
            logits.double().softmax(dim=-1),
            teacher_probs,
            validation["validation_accuracy"],
            *trainer.evaluations(),
            trainer.convergence_noise(),
            trainer.noise_window(),
            trainer.teacher_temperature,
            seconds,
            cost,
        )

    def _record(self, arm: Arm, trained: Trained) -> dict[str, Any]:
        setting, teacher_probs = self.setting, trained.teacher_probs
        test_labels = setting.test.values["labels"].cpu()
        asked = teacher_probs is not None
        metrics = classification_metrics(trained.probs, test_labels)
        if not math.isfinite(metrics["nll"]):
            raise UserError(
                f"the student of arm {arm.name!r} diverged, its NLL is {metrics['nll']}: lower --learning_rate"
            )
        metrics["convergence_noise"] = trained.noise
        metrics["best_accuracy"] = max(trained.accuracies)
        metrics["agreement"] = agreement(trained.probs, teacher_probs) if asked else None
        return {
            "arm": arm.name,
            "condition": setting.condition,
            "teacher": arm.teacher,
            "student": setting.options.student_model,
            "seed": setting.seed,
            "kd_lambda": self._kd_lambda(arm),
            "lambda_schedule": None if arm.lambda_schedule == "fixed" else arm.lambda_schedule,
            "teacher_temperature": trained.teacher_temperature,
            "student_temperature": setting.args.student_temperature,
            "temperature_scale": setting.args.temperature_scale,
            "num_samples": setting.options.num_samples,
            "views": math.ceil(max(trained.epochs)) if arm.online else getattr(setting.views(arm), "number", 1),
            "online": arm.online,
            "label_bytes": trained.labels.bytes_per_example,
            "label_seconds": trained.labels.seconds,
            "folds": arm.folds,
            "relative_time": setting.relative_time,
            "metrics": metrics,
            "teacher_metrics": classification_metrics(teacher_probs, test_labels) if asked else None,
            "validation_accuracy": trained.validation_accuracy,
            "seconds": trained.seconds,
            "history": {"epoch": trained.epochs, "accuracy": trained.accuracies},
            "noise_window": trained.noise_window,
            "reliability": reliability(trained.probs, test_labels).as_json(),
        }


def _training_name(arm: Arm, temperature: float) -> str:
    return f"student-{slug(arm.name)}-T{temperature:g}"
