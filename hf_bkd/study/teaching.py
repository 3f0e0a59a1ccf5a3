"""The teachers of a setting, fitted when they are first asked for and kept, and the soft labels they give."""

import time
from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any

import datasets
from accelerate import PartialState

from ..soft_labels import add_soft_labels, attach, only_soft_labels
from ..soft_labels.columns import teachers_of
from ..soft_labels.identity import Identity, summarized_ids
from ..soft_labels.record import make_record
from ..teachers import (
    DeterministicTeacher,
    EnsembleTeacher,
    LaplaceTeacher,
    MCDropoutTeacher,
    Teacher,
    VariationalTeacher,
    make_variational,
)
from ..training.ivon import IVON
from ..training.trainer import DistillationTrainer
from ..utils.errors import UserError
from ..utils.files import whole_folder, write_json
from ..utils.processes import decided_by_main
from .arms import Arm
from .labels import Labels, beside, of_teacher, read_labels, together
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
        kinds = {part.teacher for arm in setting.study.arms for part in arm.parts}
        kinds |= {"deterministic"} if kinds & {"laplace", "ensemble"} else set()
        if self.given is not None and self.given.method not in kinds:
            raise UserError(f"{given} is a {self.given.method} teacher, and none of the arms asked for has such a one")

    def labels(self, arm: Arm, temperature: float) -> Labels:
        """What is taught, and the test split, with an arm's soft labels beside their own columns."""
        splits, (train, test, seconds) = self.setting.splits, self._columns(arm, temperature)
        return Labels(beside(splits.taught, train), None if test is None else beside(splits.test, test), seconds)

    def _columns(self, arm: Arm, temperature: float) -> Labels:
        """Nothing but an arm's soft labels."""
        if arm.members:
            train, test, seconds = zip(*(self._columns(each, temperature) for each in arm.members), strict=True)
            names = [each.label_name for each in arm.members]
            return Labels(together(train, names), None if None in test else together(test, names), sum(seconds))
        if arm.teacher == "stored":
            return self._brought(arm)
        folder = self.setting.folder("labels", arm.labels_name(temperature))
        if decided_by_main(lambda: not folder.is_dir()):
            started = time.perf_counter()
            train, test = self._label(arm, temperature)
            if PartialState().is_main_process:
                with whole_folder(folder) as temporary:
                    only_soft_labels(train).save_to_disk(temporary / "train")
                    if test is not None:
                        only_soft_labels(test).save_to_disk(temporary / "test")
                    write_json(temporary / "cost.json", {"seconds": time.perf_counter() - started})
            PartialState().wait_for_everyone()
        return read_labels(folder)

    def _brought(self, arm: Arm) -> Labels:
        """The labels that the data brings under an arm's name; UserError if it doesn't."""
        splits, name = self.setting.splits, arm.label_name
        train, test = (of_teacher(each, name) for each in (splits.taught, splits.test))
        if train is None:
            raise UserError(
                f"the data brings no labels of {name!r}, only of {teachers_of(splits.taught.column_names)}"
            )
        return Labels(train, test, 0.0)

    def on_test(self, teacher: Teacher) -> datasets.Dataset:
        """The test split with a teacher's soft labels."""
        return add_soft_labels(self.setting.splits.test, teacher, **self._how, storage="float32")

    @property
    def _how(self) -> dict[str, Any]:
        """Arguments of ``add_soft_labels`` for all that is labeled."""
        setting = self.setting
        how = {"num_samples": setting.options.num_samples, "seed": setting.seed, "progress": setting.progress}
        return how | {"preprocessor": setting.inputs.preprocess}

    def _label(self, arm: Arm, temperature: float) -> tuple[datasets.Dataset, datasets.Dataset | None]:
        setting, rows = self.setting, self.setting.splits.taught
        if setting.splits.transfer is not None and (arm.folds or arm.teacher == "bayes"):
            raise UserError(f"arm {arm.name!r} labels the training split itself, and this study has a transfer set")
        if arm.teacher == "bayes":
            return self._label_exactly(), None
        how = self._how | {"views": setting.views(arm), "storage": arm.storage}
        if not arm.folds:
            teacher = self.teacher(arm, temperature)
            return add_soft_labels(rows, teacher, **how), self.on_test(teacher)
        fitted: list[Teacher] = []

        def fit(rest: datasets.Dataset, fold: int) -> Teacher:
            fitted.append(self.teacher(arm, temperature, rest, f"fold-{fold + 1}-of-{arm.folds}-"))
            return fitted[-1]

        return add_soft_labels(rows, folds=arm.folds, fit=fit, **how), self.on_test(EnsembleTeacher(fitted))

    def _label_exactly(self) -> datasets.Dataset:
        rows, bayes = self.setting.splits.train, self.setting.splits.bayes
        column = self.setting.inputs.column
        teacher = {"method": "bayes", "num_classes": bayes.shape[1], "temperature": 1.0, "tempering": "post_average"}
        identity = Identity((column,))
        ids = identity.of_dataset(rows)
        about = {"identity": identity, "ids": summarized_ids(ids)}
        record = make_record(teacher, rows, num_samples=1, seed=0, storage="float16", **about)
        return attach(rows, bayes, record, example_ids=ids)

    def teacher(self, arm: Arm, temperature: float, rows: Rows = None, prefix: str = "") -> Teacher:
        """An arm's teacher at a temperature, fitted on all of the training split or on ``rows`` of it."""
        teacher = self._fitted(arm, rows, prefix)
        if arm.scaled:
            return DeterministicTeacher.fit(teacher.network, self.setting.validation.batches())
        teacher = copy(teacher)  # others may use it at another temperature
        teacher.temperature = temperature
        return teacher

    def _fitted(self, arm: Arm, rows: Rows, prefix: str) -> Teacher:
        if self._is_given(arm, arm.teacher, rows):
            return self.given
        if arm.teacher == "ensemble":
            size = self.setting.options.ensemble_size
            return EnsembleTeacher([self._member(arm, number, rows, prefix) for number in range(size)])
        if arm.teacher == "deterministic":
            return self._member(arm, 0, rows, prefix)
        kinds = {"laplace": self._fit_laplace, "variational": self._fit_variational, "mc_dropout": self._fit_dropout}
        return self._kept(f"{prefix}{arm.teacher_name}", arm, lambda: kinds[arm.teacher](arm, rows, prefix))

    def _is_given(self, arm: Arm, kind: str, rows: Rows) -> bool:
        """Whether the user brought this teacher; folds need their own, and so do arms with a network of their own."""
        return self.given is not None and self.given.method == kind and rows is None and not arm.architecture

    def _member(self, arm: Arm, number: int, rows: Rows, prefix: str) -> Teacher:
        if number == 0 and self._is_given(arm, "deterministic", rows):
            return self.given
        name = "-".join(filter(None, [f"{prefix}{arm.network_name}", f"deterministic-{number}"]))
        return self._kept(name, arm, lambda: DeterministicTeacher(self._train(name, arm, rows, number).model))

    def _fit_laplace(self, arm: Arm, rows: Rows, prefix: str) -> Teacher:
        network = self._member(arm, 0, rows, prefix).network
        train, validation = self._resident(rows).batches(), self.setting.validation.batches()
        samples = self.setting.options.num_samples
        return LaplaceTeacher.fit(network, train, validation, num_samples=samples, **arm.how)

    def _fit_variational(self, arm: Arm, rows: Rows, prefix: str) -> Teacher:
        name = prefix + arm.teacher_name
        if arm.how.get("posterior") != "ivon":
            prepare = partial(make_variational, **arm.how)
            return VariationalTeacher(self._train(name, arm, rows, prepare=prepare).model)
        settings = {name: value for name, value in arm.how.items() if name != "posterior"}
        settings = {"lr": self._learning_rate, "ess": len(self._resident(rows)), **settings}
        settings["hess_init"] = 1 / (settings["ess"] * settings.pop("initial_std", 0.05) ** 2)
        trainer = self._train(name, arm, rows, optimizer=lambda network: IVON(network.parameters(), **settings))
        return VariationalTeacher(trainer.model, trainer.optimizer.optimizer.posterior_std(trainer.model))

    def _fit_dropout(self, arm: Arm, rows: Rows, prefix: str) -> Teacher:
        return MCDropoutTeacher(self._train(prefix + arm.teacher_name, arm, rows, dropout=arm.how).model)

    def _resident(self, rows: Rows):
        return self.setting.train if rows is None else self.setting.resident(rows, augment=True)

    def _train(
        self,
        name: str,
        arm: Arm,
        rows: Rows,
        number: int = 0,
        dropout: dict[str, Any] | None = None,
        **how: Callable,
    ) -> DistillationTrainer:
        setting, (architecture, architecture_args) = self.setting, self._network_of(arm)
        return setting.train_network(
            architecture,
            architecture_args | (dropout or {}),
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

    def _network_of(self, arm: Arm) -> tuple[str, dict[str, Any]]:
        """Architecture of an arm's teacher, and its arguments."""
        if arm.architecture:
            return arm.architecture, arm.architecture_args
        return self.setting.options.teacher_model, self.setting.study.teacher_args

    def _kept(self, name: str, arm: Arm, fit: Callable[[], Teacher]) -> Teacher:
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
        network = None
        if self.setting.inputs.plain:
            architecture, architecture_args = self._network_of(arm)
            network = self.setting.inputs.network(
                architecture, self.setting.classes, self.setting.train, **architecture_args
            )
        return Teacher.from_pretrained(folder, network).to(self.setting.args.device)
