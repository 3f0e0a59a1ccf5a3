"""A picture of soft labels: how sure the teachers are of them."""

import datasets
import numpy as np
from matplotlib.figure import Figure

from ..metrics import entropy
from ..reports.plotting import PALETTE, png, style
from .columns import read
from .layout import teachers_of

SHOWN = 20_000  # rows at most, evenly spaced


def confidence_histogram(dataset: datasets.Dataset) -> tuple[bytes, str]:
    """A PNG of how often each confidence and each entropy occurs, one line a teacher, and its caption."""
    rows = np.linspace(0, len(dataset) - 1, min(SHOWN, len(dataset))).round().astype(int)
    some = dataset.select(rows)
    with style():
        figure = Figure(figsize=(9, 3))
        confidence, uncertainty = figure.subplots(1, 2)
        for teacher, color in zip(teachers_of(dataset.column_names), PALETTE * 10, strict=False):
            labels = read(some, teacher)
            probs = labels.probs.reshape(-1, labels.num_classes)
            how = {
                "density": True,
                "histtype": "stepfilled",
                "color": color,
                "alpha": 0.5,
                "label": teacher or "teacher",
            }
            confidence.hist(probs.amax(dim=1).numpy(), bins=np.linspace(0, 1, 41), **how)
            uncertainty.hist(entropy(probs).numpy(), bins=np.linspace(0, np.log(labels.num_classes), 41), **how)
        confidence.set(xlabel="probability of the likeliest class", ylabel="density", xlim=(0, 1))
        uncertainty.set(xlabel="entropy, nats", xlim=(0, None))
        if teachers_of(dataset.column_names) != [None]:
            uncertainty.legend()
        content = png(figure)
    shown = f"{len(rows)} of the {len(dataset)} rows" if len(rows) < len(dataset) else "all rows"
    return content, f"How sure the labels are, over {shown} and all their views; at most ln C nats."
