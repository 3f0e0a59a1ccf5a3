"""Tables and plots of a run: from the content of `results.json` to `report.md` and its PNG files.

Rules of the page: accuracy is the final epoch's; arms are compared by paired differences over shared seeds; what was
not measured is a dash, never a zero; what the numbers do not decide is said to be undecided.
"""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import fill
from typing import BinaryIO, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy.stats import t as student_t

from .errors import UserError

REFERENCE = "deterministic"  # the arm that all others are compared with
DASH = "–"
SETTINGS = {
    "kd_lambda": "λ",
    "teacher_temperature": "T_t",
    "student_temperature": "T_s",
    "num_samples": "S",
    "views": "views",
}
SWEPT = {
    "kd_lambda": "λ, the weight of the teacher",
    "teacher_temperature": "teacher temperature",
    "num_samples": "draws S from the teacher",
}
# heading, key in a row of the summary table, scale, digits
COLUMNS = (
    ("NLL", "nll", 1, 3),
    ("ECE", "ece", 1, 3),
    ("Brier", "brier", 1, 3),
    ("convergence noise", "convergence_noise", 100, 2),
    ("teacher accuracy", "teacher_accuracy", 100, 2),
    ("teacher NLL", "teacher_nll", 1, 3),
    ("agreement", "agreement", 100, 2),
)
TERMINAL_COLUMNS = ("nll", "convergence_noise")  # what fits beside the accuracy into 80 characters
# Paul Tol's "muted" colours (a stronger sand) and a grey, told apart by colour-blind readers; the reference is black.
PALETTE = [
    "#CC6677",
    "#332288",
    "#DDAA33",
    "#117733",
    "#88CCEE",
    "#882255",
    "#44AA99",
    "#999933",
    "#AA4499",
    "#888888",
]
HOW_TO_READ = """## How to read this

- Accuracy is the final epoch's on the test split; nothing is selected on test.
- Numbers are mean ± standard deviation (ddof 1) over seeds; accuracy, agreement and convergence noise in percent.
- "vs deterministic" is the paired difference in accuracy against the deterministic teacher's student over shared
  seeds, in percentage points, with its 95 % Student-t interval. It covers variation between seeds, not the choice of
  test examples, and each interval stands alone: of 20 arms that change nothing, about one would exclude zero.
- Convergence noise is the standard deviation (ddof 1) of test accuracy over the last {window} evaluations of a run.
- Agreement is the share of test examples on which student and teacher predict the same class.
"""

Runs = dict[int, dict]  # seed -> record
Groups = dict[str, dict[str, Runs]]  # condition -> arm -> seed -> record, each in order of first appearance
Styles = dict[str, tuple[str, str]]  # arm -> (colour, line style), the same in every plot


class Spread(NamedTuple):
    """Mean and standard deviation (ddof 1; NaN below two values) of `count` seeds' values."""

    mean: float
    std: float
    count: int


class Difference(NamedTuple):
    """Mean paired difference over `count` shared seeds and the two ends of its interval (NaN below two seeds)."""

    mean: float
    low: float
    high: float
    count: int


