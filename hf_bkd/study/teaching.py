"""The teachers of a cell, fitted when they are first asked for and kept, and the soft labels that they give."""

import time
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import datasets

from ..data.caches import caches_elsewhere
from ..data.columns import EXAMPLE_ID
from ..soft_labels import add_soft_labels, attach, only_soft_labels
from ..soft_labels.columns import column, read_record, soft_label_columns, teachers_of
from ..soft_labels.identity import Identity, content_column, summarized_ids
from ..soft_labels.record import LabelRecord, make_record
from ..soft_labels.writing import with_ids_of
from ..teachers import EnsembleTeacher, Teacher
from ..utils.errors import UserError
from ..utils.files import read_json, whole_folder, write_json
from ..utils.processes import decided_by_main
from .arms import Arm, ExactBayes, Stored
from .cell import Cell
from .cell_fitting import CellFitting, Rows

SPLITS = ("train", "validation", "test")  # folders of soft labels


class Labels(NamedTuple):
    """Soft labels of what is taught, of the validation and the test split, ``None`` without any, and their seconds."""

    train: datasets.Dataset
    validation: datasets.Dataset | None
    test: datasets.Dataset | None
    seconds: float


class Teaching:
    """Teachers and their soft labels, by arm.

    Args:
        cell: the condition and seed.

    Raises:
        UserError: the user's own teacher is of a kind that no arm has.
    """

    def __init__(self, cell: Cell):
        self.cell = cell
        path = cell.options.teacher
        self.given = Teacher.from_pretrained(path).to(cell.args.device) if path else None
        specs = [part.teacher for arm in cell.study.arms for part in arm.parts if part.fits_teacher]
        if self.given is not None and not any(self.given.method in spec.methods for spec in specs):
            raise UserError(f"{path} is a {self.given.method} teacher, and none of the arms asked for has such a one")

    def teacher(self, arm: Arm, temperature: float, rows: Rows = None, prefix: str = "") -> Teacher:
        """Return an arm's teacher at a temperature, fitted on all of the training split or on ``rows`` of it."""
        teacher = CellFitting(self.cell, arm, self.given, rows, prefix).fitted(arm.teacher)
        if arm.has_temperature:
            return teacher
        teacher = copy(teacher)  # others may use it at another temperature
        teacher.temperature = temperature
        return teacher

    def labels(self, arm: Arm, temperature: float) -> Labels:
        """Return what is taught, and the held-out splits, with an arm's soft labels beside their own columns."""
        splits, (*columns, seconds) = self.cell.splits, self._columns(arm, temperature)
        rows = (splits.taught, splits.validation, splits.test)
        return Labels(*(each and _beside(*pair) for *pair, each in zip(rows, columns, columns, strict=True)), seconds)

    def held_out(self, teacher: Teacher) -> list[datasets.Dataset]:
        """Return the validation and the test split with a teacher's soft labels."""
        splits, options = self.cell.splits, self._options | {"storage": "float32"}
        return [add_soft_labels(_bare(rows), teacher, **options) for rows in (splits.validation, splits.test)]

    def _columns(self, arm: Arm, temperature: float) -> Labels:
        """Nothing but an arm's soft labels."""
        if arm.members:
            *columns, seconds = zip(*(self._columns(each, temperature) for each in arm.members), strict=True)
            names = [each.label_name for each in arm.members]
            return Labels(*(None if None in each else _together(each, names) for each in columns), sum(seconds))
        if isinstance(arm.teacher, Stored):
            return self._stored(arm)
        folder = self.cell.folder("labels", arm.labels_name(temperature))
        if decided_by_main(lambda: not folder.is_dir()):
            started = time.perf_counter()
            columns = self._label(arm, temperature)
            labels = Labels(*columns, time.perf_counter() - started)
            decided_by_main(lambda: _write_labels(folder, labels))
        return _read_labels(folder)

    def _stored(self, arm: Arm) -> Labels:
        splits, name = self.cell.splits, arm.label_name
        columns = [_of_teacher(each, name) for each in (splits.taught, splits.validation, splits.test)]
        if columns[0] is None:
            raise UserError(
                f"the data has no labels of {name!r}, only of {teachers_of(splits.taught.column_names)}: add them "
                "with import_soft_labels"
            )
        return Labels(*columns, 0.0)

    @property
    def _options(self) -> dict[str, Any]:
        """Arguments of ``add_soft_labels`` for all that is labeled."""
        cell = self.cell
        options = {"num_samples": cell.options.num_samples, "seed": cell.seed, "progress": cell.progress}
        return options | {"preprocessor": cell.inputs.preprocess}

    def _label(self, arm: Arm, temperature: float) -> list[datasets.Dataset | None]:
        cell, rows = self.cell, _bare(self.cell.splits.taught)
        exact = isinstance(arm.teacher, ExactBayes)
        if cell.splits.transfer is not None and (arm.folds or exact):
            raise UserError(f"arm {arm.name!r} labels the training split itself, and this study has a transfer set")
        if exact:
            return [self._label_exactly(), None, None]
        options = self._options | {"views": cell.views(arm)}
        options |= {"storage": arm.storage, "mean_log_probs": arm.mean_log_probs}
        if not arm.folds:
            teacher = self.teacher(arm, temperature)
            return [add_soft_labels(rows, teacher, **options), *self.held_out(teacher)]
        teachers: list[Teacher] = []

        def fit(rest: datasets.Dataset, fold: int) -> Teacher:
            teachers.append(self.teacher(arm, temperature, rest, f"fold-{fold + 1}-of-{arm.folds}"))
            return teachers[-1]

        train = add_soft_labels(rows, folds=arm.folds, fit=fit, **options)
        return [train, *self.held_out(EnsembleTeacher(teachers))]

    def _label_exactly(self) -> datasets.Dataset:
        rows, bayes = _bare(self.cell.splits.train), self.cell.splits.bayes
        content = content_column(rows.features)
        identity = None if content is None else Identity((content,))
        ids = None if identity is None else identity.of_dataset(rows)
        teacher = {"method": "bayes", "num_classes": bayes.shape[1], "temperature": 1.0, "tempering": "post_average"}
        about = {"identity": identity, "ids": None if ids is None else summarized_ids(ids)}
        record = make_record(teacher, rows, num_samples=1, seed=0, storage="float16", **about)
        return attach(rows, bayes, record, example_ids=ids)


