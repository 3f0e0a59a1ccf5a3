"""Writing a teacher's opinion of every example into the dataset, once."""

from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from torch import Tensor

from ..data.views import Views
from ..utils.errors import UserError
from ..utils.processes import decided_by_main
from .columns import attach_table, label_set
from .examples import AnyDataset, Rows
from .identity import EXAMPLE_ID, content_column
from .labeling import Labeling, LabelingTeacher
from .record import as_json, make_provenance
from .shards import Shards, first_difference

Fit = Callable[[datasets.Dataset, int], LabelingTeacher]


def add_soft_labels(
    dataset: AnyDataset,
    teacher: LabelingTeacher | str | Path | None = None,
    num_samples: int = 10,
    *,
    preprocess: Callable[[Rows], dict[str, Tensor]] | None = None,
    views: Views | None = None,
    folds: int | None = None,
    fit: Fit | None = None,
    batch_size: int = 512,
    seed: int = 0,
    storage: str = "float16",
    top_k: int = 10,
    variance: str = "auto",
    mixed_precision: str | None = None,
    held_out: dict[str, float] | None = None,
    name: str | None = None,
    folder: str | Path | None = None,
    shard_rows: int = 1024,
    progress: bool = True,
) -> datasets.Dataset:
    """Label a dataset with a teacher's averaged class probabilities (arXiv 2601.01484).

    The processes of an accelerate launch share the rows; one process, several, and one that was killed and started
    again with the same ``folder`` give the same columns. With ``folds`` and ``fit`` instead of a teacher the labels
    are cross-fitted: each example is labeled by a teacher that was fitted without it.

    Args:
        dataset: N examples. A streamed one is labeled as it passes by, and the labels are returned without it.
        teacher: labels them, itself or as the folder or name on the Hub of a saved :class:`~hf_bkd.Teacher`; its
            ``temperature`` and ``tempering`` are applied and recorded.
        num_samples: S >= 1, draws from the teacher's posterior per example.
        preprocess: turns a batch of rows (column name -> list) into the network's inputs. Without one, what the
            dataset's transform returns, or else its columns (those of its torch format, if it has that), are the
            inputs: all tensors (and lists of tensors of one shape) among them, less labels and soft labels.
        views: looks of an image, each labeled for itself, so that a student can see the same; needs
            ``views.number`` and ``preprocess=ImagePreprocessor(...)``.
        folds: number of parts, 2 .. N.
        fit: called as ``fit(rest, fold)`` for each fold; returns a teacher for the examples that ``rest`` lacks.
        batch_size: examples per call of the teacher; halved until they fit on a GPU.
        seed: of the draws (and of the folds). Draws that belong to examples are the same in whatever batch and order
            these are.
        storage: ``"float16"``, ``"float32"``, ``"uint8"`` or ``"top_k"``; see `storage` for what they lose.
        top_k: k >= 1, the classes that ``"top_k"`` keeps.
        variance: which across-draw variance is kept: of each class (``"full"``), their ``"sum"``, or ``"none"``;
            ``"auto"`` is full for float storages and the sum for compact ones.
        mixed_precision: ``"bf16"`` or ``"fp16"`` passes of the teacher.
        held_out: how good the teacher is on examples that it was not fitted on, for the record; what the teacher's own
            record says if not given.
        name: the teacher's name, when a dataset carries labels of several; a :class:`~hf_bkd.MultiTeacher` has its own
            for each of its members, all of which label the dataset.
        folder: where finished shards are kept, so that the same call goes on from them; in memory if not given.
        shard_rows: examples a shard.
        progress: whether to show a bar.

    Returns:
        The dataset with ``teacher_probs``, ``teacher_variance`` where there are several draws, ``example_id`` and
        ``teacher_provenance`` (see ``columns``); of a streamed one these columns alone.

    Raises:
        UserError: neither or both of teacher and folds, a number below 1, an unknown storage or variance, inputs that
            can't be made from the columns, a teacher that knows other classes than the dataset or answers with
            something that is no distribution, or a folder of another labeling, damaged, or without space.
    """
    if isinstance(teacher, (str, Path)):
        from ..teachers import Teacher  # all else here knows teachers by what they answer

        teacher = Teacher.from_pretrained(teacher)
    if hasattr(teacher, "named_members"):
        if name is not None or isinstance(dataset, datasets.IterableDataset):
            raise UserError("a MultiTeacher names its labels itself, and labels datasets that aren't streamed")
        how = {"preprocess": preprocess, "views": views, "batch_size": batch_size, "seed": seed, "storage": storage}
        how |= {"top_k": top_k, "variance": variance, "mixed_precision": mixed_precision, "held_out": held_out}
        how |= {"shard_rows": shard_rows, "progress": progress}
        for member, each in teacher.named_members.items():
            own = None if folder is None else Path(folder, member)
            dataset = add_soft_labels(dataset, each, num_samples, name=member, folder=own, **how)
        return dataset
    labeling = Labeling(
        num_samples,
        preprocess,
        views,
        batch_size,
        seed,
        storage,
        top_k,
        variance,
        mixed_precision,
        shard_rows,
        progress,
    )
    if (teacher is None) == (folds is None) or (folds is None) != (fit is None):
        raise UserError("pass either a teacher, or folds together with fit")
    streamed = isinstance(dataset, datasets.IterableDataset)
    if folds is not None and streamed:
        raise UserError("a streamed dataset can't be divided into folds: load it without streaming")
    if streamed and dataset.features is None:
        raise UserError(
            "the streamed dataset doesn't say what its columns are, so that nobody could tell whose labels these are: "
            "pass dataset.cast(features)"
        )
    if not streamed and len(dataset) == 0:
        raise UserError("the dataset to label is empty")

    cross_fitted = None
    if teacher is not None:
        labeling.fit_batch(dataset, teacher)
        described = teacher.describe()
        shards = Shards(folder, labeling.plan(dataset, described, None))
        table = labeling.run(dataset, teacher, shards, "rows-", "labeling")
        if getattr(teacher, "source", None):
            described = described | {"source": teacher.source}
    else:
        shards = Shards(folder, labeling.plan(dataset, None, folds))
        table, teachers = _cross_fitted(labeling, dataset, folds, fit, shards)
        described = teachers[0]
        cross_fitted = {"number": folds, "seed": seed, "weights": [each["weights"] for each in teachers]}
    content = content_column(dataset.features)
    if content is None:
        table = table.drop_columns([EXAMPLE_ID])
    provenance = make_provenance(
        described,
        dataset,
        num_samples=num_samples,
        seed=seed,
        storage=storage,
        content_column=content,
        preprocessing=labeling.preprocessing,
        example_ids=None if content is None else table[EXAMPLE_ID].to_numpy(),
        rows=len(table),
        image_size=labeling.image_size,
        views=None if views is None else views.to_dict(),
        folds=cross_fitted,
        mixed_precision=mixed_precision,
        held_out=held_out,
    )
    return label_set(table, provenance, name) if streamed else attach_table(dataset, table, provenance, name)