def paired_difference(a: dict[int, float], b: dict[int, float], level: float = 0.95) -> Difference:
    """Mean of `a - b` over the seeds that both hold, with its Student-t interval.

    `a`, `b`: seed -> value, in any one unit; the result is in that unit. Returns `(mean, low, high, count)`: low and
    high are NaN when fewer than two seeds are shared, the mean when none is. ValueError unless 0 < level < 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    mean, std, count = _spread([a[seed] - b[seed] for seed in a if seed in b])
    half = float(student_t.ppf((1 + level) / 2, count - 1)) * std / math.sqrt(count) if count > 1 else math.nan
    return Difference(mean, mean - half, mean + half, count)


def summary_table(results: dict, condition: str | None = None) -> list[dict]:
    """One row per arm, in order of first appearance; of all conditions, or of the one named.

    Keys: `condition`, `arm`, `seeds` (how many runs), `difference` (a `Difference` in accuracy to the arm
    "deterministic" of the same condition; None for that arm itself and where it is missing), and a `Spread` each for
    `accuracy`, `nll`, `ece`, `brier`, `convergence_noise`, `agreement`, `teacher_accuracy`, `teacher_nll`. Fractions,
    not percent. A metric that is None or not finite is left out of its Spread, whose `count` then is below `seeds`.
    UserError for an unknown condition, or results without a list "arms".
    """
    groups = _group(results)
    if condition is not None and condition not in groups:
        raise UserError(f"no condition {condition!r} in these results; there are {list(groups)}")
    chosen = groups if condition is None else {condition: groups[condition]}
    return [_row(name, arm, runs, arms) for name, arms in chosen.items() for arm, runs in arms.items()]


def print_summary(results: dict, console: Console | None = None) -> None:
    """Print each condition's table, and the sentence that it supports, to the terminal (or to `console`)."""
    console = console or Console()
    for condition in _group(results):
        rows = summary_table(results, condition)
        header, *body = _table_cells(rows, short=True)
        title = Text(condition or str(results.get("recipe", "")))
        table = Table(title=title, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
        table.add_column(header[0], overflow="fold")
        for heading in header[1:]:
            heading = heading.replace("convergence ", "convergence\n").replace(" (", "\n(")
            table.add_column(Text(heading), justify="right", no_wrap=True)
        for cells in body:
            table.add_row(*map(Text, cells))
        console.print(table)
        console.print(Text(_verdict(rows) + "\n"))


def write_report(results: dict, output_dir: str | os.PathLike) -> Path:
    """Write `report.md` and its plots into `output_dir` (made if missing) and return the path of `report.md`.

    `results` is the content of a recipe's `results.json`; arms may lack seeds, metrics, histories or reliability bins.
    Each file appears under its final name only when complete. UserError when `results` has no list "arms".
    """
    groups, folder = _group(results), Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for name, caption, figure in _figures(groups):
        _write_atomically(folder / name, lambda file, figure=figure: figure.savefig(file, format="png", dpi=200))
        pictures.append(f"![{name.removesuffix('.png').replace('_', ' ')}]({name})\n\n*{caption}*\n")
    sections = [*_introduction(results, groups), *_result_sections(results, groups)]
    sections += [*(["## Plots\n", *pictures] if pictures else []), *_settings_section(results, groups)]
    return _write_atomically(folder / "report.md", lambda file: file.write("\n".join(sections).encode()))


# ---- numbers


def _group(results: dict) -> Groups:
    if not isinstance(results.get("arms"), list):
        raise UserError('these results have no list "arms"; pass the results.json of a distillation recipe')
    groups: Groups = {}
    for record in results["arms"]:
        arms = groups.setdefault(record.get("condition") or "", {})
        arms.setdefault(record["arm"], {})[record["seed"]] = record
    return groups


def _spread(values: list[float]) -> Spread:
    mean = float(np.mean(values)) if values else math.nan
    return Spread(mean, float(np.std(values, ddof=1)) if len(values) > 1 else math.nan, len(values))


def _per_seed(runs: Runs, metric: str, source: str = "metrics") -> dict[int, float]:
    values = {seed: (record.get(source) or {}).get(metric) for seed, record in runs.items()}
    return {seed: value for seed, value in values.items() if value is not None and math.isfinite(value)}


def _over_seeds(runs: Runs, metric: str, source: str = "metrics") -> Spread:
    return _spread(list(_per_seed(runs, metric, source).values()))


def _row(condition: str, arm: str, runs: Runs, arms: dict[str, Runs]) -> dict:
    row = {"condition": condition, "arm": arm, "seeds": len(runs), "difference": None}
    if REFERENCE in arms and arm != REFERENCE:
        row["difference"] = paired_difference(_per_seed(runs, "accuracy"), _per_seed(arms[REFERENCE], "accuracy"))
    for metric in ("accuracy", "nll", "ece", "brier", "convergence_noise", "agreement"):
        row[metric] = _over_seeds(runs, metric)
    for metric in ("accuracy", "nll"):
        row[f"teacher_{metric}"] = _over_seeds(runs, metric, "teacher_metrics")
    return row


def _verdict(rows: list[dict]) -> str:
    """What the intervals say, in words: the one conclusion of the page, made from its numbers."""
    if not any(row["arm"] == REFERENCE for row in rows):
        return "No deterministic teacher is among these runs, so no differences are given."
    found: dict[str, list[str]] = {"better": [], "worse": [], "same": [], "open": []}
    for row in (row for row in rows if row["difference"]):
        mean, low, high, count = row["difference"]
        kind = "open" if count < 2 else "better" if low > 0 else "worse" if high < 0 else "same"
        found[kind].append(row["arm"] if kind in ("same", "open") else f"{row['arm']} ({100 * mean:+.2f} points)")
    heads = {
        "better": "Better than the deterministic teacher beyond seed noise",
        "worse": "Worse than the deterministic teacher beyond seed noise",
        "same": "Not distinguishable from it",
        "open": "Undecided, with fewer than two shared seeds",
    }
    sentences = [f"{heads[kind]}: {'; '.join(names)}." for kind, names in found.items() if names]
    if found["same"] and not found["better"] and not found["worse"]:
        sentences[0] = "No arm differs from the deterministic teacher beyond seed noise."
    return " ".join(sentences) or "There is no other arm yet to compare with the deterministic teacher."


# ---- text


def _show(spread: Spread, seeds: int, scale: int, digits: int, with_std: bool = True) -> str:
    if not spread.count:
        return DASH
    std = f" ± {scale * spread.std:.{digits}f}" if spread.count > 1 and with_std else ""
    partial = "" if spread.count == seeds else f" ({spread.count} of {seeds} seeds)"
    return f"{scale * spread.mean:.{digits}f}{std}{partial}"


def _show_difference(row: dict) -> str:
    if row["arm"] == REFERENCE:
        return "reference"
    mean, low, high, count = row["difference"]
    if not count:
        return DASH
    interval = f"[{100 * low:+.2f}, {100 * high:+.2f}]" if count > 1 else f"[{DASH}]"
    return f"{100 * mean:+.2f} {interval}" + ("" if count == row["seeds"] else f" ({count} shared)")


def _table_cells(rows: list[dict], short: bool = False) -> list[list[str]]:
    """Header and rows of text for one condition; no column of differences where the reference arm is missing."""
    compared = any(row["arm"] == REFERENCE for row in rows)
    columns = [column for column in COLUMNS if not short or column[1] in TERMINAL_COLUMNS]
    versus = ["vs deterministic (points, [95 % CI])"] if compared else []
    cells = [["arm", "seeds", "accuracy", *versus, *(heading for heading, *_ in columns)]]
    for row in rows:
        seeds = row["seeds"]
        difference = [_show_difference(row)] if compared else []
        others = [_show(row[key], seeds, scale, digits, not short) for _, key, scale, digits in columns]
        cells.append([row["arm"], str(seeds), _show(row["accuracy"], seeds, 100, 2), *difference, *others])
    return cells


def _markdown(cells: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
    return "\n".join([lines[0], "| --- " * len(cells[0]) + "|", *lines[1:]]) + "\n"


def _span(records: list[dict], field: str) -> str:
    """The value of a setting over some records: `4`, or `2.8 to 3.1` where they differ, or a dash where absent."""
    values = sorted({record[field] for record in records if record.get(field) is not None})
    return " to ".join(f"{value:g}" for value in dict.fromkeys([*values[:1], *values[-1:]])) or DASH


def _environment(environment: dict, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in environment.items():
        if isinstance(value, dict):
            yield from _environment(value, f"{prefix}{name} ")
        else:
            yield prefix + name, str(value)


def _introduction(results: dict, groups: Groups) -> Iterator[str]:
    yield f"# {results.get('recipe', 'Results')}" + (f" on {results['dataset']}\n" if results.get("dataset") else "\n")
    records = results["arms"]
    if records:
        seeds = sorted({record["seed"] for record in records})
        students = ", ".join(dict.fromkeys(str(record.get("student", "unnamed")) for record in records))
        machine = ", ".join(f"{name} {value}" for name, value in _environment(results.get("environment") or {}))
        conditions = f" under {len(groups)} conditions" if len(groups) > 1 else ""
        cells = [runs for arms in groups.values() for runs in arms.values()]
        missing = len(seeds) * len(cells) - sum(map(len, cells))
        yield (
            f"{len(records)} runs of {len(_styles(groups))} arms{conditions}, with seeds "
            f"{', '.join(map(str, seeds))}, trained the student {students} in "
            f"{sum(record.get('seconds') or 0 for record in records) / 3600:.2g} hours in all"
            f"{f' ({machine})' if machine else ''}{f'; {missing} runs are missing so far' if missing else ''}.\n"
        )
    else:
        yield "No run has finished yet.\n"
    yield HOW_TO_READ.format(window=_span(records, "noise_window").replace(DASH, "few"))


def _result_sections(results: dict, groups: Groups) -> Iterator[str]:
    yield "## Results\n"
    for condition in groups:
        rows = summary_table(results, condition)
        if len(groups) > 1:
            yield f"### {condition or 'no condition named'}\n"
        yield _markdown(_table_cells(rows))
        yield _verdict(rows) + "\n"


def _settings_section(results: dict, groups: Groups) -> Iterator[str]:
    cells = [["condition", "arm", "teacher", "student", *SETTINGS.values(), "seconds a run"]]
    for condition, arms in groups.items():
        for arm, runs in arms.items():
            records = list(runs.values())
            names = [", ".join({str(r.get(key, DASH)): None for r in records}) for key in ("teacher", "student")]
            seconds = _spread([record["seconds"] for record in records if record.get("seconds") is not None])
            cells.append(
                [
                    condition,
                    arm,
                    *names,
                    *(_span(records, field) for field in SETTINGS),
                    f"{seconds.mean:.0f}" if seconds.count else DASH,
                ]
            )
    yield "## Settings\n"
    yield _markdown(cells if len(groups) > 1 else [row[1:] for row in cells])
    yield "## Environment\n"
    lines = [f"- {name}: {value}\n" for name, value in _environment(results.get("environment") or {})]
    yield "".join(lines) or "Not recorded.\n"


# ---- files and plots


def _write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(partial, "wb") as file:
            write(file)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _plain(text: str, width: int = 200) -> str:
    return fill(text, width).replace("$", r"\$")  # matplotlib reads $...$ as mathematics


def _styles(groups: Groups) -> Styles:
    arms = dict.fromkeys(arm for group in groups.values() for arm in group)
    others = [arm for arm in arms if arm != REFERENCE]
    styles = {arm: (PALETTE[i % len(PALETTE)], ("-", "--", ":")[i % 3]) for i, arm in enumerate(others)}
    return {arm: styles.get(arm, ("black", "-")) for arm in arms}


def _figures(groups: Groups) -> Iterator[tuple[str, str, Figure]]:
    """File name, caption and figure of each plot that these results have the numbers for."""
    styles = _styles(groups)
    if groups:
        yield "comparison.png", *_comparison(groups, styles)
    if any(_curve(runs) for arms in groups.values() for runs in arms.values()):
        yield "accuracy.png", *_accuracy(groups, styles)
    binned = [(condition, bins) for condition, arms in groups.items() if (bins := _pooled_bins(arms))]
    for i, (condition, bins) in enumerate(binned, start=1):
        yield f"reliability{f'_{i}' if i > 1 else ''}.png", *_reliability(condition, bins, styles)
    for field in SWEPT:
        sweeps = {condition: lines for condition, arms in groups.items() if (lines := _sweeps(arms, field))}
        if sweeps:
            yield f"sweep_{field}.png", *_sweep(sweeps, groups, field, styles)


def _panels(count: int, width: float, height: float, columns: int = 2, **options) -> tuple[Figure, list]:
    """A figure `width` inches wide with `count` panels, at most `columns` a row, each row `height` inches high."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width, rows * height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08)
    axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="#E6E6E6", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.tick_params(labelsize=9, length=0)
    for ax in axes[count - columns : count]:  # the lowest of each column
        ax.tick_params(labelbottom=True)
    for ax in axes[count:]:
        ax.set_visible(False)
    return figure, axes[:count]


def _dress(ax, title: str, xlabel: str, ylabel: str = "") -> None:
    ax.set_title(_plain(title), loc="left", fontsize=10, fontweight="bold")
    ax.set_xlabel(xlabel, fontsize=9)
    ax.set_ylabel(ylabel, fontsize=9)


def _comparison(groups: Groups, styles: Styles) -> tuple[str, Figure]:
    rows = {(name, arm): _row(name, arm, runs, arms) for name, arms in groups.items() for arm, runs in arms.items()}
    kinds = {"accuracy": "accuracy, %"}
    if any(row["difference"] for row in rows.values()):
        kinds["difference"] = "difference to\ndeterministic, points"
    if len(groups) == 1 and any(row["convergence_noise"].count for row in rows.values()):
        kinds["convergence_noise"] = "convergence noise,\npoints"
    figure, axes = _panels(
        len(groups) * len(kinds), 9, 1.1 + 0.3 * len(styles), min(len(groups), 2) * len(kinds), sharey=True
    )
    for ax, (condition, kind) in zip(axes, [(name, kind) for name in groups for kind in kinds], strict=True):
        _dress(ax, condition if kind == "accuracy" else "", kinds[kind])
        ax.margins(x=0.08)
        ax.locator_params(axis="x", nbins=5)
        if kind == "difference":
            ax.axvline(0, color="black", linewidth=1, zorder=1)
        for y, (arm, (colour, _)) in enumerate(styles.items()):
            if (condition, arm) in rows:
                _draw_row(ax, y, rows[condition, arm][kind], colour, _per_seed(groups[condition][arm], kind))
    axes[0].set_yticks(range(len(styles)), [_plain(arm, 36) for arm in styles])
    axes[0].set_ylim(len(styles) - 0.5, -0.5)
    caption = "Accuracy at the final epoch: diamonds are means, the faint dots below them single seeds."
    if "difference" in kinds:
        caption += " Beside it the paired difference to the deterministic teacher's student, with its 95 % interval."
    if "convergence_noise" in kinds:
        caption += " Last, the standard deviation of test accuracy over a run's last evaluations."
    return caption, figure


def _draw_row(ax, y: int, number: Spread | Difference | None, colour: str, seeds: dict[int, float]) -> None:
    if number is None or not number.count:
        return
    if isinstance(number, Difference):  # below two seeds the ends are NaN, and nothing is drawn for them
        ax.plot(
            [100 * number.low, 100 * number.high],
            [y, y],
            "|-",
            color=colour,
            linewidth=2,
            markersize=9,
            solid_capstyle="butt",
        )
    ax.scatter(
        [100 * value for value in seeds.values()], [y + 0.24] * len(seeds), s=16, color=colour, alpha=0.5, linewidths=0
    )
    ax.scatter(100 * number.mean, y, s=40, marker="D", color=colour, zorder=3)


def _curve(runs: Runs) -> tuple[np.ndarray, np.ndarray] | None:
    """Epochs at which all of an arm's runs were evaluated, and the mean accuracy in percent at each."""
    curves = [dict(zip(h["epoch"], h["accuracy"], strict=True)) for r in runs.values() if (h := r.get("history"))]
    epochs = sorted(set.intersection(*map(set, curves))) if curves else []
    means = [100 * np.mean([curve[epoch] for curve in curves]) for epoch in epochs]
    return (np.array(epochs), np.array(means)) if epochs else None


def _accuracy(groups: Groups, styles: Styles) -> tuple[str, Figure]:
    figure, axes = _panels(len(groups), 9, 4.2 if len(groups) == 1 else 3.8)
    handles = {}
    for ax, (condition, arms) in zip(axes, groups.items(), strict=True):
        _dress(ax, condition, "epoch", "test accuracy, %")
        curves = {arm: curve for arm in styles if (curve := _curve(arms.get(arm, {}))) is not None}
        if not curves:
            continue
        for arm, (epochs, means) in curves.items():
            colour, line = styles[arm]
            (handles[arm],) = ax.plot(epochs, means, line, color=colour, linewidth=1.5, label=_plain(arm))
        end = max(epochs[-1] for epochs, _ in curves.values())
        ax.set_xticks([tick for tick in ax.get_xticks() if 0 <= tick <= end])
        settled = np.concatenate([means[len(means) // 3 :] for _, means in curves.values()])
        room = max(0.15 * np.ptp(settled), 0.5)
        ax.set_ylim(settled.min() - room, min(100.5, settled.max() + room))
        _draw_noise(ax, arms, curves, styles, end)
    columns = max(1, min(4, 120 // (6 + max(map(len, handles)))))
    shown = [handles[arm] for arm in styles if arm in handles]
    figure.legend(handles=shown, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)
    caption = (
        "Test accuracy over epochs, mean over seeds. Bars on the right: mean over the last evaluations "
        "(shaded) ± the convergence noise of a single run (mean over seeds). Early epochs may be cut off."
    )
    return caption, figure


def _draw_noise(ax, arms: dict[str, Runs], curves: dict, styles: Styles, end: float) -> None:
    """One bar per arm to the right of the curves: bands over the curves themselves would hide each other."""
    starts = []
    for i, (arm, (epochs, means)) in enumerate(curves.items()):
        noise = 100 * _over_seeds(arms[arm], "convergence_noise").mean
        last = max(record.get("noise_window") or 0 for record in arms[arm].values())
        if last and math.isfinite(noise):
            level = means[-last:].mean()
            ax.errorbar(
                end * (1.04 + 0.022 * i),
                level,
                noise,
                fmt="_",
                color=styles[arm][0],
                markeredgecolor="white",
                elinewidth=4,
                markersize=5,
                zorder=3,
            )
            starts.append(epochs[-last:][0])
    if starts:
        ax.axvspan(min(starts), end, color="#F2F2F2", zorder=0)


class _Bins(NamedTuple):
    """Reliability over all seeds of an arm: confidence, accuracy and share of the examples, [bins] each."""

    confidence: np.ndarray
    accuracy: np.ndarray
    share: np.ndarray
    ece: Spread


def _pooled_bins(arms: dict[str, Runs]) -> dict[str, _Bins]:
    pooled = {}
    for arm, runs in arms.items():
        bins = [record["reliability"] for record in runs.values() if record.get("reliability")]
        counts = np.array([seed["count"] for seed in bins], dtype=float)
        if not counts.sum():
            continue
        count = np.where(counts.sum(axis=0), counts.sum(axis=0), np.nan)  # an empty bin has no mean
        confidence, accuracy = (
            (np.nan_to_num(np.array([seed[name] for seed in bins], dtype=float)) * counts).sum(axis=0) / count
            for name in ("confidence", "accuracy")
        )
        pooled[arm] = _Bins(confidence, accuracy, counts.sum(axis=0) / counts.sum(), _over_seeds(runs, "ece"))
    return pooled


def _reliability(condition: str, bins: dict[str, _Bins], styles: Styles) -> tuple[str, Figure]:
    figure, axes = _panels(len(bins), max(3.0, 2.25 * min(4, len(bins))), 2.6, 4, sharex=True, sharey=True)
    figure.suptitle(_plain(condition), x=0.01, ha="left", fontsize=10, fontweight="bold")
    for ax, (arm, (confidence, accuracy, share, ece)) in zip(axes, bins.items(), strict=True):
        width = 1 / len(share)
        for i in np.flatnonzero(share):
            ax.bar(
                (i + 0.5) * width,
                accuracy[i],
                0.92 * width,
                color=styles[arm][0],
                alpha=0.12 + 0.88 * share[i] / share.max(),
            )
        ax.plot([0, 1], [0, 1], color="#666666", linewidth=1)
        ax.plot(confidence, accuracy, "o", color="black", markeredgecolor="white", markersize=5)
        ax.set_title(_plain(arm, 28) + (f"\nECE {ece.mean:.3f}" if ece.count else ""), loc="left", fontsize=9)
        ax.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
        ax.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))
        ax.set_yticks((0, 0.5, 1), ("0", "0.5", "1"))
    figure.supxlabel("confidence", fontsize=9)
    figure.supylabel("accuracy", fontsize=9)
    caption = (
        f"Reliability{f', {condition}' if condition else ''}: accuracy in each bin of confidence, pooled over "
        "seeds. The darker a bar, the more examples it holds; dots stand at the bin's mean confidence; above "
        "the diagonal a student is under-confident. ECE is the mean of the seeds' values."
    )
    return caption, figure


def _sweeps(arms: dict[str, Runs], field: str) -> dict[str, dict[float, str]]:
    """Lines of a sweep, each value -> arm: arms of one kind of teacher that agree in every setting but `field`.

    An arm whose settings differ between its seeds (chosen on validation, say) is no point of a sweep. Of two arms with
    the same settings, the first is taken.
    """
    fixed = [name for name in ("teacher", "student", *SETTINGS, "folds") if name != field]
    lines: dict[tuple, dict[float, str]] = {}
    for arm, runs in arms.items():
        (*key, value), *others = {tuple(record.get(name) for name in (*fixed, field)) for record in runs.values()}
        if not others and value is not None and key[0] not in (None, "none"):
            lines.setdefault(tuple(key), {}).setdefault(value, arm)
    lines = {key: dict(sorted(points.items())) for key, points in lines.items() if len(points) > 1}
    named = {}
    for key, points in lines.items():
        rivals = [other for other in lines if other[0] == key[0]]
        notes = [
            f"{SETTINGS.get(name, name)} = {key[i]}"
            for i, name in enumerate(fixed)
            if len({rival[i] for rival in rivals}) > 1 or (name == "folds" and key[i])
        ]
        named[", ".join([str(key[0]), *notes])] = points
    return named


def _sweep(sweeps: dict[str, dict], groups: Groups, field: str, styles: Styles) -> tuple[str, Figure]:
    figure, axes = _panels(len(sweeps), 9 if len(sweeps) > 1 else 6, 3.4)
    for ax, (condition, lines) in zip(axes, sweeps.items(), strict=True):
        _dress(ax, condition, SWEPT[field], "accuracy, %")
        for name, points in lines.items():
            spreads = np.array([_over_seeds(groups[condition][arm], "accuracy") for arm in points.values()])
            ax.errorbar(
                list(points),
                100 * spreads[:, 0],
                100 * np.nan_to_num(spreads[:, 1]),
                fmt="o-",
                capsize=3,
                color=styles[next(iter(points.values()))][0],
                label=_plain(name),
            )
        values = sorted({value for points in lines.values() for value in points})
        if values[0] > 0 and values[-1] / values[0] >= 8:
            ax.set_xscale("log")
            ax.minorticks_off()
        ax.set_xticks(values, [f"{value:g}" for value in values])
        ax.legend(fontsize=9, frameon=False)
    arms = dict.fromkeys(arm for lines in sweeps.values() for points in lines.values() for arm in points.values())
    return f"Accuracy (mean ± standard deviation over seeds) against {SWEPT[field]}. Arms: {'; '.join(arms)}.", figure
