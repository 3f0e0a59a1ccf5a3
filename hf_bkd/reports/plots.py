"""The pictures of a run: comparison of arms, accuracy over epochs, reliability, and sweeps of a setting.

Every arm has one color and line in all of them; the reference is black.
"""

from collections.abc import Iterator
from pathlib import Path
from statistics import median_low
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .plotting import PALETTE, panels, style, write_png
from .results import (
    REFERENCE,
    SETTINGS,
    Arms,
    Measure,
    Runs,
    by_condition,
    compares_teachers,
    difference_text,
    measure_of,
    over_seeds,
    per_seed,
    reference_of,
    summary_table,
    teacher_table,
)
from .uncertainty_page import credible_sets, has_posteriors

SWEPT = {
    "kd_lambda": "λ, the weight of the teacher",
    "teacher_temperature": "teacher temperature",
    "num_samples": "draws S from the teacher",
}

Styles = dict[str, tuple[str, str]]  # arm -> color, line


def write_plots(results: dict, folder: Path) -> dict[str, str]:
    """Write the PNG files that these results have the numbers for; file name -> caption."""
    captions = {}
    with style():
        for name, caption, figure in _figures(results):
            write_png(figure, folder / name)
            captions[name] = caption
    return captions


def write_accuracy_plot(name: str, epochs: list[float], accuracies: list[float], window: int, folder: Path) -> dict:
    """Write ``accuracy.png`` of one training; file name -> caption.

    Args:
        name: of the student.
        epochs, accuracies: of its evaluations.
        window: how many of the last ones the convergence noise is taken over; 0 for none.
    """
    noise = float(np.std(accuracies[-window:], ddof=1)) if window > 1 else None
    history = {"epoch": epochs, "accuracy": accuracies}
    record = {"history": history, "noise_window": window, "metrics": {"convergence_noise": noise}}
    with style():
        _, figure = _accuracy({"": {name: {0: record}}}, _styles([name]))
        figure.axes[0].set_ylabel("accuracy on the evaluation set, %")
        write_png(figure, folder / "accuracy.png")
    bar = f" The bar is the mean of the last {window} ± their standard deviation." if noise is not None else ""
    return {"accuracy.png": f"Accuracy over epochs.{bar}"}


def _figures(results: dict) -> Iterator[tuple[str, str, Figure]]:
    groups, records = by_condition(results), results["arms"]
    styles = _styles([record["arm"] for record in records], reference_of(results))
    if compares_teachers(results):
        yield "teachers.png", *_teachers(results, styles)
    elif records:
        yield "comparison.png", *_comparison(results, styles)
    if records and all(record.get("history") for record in records):
        yield "accuracy.png", *_accuracy(groups, styles)
    if records and all(record.get("reliability") for record in records):
        for i, (condition, arms) in enumerate(groups.items(), start=1):
            yield f"reliability{f'_{i}' if i > 1 else ''}.png", *_reliability(condition, arms, styles)
    if has_posteriors(results):
        yield "credible_sets.png", *credible_sets(groups, styles)
    for field in () if compares_teachers(results) else SWEPT:
        if any(_sweeps(arms, field) for arms in groups.values()):
            yield f"sweep_{field}.png", *_sweep(groups, field, styles)


def _styles(arms: list[str], reference: str = REFERENCE) -> Styles:
    others = [arm for arm in dict.fromkeys(arms) if arm != reference]
    styles = {arm: (PALETTE[i % len(PALETTE)], ("-", "--", ":", "-.")[i % 4]) for i, arm in enumerate(others)}
    return {reference: ("black", "-")} | styles


def _comparison(results: dict, styles: Styles) -> tuple[str, Figure]:
    groups, measure, reference = by_condition(results), measure_of(results), reference_of(results)
    figure, axes = panels(2 * len(groups), 2, 9, 1.0 + 0.3 * max(map(len, groups.values())))
    for left, right, condition in zip(axes[::2], axes[1::2], groups, strict=True):
        rows = summary_table(results, condition)
        left.set(title=condition, xlabel=_axis(measure))
        left.margins(x=0.08)
        left.set_yticks(range(len(rows)), [fill(row["arm"], 36) for row in rows])
        for y, row in enumerate(rows):
            color = styles[row["arm"]][0]
            seeds = [measure.scale * v for v in per_seed(groups[condition][row["arm"]], measure.metric).values()]
            left.scatter(seeds, [y + 0.24] * len(seeds), s=16, color=color, alpha=0.5, linewidths=0)
            left.plot(measure.scale * row[measure.metric].mean, y, "D", color=color)
        if any(row["difference"] for row in rows):
            _draw_differences(right, rows, styles)
            right.set_xlabel(f"difference to {reference}, {measure.unit}")
        else:
            right.set_axis_off()
        for ax in (left, right):
            ax.set_ylim(len(rows) - 0.5, -0.5)
    caption = (
        f"{measure.name[0].upper()}{measure.name[1:]} at the final epoch: diamonds are means, the faint dots below "
        f"them single seeds. Beside it the paired difference to the student of the arm {reference}, with its 95 % "
        "interval; what lies beyond the axis is an arrowhead at its edge."
    )
    return caption, figure


