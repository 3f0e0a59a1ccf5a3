"""The parts of a record of soft labels, as typed objects over the JSON that is stored."""

from dataclasses import dataclass, field, fields
from typing import Any, Self


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
