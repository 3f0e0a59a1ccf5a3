"""How all pictures look."""

import io
import math
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..utils.files import write_bytes

STYLE = {
    "font.size": 9,
    "axes.titlesize": "medium",
    "axes.titleweight": "bold",
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
    "savefig.dpi": 200,
    "text.parse_math": False,  # an arm may have a $ in its name
}
# Paul Tol's "muted" colors (a stronger sand), told apart by color-blind readers.
PALETTE = ["#CC6677", "#332288", "#DDAA33", "#117733", "#88CCEE", "#882255", "#44AA99", "#999933", "#AA4499"]


def style() -> AbstractContextManager:
    """Within it, figures are made and written in the library's look."""
    return matplotlib.rc_context(STYLE)


def panels(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure `width` inches wide with `count` panels, at most `columns` a row, each row `height` inches high."""
    rows, columns = math.ceil(count / columns), min(columns, count)
    figure = Figure(figsize=(width, rows * height))
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def write_png(figure: Figure, path: Path) -> None:
    write_bytes(path, png(figure))
