"""The pictures of claims: predicted in black, measured in color."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import LogLocator, NullLocator

from ..plotting import PALETTE, panels, style, write_png
from .claim import Claim, Figure, Panel, Series


def write_figures(claims: Sequence[Claim], folder: Path) -> None:
    """Write ``NAME.png`` of every figure."""
    with style():
        for claim in claims:
            for figure in claim.figures:
                write_png(_draw(figure), folder / f"{figure.name}.png")


def _draw(figure: Figure) -> Drawing:
    count = len(figure.panels)
    drawing, axes = panels(count, 2, 9 if count > 1 else 6.5, 3.6)
    shown = {}
    for ax, panel in zip(axes, figure.panels, strict=True):
        _draw_panel(ax, panel)
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, handle)
    if len(shown) > 1:
        drawing.legend(
            list(shown.values()), list(shown), loc="outside lower center", ncols=4 if len(shown) == 4 else 3
        )
    return drawing


def _draw_panel(ax: Axes, panel: Panel) -> None:
    names = list(dict.fromkeys(x for series in panel.series for x in series.x if isinstance(x, str)))
    ax.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
    for name in panel.log:
        axis = {"x": ax.xaxis, "y": ax.yaxis}[name]
        ax.set(**{f"{name}scale": "log"})
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    base = np.zeros(len(names))
    for series in panel.series:
        places = [names.index(x) if isinstance(x, str) else x for x in series.x]
        base = _draw_series(ax, series, places, base, bool(names))
    if names:
        ax.set_xticks(
            range(len(names)),
            names,
            rotation=30 if max(map(len, names)) > 5 else 0,
            ha="right" if max(map(len, names)) > 5 else "center",
        )
        ax.set_xlim(-0.6, len(names) - 0.4)
        if "y" not in panel.log and min(y for series in panel.series for y in series.y) > 0:
            ax.set_ylim(0, 1.05 * ax.get_ylim()[1])


def _draw_series(ax: Axes, series: Series, places: list[float], base: np.ndarray, named: bool) -> np.ndarray:
    """Returns the height of the stack that further bars stand on."""
    color = "black" if series.color is None else PALETTE[series.color % len(PALETTE)]
    label = series.label or None
    if series.style == "stacked":
        heights = np.zeros_like(base)
        heights[places] = series.y
        ax.bar(range(len(base)), heights, 0.7, bottom=base, color=color, label=label)
        return base + heights
    if series.style == "points":
        marker = "_" if named and series.color is None else "o"
        size, error = (22, None) if marker == "_" else (5, series.error or None)
        ax.errorbar(
            places, series.y, error, fmt=marker, markersize=size, capsize=3, color=color, label=label, zorder=3
        )
    else:
        line = {"line": "-", "dashed": "--"}[series.style]
        ax.plot(places, series.y, line, color=color, label=label)
        if series.error:
            low, high = np.subtract(series.y, series.error), np.add(series.y, series.error)
            ax.fill_between(places, low, high, color=color, alpha=0.2, linewidth=0)
    return base
