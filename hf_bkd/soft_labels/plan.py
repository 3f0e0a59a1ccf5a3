"""What decides a labeling, by which a folder knows it again, and what it makes."""

from dataclasses import asdict, replace
from typing import Any, NamedTuple

from ..likelihoods import CATEGORICAL
from .asking import Answers
from .examples import Examples
from .identity import Identity
from .options import LabelOptions
from .shards import Shards
from .storage import AUTO, LARGEST


class Made(NamedTuple):
    """What a labeling made: of which examples, the columns, how and by whom; how they were cross-fitted, if so.

    ``class_names`` are the teacher's, where it knows them.
    """

    examples: Examples
    answers: Answers
    options: LabelOptions
    teacher: dict[str, Any]
    folds: dict[str, Any] | None = None
    class_names: list[str] | None = None


def plan_of(
    examples: Examples, options: LabelOptions, teacher: dict[str, Any] | None, folds: int | None
) -> dict[str, Any]:
    """All that decides the labels, as JSON; ``teacher`` is ``None`` where each fold has its own."""
    dataset, settled = examples.dataset, asdict(options)
    if options.storage == AUTO:  # of teachers that are fitted later
        settled["storage"] = CATEGORICAL.storages[0]
    settled["top_k"] = settled["top_k"] or LARGEST["top_k"]
    for name in ("positions", "mean_log_probs"):
        if not settled[name]:  # as in folders of earlier versions
            del settled[name]
    return {
        "teacher": teacher,
        "folds": folds,
        "rows": examples.num_rows,
        "dataset": dataset.info.dataset_name,
        "split": None if dataset.split is None else str(dataset.split),
        "identity": examples.identity.to_json() if examples.has_ids else None,
        "draws": "by id" if examples.has_ids else "by number",
        **settled,
        **examples.settings,
    }


def as_begun(examples: Examples, options: LabelOptions, shards: Shards) -> tuple[Examples, LabelOptions]:
    """Examples and options as those shards know them: in a folder of an earlier version by its ids and draws."""
    if not shards.unsaid:
        return examples, options
    identity = examples.identity
    if "identity" in shards.unsaid:
        identity = Identity(() if examples.content is None else (examples.content,), form=1)
    if "stream" in shards.unsaid:
        options = replace(options, stream=None)
    return examples.known_by(identity, draws_by_number="draws" in shards.unsaid), options
