"""Whether a training set's soft labels may be used: checked once, before the first step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import datasets
import numpy as np

from ..data.views import Views
from ..utils.errors import UserError
from .arrow import PROBS
from .columns import read
from .generate import add_soft_labels
from .identity import EXAMPLE_ID, check_identity, content_column, content_ids
from .layout import Layout, column, soft_label_columns, teachers_of
from .storage import EXACT

SPOT_CHECKED_ROWS = 256


class Stored(NamedTuple):
    """One teacher's labels in a training set: how they lie there, their temperature, and the one to bring them to."""

    layout: Layout
    temperature: float
    wanted: float


def stored_labels(
    dataset: Any, wanted: float | None, num_classes: int | None, allow_unrecorded: bool = False
) -> dict[str, Stored]:
    """What there is in each ``teacher_probs`` column.

    Args:
        dataset: a `datasets.Dataset`, a streamed one, or a :class:`~hf_bkd.BatchedDataset`.
        wanted: T_t; ``None`` for that of the labels.
        num_classes: of the student, where it is known.
        allow_unrecorded: whether labels may be used that don't say what made them.

    Raises:
        UserError: no such column, labels that are no distributions or not this dataset's, another number of classes
            than the student's, views that this dataset can't show, a temperature that the stored average can't be
            brought to, or several temperatures.
    """
    names = list(getattr(dataset, "column_names", None) or [])
    if not teachers_of(names):
        raise UserError(
            f"the training set has no teacher_probs column (only {', '.join(names) or 'unnamed ones'}): add it with "
            "add_soft_labels, or train with kd_lambda=0"
        )
    found = {}
    for teacher in teachers_of(names):
        name = column(PROBS, teacher)
        layout = _layout(dataset, teacher)
        record = layout.provenance
        if record is None and not allow_unrecorded:
            raise UserError(
                f"{name} has no teacher_provenance, so nobody can tell which examples and classes it was made for: "
                "label with add_soft_labels, or pass allow_unrecorded_labels=True if you know that it belongs here"
            )
        if num_classes is not None and num_classes != layout.num_classes:
            raise UserError(
                f"{name} has {layout.num_classes} classes and the model has {num_classes}: build the student with "
                f"{layout.num_classes} classes, or label the dataset with another teacher"
            )
        stored = 1.0 if record is None else float(record["temperature"])
        target = wanted or stored
        _check_temperature(name, record or {}, stored, target)
        found[name] = Stored(layout, stored, target)
    if len({each.wanted for each in found.values()}) > 1:
        temperatures = ", ".join(f"{name} at {each.temperature:g}" for name, each in found.items())
        raise UserError(
            f"the teachers' labels are stored at different temperatures ({temperatures}): pass teacher_temperature"
        )
    return found


def _layout(dataset: Any, teacher: str | None) -> Layout:
    """Of labels that were looked at, as far as the kind of dataset allows."""
    if hasattr(dataset, "soft_labels"):
        labels = dataset.soft_labels(teacher)
        return Layout(column(PROBS, teacher), labels.num_views, labels.num_classes, labels.provenance)
    if isinstance(dataset, datasets.Dataset):
        labels = read(dataset, teacher)
        _spot_check_identity(dataset, labels.provenance)
        layout = Layout.of(dataset.features, teacher, labels.num_views * labels.num_classes)
    elif isinstance(dataset, datasets.IterableDataset):
        layout = Layout.of(dataset.features, teacher)
        if layout.num_classes < 2:
            raise UserError(
                f"the features of the stream don't tell how many classes {layout.name} has: cast the column to "
                "datasets.List(datasets.Value('float32'), length=C), or load the dataset without streaming"
            )
    else:
        raise UserError(
            f"soft labels can't be read from a {type(dataset).__name__}: pass a datasets.Dataset or a BatchedDataset"
        )
    if (layout.provenance or {}).get("views"):
        raise UserError(
            f"{layout.name} was made for augmented views of each image, which only a BatchedDataset can show again: "
            "pass BatchedDataset.from_images(dataset, preprocessor) as the training set"
        )
    return layout