def _cross_fitted(
    labeling: Labeling, dataset: datasets.Dataset, folds: int, fit: Fit, shards: Shards
) -> tuple[pa.Table, list[dict]]:
    """The columns of all rows, and what labeled each fold; finished folds are not fitted again."""
    parts = _fold_indices(len(dataset), folds, labeling.seed)
    tables, teachers = [], []
    for fold, part in enumerate(parts):
        rows, name = dataset.select(part), f"fold-{fold:04d}"
        count = -(-len(rows) // labeling.shard_rows)
        described = decided_by_main(lambda: shards.recall(name))  # noqa: B023
        finished = decided_by_main(lambda: all(f"{name}-{n:06d}" in shards for n in range(count)))  # noqa: B023
        if described and finished:
            tables.append(labeling.kept(rows, shards, f"{name}-"))
        else:
            rest = np.setdiff1d(np.arange(len(dataset)), part)
            teacher = fit(dataset.select(rest), fold)
            now = as_json(teacher.describe())
            difference = described and first_difference(described, now, "teacher")
            if difference:
                raise UserError(
                    f"fold {fold + 1} is labeled in part by a teacher of another {difference}: fit must give the "
                    f"same teacher again; pass another folder, or delete {shards.folder}"
                )
            shards.remember(name, now)
            described = now
            labeling.fit_batch(rows, teacher)
            tables.append(labeling.run(rows, teacher, shards, f"{name}-", f"labeling fold {fold + 1} of {folds}"))
        teachers.append(described)
    back = np.argsort(np.concatenate(parts))
    return pa.concat_tables(tables).take(back), teachers


def _fold_indices(num_rows: int, folds: int, seed: int) -> list[np.ndarray]:
    if not 2 <= folds <= num_rows:
        raise UserError(f"folds must be between 2 and the number of rows ({num_rows}), and it is {folds}")
    order = np.random.default_rng(seed).permutation(num_rows)
    return [np.sort(part) for part in np.array_split(order, folds)]
