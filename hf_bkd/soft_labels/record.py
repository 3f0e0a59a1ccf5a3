"""The record of what made a set of soft labels, which travels with them so that nothing is configured twice.

It is stored as JSON. :class:`LabelRecord` and its parts name the keys that the library reads; keys that other versions
or users add are kept as they are.
"""

import json
import math
from dataclasses import dataclass, field, fields
from typing import Any, Self

import datasets

from ..data.views import Views
from ..utils.checks import check_positive
from ..utils.environment import version_of
from ..utils.errors import UserError
from ..utils.files import parsed_json
from ..utils.limits import LIMITS
from .identity import FORM, Identity, IdSummary, class_names, origin

FORMAT = 1
NO_RECORD = (
    "teacher_provenance holds no record of this library (format, temperature, tempering, ...): label again with "
    "add_soft_labels"
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A JSON object and, as attributes, those of its keys that the library reads; ``None`` for missing ones.

    Args:
        json: the whole object, with keys of other versions.
    """

    json: dict[str, Any] = field(repr=False)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_json`."""
        return cls._read(content)

    @classmethod
    def _read(cls, content: dict[str, Any], **converted: Any) -> Self:
        known = {each.name for each in fields(cls)} - {"json"}
        return cls(json=content, **{name: value for name, value in content.items() if name in known} | converted)

    def to_json(self) -> dict[str, Any]:
        """The object as it is stored."""
        return self.json


@dataclass(frozen=True, kw_only=True)
class TeacherRecord(Part):
    """What ``teacher.describe()`` said; see the arguments of each kind of teacher for more.

    Args:
        method: the kind of teacher.
        num_classes: C.
        weights: hash of the weights and the posterior.
        num_draws: how many draws it averages, where that isn't what its kind implies (see :meth:`draws`).
        link: how a Laplace teacher averages; only ``"mc"`` draws.
        members: the descriptions of the teachers that it is made of.
        source: repository and commit on the Hub, or the folder's name.
        record: how it was fitted; ``record["validation"]`` are its metrics on examples held out from it.
    """

    method: str | None = None
    num_classes: int | None = None
    weights: str | None = None
    num_draws: int | None = None
    link: str | None = None
    members: list[dict[str, Any]] | None = None
    source: dict[str, str] | None = None
    record: dict[str, Any] | None = None

    def draws(self, num_samples: int) -> int:
        """How many draws it averages when asked for S: as it says, or else by the rule for the kinds of format 1."""
        if self.num_draws is not None:
            return self.num_draws
        if self.members:
            return len(self.members) * max(self.from_json(each).draws(num_samples) for each in self.members)
        return 1 if self.method == "deterministic" or self.link not in (None, "mc") else num_samples


@dataclass(frozen=True, kw_only=True)
class DatasetRecord(Part):
    """Which examples were labeled.

    Args:
        name, repository, revision, split: where they are from.
        rows: their number N.
        content_column: the column that ``example_id`` hashes, if it is one.
        identity: ``form`` of the ids and the ``columns`` that they hash (see `identity`); form 1 of ``content_column``
            if it is missing.
        fingerprint: hash of the set of ids.
        repeated_ids: N less the number of distinct ids.
        image_size: [channels, height, width] of the images before anything is done to them, if they have one size.
        left_out: numbers of the rows that the dataset had beside these N and that could not be read.
    """

    name: str | None = None
    repository: str | None = None
    revision: str | None = None
    split: str | None = None
    rows: int | None = None
    content_column: str | None = None
    identity: dict[str, Any] | None = None
    fingerprint: str | None = None
    repeated_ids: int | None = None
    image_size: list[int] | None = None
    left_out: list[int] | None = None


@dataclass(frozen=True, kw_only=True)
class LabelRecord(Part):
    """What made a set of soft labels.

    Args:
        temperature: T_t > 0 of the probabilities.
        tempering: ``"per_sample"`` or ``"post_average"``; see :class:`~hf_bkd.Teacher`.
        teacher: what labeled.
        dataset: what was labeled.
        num_samples: S, the draws that the teacher was asked for.
        seed: of the draws.
        stream: the name that the teacher had, if it had one and drew by a seed of that name's own.
        storage: of the columns; see `storage`.
        views: ``Views.to_dict()``; ``None`` for the example as it is.
        folds: of cross-fitted labels: ``number``, ``seed`` and the ``weights`` of each teacher.
        class_names: in order.
        preprocessing: what turned rows into inputs (mean and standard deviation of images), where that is known.
        mixed_precision: of the teacher's passes, ``"bf16"`` or ``"fp16"``.
        held_out: the teacher's metrics on examples that it was not fitted on.
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
    class_names: list[str] | None = None
    preprocessing: dict[str, Any] | None = None
    mixed_precision: str | None = None
    held_out: dict[str, float | None] | None = None
    versions: dict[str, str] | None = None

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """The inverse of :meth:`to_json`; UserError for what is no record or of a later format."""
        try:
            written_in = content["format"]
            readable = written_in != FORMAT or _is_readable(content)
        except (KeyError, TypeError, OverflowError):
            readable = False
        if not readable:
            raise UserError(NO_RECORD)
        if written_in == FORMAT and isinstance(written_in, int):
            _check_limits(content)
        if written_in != FORMAT or not _is_whole(written_in):
            raise UserError(
                f"the soft labels are of format {written_in!r}, and this version of hf_bkd reads format {FORMAT}"
            )
        numbers = {name: content.get(name) for name in ("num_samples", "seed")}
        return cls._read(
            content,
            temperature=float(content["temperature"]),
            teacher=TeacherRecord.from_json(content.get("teacher") or {}),
            dataset=DatasetRecord.from_json(content.get("dataset") or {}),
            **{name: number if _is_whole(number) else None for name, number in numbers.items()},
        )

    @property
    def num_views(self) -> int:
        """V, 1 for the example as it is."""
        return (self.views or {}).get("number") or 1

    @property
    def draws(self) -> int | None:
        """How many draws the probabilities average; ``None`` if that is not known."""
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
    names = class_names(dataset.features) or names
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


def _is_readable(content: dict[str, Any]) -> bool:
    """Whether all that is read from a record later has the type that it should have."""
    objects = {name: content.get(name) or {} for name in ("teacher", "dataset", "preprocessing", "views", "held_out")}
    temperature = content["temperature"]
    return (
        isinstance(temperature, (int, float))
        and not isinstance(temperature, bool)
        and 0 < float(temperature) < math.inf
        and isinstance(content["tempering"], str)
        and all(isinstance(each, dict) for each in objects.values())
        and _is_count(objects["teacher"].get("num_classes"))
        and _is_count(objects["teacher"].get("num_draws"))
        and _are(dict, objects["teacher"].get("members"))
        and _is_count(objects["views"].get("number"))
        and _is_count(objects["dataset"].get("repeated_ids"), 0)
        and _is_count(objects["dataset"].get("rows"), 0)
        and isinstance(objects["dataset"].get("content_column"), (str, type(None)))
        and _is_identity(objects["dataset"].get("identity"))
        and _is_folds(content.get("folds"))
        and isinstance(content.get("stream"), (str, type(None)))
        and _are(str, content.get("class_names"))
    )


def _check_limits(content: dict[str, Any]) -> None:
    """UserError if the record asks its reader for more memory than ``LIMITS`` allow."""
    teacher, views = content.get("teacher") or {}, content.get("views") or {}
    asked = {"num_classes": teacher.get("num_classes"), "num_draws": teacher.get("num_draws")}
    asked |= {"num_views": views.get("number")}
    asked["num_draws"] = max(
        asked["num_draws"] or 0, content["num_samples"] if _is_whole(content.get("num_samples")) else 0
    )
    LIMITS.check("the labels' record", **{name: value for name, value in asked.items() if value is not None})


def _is_identity(value: Any) -> bool:
    """Whether ids are of a form that can be computed here."""
    if value is None:
        return True
    columns = value.get("columns") if isinstance(value, dict) else None
    return bool(columns) and _are(str, columns) and _is_whole(value.get("form")) and 1 <= value["form"] <= FORM


def _is_folds(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and _is_count(value.get("number"), 0))


def _are(kind: type, values: Any) -> bool:
    return values is None or (isinstance(values, list) and all(isinstance(value, kind) for value in values))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any, least: int = 1) -> bool:
    return value is None or (_is_whole(value) and value >= least)
