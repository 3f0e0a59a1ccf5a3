"""What a report shows of students' posteriors: beside the students, as credible sets, and whether chains mixed."""

import numpy as np
from matplotlib.figure import Figure

from .plotting import panels
from .results import Arms, Runs, Spread, by_condition, spread, spread_text

LEVEL = 0.9  # of the sets in the table
COLUMNS: dict[str, tuple[str, int]] = {
    "NLL, student": ("map nll", 3),
    "NLL, posterior": ("posterior_mean nll", 3),
    "ECE, student": ("map ece", 3),
    "ECE, posterior": ("posterior_mean ece", 3),
    "90 % sets: coverage": ("coverage", 3),
    "classes": ("size", 2),
    "AUROC, deviance": ("auroc mean_deviance", 3),
    "AUROC, epistemic": ("auroc epistemic", 3),
    "prior precision": ("chains prior precision", 0),
    "largest R-hat": ("chains rhat max", 2),
    "least ESS": ("chains ess min", 0),
    "width": ("chains width", 2),
}
HOW_TO_READ = """
The posterior of each student's last layer was sampled by Langevin chains that begin at its weights, given the labels
that it was taught; the Gaussian prior's precision is, of a few, the best on the validation split. "Posterior" is the
mean of the draws' probabilities. Coverage is the share of test labels in the smallest set of classes that holds 90 %
of that mean, and "classes" how many those are. AUROC: how well the mean deviance of the draws, and the entropy between
them, tell the uncertain examples from the test split's. An R-hat above 1.1 says that the chains have not mixed; ESS is
in independent draws; width is the posterior's, in units of the Gaussian with the same curvature.
"""


def has_posteriors(results: dict) -> bool:
    """Whether any student's posterior was sampled."""
    return any(record.get("uncertainty") for record in results["arms"])


def uncertainty_cells(results: dict, condition: str) -> list[list[str]]:
    """Header and a row an arm of one condition, mean and standard deviation over seeds."""
    runs = by_condition(results)[condition]
    rows = {arm: values for arm, each in runs.items() if (values := _values(each))}
    shown = {heading: column for heading, column in COLUMNS.items() if any(column[0] in row for row in rows.values())}

    def cell(arm: str, key: str, digits: int) -> str:
        return spread_text(rows[arm].get(key, spread([])), len(runs[arm]), digits=digits)

    return [["arm", *shown], *([arm, *(cell(arm, *column) for column in shown.values())] for arm in rows)]


def credible_sets(groups: dict[str, Arms], styles: dict[str, tuple[str, str]]) -> tuple[str, Figure]:
    """Coverage of the sets against their level; caption and figure."""
    figure, axes = panels(len(groups), 2, 9 if len(groups) > 1 else 6, 4)
    handles = {}
    for ax, (condition, arms) in zip(axes, groups.items(), strict=True):
        for arm, runs in arms.items():
            sets = [r["uncertainty"]["credible_sets"] for r in runs.values() if r.get("uncertainty")]
            if sets:
                levels = [each["level"] for each in sets[0]]
                coverage = np.mean([[each["coverage"] for each in run] for run in sets], axis=0)
                color, line = styles[arm]
                (handles[arm],) = ax.plot(levels, coverage, line, color=color, marker="o", markersize=4)
        ends = ax.get_xlim()
        ax.plot(ends, ends, color="#666666", linewidth=1, zorder=1)
        ax.set(title=condition, xlabel="level of the set", ylabel="share of labels in it", xlim=ends)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3)
    return (
        "Credible sets: how often the true class is in the smallest set of classes that has the level's probability "
        "under the posterior mean. On the line or above it a student knows what it does not know."
    ), figure


def _values(runs: Runs) -> dict[str, Spread]:
    flat = [_flat(record["uncertainty"]) for record in runs.values() if record.get("uncertainty")]
    names = dict.fromkeys(name for each in flat for name in each)
    return {name: spread([each[name] for each in flat if each.get(name) is not None]) for name in names}


def _flat(report: dict) -> dict[str, float]:
    nested = ("posterior_mean", "map", "auroc", "chains")
    flat = {f"{part} {name}": value for part in nested for name, value in (report.get(part) or {}).items()}
    return flat | next(each for each in report["credible_sets"] if each["level"] == LEVEL)
