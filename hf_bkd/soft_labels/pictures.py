"""Pictures of soft labels: how sure they are, or how numbers are spread."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import datasets
import numpy as np

from ..data.columns import NOISE, VARIANCE
from ..likelihoods import Bernoulli, Categorical, Gaussian
from .columns import teachers_of
from .in_memory import SoftLabels
from .layout import Layout
from .reading import read

ROWS_SHOWN = 20_000  # at most, evenly spaced


class Panel(NamedTuple):
    """A histogram: what is counted, its name, and the bins."""

    values: np.ndarray
    name: str
    bins: np.ndarray


def _of_classes(labels: SoftLabels) -> list[Panel]:
    probs = labels.values.reshape(-1, labels.num_classes)
    entropies = labels.layout.likelihood.entropy(probs).numpy()
    return [
        Panel(probs.amax(dim=1).numpy(), "probability of the likeliest class", np.linspace(0, 1, 41)),
        Panel(entropies, "entropy, nats", np.linspace(0, np.log(labels.num_classes), 41)),
    ]


def _of_labels(labels: SoftLabels) -> list[Panel]:
    probs = labels.values.reshape(-1, labels.num_classes)
    entropies = labels.layout.likelihood.entropy(probs).numpy() / labels.num_classes
    return [
        Panel(probs.flatten().numpy(), "probability of a label", np.linspace(0, 1, 41)),
        Panel(entropies, "entropy, nats a label", np.linspace(0, np.log(2), 41)),
    ]


def _of_numbers(labels: SoftLabels) -> list[Panel]:
    values, scale = labels.values.reshape(-1, labels.num_classes), labels.scale
    centered = ((values - values.mean(dim=0)) / scale).flatten().numpy()
    panels = [Panel(centered, "mean, in standard deviations over the rows", np.linspace(-4, 4, 41))]
    spreads = [labels.beside[kind] for kind in (VARIANCE, NOISE) if kind in labels.beside]
    spreads = [each for each in spreads if each.shape[-1] == labels.num_classes]
    if spreads:
        spread = (sum(each.float() for each in spreads).sqrt() / scale).flatten().numpy()
        panels.append(Panel(spread, "standard deviation, in the same", np.linspace(0, max(spread.max(), 1e-6), 41)))
    return panels


PANELS: Mapping[str, Callable[[SoftLabels], list[Panel]]] = {
    Categorical.problem_type: _of_classes,
    Bernoulli.problem_type: _of_labels,
    Gaussian.problem_type: _of_numbers,
}


def picture_of(dataset: datasets.Dataset) -> tuple[bytes, str]:
    """A PNG of how sure the labels are, one color a teacher of the first one's kind, and its caption."""
    from matplotlib.figure import Figure  # imported where a picture is drawn, for labeling draws none

    from ..reports.plotting import PALETTE, png, style

    rows = np.linspace(0, len(dataset) - 1, min(ROWS_SHOWN, len(dataset))).round().astype(int)
    some, teachers = dataset.select(rows), teachers_of(dataset.column_names)
    kinds = {teacher: Layout.of(dataset.features, teacher).likelihood.problem_type for teacher in teachers}
    kind = kinds[teachers[0]]
    shown = {teacher: PANELS[kind](read(some, teacher)) for teacher in teachers if kinds[teacher] == kind}
    with style():
        figure = Figure(figsize=(9, 3))
        axes = figure.subplots(1, max(map(len, shown.values())), squeeze=False)[0]
        for (teacher, panels), color in zip(shown.items(), PALETTE * 10, strict=False):
            look = {"density": True, "histtype": "stepfilled", "color": color, "alpha": 0.5}
            for axis, panel in zip(axes, panels, strict=False):
                axis.hist(panel.values, bins=panel.bins, label=teacher or "teacher", **look)
                axis.set(xlabel=panel.name, xlim=(panel.bins[0], None))
        axes[0].set(ylabel="density", xlim=(axes[0].get_xlim()[0], next(iter(shown.values()))[0].bins[-1]))
        if teachers != [None]:
            axes[-1].legend()
        content = png(figure)
    rows_shown = f"{len(rows)} of the {len(dataset)} rows" if len(rows) < len(dataset) else "all rows"
    at_most = "; at most ln C nats" if kind == Categorical.problem_type else ""
    return content, f"How sure the labels are, over {rows_shown} and all their views{at_most}."
