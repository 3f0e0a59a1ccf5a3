"""What a report shows of students' posteriors: beside the students, as credible sets, and whether chains mixed."""

import numpy as np
from matplotlib.figure import Figure

from .plotting import OTHERS, highlighted, panels
from .results import Runs, Spread, by_condition, reference_of, spread, spread_text

LEVEL = 0.9  # of the sets in the table
LARGEST_RHAT = 1.1  # of chains that have mixed
MAIN: dict[str, tuple[str, int]] = {
    "90 % sets: coverage": ("coverage", 3),
    "classes": ("size", 2),
    "ECE, posterior": ("posterior_mean ece", 3),
    "largest R-hat": ("chains rhat max", 2),
}
DETAILS: dict[str, tuple[str, int]] = {
    "NLL, student": ("map nll", 3),
    "NLL, posterior": ("posterior_mean nll", 3),
    "ECE, student": ("map ece", 3),
    "AUROC, deviance": ("auroc mean_deviance", 3),
    "AUROC, epistemic": ("auroc epistemic", 3),
    "prior precision": ("chains prior precision", 0),
    "least ESS": ("chains ess min", 0),
    "width": ("chains width", 2),
    "apart": ("chains apart", 2),
    "rungs": ("chains rungs", 0),
}
HOW_TO_READ = """\
The posterior of each student's last layer was sampled by Markov chains, given the labels that it was taught; the
Gaussian prior's precision is, of a few, the best on the validation split. "Posterior" is the mean of the draws'
probabilities. Coverage is the share of test labels in the smallest set of classes that holds 90 % of that mean, and
"classes" how many those are on average. AUROC: how well the mean deviance of the draws, and the entropy between them,
separate the uncertain examples from the test split's. An R-hat above 1.1 says that the chains have not mixed. {starts}
ESS is in independent draws; width is the posterior's, in units of the Gaussian with the same curvature.
"""
DISPERSED = """\
The chains begin dispersed, under a mixture prior around each teacher's own posterior. "Apart" is the deviation between
their means over that within them: above 1 they ended in different places. Rungs are the energies by which chains climb
from mode to mode, 1 where they met without."""
IN_ONE_PLACE = "One near 1 does not say that they saw all modes, for all begin in one place, the student's weights."


def has_posteriors(results: dict) -> bool:
    """Whether any student's posterior was sampled."""
    return any(record.get("uncertainty") for record in results["arms"])


def uncertainty_cells(results: dict, condition: str, columns: dict[str, tuple[str, int]]) -> list[list[str]]:
    """Return a header and a row an arm of one condition, mean and standard deviation over seeds."""
    runs = by_condition(results)[condition]
    rows = {arm: values for arm, each in runs.items() if (values := _values(each))}
    shown = {heading: column for heading, column in columns.items() if any(column[0] in row for row in rows.values())}

    def cell(arm: str, key: str, digits: int) -> str:
        return spread_text(rows[arm].get(key, spread([])), len(runs[arm]), digits=digits)

    return [["arm", *shown], *([arm, *(cell(arm, *column) for column in shown.values())] for arm in rows)]


def how_to_read(results: dict) -> str:
    """Explain the columns; chains of earlier versions, of which no ``apart`` is known, began in one place."""
    dispersed = any("apart" in chains for chains in _chains(results))
    return HOW_TO_READ.format(starts=DISPERSED if dispersed else IN_ONE_PLACE)


def mixing_sentence(results: dict) -> str:
    """Return how many arms' chains did not mix; empty if none were sampled, or all mixed."""
    largest = [
        _values(runs).get("chains rhat max", spread([]))
        for arms in by_condition(results).values()
        for runs in arms.values()
    ]
    sampled = [value.mean for value in largest if value.count]
    unmixed = sum(value > LARGEST_RHAT for value in sampled)
    reports = _chains(results)
    astray = sum((chains.get("apart") or 0) > 1 for chains in reports)
    sentences = []
    if unmixed:
        sentences.append(
            f"The chains of {unmixed} of {len(sampled)} arms have not mixed (largest R-hat, mean over seeds, above "
            f"{LARGEST_RHAT}), so posteriors and credible sets are rough."
        )
    if astray:
        sentences.append(
            f"In {astray} of {len(reports)} runs chains that began in different places ended in different places: "
            "how much of the posterior each mode has is not known there."
        )
    return " ".join(sentences)


def credible_sets(results: dict, colors: dict[str, str]) -> tuple[str, Figure]:
    """Draw the sets' coverage, and beside it their average size; caption and figure."""
    groups = by_condition(results)
    figure, axes = panels(2 * len(groups), 2, 9, 2.8)
    handles = {}
    for left, right, (condition, arms) in zip(axes[::2], axes[1::2], groups.items(), strict=True):
        shown = highlighted(list(arms), reference_of(results))
        for arm in sorted(arms, key=shown.__contains__):
            sets = [r["uncertainty"]["credible_sets"] for r in arms[arm].values() if r.get("uncertainty")]
            if not sets:
                continue
            levels = [each["level"] for each in sets[0]]
            coverage, size = (
                np.mean([[each[key] for each in run] for run in sets], axis=0) for key in ("coverage", "size")
            )
            look = {"color": colors[arm], "marker": "o", "markersize": 3.5} if arm in shown else dict(OTHERS)
            (line,) = left.plot(levels, 100 * (coverage - levels), **look)
            right.plot(levels, size, **look)
            handles[arm if arm in shown else "others"] = line
        left.axhline(0, color="#333333", linewidth=1)
        left.set(title=f"{condition}: coverage".lstrip(": "), ylabel="labels in the set\nminus its level, points")
        right.set(title=f"{condition}: average size".lstrip(": "), ylabel="classes in the set", ylim=(0, None))
        for ax in (left, right):
            ax.set_xlabel("level of the set")
    order = [name for name in (*shown, "others") if name in handles]
    figure.legend([handles[name] for name in order], order, loc="outside lower center", ncols=4)
    return (
        "Credible sets: the smallest sets of classes that have the level's probability under the posterior mean. "
        "Left: how much more often than the level says the true class is in them; below zero a student is surer than "
        "it may be. Right: how many classes they hold; of two students with the same coverage, the one with smaller "
        "sets says more."
    ), figure


def _chains(results: dict) -> list[dict]:
    """What is known of each sampled run's chains."""
    return [record["uncertainty"].get("chains") or {} for record in results["arms"] if record.get("uncertainty")]


def _values(runs: Runs) -> dict[str, Spread]:
    flat = [_flat(record["uncertainty"]) for record in runs.values() if record.get("uncertainty")]
    names = dict.fromkeys(name for each in flat for name in each)
    return {name: spread([each[name] for each in flat if each.get(name) is not None]) for name in names}


def _flat(report: dict) -> dict[str, float]:
    nested = ("posterior_mean", "map", "auroc", "chains")
    flat = {f"{part} {name}": value for part in nested for name, value in (report.get(part) or {}).items()}
    return flat | next((each for each in report.get("credible_sets") or () if each["level"] == LEVEL), {})
