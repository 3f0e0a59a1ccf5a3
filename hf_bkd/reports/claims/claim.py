"""What a recipe of theory states: claims, the numbers that a formula predicts, and the numbers that were measured."""

import math
import re
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
        interval: the ends of the interval of ``measured``, around it; the number itself if empty. Where all of it is
            allowed the check holds, where none is it fails, and else it is undecided.

    Raises:
        UserError: a number that is not finite, a negative tolerance, an unknown comparison, an interval that does not
            hold the measured number.
    """

    name: str
    predicted: float
    measured: float
    tolerance: float = 0.0
    compare: str = "relative"
    interval: Sequence[float] = ()

    def __post_init__(self):
        object.__setattr__(self, "interval", [float(end) for end in self.interval])
        for number in ("predicted", "measured", "tolerance"):
            object.__setattr__(self, number, float(getattr(self, number)))  # of tensors and arrays too
            if not math.isfinite(getattr(self, number)):
                raise UserError(f"{number} of the check {self.name!r} is {getattr(self, number)}")
        if self.tolerance < 0:
            raise UserError(f"tolerance of the check {self.name!r} must be at least 0, and it is {self.tolerance}")
        if self.compare not in COMPARISONS:
            raise UserError(f"compare is {self.compare!r}; it must be one of {', '.join(COMPARISONS)}")
        if self.interval and not (len(self.interval) == 2 and self.interval[0] <= self.measured <= self.interval[1]):
            raise UserError(f"{self.interval} is no interval around {self.measured} of the check {self.name!r}")

    @property
    def allowed(self) -> tuple[float, float]:
        """The least and the largest number with which the check holds."""
        reach = self.tolerance * (abs(self.predicted) if self.compare == "relative" else 1)
        least = -math.inf if self.compare == "at most" else self.predicted - reach
        return least, math.inf if self.compare == "at least" else self.predicted + reach

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the interval, which are one where there is none."""
        return (self.interval[0], self.interval[1]) if self.interval else (self.measured, self.measured)

    @property
    def holds(self) -> bool:
        (least, most), (low, high) = self.allowed, self.ends
        return least <= low and high <= most

    @property
    def undecided(self) -> bool:
        """Whether part of the interval is allowed, and part is not."""
        (least, most), (low, high) = self.allowed, self.ends
        return not self.holds and low <= most and least <= high

    def as_json(self) -> dict[str, Any]:
        """Return its fields, and whether it holds."""
        return asdict(self) | {"holds": self.holds}


@dataclass(frozen=True)
class Series:
    """Something to draw.

    Args:
        label: in the legend; empty for none.
        x: numbers, or names that are written along the axis.
        y: as many numbers.
        error: as many, drawn as y ± error; none if empty.
        style: ``"points"``, ``"line"``, ``"dashed"``, or ``"stacked"`` bars: positive ones on those of earlier series,
            negative ones below.
        color: number in the palette, unless the label names a method that has a color of its own; black if not
            given.

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
    """A picture ``name.png`` with its caption; UserError for a name of other characters than letters, digits, _, -."""

    name: str
    caption: str
    panels: Sequence[Panel]

    def __post_init__(self):
        if not re.fullmatch(r"[\w-]+", self.name):
            raise UserError(f"a figure can't be called {self.name!r}: use letters, digits, _ and -")


@dataclass(frozen=True)
class Claim:
    """One statement of a paper, and how it was checked.

    Args:
        title: the statement, in a few words.
        text: what it means and how it is measured, in Markdown: paragraphs and tables.
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
    """Return ``"checks"``, all of them with the title of their claim, and ``"claims"``, with all else."""
    checks = [check.as_json() | {"claim": claim.title} for claim in claims for check in claim.checks]
    return {"checks": checks, "claims": [asdict(claim) | {"checks": None} for claim in claims]}


def from_json(results: dict[str, Any]) -> list[Claim]:
    """Return the inverse of :func:`as_json`; UserError for results that are none of a recipe of theory."""
    try:
        return [_claim(stored, results["checks"]) for stored in results["claims"]]
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"these results hold no claims that can be read: {error!r}") from None


def checks_of(results: dict[str, Any]) -> list[Check]:
    """Return the checks of results, none if they have none; UserError for some that can't be read."""
    try:
        return [_check(stored) for stored in results.get("checks") or ()]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"these results hold no checks that can be read: {error!r}") from None


def _check(stored: dict[str, Any]) -> Check:
    return Check(**{field.name: stored[field.name] for field in fields(Check) if field.name in stored})


def _claim(stored: dict[str, Any], checks: list[dict[str, Any]]) -> Claim:
    own = [_check(check) for check in checks if check["claim"] == stored["title"]]
    return Claim(**stored | {"checks": own, "figures": [_figure(figure) for figure in stored["figures"]]})


def _figure(stored: dict[str, Any]) -> Figure:
    panels = [
        Panel(**panel | {"series": [_series(series) for series in panel["series"]]}) for panel in stored["panels"]
    ]
    return Figure(**stored | {"panels": panels})


def _series(stored: dict[str, Any]) -> Series:
    """Read a series, whose color was called "colour" once."""
    return Series(**{"color" if name == "colour" else name: value for name, value in stored.items()})
