"""The teachers of a setting, fitted when they are first asked for and kept, and the soft labels they give."""

import json
import time
from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any

import datasets
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import UserError
from ..files import whole_folder, write_json
from ..ivon import IVON
from ..processes import decided_by_main
from ..soft_labels import add_soft_labels, attach, only_soft_labels
from ..soft_labels.identity import content_ids
from ..soft_labels.provenance import make_provenance
from ..teachers import (
    DeterministicTeacher,
    EnsembleTeacher,
    LaplaceTeacher,
    MCDropoutTeacher,
    Teacher,
    VariationalTeacher,
    make_variational,
    predict_all,
)
from ..trainer import DistillationTrainer
from .arms import Arm
from .setting import Setting

Rows = datasets.Dataset | None  # of the training split that a teacher is fitted on; None for all


class Teaching:
    """Teachers and their soft labels, by arm.

    Args:
        setting: the condition and seed.
    """

    def __init__(self, setting: Setting):
        self.setting = setting
        given = setting.options.teacher
        self.given = Teacher.from_pretrained(given).to(setting.args.device) if given else None
        kinds = {arm.teacher for arm in setting.study.arms}
        kinds |= {"deterministic"} if kinds & {"laplace", "ensemble"} else set()
        if self.given is not None and self.given.method not in kinds:
            raise UserError(f"{given} is a {self.given.method} teacher, and none of the arms asked for has such a one")

    def labels(self, arm: Arm, temperature: float) -> tuple[datasets.Dataset, Tensor | None, float]:
        """The training split with an arm's soft labels, the teacher's test probabilities, and the seconds it took."""
        folder = self.setting.folder("labels", arm.labels_name(temperature))
        if decided_by_main(lambda: not folder.is_dir()):
            started = time.perf_counter()
            labelled, test_probs = self._label(arm, temperature)
            if PartialState().is_main_process:
                with whole_folder(folder) as temporary:
                    only_soft_labels(labelled).save_to_disk(temporary / "train")
                    save_file({} if test_probs is None else {"probs": test_probs}, temporary / "test.safetensors")
                    write_json(temporary / "cost.json", {"seconds": time.perf_counter() - started})
            PartialState().wait_for_everyone()
        stored = datasets.load_from_disk(folder / "train")
        labelled = datasets.concatenate_datasets([self.setting.splits.train, stored], axis=1)
        seconds = json.loads((folder / "cost.json").read_text())["seconds"]
        return labelled, load_file(folder / "test.safetensors").get("probs"), seconds

    def on_test(self, teacher: Teacher) -> Tensor:
        """A teacher's probabilities [N, C] on the test split."""
        setting = self.setting
        return predict_all(teacher, setting.test.batches(), setting.options.num_samples, setting.seed)[0]

    def _label(self, arm: Arm, temperature: float) -> tuple[datasets.Dataset, Tensor | None]:
        setting, rows = self.setting, self.setting.splits.train
        if arm.teacher == "bayes":
            return self._label_exactly(), None
        how = {"num_samples": setting.options.num_samples, "seed": setting.seed, "progress": setting.progress}
        how |= {"preprocess": setting.inputs.preprocess, "views": setting.views(arm), "storage": arm.storage}
        if not arm.folds:
            teacher = self.teacher(arm, temperature)
            labelled = add_soft_labels(rows, teacher, **how)
        else:
            fitted: list[Teacher] = []

            def fit(rest: datasets.Dataset, fold: int) -> Teacher:
                fitted.append(self.teacher(arm, temperature, rest, f"fold-{fold + 1}-of-{arm.folds}-"))
                return fitted[-1]

            labelled = add_soft_labels(rows, folds=arm.folds, fit=fit, **how)
            teacher = EnsembleTeacher(fitted)
        return labelled, self.on_test(teacher)

    def _label_exactly(self) -> datasets.Dataset:
        rows, bayes = self.setting.splits.train, self.setting.splits.bayes
        column = self.setting.inputs.column
        teacher = {"method": "bayes", "num_classes": bayes.shape[1], "temperature": 1.0, "tempering": "post_average"}
        record = make_provenance(
            teacher, rows, num_samples=1, seed=0, storage="float16", content_column=column, preprocessing=None
        )
        return attach(rows, bayes, record, example_ids=content_ids(rows[column][:]))

    def teacher(self, arm: Arm, temperature: float, rows: Rows = None, prefix: str = "") -> Teacher:
        """An arm's teacher at a temperature, fitted on all of the training split or on ``rows`` of it."""
        teacher = self._fitted(arm, rows, prefix)
        if arm.scaled:
            return DeterministicTeacher.fit(teacher.network, self.setting.validation.batches())
        teacher = copy(teacher)  # others may use it at another temperature
        teacher.temperature = temperature
        return teacher

    def _fitted(self, arm: Arm, rows: Rows, prefix: str) -> Teacher:
        if self._is_given(arm.teacher, rows):
            return self.given
        if arm.teacher == "ensemble":
            size = self.setting.options.ensemble_size
            return EnsembleTeacher([self._member(number, rows, prefix) for number in range(size)])
        if arm.teacher == "deterministic":
            return self._member(0, rows, prefix)
        kinds = {"laplace": self._fit_laplace, "variational": self._fit_variational, "mc_dropout": self._fit_dropout}
        return self._kept(f"{prefix}{arm.teacher_name}", lambda: kinds[arm.teacher](arm, rows, prefix))

    def _is_given(self, kind: str, rows: Rows) -> bool:
        """Whether the user brought this teacher; folds need their own."""
        return self.given is not None and self.given.method == kind and rows is None

    def _member(self, number: int, rows: Rows, prefix: str) -> Teacher:
        if number == 0 and self._is_given("deterministic", rows):
            return self.given
        name = f"{prefix}deterministic-{number}"
        return self._kept(name, lambda: DeterministicTeacher(self._train(name, rows, number).model))

    def _fit_laplace(self, arm: Arm, rows: Rows, prefix: str) -> Teacher:
        network = self._member(0, rows, prefix).network
        train, validation = self._resident(rows).batches(), self.setting.validation.batches()
        samples = self.setting.options.num_samples
        return LaplaceTeacher.fit(network, train, validation, num_samples=samples, **arm.how)

    def _fit_variational(self, arm: Arm, rows: Rows, prefix: str) -> Teacher:
        name = prefix + arm.teacher_name
        if arm.how.get("posterior") != "ivon":
            return VariationalTeacher(self._train(name, rows, prepare=partial(make_variational, **arm.how)).model)
        settings = {name: value for name, value in arm.how.items() if name != "posterior"}
        settings = {"lr": self._learning_rate, "ess": len(self._resident(rows)), **settings}
        settings["hess_init"] = 1 / (settings["ess"] * settings.pop("initial_std", 0.05) ** 2)
        trainer = self._train(name, rows, optimizer=lambda network: IVON(network.parameters(), **settings))
        return VariationalTeacher(trainer.model, trainer.optimizer.optimizer.posterior_std(trainer.model))

    def _fit_dropout(self, arm: Arm, rows: Rows, prefix: str) -> Teacher:
        return MCDropoutTeacher(self._train(prefix + arm.teacher_name, rows, architecture_args=arm.how).model)

    def _resident(self, rows: Rows):
        return self.setting.train if rows is None else self.setting.resident(rows, augment=True)

    def _train(
        self, name: str, rows: Rows, number: int = 0, architecture_args: dict[str, Any] | None = None, **how: Callable
    ) -> DistillationTrainer:
        setting = self.setting
        return setting.train_network(
            setting.options.teacher_model,
            setting.study.teacher_args | (architecture_args or {}),
            self._resident(rows),
            name=f"teacher-{name}",
            seed=1000 * (setting.seed + 1) + number,
            epochs=setting.options.teacher_epochs or setting.args.num_train_epochs,
            learning_rate=self._learning_rate,
            teacher_temperature=None,
            kd_lambda=0.0,
            **how,
        )

    @property
    def _learning_rate(self) -> float:
        return self.setting.options.teacher_learning_rate or self.setting.args.learning_rate

    def _kept(self, name: str, fit: Callable[[], Teacher]) -> Teacher:
        """A teacher from its folder, fitted and saved first if it is not there."""
        folder = self.setting.folder("teachers", name)
        if decided_by_main(lambda: not folder.is_dir()):
            teacher = fit()
            if PartialState().is_main_process:
                with whole_folder(folder) as temporary:
                    teacher.save_pretrained(temporary)
                    self.setting.inputs.save(temporary)
                self.setting.forget_checkpoints(f"teacher-{name}")
            PartialState().wait_for_everyone()
        return Teacher.from_pretrained(folder).to(self.setting.args.device)
