"""The record of what made a set of soft labels, which travels with them so that nothing is configured twice.

It is stored as JSON. :class:`LabelRecord` and its parts name the keys that the library reads; keys that other versions
or users add are kept as they are.
"""

import json
import math
from dataclasses import dataclass
from typing import Any, Self

import datasets
import torch

from ..data.views import Views
from ..likelihoods import Categorical, Likelihood, likelihood_from
from ..utils.checks import check_positive
from ..utils.environment import version_of
from ..utils.errors import UserError
from ..utils.files import parsed_json
from .identity import Identity, IdSummary, class_names, origin
from .record_parts import DatasetRecord, Part, TeacherRecord, check_limits, is_readable, is_whole

FORMAT = 1
NO_RECORD = (
    "teacher_provenance holds no record of this library (format, temperature, tempering, ...): label again with "
    "add_soft_labels"
)


@dataclass(frozen=True, kw_only=True)
class LabelRecord(Part):
    """What made a set of soft labels.

    Args:
        temperature: T_t > 0 of the probabilities; 1 of a regression.
        tempering: ``"per_sample"`` or ``"post_average"``; see :class:`~hf_bkd.Teacher`.
        teacher: what labeled.
        dataset: what was labeled.
        num_samples: S, the draws that the teacher was asked for.
        seed: of the draws.
        stream: the name that the teacher had, if it had one and drew by a seed of that name's own.
        storage: of the columns; see `storage`.
        views: ``Views.to_dict()``; ``None`` for the example as it is.
        folds: of cross-fitted labels: ``number``, ``seed`` and the ``weights`` of each teacher.
        problem_type: what the values are, in transformers' words; of one of C classes if it is missing.
        positions: ``"tokens"`` if there is one label for each token of an example; ``"next tokens"`` of a language
            model, whose label of a position is of the token after it.
        tokenizer: hash of what made the tokens, where that is known.
        chat_template: hash of what wrote messages, where that is known.
        class_names: in order; of labels and numbers too.
        preprocessing: what turned rows into inputs (mean and standard deviation of images), where that is known.
        mixed_precision: of the teacher's passes, ``"bf16"`` or ``"fp16"``.
        held_out: the teacher's metrics on examples that it was not fitted on.
        least_probability: what a smaller one of a draw counts as in the mean logarithms, where these are kept.
        versions: of the libraries.
    """

    temperature: float
    tempering: str
    teacher: TeacherRecord
    dataset: DatasetRecord
    num_samples: int | None = None
    seed: int | None = None
    stream: str | None = None
    storage: str | None = None
    views: dict[str, Any] | None = None
    folds: dict[str, Any] | None = None
    problem_type: str | None = None
    positions: str | None = None
    tokenizer: str | None = None
    chat_template: str | None = None
    class_names: list[str] | None = None
    preprocessing: dict[str, Any] | None = None
    mixed_precision: str | None = None
    held_out: dict[str, float | None] | None = None
    least_probability: float | None = None
    versions: dict[str, str] | None = None

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """The inverse of :meth:`to_json`; UserError for what is no record or of a later format."""
        try:
            written_in = content["format"]
            readable = written_in != FORMAT or is_readable(content)
        except (KeyError, TypeError, OverflowError):
            readable = False
        if not readable:
            raise UserError(NO_RECORD)
        if written_in == FORMAT and isinstance(written_in, int):
            check_limits(content)
        if written_in != FORMAT or not is_whole(written_in):
            raise UserError(
                f"the soft labels are of format {written_in!r}, and this version of hf_bkd reads format {FORMAT}"
            )
        # a temperature that means nothing, and a problem that later versions know, are refused
        likelihood_from(content.get("problem_type")).temper(torch.empty(0), float(content["temperature"]))
        numbers = {name: content.get(name) for name in ("num_samples", "seed")}
        return cls._read(
            content,
            temperature=float(content["temperature"]),
            teacher=TeacherRecord.from_json(content.get("teacher") or {}),
            dataset=DatasetRecord.from_json(content.get("dataset") or {}),
            **{name: number if is_whole(number) else None for name, number in numbers.items()},
        )

    @property
    def likelihood(self) -> Likelihood:
        """What the values are of."""
        return likelihood_from(self.problem_type or Categorical.problem_type)

    @property
    def num_views(self) -> int:
        """V, 1 for the example as it is."""
        return (self.views or {}).get("number") or 1

    @property
    def draws(self) -> int | None:
        """How many draws the values average; ``None`` if that is not known."""
        return None if self.num_samples is None else self.teacher.draws(self.num_samples)

    def shown_views(self) -> Views | None:
        """The views that were labeled; UserError for some that this version can't show."""
        return Views.from_dict(self.views) if self.views else None