def _check_temperature(name: str, record: dict, stored: float, wanted: float) -> None:
    if wanted != stored != 1 and record["tempering"] == "per_sample":
        raise UserError(
            f"{name} was averaged over draws at temperature {stored:g} and can't be brought to {wanted:g}: leave "
            "teacher_temperature out, or label again"
        )
    storage = record.get("storage") or EXACT
    if wanted > stored and storage != EXACT:
        raise UserError(
            f"{name} is stored as {storage}, which loses the small probabilities, and at temperature {wanted:g} they "
            f"would count: label with teacher.temperature = {wanted:g}, or with storage='float32'"
        )


def stored_ids(dataset: datasets.Dataset, record: dict | None) -> np.ndarray | None:
    """Ids int64 [N] of the rows that the soft labels were made for; ``None`` if there never were any.

    Raises:
        UserError: the labels' record says that there were, but they are gone.
    """
    if EXAMPLE_ID in dataset.column_names:
        return np.asarray(dataset.with_format(None)[EXAMPLE_ID][:])
    if _content_column(record) is not None:
        raise UserError(
            f"the soft labels came with a column {EXAMPLE_ID} and it is gone, so that nobody can tell whether they "
            "are these rows' own: keep it beside them, or label this dataset with add_soft_labels"
        )
    return None


def _spot_check_identity(dataset: datasets.Dataset, record: dict | None) -> None:
    """Compare the content of evenly spaced rows with the ids stored beside their labels."""
    ids, content = stored_ids(dataset, record), _content_column(record)
    if content not in dataset.column_names:
        content = content_column(dataset.features)
        if not isinstance(dataset.features.get(content), datasets.Image):
            return  # a text that was turned into tokens can't be recognized, an image that was renamed can
    if ids is not None:
        rows = np.arange(0, len(dataset), max(1, len(dataset) // SPOT_CHECKED_ROWS))
        check_identity(ids[rows], content_ids(dataset.with_format(None).select(rows)[content][:]), rows)


def _content_column(record: dict | None) -> str | None:
    return ((record or {}).get("dataset") or {}).get("content_column")


def check_against_teacher(
    dataset: datasets.Dataset,
    teacher: Any,
    preprocess: Callable[[dict], dict] | None = None,
    name: str | None = None,
    rows: int = 16,
    tolerance: float = 0.02,
) -> float:
    """Label some rows again and compare: whether the labels are this teacher's, of these rows in these views.

    Args:
        dataset: examples with soft labels.
        teacher, preprocess: what is said to have labeled them; see :func:`~hf_bkd.add_soft_labels`.
        name: the teacher's, if there are several.
        rows: how many, evenly spaced.
        tolerance: how far they may be off, in total variation, after being stored alike: more is needed for a teacher
            whose draws depend on the batch (MC dropout).

    Returns:
        The largest distance found, in total variation (0 .. 1).

    Raises:
        UserError: labels without a record, cross-fitted ones (their teachers are many), or ones that differ by more.
    """
    labels = read(dataset, name)
    record = labels.provenance
    views = Views.from_dict(record["views"]) if record and record.get("views") else None
    told = record is not None and all(isinstance(record.get(key), int) for key in ("num_samples", "seed"))
    if not told or record.get("folds") is not None or (views is not None and views.mixing is not None):
        raise UserError(
            "only labels that say what made them, by one teacher and of one example each, can be made again for a "
            "few rows: not cross-fitted ones, nor those of mixed examples"
        )
    if teacher.num_classes != labels.num_classes:
        raise UserError(
            f"{column(PROBS, name)} has {labels.num_classes} classes and this teacher {teacher.num_classes}: it was "
            "labeled by another one"
        )
    chosen = np.linspace(0, len(dataset) - 1, min(rows, len(dataset))).round().astype(int)
    some = dataset.select(chosen)
    again = add_soft_labels(
        some.remove_columns(soft_label_columns(some)),
        teacher,
        record["num_samples"],
        preprocess=preprocess,
        views=views,
        seed=record["seed"],
        progress=False,
        **labels.how_stored(),
    )
    distances = (read(again).probs - labels.probs[chosen]).abs().sum(dim=-1) / 2
    farthest = float(distances.max())
    if not farthest <= tolerance:
        weights = (record.get("teacher") or {}).get("weights")
        row = chosen[int(distances.reshape(len(chosen), -1).amax(dim=1).argmax())]
        raise UserError(
            f"{column(PROBS, name)} differs by {farthest:.3g} in total variation from what this teacher says (row "
            f"{row}): it was labeled by another teacher (weights {weights} there, "
            f"{teacher.describe()['weights']} here), from other inputs, or has changed since"
        )
    return farthest
