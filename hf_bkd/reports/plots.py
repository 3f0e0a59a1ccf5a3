"""The pictures of a study: comparison of arms, accuracy over epochs, reliability, and sweeps of a setting.

A method has one color in all of them. At most six arms stand out where curves cross; the others are gray.
"""

from collections.abc import Iterator
from pathlib import Path
from statistics import median_low
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..utils.markdown import capitalized
from .ood_plot import ood_auroc, ood_scores
from .plotting import OTHERS, colors_of, highlighted, panels, style, write_png
from .results import (
    Arms,
    Runs,
    axis_label,
    by_condition,
    difference_text,
    has_noisy_labels,
    headline_of,
    kind_of,
    measure_of,
    over_seeds,
    per_seed,
    reference_of,
    summary_table,
    teacher_table,
    title_of,
)
from .swept_settings import SWEPT, sweep, sweeps_of
from .uncertainty_page import credible_sets, has_posteriors

TITLES = {
    "comparison": "students after the last epoch",
    "teachers": "teachers on the test split",
    "accuracy": "accuracy over epochs",
    "reliability": "is a confidence of 80 % right 80 % of the time?",
    "credible_sets": "credible sets of students' posteriors",
    "ood_auroc": "do students know what they have not learned?",
}
OBSERVED = {
    "accuracy": (
        "accuracy",
        "accuracy against mean confidence in ten bins; above the diagonal a classifier is under-confident, below it "
        "over-confident",
    ),
    "mean_average_precision": (
        "share that is there",
        "the share of labels that are there against their mean probability in ten bins, all labels together",
    ),
    "rmse": (
        "coverage",
        "the share of numbers that are in the interval which should hold the share on the axis below; above the "
        "diagonal intervals are too wide, below it too narrow",
    ),
}
"""What a reliability diagram shows of one class, of several labels and of numbers: on its axis, and in words."""
LARGEST_DOT = 90  # in square points, of the bin that holds most

Colors = dict[str, str]  # arm -> color


def write_plots(results: dict, folder: Path) -> dict[str, str]:
    """Write the PNG files that these results have the numbers for; return file name -> caption."""
    captions = {}
    with style():
        for name, (caption, figure) in _figures(results):
            figure.suptitle(f"{title_of(results)}: {TITLES.get(name, 'accuracy by setting')}", x=0.01, ha="left")
            write_png(figure, folder / f"{name}.png")
            captions[f"{name}.png"] = caption
    return captions


def write_accuracy_plot(
    name: str, epochs: list[float], accuracies: list[float], window: int, folder: Path, metric: str = "accuracy"
) -> dict:
    """Write ``accuracy.png`` of one training; return file name -> caption.

    Args:
        name: of the student.
        epochs, accuracies: of its evaluations.
        window: how many of the last ones the convergence noise is taken over; 0 for none.
    """
    noise = float(np.std(accuracies[-window:], ddof=1)) if window > 1 else None
    metrics = {metric: accuracies[-1], "convergence_noise": noise}
    record = {"history": {"epoch": epochs, metric: accuracies}, "noise_window": window, "metrics": metrics}
    arms = {name: {0: record}}
    with style():
        _, figure = _accuracy({"": arms}, name, colors_of([name]))
        figure.axes[0].set_ylabel(axis_label(headline_of(arms)).replace(",", " on the evaluation set,"))
        write_png(figure, folder / "accuracy.png")
    bar = f" The bar is the mean of the last {window} ± their standard deviation." if noise is not None else ""
    return {"accuracy.png": f"{capitalized(headline_of(arms).name)} over epochs.{bar}"}


def _figures(results: dict) -> Iterator[tuple[str, tuple[str, Figure]]]:
    groups, records, reference = by_condition(results), results["arms"], reference_of(results)
    if not records:
        return
    colors = colors_of([record["arm"] for record in records])
    if kind_of(results) == "teachers":
        yield "teachers", _teachers(results, colors)
    else:
        yield "comparison", _comparison(results, colors)
    if all(record.get("history") for record in records):
        yield "accuracy", _accuracy(groups, reference, colors)
    if all(record.get("reliability") for record in records):
        yield "reliability", _reliability(groups, reference, colors)
    if has_posteriors(results):
        yield "credible_sets", credible_sets(results, colors)
    if scores := ood_scores(results):
        yield "ood_auroc", ood_auroc(scores, colors)
    for field in () if kind_of(results) == "teachers" else SWEPT:
        if sweeps := {name: lines for name, arms in groups.items() if (lines := sweeps_of(arms, field))}:
            yield f"sweep_{field}", sweep(groups, sweeps, field, colors)


