"""Labels that are said to be a teacher's are compared with what it says of some of their rows."""

from typing import Any

import datasets
import numpy as np
import torch

from ..models.class_names import order_by_name
from ..utils.deprecation import renamed_arguments
from ..utils.errors import UserError
from .columns import soft_label_columns
from .examples import Preprocessor
from .kinds import kind_of
from .labeling import add_soft_labels
from .lists import check_lengths, owners
from .reading import read


@renamed_arguments(preprocess="preprocessor")
def check_against_teacher(
    dataset: datasets.Dataset,
    teacher: Any,
    preprocessor: Preprocessor | None = None,
    name: str | None = None,
    rows: int = 16,
    tolerance: float = 0.02,
) -> float:
    """Label some rows again and compare: whether the labels are this teacher's, of these rows in these views.

    Args:
        dataset: examples with soft labels.
        teacher, preprocessor: what is said to have labeled them; see :func:`~hf_bkd.add_soft_labels`.
        name: the teacher's, if there are several.
        rows: how many, evenly spaced.
        tolerance: how far they may be off, in total variation, after being stored alike: more is needed for a teacher
            whose draws depend on the batch (MC dropout). Numbers are compared in units of their standard deviation
            over the dataset.

    Returns:
        The largest distance, in total variation (0 .. 1), or in such units.

    Raises:
        UserError: labels without a record, cross-fitted ones (their teachers are many), or ones that differ by more.
    """
    labels = read(dataset, name)
    record, column, likelihood = labels.record, labels.layout.name, labels.layout.likelihood
    views = None if record is None else record.shown_views()
    repeatable = record is not None and None not in (record.num_samples, record.seed)
    if not repeatable or record.folds is not None or (views is not None and views.mixing is not None):
        raise UserError(
            "only labels that say what made them, by one teacher and of one example each, can be made again for a "
            "few rows: not cross-fitted ones, nor those of mixed examples"
        )
    if teacher.num_classes != labels.num_classes:
        raise UserError(
            f"{column} has {labels.num_classes} {likelihood.called} and this teacher {teacher.num_classes}: it was "
            "labeled by another one"
        )
    own = kind_of(teacher)[0].problem_type
    if own != likelihood.problem_type:
        raise UserError(f"{column} is of {likelihood.problem_type}, and this teacher of {own}: label again")
    chosen = np.linspace(0, len(dataset) - 1, min(rows, len(dataset))).round().astype(int)
    some = dataset.select(chosen)
    again = add_soft_labels(
        some.remove_columns(soft_label_columns(some)),
        teacher,
        record.num_samples,
        preprocessor=preprocessor,
        views=views,
        seed=record.seed,
        name=record.stream,
        progress=False,
        **labels.storage_options(),
    )
    answered = read(again, record.stream)
    names = answered.record.class_names
    order = order_by_name(names, record.class_names, "this teacher", column, "label again")
    everything = torch.arange(len(chosen))
    values = answered.rows(everything) if order is None else answered.rows(everything)[..., order]
    if labels.lengths is not None:
        check_lengths(column, labels.lengths[chosen], answered.lengths, chosen)
    distances = likelihood.distance(values, labels.rows(torch.from_numpy(chosen)), labels.scale)
    farthest = float(distances.max())
    if not farthest <= tolerance:
        at = int(distances.flatten(1).amax(dim=1).argmax())
        row = chosen[at if labels.lengths is None else int(owners(answered.lengths)[at])]
        raise UserError(
            f"{column} differs by {farthest:.3g} in {likelihood.unit} from what this teacher says (row "
            f"{row}): it was labeled by another teacher (weights {record.teacher.weights} there, "
            f"{teacher.describe()['weights']} here), from other inputs, or has changed since"
        )
    return farthest
