"""The students of a cell, one an arm: their training, their measures and their records for `results.json`."""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import torch
from accelerate import PartialState
from torch import Tensor, nn

from ..hub.cards import METRICS, write_student_card
from ..likelihoods import Likelihood, Scaled, scaled_measures, scaled_predictions
from ..models.loading_code import loading_of
from ..models.problem_types import is_dirichlet
from ..models.rebuilding import is_of_transformers
from ..models.saving import save_description
from ..reports.results import MEASURES, has_noisy_labels
from ..soft_labels.reading import bytes_per_example
from ..training.arguments import DistillationTrainingArguments
from ..training.batched_dataset import BatchedDataset
from ..training.supervision import StoredLabels
from ..utils.errors import UserError
from ..utils.files import slug, whole_folder
from ..utils.processes import decided_by_main
from .arms import DETERMINISTIC, Arm, Several
from .cell import Cell
from .limits import measured_limits
from .posteriors import measured_uncertainty, sampled_posterior
from .teaching import Teaching

CARD_FACTS = {
    "teacher": "teacher",
    "kd_lambda": "lambda",
    "teacher_temperature": "T_t",
    "student_temperature": "T_s",
    "temperature_scale": "scale, by the rule",
    "num_samples": "draws of the teacher's posterior, where it has one",
    "views": "labeled views of each image",
}


class LabelCost(NamedTuple):
    """The memory of an example's soft labels, and the seconds that all of them took, where there are any."""

    bytes_per_example: float | None = None
    seconds: float | None = None


class Trained(NamedTuple):
    """A trained student: its network, its predictions for the test split, its teacher's, and what its training logged.

    ``accuracies`` are those of its likelihood's first measure; ``scaled``, and ``teacher_scaled`` of its teacher, are
    of the test split at the temperature that the validation split chose.
    """

    model: nn.Module
    likelihood: Likelihood
    prediction: Tensor
    teacher_prediction: Tensor | None
    validation: dict[str, float]
    scaled: Scaled | None
    teacher_scaled: Scaled | None
    epochs: list[float]
    accuracies: list[float]
    noise: float | None
    noise_window: int
    teacher_temperature: float
    seconds: float
    labels: LabelCost
    train: BatchedDataset
    args: DistillationTrainingArguments


