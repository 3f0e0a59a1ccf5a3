"""What a recipe of theory states: claims, the numbers that a formula predicts, and the numbers that were measured."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ...utils.errors import UserError

COMPARISONS = ("relative", "absolute", "at most", "at least")
STYLES = ("points", "line", "dashed", "stacked")


@dataclass(frozen=True)
class Check:
    """A measured number beside the predicted one.

    Args:
        name: of the quantity.
        predicted: what the formula says; for ``"at most"`` and ``"at least"`` the limit.
        measured: what came out.
        tolerance: >= 0; a share of ``predicted`` for ``"relative"``, else in the numbers' own unit.
        compare: ``"relative"`` or ``"absolute"`` difference, or a limit on one side.

    Raises:
        UserError: a number that is not finite, a negative tolerance, an unknown comparison.
    """

    name: str
    predicted: float
    measured: float
    tolerance: float = 0.0
    compare: str = "relative"

    def __post_init__(self):
        for number in ("predicted", "measured", "tolerance"):
            object.__setattr__(self, number, float(getattr(self, number)))  # of tensors and arrays too
            if not math.isfinite(getattr(self, number)):
                raise UserError(f"{number} of the check {self.name!r} is {getattr(self, number)}")
        if self.tolerance < 0:
            raise UserError(f"tolerance of the check {self.name!r} must be at least 0, and it is {self.tolerance}")
        if self.compare not in COMPARISONS:
            raise UserError(f"compare is {self.compare!r}; it must be one of {', '.join(COMPARISONS)}")

    @property
    def holds(self) -> bool:
        difference = self.measured - self.predicted
        if self.compare == "at most":
            return difference <= self.tolerance
        if self.compare == "at least":
            return -difference <= self.tolerance
        return abs(difference) <= self.tolerance * (abs(self.predicted) if self.compare == "relative" else 1)


@dataclass(frozen=True)
class Series:
    """Something to draw.

    Args:
        label: in the legend; empty for none.
        x: numbers, or names that are written along the axis.
        y: as many numbers.
        error: as many, drawn as y ± error; none if empty.
        style: ``"points"``, ``"line"``, ``"dashed"``, or ``"stacked"`` bars on those of earlier series.
        color: number in the palette; black if not given.

    Raises:
        UserError: lists of different lengths, or an unknown style.
    """

    label: str
    x: Sequence[float | str]
    y: Sequence[float]
    error: Sequence[float] = ()
    style: str = "points"
    color: int | None = None

    def __post_init__(self):
        for name in ("x", "y", "error"):  # lists of plain numbers, for JSON
            object.__setattr__(self, name, [v if isinstance(v, str) else float(v) for v in getattr(self, name)])
        if len(self.x) != len(self.y) or len(self.error) not in (0, len(self.y)):
            raise UserError(
                f"the series {self.label!r} has {len(self.x)} x, {len(self.y)} y and {len(self.error)} error"
            )
        if self.style not in STYLES:
            raise UserError(f"style is {self.style!r}; it must be one of {', '.join(STYLES)}")


@dataclass(frozen=True)
class Panel:
    """One pair of axes; ``log`` is ``""``, ``"x"``, ``"y"`` or ``"xy"``."""

    title: str
    xlabel: str
    ylabel: str
    series: Sequence[Series]
    log: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture ``name.png`` with its caption."""

    name: str
    caption: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Claim:
    """One statement of a paper, and how it was checked.

    Args:
        title: the statement, in a few words.
        text: what it means and how it is measured, in Markdown.
        source: paper, and section or equation; or that it is derived here.
        checks: its numbers.
        figures: its pictures.
        caveat: what a reader of the numbers has to know: what could not be recovered, where an oracle is used.
    """

    title: str
    text: str
    source: str
    checks: Sequence[Check]
    figures: Sequence[Figure] = ()
    caveat: str = ""


def as_json(claims: Sequence[Claim]) -> dict[str, list[dict[str, Any]]]:
    """``"checks"``, all of them with the title of their claim, and ``"claims"``, with all else."""
    checks = [
        asdict(check) | {"claim": claim.title, "holds": check.holds} for claim in claims for check in claim.checks
    ]
    return {"checks": checks, "claims": [asdict(claim) | {"checks": None} for claim in claims]}


def from_json(results: dict[str, Any]) -> list[Claim]:
    """The inverse of :func:`as_json`; UserError for results that are none of a recipe of theory."""
    try:
        return [
            _claim(told, [c for c in results["checks"] if c["claim"] == told["title"]]) for told in results["claims"]
        ]
    except (KeyError, TypeError) as error:
        raise UserError(f"these results hold no claims that can be read: {error!r}") from None


def _claim(told: dict[str, Any], checks: list[dict[str, Any]]) -> Claim:
    names = [field.name for field in fields(Check)]
    figures = [
        Figure(
            **figure
            | {
                "panels": [
                    Panel(**p | {"series": [Series(**_renamed(s)) for s in p["series"]]}) for p in figure["panels"]
                ]
            }
        )
        for figure in told["figures"]
    ]
    return Claim(**told | {"checks": [Check(**{n: c[n] for n in names}) for c in checks], "figures": figures})


def _renamed(series: dict[str, Any]) -> dict[str, Any]:
    """A stored series by today's names."""
    return {"color" if name == "colour" else name: value for name, value in series.items()}
