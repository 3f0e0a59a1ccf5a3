"""The pictures of claims: predicted in black, measured in color."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import LogLocator, NullLocator

from ..plotting import PALETTE, method_color, panels, style, write_png
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
        columns = 4 if len(shown) == 4 else 3
        drawing.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=columns)
    return drawing


def _draw_panel(ax: Axes, panel: Panel) -> None:
    names = list(dict.fromkeys(x for series in panel.series for x in series.x if isinstance(x, str)))
    smoothed = any(map(_jumps, panel.series))
    title = f"{panel.title} (bold: running mean)".strip() if smoothed else panel.title
    ax.set(title=title, xlabel=panel.xlabel, ylabel=panel.ylabel)
    for name in panel.log:
        axis = {"x": ax.xaxis, "y": ax.yaxis}[name]
        ax.set(**{f"{name}scale": "log"})
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    joined = sum(series.style == "points" and series.color is not None for series in panel.series) > 1
    stacks = np.zeros((2, len(names)))  # how far they reach up and down
    for series in panel.series:
        places = [names.index(x) if isinstance(x, str) else x for x in series.x]
        if series.style == "stacked":
            _draw_bars(ax, series, places, stacks)
        elif series.style == "points":
            _draw_points(ax, series, places, bool(names), joined)
        else:
            _draw_line(ax, series, places, smoothed)
    if names:
        slanted = max(map(len, names)) > 5
        ax.set_xticks(range(len(names)), names, rotation=30 if slanted else 0, ha="right" if slanted else "center")
        ax.set_xlim(-0.6, len(names) - 0.4)
        if "y" not in panel.log and min(y for series in panel.series for y in series.y) > 0:
            ax.set_ylim(0, 1.05 * ax.get_ylim()[1])


def _color(series: Series) -> str:
    if series.color is None:
        return "black"
    return method_color(series.label) or PALETTE[series.color % len(PALETTE)]


def _draw_bars(ax: Axes, series: Series, places: list[int], stacks: np.ndarray) -> None:
    heights = np.zeros(stacks.shape[1])
    heights[places] = series.y
    ax.bar(
        range(len(heights)),
        heights,
        0.7,
        np.where(heights < 0, *stacks[::-1]),
        color=_color(series),
        label=series.label,
    )
    if (heights < 0).any():
        ax.axhline(0, color="black", linewidth=1)
    stacks += [heights.clip(min=0), heights.clip(max=0)]


def _draw_points(ax: Axes, series: Series, places: list[float], named: bool, joined: bool) -> None:
    dash = named and series.color is None  # a prediction for a name
    marker, size, error = ("_", 22, None) if dash else ("o", 5, series.error or None)
    line = {"linestyle": "-", "linewidth": 0.8} if named and joined and not dash else {"linestyle": "none"}
    look = {"marker": marker, "markersize": size, "capsize": 3, "color": _color(series), "zorder": 3}
    ax.errorbar(places, series.y, error, label=series.label or None, **look, **line)


def _draw_line(ax: Axes, series: Series, places: list[float], smoothed: bool) -> None:
    color, style = _color(series), {"line": "-", "dashed": "--"}[series.style]
    smoothed = smoothed and series.style == "line"
    if smoothed:
        ax.plot(places, series.y, color=color, linewidth=0.7, alpha=0.25)
    shown = _running_mean(series.y) if smoothed else series.y
    ax.plot(places, shown, style, color=color, label=series.label or None)
    if series.error:
        low, high = np.subtract(series.y, series.error), np.add(series.y, series.error)
        ax.fill_between(places, low, high, color=color, alpha=0.2, linewidth=0)


def _running_mean(values: list[float]) -> list[float]:
    """Return means over a twelfth of the values around each, over fewer at the ends."""
    last, most = len(values) - 1, len(values) // 24
    reach = [min(i, last - i, most) for i in range(len(values))]
    return [float(np.mean(values[i - each : i + each + 1])) for i, each in enumerate(reach)]


def _jumps(series: Series) -> bool:
    """Whether a line's steps are a tenth of its whole range, so that several such lines would hide each other."""
    return series.style == "line" and len(series.y) > 60 and np.std(np.diff(series.y)) > 0.1 * np.ptp(series.y)