class StudentTraining:
    """The students of a cell, trained and measured arm by arm."""

    def __init__(self, cell: Cell):
        self.cell = cell
        self.teaching = Teaching(cell)
        self._trained: dict[tuple, Trained] = {}

    def run(self, arm: Arm) -> dict[str, Any]:
        """Return an arm's record: from an earlier run, or of a student that is trained, measured and saved now."""
        record = self.cell.recorded(arm, lambda: self._run(arm))
        if PartialState().is_main_process:
            for candidate in self._candidates(arm):
                self.cell.forget_checkpoints(_training_name(arm, *candidate))
        return record

    def _run(self, arm: Arm) -> dict[str, Any]:
        candidates = [self._student(arm, *candidate) for candidate in self._candidates(arm)]
        measure = MEASURES[self.cell.study.measure]
        best = max(candidates, key=lambda trained: measure.sign * trained.validation[measure.metric])
        record, posterior = self._record(arm, best), None
        if self.cell.study.limits:
            taught = arm.fits_teacher and not arm.online and not arm.folds
            teacher = self.teaching.teacher(arm, best.teacher_temperature) if taught else None
            record["limits"] = measured_limits(self.cell, best.model, best.prediction, teacher)
        if self.cell.study.posterior is not None and best.args.distance != "dirichlet":
            posterior = sampled_posterior(self.cell, best.model, best.train, best.args)
            record["uncertainty"] = measured_uncertainty(self.cell, posterior)
        decided_by_main(lambda: self._save(arm, best.model, posterior, record))
        return record

    def _save(self, arm: Arm, model: nn.Module, posterior: Any, record: dict[str, Any]) -> None:
        with whole_folder(self.cell.folder("students", slug(arm.name))) as folder:
            model.save_pretrained(folder)
            if is_dirichlet(model) and not is_of_transformers(model):
                save_description(model, folder)  # which says so
            if posterior is not None:
                posterior.save_pretrained(folder / "posterior")
            self.cell.inputs.save(folder)
            self._write_card(folder, model, record)

    def _write_card(self, folder: Path, network: nn.Module, record: dict[str, Any]) -> None:
        condition = f" ({record['condition']})" if record["condition"] else ""
        noisy = has_noisy_labels(record["condition"], {record["arm"]: {record["seed"]: record}})
        hidden = {"ece"} if noisy else set()  # it judges by what the labels got wrong
        write_student_card(
            folder,
            title=f"{record['student']} taught by: {record['arm']}",
            how=f" by the recipe `{self.cell.study.name}`{condition}, seed {record['seed']}",
            measured="Measured on the test split after the last epoch; nothing was selected on it."
            + _scaled_sentence(_without(record["scaled_metrics"] or {}, hidden)),
            metrics=_without(record["metrics"], hidden),
            teacher_metrics=record["teacher_metrics"] and _without(record["teacher_metrics"], hidden),
            facts={name: record[key] for key, name in CARD_FACTS.items()},
            dataset=self.cell.options.dataset,
            split="test",
            task=self.cell.inputs.task,
            tags=[record["teacher"]],
            license=self.cell.args.license,
            **loading_of(network, with_processor=True)._asdict(),
        )

    def _candidates(self, arm: Arm) -> list[tuple[float, float | None]]:
        """The arm's own; ``teacher_temperature`` moves arms that have a single temperature."""
        asked = self.cell.args.teacher_temperature
        movable = arm.temperatures == (1.0,) and all(p.fits_teacher and not p.has_temperature for p in arm.parts)
        return [(asked if asked and movable else temperature, strength) for temperature, strength in arm.candidates]

    def _changes(self, arm: Arm, strength: float | None) -> dict[str, Any]:
        """Training arguments of an arm."""
        changes = {"lambda_schedule": arm.lambda_schedule, "teacher_weights": "equal", "combine": "average"}
        if isinstance(arm.teacher, Several):
            changes |= {"teacher_weights": arm.teacher.weights, "combine": arm.teacher.combine}
        changes["kd_lambda"] = self.cell.args.kd_lambda if arm.kd_lambda is None else arm.kd_lambda
        if arm.distance is not None:
            changes["distance"] = arm.distance
        if strength is not None:
            changes |= {"kd_lambda": strength / (1 + strength), "prior_strength": strength}
        if arm.teacher is None:
            changes["kd_lambda"] = 0.0
        return changes

    def _student(self, arm: Arm, temperature: float, strength: float | None) -> Trained:
        """An arm's student, trained once though several arms may ask for it."""
        own = repr(sorted(arm.student_args.items()))
        same = (arm.labels_name(temperature), arm.label_smoothing, own, *self._changes(arm, strength).values())
        if same not in self._trained:
            self._trained[same] = self._train(arm, temperature, strength)
        return self._trained[same]

    def _train(self, arm: Arm, temperature: float, strength: float | None) -> Trained:
        cell = self.cell
        train, held_out, cost, online = cell.train, (None, None), LabelCost(), None
        if arm.online:
            train = cell.asked
            online = self.teaching.teacher(arm, temperature)
            held_out = self.teaching.held_out(online)
        elif arm.teacher is not None:
            labels = self.teaching.labels(arm, temperature)
            train, held_out = cell.taught.with_soft_labels(labels.train), labels[1:3]
            cost = LabelCost(bytes_per_example(labels.train), labels.seconds)
        student_args = cell.study.student_args | arm.student_args
        if cell.study.from_teacher:
            student_args = student_args | {"start": self.teaching.teacher(DETERMINISTIC, 1.0).network}
        started = time.perf_counter()
        trainer = cell.train_network(
            cell.network(cell.options.student_model, student_args, train, cell.seed),
            train,
            name=_training_name(arm, temperature, strength),
            seed=cell.seed,
            epochs=cell.student_epochs,
            epoch_steps=cell.epoch_steps,
            evaluated=cell.test,
            teacher=online,
            online_teacher=arm.online,
            teacher_samples=cell.options.num_samples,
            teacher_seed=cell.seed,
            teacher_temperature=None,  # labels are made at their temperature
            label_smoothing_factor=arm.label_smoothing or cell.args.label_smoothing_factor,
            **self._changes(arm, strength),
        )
        seconds = time.perf_counter() - started
        validated = trainer.predict(cell.validation, metric_key_prefix="validation")
        outputs = torch.as_tensor(trainer.predict(cell.test).predictions)
        logits = torch.as_tensor(validated.predictions), outputs
        splits = cell.validation, cell.test
        labels = [split.values["labels"].cpu() for split in splits]
        of_teacher = [self._combined(*each, trainer.args) for each in zip(splits, held_out, strict=True) if each[1]]
        epochs, accuracies = trainer.evaluations()
        return Trained(
            trainer.model,
            trainer.likelihood,
            trainer.likelihood.prediction(outputs.double()),
            of_teacher[-1] if of_teacher else None,
            {name.removeprefix("validation_"): value for name, value in validated.metrics.items()},
            scaled_measures(trainer.likelihood, *zip(logits, labels, strict=True)),
            scaled_predictions(trainer.likelihood, *zip(of_teacher, labels, strict=True)) if all(held_out) else None,
            [epoch * len(train) / len(cell.train) for epoch in epochs],
            accuracies,
            trainer.convergence_noise(),
            trainer.noise_window(),
            trainer.teacher_temperature,
            seconds,
            cost,
            train,
            trainer.args,
        )

    def _combined(
        self, split: BatchedDataset, labeled: datasets.Dataset, args: DistillationTrainingArguments
    ) -> Tensor:
        """The teachers' predictions for a split, weighed as for the student."""
        dataset = split.with_soft_labels(labeled)
        args = dataclasses.replace(args, lambda_schedule="fixed", online_teacher=False, distance="kl")
        rows = torch.arange(len(dataset), device=dataset.device)
        return StoredLabels(dataset, args, None).target(dataset.label_columns(rows)).cpu()

    def _record(self, arm: Arm, trained: Trained) -> dict[str, Any]:
        cell, teacher, likelihood = self.cell, trained.teacher_prediction, trained.likelihood
        test_labels = cell.test.values["labels"].cpu()
        asked, combine = teacher is not None, getattr(arm.teacher, "combine", None)
        metrics, first = likelihood.measures(trained.prediction, test_labels), likelihood.headline
        judged = "nll" if "nll" in metrics else first
        if not math.isfinite(metrics[judged]):
            raise UserError(
                f"the student of arm {arm.name!r} diverged, its {METRICS[judged]} is {metrics[judged]}: lower "
                "--learning_rate"
            )
        metrics["convergence_noise"] = trained.noise
        metrics[f"best_{first}"] = (max if MEASURES[first].sign > 0 else min)(trained.accuracies)
        metrics["agreement"] = likelihood.agreement(trained.prediction, teacher) if asked else None
        bins = likelihood.reliability(trained.prediction, test_labels)
        return {
            "arm": arm.name,
            "condition": cell.condition,
            "teacher": arm.method,
            "student": cell.options.student_model,
            "seed": cell.seed,
            "kd_lambda": trained.args.kd_lambda,
            "lambda_schedule": None if arm.lambda_schedule == "fixed" else arm.lambda_schedule,
            "prior_strength": trained.args.prior_strength if arm.strengths or combine == "mixture" else None,
            "teacher_weights": getattr(arm.teacher, "weights", None),
            "combine": combine,
            "teacher_temperature": trained.teacher_temperature,
            "student_temperature": cell.args.student_temperature,
            "temperature_scale": trained.args.temperature_scale,
            "distance": None if trained.args.distance == "kl" else trained.args.distance,
            "num_samples": cell.options.num_samples,
            "views": math.ceil(max(trained.epochs)) if arm.online else getattr(cell.views(arm), "number", 1),
            "online": arm.online,
            "label_bytes": trained.labels.bytes_per_example,
            "label_seconds": trained.labels.seconds,
            "folds": arm.folds,
            "relative_time": cell.relative_time(arm),
            "metrics": metrics,
            "scaled_metrics": trained.scaled and trained.scaled.as_json(),
            "teacher_metrics": likelihood.measures(teacher, test_labels) if asked else None,
            "teacher_scaled_metrics": trained.teacher_scaled and trained.teacher_scaled.as_json(),
            "validation_metrics": {name: trained.validation[name] for name in MEASURES if name in trained.validation},
            "seconds": trained.seconds,
            "history": {"epoch": trained.epochs, first: trained.accuracies},
            "noise_window": trained.noise_window,
            "reliability": bins and bins.as_json(),
        }


def _without(metrics: dict[str, float], names: set[str]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in names}


def _scaled_sentence(metrics: dict[str, float]) -> str:
    """Say what temperature scaling makes of a student's NLL and ECE."""
    values = [f"{METRICS[name]} {metrics[name]:.3f}" for name in ("nll", "ece") if name in metrics]
    if not values:
        return ""
    return f" After scaling with T = {metrics['temperature']:.2f}, by the validation split: {', '.join(values)}."


def _training_name(arm: Arm, temperature: float, strength: float | None) -> str:
    return f"student-{slug(arm.name)}-T{temperature:g}" + ("" if strength is None else f"-s{strength:g}")
