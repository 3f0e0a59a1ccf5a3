"""The picture of how well students, and their teachers, tell out-of-distribution examples from the test split's."""

from textwrap import fill
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .limits_page import aurocs, names_of_sets
from .plotting import panels
from .results import Runs, Spread, by_condition, spread

LOOKS = {  # score -> marker, and whether it is filled
    "entropy": ("D", True),
    "epistemic": ("D", False),
    "deviance": ("o", True),
    "teacher entropy": ("s", True),
    "teacher epistemic": ("s", False),
}
OF_POSTERIORS = {"mean_deviance": "deviance", "epistemic": "epistemic"}
UNCERTAIN = "uncertain examples"  # of sampled posteriors
TEACHERS = "#888888"

Scores = dict[str, Spread]


def ood_scores(results: dict) -> dict[str, dict[str, Scores]]:
    """Return panel -> arm -> score -> AUROC over seeds, a panel for each condition and set of examples."""
    shown: dict[str, dict[str, Scores]] = {}
    for condition, arms in by_condition(results).items():
        for arm, runs in arms.items():
            for name, scores in _scores(runs).items():
                if scores:
                    title = ": ".join(part for part in (condition, name) if part)
                    shown.setdefault(title, {})[arm] = scores
    return shown


def _scores(runs: Runs) -> dict[str, Scores]:
    values = {
        name: {score: list(aurocs(runs, name, score).values()) for score in LOOKS} for name in names_of_sets(runs)
    }
    reports = [(record.get("uncertainty") or {}).get("auroc") or {} for record in runs.values()]
    values[UNCERTAIN] = {
        score: [each[key] for each in reports if each.get(key) is not None] for key, score in OF_POSTERIORS.items()
    }
    return {name: {score: spread(each) for score, each in of.items() if each} for name, of in values.items()}


def ood_auroc(shown: dict[str, dict[str, Scores]], colors: dict[str, str]) -> tuple[str, Figure]:
    """Draw :func:`ood_scores`; return caption and figure."""
    scores = [score for score in LOOKS if any(score in of for arms in shown.values() for of in arms.values())]
    figure, axes = panels(len(shown), 2, 9, 1.0 + (0.12 + 0.1 * len(scores)) * max(map(len, shown.values())))
    left: list[str] = []
    for number, (ax, (title, arms)) in enumerate(zip(axes, shown.items(), strict=True)):
        ax.set(title=title, xlabel="AUROC", ylim=(len(arms) - 0.5, -0.5))
        ax.set_yticks(range(len(arms)), [] if number % 2 and list(arms) == left else [fill(arm, 36) for arm in arms])
        left = list(arms)
        for y, (arm, of) in enumerate(arms.items()):
            for place, score in enumerate(sorted(of, key=scores.index)):
                height = y + 0.8 * (place - (len(of) - 1) / 2) / len(scores)
                ax.errorbar(of[score].mean, height, xerr=of[score].std, **_look(score, colors[arm]))
    handles = [Line2D([], [], **_look(score, "#333333")) for score in scores]
    figure.legend(handles, scores, loc="outside lower center", ncols=len(scores))
    taught = any(score.startswith("teacher") for score in scores)
    caption = (
        "AUROC by which a number of each prediction separates out-of-distribution examples from the test split's: "
        f"mean and standard deviation over seeds; 0.5 is chance{'; in gray, of the teacher' if taught else ''}."
    )
    return caption, figure


def _look(score: str, color: str) -> dict[str, Any]:
    marker, filled = LOOKS[score]
    color = TEACHERS if score.startswith("teacher") else color
    face = color if filled else "white"
    return {"marker": marker, "markersize": 4, "color": color, "markerfacecolor": face, "linestyle": "none"}