# Soft labels as columns: stored apart from the examples, and put beside them


def _write_labels(folder: Path, labels: Labels) -> None:
    with whole_folder(folder) as temporary:
        for name, rows in zip(SPLITS, labels, strict=False):
            if rows is not None:
                only_soft_labels(rows).save_to_disk(temporary / name)
        write_json(temporary / "cost.json", {"seconds": labels.seconds})


def _read_labels(folder: Path) -> Labels:
    """What was labeled earlier: ``train``, perhaps ``validation`` and ``test``, and ``cost.json``."""
    parts = (folder / name for name in SPLITS)
    columns = (datasets.load_from_disk(part) if part.is_dir() else None for part in parts)
    return Labels(*columns, read_json(folder / "cost.json")["seconds"])


def _bare(rows: datasets.Dataset) -> datasets.Dataset:
    """Rows without the soft labels that the data brings, which are other teachers'."""
    return rows.remove_columns(soft_label_columns(rows))


def _beside(rows: datasets.Dataset, labels: datasets.Dataset) -> datasets.Dataset:
    """Rows with these soft labels and no others."""
    with caches_elsewhere(rows):
        return datasets.concatenate_datasets([_bare(rows), labels], axis=1)


def _of_teacher(rows: datasets.Dataset, name: str) -> datasets.Dataset | None:
    """The soft labels of a named teacher, if the rows have them."""
    if name not in teachers_of(rows.column_names):
        return None
    labels = only_soft_labels(rows)
    own = [each for each in labels.column_names if each == EXAMPLE_ID or each.endswith(f"__{name}")]
    return labels.select_columns(own)


def _together(labels: Sequence[datasets.Dataset], names: Sequence[str]) -> datasets.Dataset:
    """Several teachers' soft labels of the same rows, each under its name, with the ids of the first that has some."""
    with_ids = next((part for part in labels if EXAMPLE_ID in part.column_names), None)
    about_ids = None if with_ids is None else _record_of(with_ids)
    named = []
    for part, name in zip(labels, names, strict=True):
        if part is not with_ids:
            part = part.remove_columns([each for each in part.column_names if each == EXAMPLE_ID])
            part = part if about_ids is None else with_ids_of(part, about_ids)
        plain = [each for each in part.column_names if each != EXAMPLE_ID and "__" not in each]
        named.append(part.rename_columns({each: column(each, name) for each in plain}))
    return datasets.concatenate_datasets(named, axis=1)


def _record_of(labels: datasets.Dataset) -> LabelRecord | None:
    """The record of one teacher's labels."""
    return read_record(labels.features, teachers_of(labels.column_names)[0])
