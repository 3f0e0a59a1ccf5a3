"""How all pictures look, and which color a method has in all of them."""

import io
import math
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ..utils.files import write_bytes

STYLE = {
    "font.size": 9,
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.titlesize": "medium",
    "figure.titleweight": "bold",
    "figure.labelsize": "medium",
    "savefig.dpi": 140,
    "text.parse_math": False,  # an arm may have a $ in its name
}
# Paul Tol's "muted" colors (a stronger sand), which color-blind readers can distinguish
PALETTE = ["#CC6677", "#332288", "#DDAA33", "#117733", "#88CCEE", "#882255", "#44AA99", "#999933", "#AA4499"]
# a word in an arm's name -> its color; the first that fits counts
METHODS = {
    "cross-fitted": "#44AA99",
    "dirichlet": "#4477AA",
    "deterministic": "#000000",
    "one-hot": "#CC6677",
    "no teacher": "#CC6677",
    "label smoothing": "#DDAA33",
    "ensemble": "#117733",
    "laplace": "#332288",
    "variational": "#AA4499",
    "dropout": "#88CCEE",
    "langevin": "#882255",
    "swag": "#EE3377",
    "exact": "#999933",
    "average": "#0077BB",
    "mixture": "#EE7733",
}
SPARE = ["#661100", "#6699CC", "#BBCC33", "#FF99BB", "#8C6BB1"]  # of arms that name no known method
OTHERS = {"color": "#C4C4C4", "linewidth": 0.9, "zorder": 1}  # lines that only show where the rest lies
MOST_LINES = 6


def style() -> AbstractContextManager:
    """Return a context within which figures are made and written in the library's look."""
    return matplotlib.rc_context(STYLE)


def method_color(name: str) -> str | None:
    """Return the color of the method that an arm's name contains; None for none that is known."""
    return next((color for word, color in METHODS.items() if word in name.lower()), None)


def colors_of(arms: Sequence[str]) -> dict[str, str]:
    """Return arm -> color: its method's, or a stable one that no other method of these arms has, while there are some.

    Arms named "METHOD, VARIANT" share a color.
    """
    colors = {_method(arm): color for arm in arms if (color := method_color(arm))}
    for method in dict.fromkeys(map(_method, arms)):
        if method not in colors:
            start = zlib.crc32(method.encode()) % len(SPARE)
            choices = [*SPARE[start:], *SPARE[:start], *PALETTE]
            colors[method] = next((color for color in choices if color not in colors.values()), choices[0])
    return {arm: colors[_method(arm)] for arm in arms}


def highlighted(arms: Sequence[str], reference: str) -> list[str]:
    """Return at most six arms to show in color, in their order: of each method one, never chosen by its results.

    That is the method's plain arm, whose name begins those of all its variants, or else the last listed. Of more than
    six methods those of the reference and of one-hot labels stay, and the last listed, which a study is about.
    """
    variants: dict[str, list[str]] = {}
    for arm in arms:
        variants.setdefault(_method(arm), []).append(arm)
    chosen = []
    for method, each in variants.items():
        begins = (arm for arm in each if arm.lower() == method.lower() or all(other.startswith(arm) for other in each))
        plain = [reference] if reference in each else list(begins)
        chosen.append(plain[0] if plain else each[-1])
    baselines = [arm for arm in chosen if arm in (reference, "one-hot", "no teacher")]
    rest = [arm for arm in chosen if arm not in baselines]
    picked = {*baselines, *rest[-(MOST_LINES - len(baselines)) :]}
    return [arm for arm in arms if arm in picked]


def _method(arm: str) -> str:
    known = next((word for word in METHODS if word in arm.lower()), None)
    return known or arm.partition(",")[0]


def panels(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure `width` inches wide with `count` panels, at most `columns` a row, each row `height` high."""
    rows, columns = math.ceil(count / columns), min(columns, count)
    figure = Figure(figsize=(width, rows * height))
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def png(figure: Figure) -> bytes:
    """Return a figure as PNG of few colors, a third of the size of one with all."""
    drawn, content = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    with Image.open(drawn) as image:
        few = image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(content, "png", optimize=True)
    return content.getvalue()


def write_png(figure: Figure, path: Path) -> None:
    """Write :func:`png` of a figure in one step."""
    write_bytes(path, png(figure))
