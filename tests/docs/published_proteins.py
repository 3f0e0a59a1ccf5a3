"""What pages say of two protein language models as teachers, made of the published study."""

import json

from hf_bkd.reports.comparisons import LEVEL, paired_difference
from hf_bkd.reports.pages import counted
from hf_bkd.reports.results import Arms, by_condition, difference_text, interval_text, per_seed, summary_table
from hf_bkd.reports.uncertainty_page import LARGEST_RHAT
from hf_bkd.reports.uncertainty_page import LEVEL as OF_SETS

from .pages import ROOT

RESULTS = ROOT / "model_cards" / "proteins_multi_teacher" / "results.json"
CONDITION = "encoder"
ALONE = ("no teacher", "label smoothing")
NAMES = {"average": "average of two", "mixture": "mixture of two"}


def _results() -> dict:
    return json.loads(RESULTS.read_text())


def _arms() -> Arms:
    return by_condition(_results())[CONDITION]


def _rows() -> dict[str, dict]:
    return {row["arm"]: row for row in summary_table(_results(), CONDITION)}


def _of_least_nll() -> str:
    """Return the arm with a teacher whose students have the least NLL."""
    return min((arm for arm in _rows() if arm not in ALONE), key=lambda arm: _rows()[arm]["nll"].mean)


def students() -> str:
    """Return the cells of one-hot labels, of a calibrated deterministic teacher, and of the best students."""
    accuracies = {arm: row["accuracy"].mean for arm, row in _rows().items()}
    scaled = {arm: value for arm, value in accuracies.items() if arm.endswith(", scaled")}
    best = max(accuracies, key=lambda arm: accuracies[arm])
    plain = f"{100 * max(scaled.values()):.1f} %" if scaled else "–"
    return (
        f"{100 * accuracies['no teacher']:.1f} % | {plain} | {100 * accuracies[best]:.1f} %, {NAMES.get(best, best)}"
    )


def nll() -> str:
    """Return how far teachers bring the NLL down at most."""
    rows, best = _rows(), _of_least_nll()
    ends = f"{rows['no teacher']['nll'].mean:.2f} to {rows[best]['nll'].mean:.2f}"
    return f"NLL {ends} ({difference_text(rows[best])} nats)"


def nll_of_all() -> str:
    """Return what the NLL is lowered by, of teachers together and alone."""
    changes = {arm: -row["difference"].mean for arm, row in _rows().items() if arm not in ALONE and row["difference"]}
    together = [change for arm, change in changes.items() if arm.startswith(("average", "mixture"))]
    alone = [change for arm, change in changes.items() if not arm.startswith(("average", "mixture"))]
    return (
        f"{counted(len(together), 'way')} to combine them lower the negative log-likelihood by {_range(together, 3)} "
        f"nats, teachers alone by {_range(alone, 3)}"
    )


def _range(values: list[float], digits: int) -> str:
    return " to ".join(dict.fromkeys(f"{end(values):.{digits}f}" for end in (min, max)))


def calibration() -> str:
    """Return how label smoothing alone is calibrated, beside the students of least NLL."""
    smooth, taught = (_rows()[arm] for arm in ("label smoothing", _of_least_nll()))
    eces, nlls = (f"{smooth[key].mean:.{n}f} and {taught[key].mean:.{n}f}" for key, n in (("ece", 3), ("nll", 2)))
    arms = _arms()
    eces_of = (per_seed(arms[arm], "ece") for arm in (_of_least_nll(), "label smoothing"))
    pairs = (len(arms) - len(ALONE)) * len(ALONE)  # as the card corrects its intervals of ECE
    difference = paired_difference(*eces_of, level=1 - (1 - LEVEL) / pairs)
    _, low, high, _ = difference
    verdict = "not distinguishable from" if low <= 0 <= high else "lower than" if low > 0 else "higher than"
    return (
        f"label smoothing's ECE is {verdict} that with teachers ({eces}; difference {interval_text(difference)}, "
        f"corrected); NLL {nlls}"
    )


def sets() -> str:
    """Return what credible sets of students' posteriors hold, and how large they are."""
    taught = [arm for arm in _arms() if arm not in ALONE]
    ours, plain, smooth = (_sets(arms) for arms in (taught, ["no teacher"], ["label smoothing"]))
    return (
        f"90 % credible sets hold the truth for {ours[0]} % of the test proteins, with {ours[1]} classes each; "
        f"without a teacher for {plain[0]} % with {plain[1]} classes, with label smoothing alone for {smooth[0]} % "
        f"with {smooth[1]}"
    )


def _sets(names: list[str]) -> tuple[str, str]:
    """Return coverage in percent and average size of arms' 90 % sets, as ranges of their means over seeds."""
    means: dict[str, list[float]] = {"coverage": [], "size": []}
    for arm in names:
        reports = [record["uncertainty"]["credible_sets"] for record in _arms()[arm].values()]
        chosen = [next(each for each in report if each["level"] == OF_SETS) for report in reports]
        for key, values in means.items():
            values.append(sum(each[key] for each in chosen) / len(chosen))
    return _range([100 * value for value in means["coverage"]], 0), _range(means["size"], 1)


def mixing() -> str:
    """Return how many arms' chains have an R-hat above the card's limit."""
    largest = [
        sum(record["uncertainty"]["chains"]["rhat max"] for record in runs.values()) / len(runs)
        for arms in by_condition(_results()).values()
        for runs in arms.values()
    ]
    above = sum(value > LARGEST_RHAT for value in largest)
    if above:
        return f"above the card's own limit of {LARGEST_RHAT} in {above} of {len(largest)} arms: those have not mixed"
    return f"at most {max(largest):.2f} in all {len(largest)} arms, below the card's own limit of {LARGEST_RHAT}"


MADE = {
    "proteins' students": students,
    "proteins' NLL": nll,
    "proteins' NLL of all": nll_of_all,
    "proteins' calibration": calibration,
    "proteins' sets": sets,
    "proteins' chains": mixing,
}
