"""Writing a teacher's opinion of every example into the dataset, once."""

from collections.abc import Callable
from typing import Any, Protocol

import datasets
import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..progress import track
from .columns import attach, check_storage, is_soft_label_column
from .provenance import LABELS, check_class_count, content_column, content_ids, make_provenance

Rows = dict[str, Any]


class LabellingTeacher(Protocol):
    """All that labelling asks of a teacher."""

    @property
    def num_classes(self) -> int: ...

    def predict(self, inputs: Any, num_samples: int, generator: torch.Generator | None) -> Any: ...

    def describe(self) -> dict[str, Any]:
        """Goes into the labels' record: ``num_classes``, ``temperature``, ``tempering``, ``weights`` and what else."""
        ...


def add_soft_labels(
    dataset: datasets.Dataset,
    teacher: LabellingTeacher | None = None,
    num_samples: int = 10,
    *,
    preprocess: Callable[[Rows], dict[str, Tensor]] | None = None,
    folds: int | None = None,
    fit: Callable[[datasets.Dataset, int], LabellingTeacher] | None = None,
    batch_size: int = 512,
    seed: int = 0,
    storage: str = "float16",
    name: str | None = None,
    progress: bool = True,
) -> datasets.Dataset:
    """Label a dataset with a teacher's averaged class probabilities (arXiv 2601.01484).

    With ``folds`` and ``fit`` instead of a teacher the labels are cross-fitted: each example is labelled by a teacher
    that was fitted without it.

    Args:
        dataset: N examples.
        teacher: labels them; its ``temperature`` and ``tempering`` are applied and recorded.
        num_samples: S >= 1, draws from the teacher's posterior per example.
        preprocess: turns a batch of rows (column name -> list) into the network's inputs. Without one, what the
            dataset's transform returns, or else its columns (those of its torch format, if it has that), are the
            inputs: all tensors (and lists of tensors of one shape) among them, less labels and soft labels.
        folds: number of parts, 2 .. N.
        fit: called as ``fit(rest, fold)`` for each fold; returns a teacher for the examples that ``rest`` lacks.
        batch_size: examples per call of the teacher.
        seed: of the draws (and of the folds): the same seed and batch size give the same columns.
        storage: ``"float16"`` or ``"float32"``.
        name: the teacher's name, when a dataset carries labels of several.
        progress: whether to show a bar.

    Returns:
        The dataset with ``teacher_probs``, ``teacher_variance`` where there are several draws, ``example_id`` and
        ``teacher_provenance`` (see ``columns``).

    Raises:
        UserError: neither or both of teacher and folds, ``num_samples`` or ``batch_size`` below 1, an unknown storage,
            inputs that can't be made from the columns, or a teacher that knows other classes than the dataset.
    """
    for argument, value in (("num_samples", num_samples), ("batch_size", batch_size)):
        if value < 1:
            raise UserError(f"{argument} must be at least 1, and it is {value}")
    check_storage(storage)
    if (teacher is None) == (folds is None) or (folds is None) != (fit is None):
        raise UserError("pass either a teacher, or folds together with fit")
    if len(dataset) == 0:
        raise UserError("the dataset to label is empty")

    def label(rows: datasets.Dataset, by: LabellingTeacher, what: str) -> dict[str, np.ndarray]:
        check_class_count("the teacher", by.num_classes, rows.features)
        return _label(rows, by, num_samples, preprocess, batch_size, seed, what if progress else None)

    cross_fitted = None
    if teacher is not None:
        labels, described = label(dataset, teacher, "labelling"), teacher.describe()
    else:
        parts = _fold_indices(len(dataset), folds, seed)
        labelled, teachers = [], []
        for fold, part in enumerate(parts):
            rest = np.setdiff1d(np.arange(len(dataset)), part)
            fold_teacher = fit(dataset.select(rest), fold)
            labelled.append(label(dataset.select(part), fold_teacher, f"labelling fold {fold + 1} of {folds}"))
            teachers.append(fold_teacher.describe())
        back = np.argsort(np.concatenate(parts))
        labels = {key: np.concatenate([part[key] for part in labelled])[back] for key in labelled[0]}
        described = teachers[0]
        cross_fitted = {"number": folds, "seed": seed, "weights": [each["weights"] for each in teachers]}
    provenance = make_provenance(
        described,
        dataset,
        num_samples=num_samples,
        seed=seed,
        storage=storage,
        content_column=content_column(dataset.features),
        preprocessing=preprocess.to_dict() if hasattr(preprocess, "to_dict") else None,
        folds=cross_fitted,
    )
    return attach(dataset, labels["probs"], provenance, labels.get("variance"), labels.get("ids"), storage, name)


def _label(
    dataset: datasets.Dataset,
    teacher: LabellingTeacher,
    num_samples: int,
    preprocess: Callable[[Rows], dict[str, Tensor]] | None,
    batch_size: int,
    seed: int,
    what: str | None,
) -> dict[str, np.ndarray]:
    """``probs`` [N, C], and where there are such, ``variance`` [N, C] and content ``ids`` [N]."""
    content, plain, tensors = content_column(dataset.features), dataset.with_format(None), _with_tensors(dataset)
    found = {"probs": [], "variance": [], "ids": []}
    for start in track(range(0, len(dataset), batch_size), what):
        batch = slice(start, start + batch_size)
        rows = plain[batch]
        inputs = _columns_as_inputs(tensors[batch], dataset.features) if preprocess is None else preprocess(rows)
        generator = torch.Generator().manual_seed((seed * 0x9E3779B1 + start) % 2**63)
        prediction = teacher.predict(inputs, num_samples, generator)
        found["probs"].append(prediction.mean.float().cpu().numpy())
        if prediction.variance is not None:
            found["variance"].append(prediction.variance.float().cpu().numpy())
        if content is not None:
            found["ids"].append(content_ids(rows[content]))
    return {key: np.concatenate(arrays) for key, arrays in found.items() if arrays}


def _with_tensors(dataset: datasets.Dataset) -> datasets.Dataset:
    """Rows as tensors: the dataset's own transform or torch format if it has one, else all of its columns."""
    return dataset if dataset.format["type"] in ("custom", "torch") else dataset.with_format("torch")


def _columns_as_inputs(rows: Rows, features: datasets.Features) -> dict[str, Tensor]:
    inputs = {}
    for name, value in rows.items():
        if name in LABELS or is_soft_label_column(name) or isinstance(features.get(name), datasets.ClassLabel):
            continue
        if isinstance(value, list) and all(isinstance(x, Tensor) and x.shape == value[0].shape for x in value):
            value = torch.stack(value)
        if isinstance(value, Tensor):
            inputs[name] = value
    if not inputs or any(isinstance(features.get(name), datasets.Image) for name in inputs):
        raise UserError(
            f"the columns {', '.join(rows)} are not a network's inputs as they are; pass preprocess=, a function from "
            "rows to inputs (for images: preprocess=ImagePreprocessor.for_model(network))"
        )
    return inputs


def _fold_indices(num_rows: int, folds: int, seed: int) -> list[np.ndarray]:
    if not 2 <= folds <= num_rows:
        raise UserError(f"folds must be between 2 and the number of rows ({num_rows}), and it is {folds}")
    order = np.random.default_rng(seed).permutation(num_rows)
    return [np.sort(part) for part in np.array_split(order, folds)]
