"""The teacher's distribution of each token of its answers, as :func:`~hf_bkd.add_soft_labels` stores it.

Labels stand in one column beside the answers, k rows of tokens and their labels in each of its rows, and become
columns of their own when answers are chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import datasets
import numpy as np
import pyarrow as pa

from ..data.preprocessors.texts import longest_text
from ..soft_labels import add_soft_labels
from ..soft_labels.writing import combined, with_columns
from ..teachers import Teacher
from .completions import completions
from .record import LABELS, RESPONSES, read_responses_record

FOLDER = "labels"  # of their shards, within that of the answers'


@dataclass(frozen=True)
class Labeling:
    """A function that labels the tokens of all answers, which is the same as ``add_soft_labels`` of their rows.

    Args:
        teacher: who answered.
        settings: of ``add_soft_labels``.
        folder: of its shards, if they are kept.
        progress: whether to show a bar.
    """

    teacher: Teacher
    settings: dict[str, Any]
    folder: Path | None
    progress: bool

    @classmethod
    def of(
        cls,
        teacher: Teacher,
        tokenizer: Any,
        num_samples: int | None,
        seed: int,
        folder: str | Path | None,
        progress: bool,
    ) -> Self:
        parts = getattr(teacher, "parts", None) or [teacher]
        limits = [longest_text(part.network, tokenizer) for part in parts]
        settings = {"processing_class": tokenizer, "seed": seed}
        settings |= {"max_length": min((limit for limit in limits if limit is not None), default=None)}
        settings |= {} if num_samples is None else {"num_samples": num_samples}
        return cls(teacher, settings, None if folder is None else Path(folder, FOLDER), progress)

    def check(self, prompts: datasets.Dataset) -> None:
        """Raise a UserError, before anything is sampled, if the teacher can't label an answer to the first prompt."""
        add_soft_labels(completions(prompts, [0], ["."], [0]), self.teacher, progress=False, **self.settings)

    def __call__(self, responses: datasets.Dataset) -> datasets.Dataset:
        """Add the column ``LABELS``."""
        answers, k = responses.with_format(None)[RESPONSES][:], read_responses_record(responses).k
        rows = [row for row in range(len(answers)) for _ in range(k)]
        texts = [text for own in answers for text in own]
        taught = completions(responses, rows, texts, list(range(k)) * len(answers))
        labeled = add_soft_labels(taught, self.teacher, folder=self.folder, progress=self.progress, **self.settings)
        table = labeled.with_format("arrow")[:]
        whole = pa.StructArray.from_arrays([combined(table[name]) for name in table.column_names], table.column_names)
        offsets = pa.array(np.arange(len(answers) + 1, dtype=np.int32) * k)
        feature = datasets.List(dict(labeled.features))
        return with_columns(responses, {LABELS: (pa.ListArray.from_arrays(offsets, whole), feature)})


def with_labels(
    chosen: datasets.Dataset, responses: datasets.Dataset, rows: Sequence[int], numbers: Sequence[int]
) -> datasets.Dataset:
    """Add tokens and labels, where there are some, to chosen answers: of some rows, the one of each that is given."""
    if LABELS not in responses.column_names:
        return chosen
    k = read_responses_record(responses).k
    nested = combined(responses.with_format("arrow").select_columns([LABELS])[:][LABELS])
    labels = nested.flatten().take(pa.array(np.array(rows) * k + np.array(numbers)))
    feature = responses.features[LABELS].feature
    return with_columns(chosen, {name: (labels.field(name), feature[name]) for name in feature})