def _comparison(results: dict, colors: Colors) -> tuple[str, Figure]:
    groups, measure, reference = by_condition(results), measure_of(results), reference_of(results)
    figure, axes = panels(2 * len(groups), 2, 9, 1.1 + 0.24 * max(map(len, groups.values())))
    for left, right, condition in zip(axes[::2], axes[1::2], groups, strict=True):
        rows = summary_table(results, condition)
        left.set(title=condition, xlabel=axis_label(measure))
        left.margins(x=0.08)
        left.set_yticks(range(len(rows)), [fill(row["arm"], 36) for row in rows])
        for y, row in enumerate(rows):
            color = colors[row["arm"]]
            seeds = [measure.scale * v for v in per_seed(groups[condition][row["arm"]], measure.metric).values()]
            left.scatter(seeds, [y] * len(seeds), s=16, color=color, alpha=0.4, linewidths=0)
            left.plot(measure.scale * row[measure.metric].mean, y, "D", color=color, markersize=5)
        if any(row["difference"] for row in rows):
            _draw_differences(right, rows, colors)
            right.set_xlabel(f"difference to {reference}, {measure.unit}")
        else:
            right.set_axis_off()
        for ax in (left, right):
            ax.set_ylim(len(rows) - 0.5, -0.5)
    caption = (
        f"{capitalized(measure.name)} at the final epoch: diamonds are means, the faint dots single "
        f"seeds. Beside it the paired difference to the student of the arm {reference}, with its interval (95 %, "
        "Holm), faint where it covers zero; what lies beyond the axis is an arrowhead at its edge."
    )
    return caption, figure


def _teachers(results: dict, colors: Colors) -> tuple[str, Figure]:
    metrics = {"nll": "NLL", "ece": "ECE", "ood_auroc": "AUROC, out-of-distribution images"}
    known = {name for record in results["arms"] for name in record.get("metrics") or ()}
    metrics = {name: heading for name, heading in metrics.items() if name in known}
    groups = by_condition(results)
    figure, axes = panels(len(metrics) * len(groups), len(metrics), 10, 0.9 + 0.25 * max(map(len, groups.values())))
    for number, (condition, arms) in enumerate(groups.items()):
        rows = teacher_table(results, condition)
        for ax, (metric, heading) in zip(axes[number * len(metrics) :], metrics.items(), strict=False):
            if metric == "ece" and has_noisy_labels(condition, arms):
                ax.set_axis_off()
                ax.text(0.5, 0.5, "ECE omitted:\nlabels are noisy", ha="center", color="#666666")
                continue
            ax.set_yticks(range(len(rows)), [fill(row["arm"], 44) for row in rows] if metric == "nll" else [])
            ax.set(xlabel=heading, ylim=(len(rows) - 0.5, -0.5))
            for y, row in enumerate(rows):
                color = colors[row["arm"]]
                for key, face, height in ((metric, color, y - 0.14), (f"scaled_{metric}", "white", y + 0.14)):
                    mean, std, count = row[key]
                    if count:
                        ax.errorbar(mean, height, xerr=std, fmt="D", color=color, markerfacecolor=face, markersize=4)
        axes[number * len(metrics)].set_title(condition)
    caption = (
        "Teachers on the test split, mean and standard deviation over seeds: filled as they are, hollow after "
        "temperature scaling on the validation split. NLL and ECE are better on the left"
        f"{', AUROC on the right' if 'ood_auroc' in metrics else ''}."
    )
    return caption, figure


def _draw_differences(ax: Axes, rows: list[dict], colors: Colors) -> None:
    scale, limit = rows[0]["measure"].scale, _reach(rows)
    ends = [scale * end for row in rows if row["difference"] for end in row["difference"][:3]]
    sides = [1.05 if any(sign * end > 0 for end in ends) else 0.15 for sign in (-1, 1)]
    ax.set_xlim(-sides[0] * limit, sides[1] * limit)
    ax.axvline(0, color="black", linewidth=1, zorder=1)
    ax.yaxis.tick_right()
    ax.set_yticks(range(len(rows)), [difference_text(row) for row in rows])
    for y, row in enumerate(rows):
        if row["difference"]:
            mean, low, high = (scale * value for value in row["difference"][:3])
            look = {"color": colors[row["arm"]], "clip_on": False, "alpha": 0.4 if low <= 0 <= high else 1.0}
            ax.plot(np.clip([low, high], -limit, limit), [y, y], linewidth=2, **look)
            for value, marker in ((low, "|"), (high, "|"), (mean, "D")):
                marker = marker if abs(value) <= limit else "<" if value < 0 else ">"
                ax.plot(np.clip(value, -limit, limit), y, marker, markersize=5 if marker == "D" else 7, **look)


def _reach(rows: list[dict]) -> float:
    """Return how far from zero the axis goes: to the end of all intervals, or to five times the middle one's.

    Three seeds make t = 4.3, so a single unsteady arm would squeeze all others into a line.
    """
    scale = rows[0]["measure"].scale
    ends = [scale * max(np.nan_to_num(np.abs(row["difference"][:3]))) for row in rows if row["difference"]]
    ends = [end for end in ends if end > 0]
    return min(max(ends), 5 * median_low(ends)) if ends else 1.0