def _teachers(results: dict, styles: Styles) -> tuple[str, Figure]:
    metrics = {"nll": "NLL", "ece": "ECE", "ood_auroc": "AUROC, out-of-distribution images"}
    groups = by_condition(results)
    figure, axes = panels(len(metrics) * len(groups), len(metrics), 10, 0.9 + 0.27 * max(map(len, groups.values())))
    for number, condition in enumerate(groups):
        rows = teacher_table(results, condition)
        for ax, (metric, heading) in zip(axes[number * len(metrics) :], metrics.items(), strict=False):
            for y, row in enumerate(rows):
                color = styles[row["arm"]][0]
                for key, face, height in ((metric, color, y - 0.14), (f"scaled_{metric}", "white", y + 0.14)):
                    mean, std, count = row[key]
                    if count:
                        ax.errorbar(mean, height, xerr=std, fmt="D", color=color, markerfacecolor=face, markersize=5)
            ax.set(xlabel=heading, ylim=(len(rows) - 0.5, -0.5))
            ax.set_yticks(range(len(rows)), [fill(row["arm"], 36) for row in rows] if metric == "nll" else [])
        axes[number * len(metrics)].set_title(condition)
    caption = (
        "Teachers on the test split, mean and standard deviation over seeds: filled as they are, hollow after "
        "temperature scaling on the validation split. NLL and ECE are better on the left, AUROC on the right."
    )
    return caption, figure


def _axis(measure: Measure) -> str:
    return f"{measure.name}, {'%' if measure.unit == 'points' else measure.unit}"


def _draw_differences(ax: Axes, rows: list[dict], styles: Styles) -> None:
    scale = rows[0]["measure"].scale
    limit = _reach(rows)
    ax.set_xlim(-1.05 * limit, 1.05 * limit)
    ax.axvline(0, color="black", linewidth=1, zorder=1)
    ax.yaxis.tick_right()
    ax.set_yticks(range(len(rows)), [difference_text(row) for row in rows])
    for y, row in enumerate(rows):
        if row["difference"]:
            mean, low, high = (scale * value for value in row["difference"][:3])
            style = {"color": styles[row["arm"]][0], "clip_on": False}
            ax.plot(np.clip([low, high], -limit, limit), [y, y], linewidth=2, **style)
            for value, marker in ((low, "|"), (high, "|"), (mean, "D")):
                marker = marker if abs(value) <= limit else "<" if value < 0 else ">"
                ax.plot(np.clip(value, -limit, limit), y, marker, markersize=6 if marker == "D" else 8, **style)


def _reach(rows: list[dict]) -> float:
    """How far from zero the axis goes: to the end of all intervals, or to five times the middle one's.

    Three seeds make t = 4.3, so a single unsteady arm would squeeze all others into a line.
    """
    scale = rows[0]["measure"].scale
    ends = [scale * max(np.nan_to_num(np.abs(row["difference"][:3]))) for row in rows if row["difference"]]
    ends = [end for end in ends if end > 0]
    return min(max(ends), 5 * median_low(ends)) if ends else 1.0


