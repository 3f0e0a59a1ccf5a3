"""The parts of a record of soft labels, typed objects over the JSON that is stored, and whether that can be read."""

import math
from dataclasses import dataclass, field, fields
from typing import Any, Self

from ..utils.limits import LIMITS
from .identity import FORM

TOKENS, NEXT_TOKENS = "tokens", "next tokens"  # what the positions of an example are labeled for


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
        num_classes: C, of classes, labels or numbers.
        weights: hash of the weights and the posterior.
        num_draws: how many draws it averages, where that isn't what its kind implies (see :meth:`draws`).
        link: how a Laplace teacher averages; only ``"mc"`` draws.
        members: the descriptions of the teachers that it is made of.
        source: repository and commit on the Hub, or the folder's name.
        exact_moments: whether mean and variance are the posterior's own, and not those of draws.
        record: how it was fitted; ``record["validation"]`` are its metrics on examples held out from it.
    """

    method: str | None = None
    num_classes: int | None = None
    weights: str | None = None
    num_draws: int | None = None
    link: str | None = None
    members: list[dict[str, Any]] | None = None
    source: dict[str, str] | None = None
    exact_moments: bool | None = None
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


def is_readable(content: dict[str, Any]) -> bool:
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
        and isinstance(content.get("problem_type"), (str, type(None)))
        and content.get("positions") in (None, TOKENS, NEXT_TOKENS)
        and isinstance(content.get("tokenizer"), (str, type(None)))
        and isinstance(content.get("chat_template"), (str, type(None)))
    )


def check_limits(content: dict[str, Any]) -> None:
    """UserError if the record asks its reader for more memory than ``LIMITS`` allow."""
    teacher, views = content.get("teacher") or {}, content.get("views") or {}
    asked = {"num_classes": teacher.get("num_classes"), "num_draws": teacher.get("num_draws")}
    asked |= {"num_views": views.get("number")}
    asked["num_draws"] = max(
        asked["num_draws"] or 0, content["num_samples"] if is_whole(content.get("num_samples")) else 0
    )
    LIMITS.check("the labels' record", **{name: value for name, value in asked.items() if value is not None})


def _is_identity(value: Any) -> bool:
    """Whether ids are of a form that can be computed here."""
    if value is None:
        return True
    columns = value.get("columns") if isinstance(value, dict) else None
    return bool(columns) and _are(str, columns) and is_whole(value.get("form")) and 1 <= value["form"] <= FORM


def _is_folds(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and _is_count(value.get("number"), 0))


def _are(kind: type, values: Any) -> bool:
    return values is None or (isinstance(values, list) and all(isinstance(value, kind) for value in values))


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any, least: int = 1) -> bool:
    return value is None or (is_whole(value) and value >= least)