def _accuracy(groups: dict[str, Arms], reference: str, colors: Colors) -> tuple[str, Figure]:
    figure, axes = panels(len(groups), 2, 9, 3.4)
    shown = highlighted(list(colors), reference)
    lines = {}
    for ax, (condition, arms) in zip(axes, groups.items(), strict=True):
        settled, first = [], headline_of(arms)
        scale, top = first.scale, 100.5 if first.scale == 100 else np.inf
        for arm, runs in arms.items():
            records = list(runs.values())
            epochs, window = records[0]["history"]["epoch"], records[0].get("noise_window") or 0
            means = scale * np.mean([record["history"][first.metric] for record in records], axis=0)
            settled.extend(means[len(means) // 3 :])
            if arm not in shown:
                (lines["others"],) = ax.plot(epochs, means, **OTHERS)
                continue
            (lines[arm],) = ax.plot(epochs, means, color=colors[arm], label=fill(arm, 36))
            noise = over_seeds(runs, "convergence_noise")
            if noise.count:  # beside the curves: bands over the curves themselves would hide each other
                place, level = epochs[-1] * (1.03 + 0.025 * shown.index(arm)), means[-window:].mean()
                ax.errorbar(place, level, scale * noise.mean, fmt="none", ecolor=colors[arm], elinewidth=5)
                ax.axvspan(epochs[-window], epochs[-1], color="#F2F2F2", zorder=0)
        room = max(0.15 * np.ptp(settled), 0.005 * scale)
        ax.set_ylim(min(settled) - room, min(top, max(settled) + room))
        ax.set_xticks([tick for tick in ax.get_xticks() if 0 <= tick <= epochs[-1]])
        ax.set(title=condition, xlabel="epoch", ylabel=f"test {axis_label(first)}")
    order = [name for name in (*shown, "others") if name in lines]
    figure.legend([lines[name] for name in order], order, loc="outside lower center", ncols=4)
    gray = " Gray: the other arms, variants of these or listed between them." if "others" in lines else ""
    caption = (
        f"Test {first.name} over epochs, mean over seeds. Bars on the right: mean over the last evaluations "
        f"(shaded) ± the convergence noise of a single run (mean over seeds). Early epochs may be cut off.{gray}"
    )
    return caption, figure


def _reliability(groups: dict[str, Arms], reference: str, colors: Colors) -> tuple[str, Figure]:
    shown, first = highlighted(list(colors), reference), headline_of(next(iter(groups.values()))).metric
    figure, axes = panels(len(groups) * len(shown), len(shown), 1.0 + 1.55 * len(shown), 2.0)
    for i, (ax, (condition, arm)) in enumerate(zip(axes, ((c, a) for c in groups for a in shown), strict=True)):
        runs = groups[condition].get(arm)
        if i % len(shown) == 0:
            ax.set_ylabel(fill(condition, 20) or OBSERVED[first][0])
        if not runs:
            ax.set_axis_off()
            continue
        count, confidence, accuracy = _pooled_bins(runs)
        ax.plot([0, 1], [0, 1], color="#666666", linewidth=1)
        ax.plot(confidence, accuracy, color=colors[arm], linewidth=1, alpha=0.5)
        ax.scatter(confidence, accuracy, LARGEST_DOT * count / count.max(), color=colors[arm], linewidths=0, zorder=3)
        ece = over_seeds(runs, "ece")
        judged = ece.count and not has_noisy_labels(condition, groups[condition])
        ax.set_title(fill(arm, 20, break_on_hyphens=False) + (f"\nECE {ece.mean:.3f}" if judged else ""), fontsize=8)
        ax.set(xlim=(0, 1.05), ylim=(0, 1.05), aspect="equal")
        ax.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))
        ax.set_yticks((0, 0.5, 1), ("0", "0.5", "1"))
    figure.supxlabel("confidence")
    left_out = len(colors) - len(shown)
    caption = (
        f"Reliability: {OBSERVED[first][1]}, pooled over seeds. The area of a dot is the share of examples in its "
        "bin. ECE is the mean of the seeds' values, omitted where labels are noisy."
        + (f" The other {left_out} arms are variants of these or listed between them." if left_out else "")
    )
    return caption, figure


def _pooled_bins(runs: Runs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return number of examples, mean confidence and accuracy over all seeds of each bin that holds any."""
    fields = ("count", "confidence", "accuracy")
    counts, *means = np.array([[r["reliability"][field] for r in runs.values()] for field in fields], dtype=float)
    count = counts.sum(axis=0)
    held = count > 0
    confidence, accuracy = ((np.nan_to_num(each) * counts).sum(axis=0)[held] / count[held] for each in means)
    return count[held], confidence, accuracy
