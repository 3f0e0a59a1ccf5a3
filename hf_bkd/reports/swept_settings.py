"""Arms of a study that differ in one setting alone, and the picture of how good they are against it."""

from textwrap import fill

import numpy as np
from matplotlib.figure import Figure

from ..utils.markdown import capitalized
from .plotting import panels
from .results import SETTINGS, Arms, axis_label, headline_of, over_seeds

SWEPT = {
    "kd_lambda": "λ, the weight of the teacher",
    "teacher_temperature": "teacher temperature",
    "num_samples": "draws S from the teacher",
}


def sweeps_of(arms: Arms, field: str) -> dict[tuple[str, ...], dict[float, str]]:
    """Return lines of a sweep, each value -> arm: arms with a teacher that agree in every setting but `field`.

    An arm whose settings differ between its seeds (chosen on validation, say) is no point of a sweep.
    """
    lines: dict[tuple[str, ...], dict[float, str]] = {}
    for arm, runs in arms.items():
        points = set()
        for record in runs.values():
            fixed = {symbol: record.get(name) for name, symbol in SETTINGS.items() if name != field}
            shown = [f"{s} = {v if isinstance(v, str) else f'{v:g}'}" for s, v in fixed.items() if v]
            points.add(((record.get("teacher", "none"), *shown), record.get(field)))
        ((line, value), *more) = points
        if not more and line[0] != "none" and value is not None:
            lines.setdefault(line, {})[value] = arm
    return {line: dict(sorted(points.items())) for line, points in lines.items() if len(points) > 1}


def sweep(groups: dict[str, Arms], sweeps: dict[str, dict], field: str, colors: dict[str, str]) -> tuple[str, Figure]:
    """Draw the lines of a sweep, a panel for each condition; return caption and figure."""
    figure, axes = panels(len(sweeps), 2, 9 if len(sweeps) > 1 else 6, 3.2)
    shared = set.intersection(*(set(line) for lines in sweeps.values() for line in lines))
    shown, handles = {}, {}
    for ax, (condition, lines) in zip(axes, sweeps.items(), strict=True):
        first = headline_of(groups[condition])
        ax.set(title=condition, xlabel=SWEPT[field], ylabel=axis_label(first))
        if field != "kd_lambda":
            ax.set_xscale("log")
        for number, (line, points) in enumerate(lines.items()):
            spreads = [over_seeds(groups[condition][arm], first.metric) for arm in points.values()]
            means, stds, _ = first.scale * np.transpose(spreads)
            name = ", ".join([line[0], *(part for part in line[1:] if part not in shared)])
            color = colors[next(iter(points.values()))]
            beside = np.array(list(points)) + (0.006 * number if field == "kd_lambda" else 0)  # bars side by side
            handles[name] = ax.errorbar(beside, means, stds, fmt="o-", capsize=3, color=color)
            shown |= dict.fromkeys(points.values())
        values = sorted(set().union(*lines.values()))
        ax.set_xticks(values, [f"{value:g}" for value in values])
        ax.minorticks_off()
    figure.legend(list(handles.values()), [fill(line, 70) for line in handles], loc="outside lower center", ncols=2)
    heading = f"{capitalized(first.name)} (mean ± standard deviation over seeds)"
    return f"{heading} against {SWEPT[field]}. Arms: {'; '.join(shown)}.", figure
