"""Arms of a study that differ in one setting alone, and the picture of how good they are against it."""

from itertools import cycle
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure

from ..utils.markdown import capitalized
from .comparisons import paired_difference
from .plotting import panels
from .results import SETTINGS, Arms, Measure, axis_label, headline_of, interval_text, over_seeds, per_seed

DASHES = (":", "--", "-.")  # of lambdas that are set by example
MARGIN = 0.005  # of a lambda that is set by example to the best fixed one, as a share of all examples
UNNAMED = ("none", "stored")  # of which a record doesn't say which teacher it is, if any
LABELS_ALONE = "one-hot"  # the arm that is any teacher's lambda = 0
SWEPT = {
    "kd_lambda": "λ, the weight of the teacher",
    "teacher_temperature": "teacher temperature",
    "num_samples": "draws S from the teacher",
}


def sweeps_of(arms: Arms, field: str) -> dict[tuple[str, ...], dict[float, str]]:
    """Return lines of a sweep, each value -> arm: arms with a teacher that agree in every setting but `field`.

    An arm whose settings differ between its seeds (chosen on validation, say) is no point of a sweep. Nor are arms of
    stored labels, of which no setting says whose they are, and those of a line with two arms at one value, which
    differ in something else.
    """
    lines: dict[tuple[str, ...], list[tuple[float, str]]] = {}
    for arm, runs in arms.items():
        ((line, value), *more) = {(_line(record, field), record.get(field)) for record in runs.values()}
        if not more and line[0] not in UNNAMED and value is not None:
            lines.setdefault(line, []).append((value, arm))
    sweeps = {line: dict(sorted(points)) for line, points in lines.items()}
    return {line: points for line, points in sweeps.items() if 1 < len(points) == len(lines[line])}


def _line(record: dict, *swept: str) -> tuple[str, ...]:
    """Return a record's teacher and all settings but those that are swept, as a legend has them."""
    fixed = {symbol: record.get(name) for name, symbol in SETTINGS.items() if name not in swept}
    shown = [f"{s} = {v if isinstance(v, str) else f'{v:g}'}" for s, v in fixed.items() if v]
    teacher = record.get("teacher", "none")
    return f"{teacher}, cross-fitted" if record.get("folds") and teacher != "none" else teacher, *shown


def by_example(arms: Arms) -> dict[str, list[str]]:
    """Return the arms whose lambda is set by example, each with the arms of a fixed one that differ in nothing else.

    Those are two or more, the labels alone (lambda = 0) included.
    """
    first = {arm: next(iter(runs.values())) for arm, runs in arms.items()}
    lines = {arm: _line(record, "kd_lambda", "lambda_schedule") for arm, record in first.items()}
    fixed = [arm for arm, record in first.items() if not record.get("lambda_schedule")]
    beside = {
        arm: [other for other in fixed if lines[other] == lines[arm] or other == LABELS_ALONE]
        for arm, record in first.items()
        if record.get("lambda_schedule")
    }
    return {arm: others for arm, others in beside.items() if len(others) > 1}


def by_example_cells(arms: Arms, measure: Measure) -> list[list[str]]:
    """Compare each lambda that is set by example with the best fixed one, which is chosen by the same numbers."""
    values = {arm: per_seed(runs, measure.metric, measure.source) for arm, runs in arms.items()}
    cells = [["λ by example", "best fixed λ", f"difference ({measure.unit}, [95 % CI])", "within 0.5 points of it"]]
    for arm, others in by_example(arms).items():
        best = max(others, key=lambda other: over_seeds(arms[other], measure.metric, measure.source).mean)
        difference = paired_difference(values[arm], values[best])
        within = "yes" if difference.mean >= -MARGIN else "no"
        cells.append([arm, best, interval_text(difference, measure.scale, measure.digits), within])
    return cells if len(cells) > 1 else []


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
        dashes = cycle(DASHES)
        for number, (line, points) in enumerate(lines.items()):
            spreads = [over_seeds(groups[condition][arm], first.metric) for arm in points.values()]
            means, stds, _ = first.scale * np.transpose(spreads)
            name = ", ".join([line[0], *(part for part in line[1:] if part not in shared)])
            color = colors[next(iter(points.values()))]
            beside = np.array(list(points)) + (0.006 * number if field == "kd_lambda" else 0)  # bars side by side
            handles[name] = ax.errorbar(beside, means, stds, fmt="o-", capsize=3, color=color)
            shown |= dict.fromkeys(points.values())
        for arm in by_example(groups[condition]) if field == "kd_lambda" else ():
            level = first.scale * over_seeds(groups[condition][arm], first.metric).mean
            handles[arm] = ax.axhline(level, linestyle=next(dashes), color=colors[arm])
        values = sorted(set().union(*lines.values()))
        ax.set_xticks(values, [f"{value:g}" for value in values])
        ax.minorticks_off()
    figure.legend(list(handles.values()), [fill(line, 70) for line in handles], loc="outside lower center", ncols=2)
    heading = f"{capitalized(first.name)} (mean ± standard deviation over seeds)"
    set_by_example = dict.fromkeys(arm for arms in groups.values() for arm in by_example(arms))
    levels = f" Level lines: {'; '.join(set_by_example)}." if field == "kd_lambda" and set_by_example else ""
    return f"{heading} against {SWEPT[field]}. Arms: {'; '.join(shown)}.{levels}", figure