def _accuracy(groups: dict[str, Arms], styles: Styles) -> tuple[str, Figure]:
    figure, axes = panels(len(groups), 2, 9, 4)
    lines = {}
    for ax, (condition, arms) in zip(axes, groups.items(), strict=True):
        settled = []
        for i, (arm, runs) in enumerate(arms.items()):
            records, (color, line) = list(runs.values()), styles[arm]
            epochs, window = records[0]["history"]["epoch"], records[0]["noise_window"]
            means = 100 * np.mean([record["history"]["accuracy"] for record in records], axis=0)
            settled.extend(means[len(means) // 3 :])
            (lines[arm],) = ax.plot(epochs, means, line, color=color, label=fill(arm, 36))
            noise = over_seeds(runs, "convergence_noise")
            if noise.count:  # beside the curves: bands over the curves themselves would hide each other
                place, level = epochs[-1] * (1.04 + 0.022 * i), means[-window:].mean()
                ax.errorbar(place, level, 100 * noise.mean, fmt="none", ecolor=color, elinewidth=5)
                ax.axvspan(epochs[-window], epochs[-1], color="#F2F2F2", zorder=0)
        room = max(0.15 * np.ptp(settled), 0.5)
        ax.set_ylim(min(settled) - room, min(100.5, max(settled) + room))
        ax.set_xticks([tick for tick in ax.get_xticks() if 0 <= tick <= epochs[-1]])
        ax.set(title=condition, xlabel="epoch", ylabel="test accuracy, %")
    figure.legend(handles=list(lines.values()), loc="outside lower center", ncols=3)
    caption = (
        "Test accuracy over epochs, mean over seeds. Bars on the right: mean over the last evaluations "
        "(shaded) ± the convergence noise of a single run (mean over seeds). Early epochs may be cut off."
    )
    return caption, figure


def _reliability(condition: str, arms: Arms, styles: Styles) -> tuple[str, Figure]:
    figure, axes = panels(len(arms), 4, max(3.0, 2.25 * min(4, len(arms))), 2.5)
    figure.suptitle(condition, x=0.01, ha="left")
    for ax, (arm, runs) in zip(axes, arms.items(), strict=True):
        count, confidence, accuracy = _pooled_bins(runs)
        places = (np.arange(len(count)) + 0.5) / len(count)
        for place, height, share in zip(places, accuracy, count / count.max(), strict=True):
            ax.bar(place, height, 0.92 / len(count), color=styles[arm][0], alpha=0.1 + 0.7 * share)
        ax.plot([0, 1], [0, 1], color="#666666", linewidth=1)
        ax.plot(confidence, accuracy, "o", color="black", markeredgecolor="white", markersize=5)
        ece = over_seeds(runs, "ece").mean
        ax.set_title(f"{fill(arm, 28)}\nECE {ece:.3f}", fontweight="normal")
        ax.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    figure.supxlabel("confidence")
    figure.supylabel("accuracy")
    caption = (
        f"Reliability{f', {condition}' if condition else ''}: accuracy in each bin of confidence, pooled over "
        "seeds. The darker a bar, the more examples it holds; dots stand at the bin's mean confidence; above "
        "the diagonal a classifier is under-confident. ECE is the mean of the seeds' values."
    )
    return caption, figure


def _pooled_bins(runs: Runs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number of examples, mean confidence and accuracy of each bin over all seeds; NaN in empty bins."""
    fields = ("count", "confidence", "accuracy")
    counts, *means = np.array([[r["reliability"][field] for r in runs.values()] for field in fields], dtype=float)
    count = counts.sum(axis=0)
    return count, *((np.nan_to_num(means) * counts).sum(axis=1) / np.where(count, count, np.nan))


def _sweeps(arms: Arms, field: str) -> dict[str, dict[float, str]]:
    """Lines of a sweep, each value -> arm: arms with a teacher that agree in every setting but `field`.

    An arm whose settings differ between its seeds (chosen on validation, say) is no point of a sweep.
    """
    lines: dict[str, dict[float, str]] = {}
    for arm, runs in arms.items():
        points = set()
        for record in runs.values():
            fixed = {symbol: record.get(name) for name, symbol in SETTINGS.items() if name != field}
            shown = [f"{s} = {v if isinstance(v, str) else f'{v:g}'}" for s, v in fixed.items() if v]
            points.add((", ".join([record["teacher"], *shown]), record[field]))
        if len(points) == 1 and record["teacher"] != "none":
            ((line, value),) = points
            lines.setdefault(line, {})[value] = arm
    return {line: dict(sorted(points.items())) for line, points in lines.items() if len(points) > 1}


def _sweep(groups: dict[str, Arms], field: str, styles: Styles) -> tuple[str, Figure]:
    sweeps = {condition: lines for condition, arms in groups.items() if (lines := _sweeps(arms, field))}
    figure, axes = panels(len(sweeps), 2, 9 if len(sweeps) > 1 else 6, 3.4)
    shown, handles = {}, {}
    for ax, (condition, lines) in zip(axes, sweeps.items(), strict=True):
        ax.set(title=condition, xlabel=SWEPT[field], ylabel="accuracy, %")
        if field != "kd_lambda":
            ax.set_xscale("log")
        for line, points in lines.items():
            spreads = [over_seeds(groups[condition][arm], "accuracy") for arm in points.values()]
            means, stds, _ = 100 * np.transpose(spreads)
            color = styles[next(iter(points.values()))][0]
            handles[line] = ax.errorbar(list(points), means, stds, fmt="o-", capsize=3, color=color)
            shown |= dict.fromkeys(points.values())
        values = sorted(set().union(*lines.values()))
        ax.set_xticks(values, [f"{value:g}" for value in values])
        ax.minorticks_off()
    figure.legend(list(handles.values()), [fill(line, 70) for line in handles], loc="outside lower center")
    return f"Accuracy (mean ± standard deviation over seeds) against {SWEPT[field]}. Arms: {'; '.join(shown)}.", figure