def make_record(
    teacher: dict[str, Any],
    dataset: datasets.Dataset | datasets.IterableDataset,
    *,
    num_samples: int,
    seed: int,
    stream: str | None = None,
    storage: str,
    identity: Identity | None,
    preprocessing: dict | None = None,
    ids: IdSummary | None = None,
    rows: int | None = None,
    image_size: list[int] | None = None,
    views: dict | None = None,
    folds: dict | None = None,
    mixed_precision: str | None = None,
    held_out: dict | None = None,
    left_out: list[int] | None = None,
    names: list[str] | None = None,
    positions: str | None = None,
    tokenizer: str | None = None,
    chat_template: str | None = None,
    least_probability: float | None = None,
) -> LabelRecord:
    """The record of labels that were just made.

    Args:
        teacher: its description.
        dataset: what was labeled.
        identity: what the rows' ids hash.
        ids: a summary of them.
        rows: their number N; that of the dataset if not given.
        held_out: what the teacher's own record says if not given.
        names: of the teacher's classes in order, which count where the dataset has none.

    All others are fields of :class:`LabelRecord` and :class:`DatasetRecord`.
    """
    problem_type = teacher.get("problem_type", Categorical.problem_type)
    names = class_names(dataset.features, likelihood_from(problem_type), positions is not None) or names
    added = {"problem_type": problem_type, "positions": positions, "tokenizer": tokenizer}
    added |= {"chat_template": chat_template}
    record = {
        "format": FORMAT,
        "teacher": teacher,
        "num_samples": num_samples,
        "temperature": teacher["temperature"],
        "tempering": teacher["tempering"],
        "seed": seed,
        **({} if stream is None else {"stream": stream}),
        "storage": storage,
        "views": views,
        "folds": folds,
        **{name: value for name, value in added.items() if value not in (None, Categorical.problem_type)},
        "dataset": {
            **origin(dataset),
            "split": None if dataset.split is None else str(dataset.split),
            "rows": len(dataset) if rows is None else rows,
            **identified(identity, ids),
            "image_size": image_size,
            **({"left_out": left_out} if left_out else {}),
        },
        "class_names": names if names and len(names) == teacher["num_classes"] else None,
        "preprocessing": preprocessing,
        "mixed_precision": mixed_precision,
        **({} if least_probability is None else {"least_probability": least_probability}),
        "held_out": held_out or (teacher.get("record") or {}).get("validation"),
        "versions": {name: version_of(name) for name in ("hf_bkd", "torch", "transformers", "datasets")},
    }
    return LabelRecord.from_json(as_json(record))


def identified(identity: Identity | None, ids: IdSummary | None) -> dict[str, Any]:
    """What a record says of the ids of its rows."""
    said = {"content_column": identity.columns[0] if identity and len(identity.columns) == 1 else None}
    if identity is not None and identity.form > 1:
        said["identity"] = identity.to_json()
    return said | {"fingerprint": ids and ids.fingerprint, "repeated_ids": ids and ids.repeated}


def description(teacher: Any, num_samples: int) -> dict[str, Any]:
    """What a record says of a teacher that is asked for S draws: ``describe()`` and, if need be, how many it makes.

    Raises:
        UserError: it lacks what every record has, or its temperature is out of range.
    """
    described = teacher.describe()
    missing = [name for name in ("num_classes", "temperature", "tempering", "weights") if name not in described]
    if missing:
        raise UserError(
            f"the teacher's describe() doesn't say its {missing[0]}, which the labels' record needs: add it"
        )
    check_positive(**{"the teacher's temperature": described["temperature"]})
    own = getattr(teacher, "likelihood", Categorical())
    if own.problem_type != Categorical.problem_type:
        described = own.as_json() | described
    num_draws = teacher.num_draws(num_samples) if hasattr(teacher, "num_draws") else None
    if num_draws in (None, TeacherRecord.from_json(described).draws(num_samples)):
        return described
    return described | {"num_draws": num_draws}


def as_json(value: Any) -> Any:
    """The same as JSON reads it back, with ``None`` for numbers that JSON doesn't have (a diverged teacher's NLL)."""
    if isinstance(value, dict):
        return {str(name): as_json(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def encode_record(record: LabelRecord) -> str:
    """The record as the text that is stored."""
    return json.dumps(record.to_json(), sort_keys=True)


def decode_record(feature: object) -> LabelRecord:
    """The record inside the feature of its column; UserError if it is none of ours."""
    names = getattr(feature, "names", None)
    try:
        content = parsed_json(names[0], "teacher_provenance")
    except (IndexError, TypeError) as error:
        raise UserError(NO_RECORD) from error
    except UserError as error:
        raise error if "are allowed" in str(error) else UserError(NO_RECORD) from error
    return LabelRecord.from_json(content)
