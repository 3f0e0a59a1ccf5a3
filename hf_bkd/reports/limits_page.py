"""What a report shows of students that know their limits: entropies beside their teachers', and sets of classes."""

from .comparisons import LEVEL, Difference, paired_difference
from .results import DASH, Runs, by_condition, interval_text, over_seeds, spread, spread_text

CLOSE = 0.01  # of an AUROC, within which a student's is called the teacher's
METHODS = {"lac": "conformal, LAC", "aps": "conformal, APS", "credible": "credible"}
HOW_TO_READ = f"""\
- AUROC: how well a number separates out-of-distribution examples from the test split's; 0.5 is chance. "Entropy" is
  that of the student's mean prediction; "epistemic" its mutual information with what the draws differ in, in closed
  form of a Dirichlet student; a student with one prediction has none. The teacher's are of its own draws. The
  difference is the student's epistemic AUROC less the teacher's, paired over seeds, with the Student-t interval of
  {100 * LEVEL:.0f} %, not corrected for the number of rows: "as good" where none of it is below -{CLOSE}, "lower"
  where all of it is.
- Entropy: of the mean prediction, averaged over the test split, in nats; its epistemic part is zero without draws.
- Sets: of 20 random halves of the test split one calibrates what the other measures. Coverage is the share of labels
  that are in their sets (in percent), and the size how many classes a set has. Credible sets are the smallest with
  that much of the student's own probability, and are calibrated by nothing.
"""

Cells = list[list[str]]


def has_limits(results: dict) -> bool:
    """Whether any student's entropies and sets were measured."""
    return any(record.get("limits") for record in results["arms"])


def ood_cells(results: dict, condition: str) -> Cells:
    """Return a header, and a row for each arm and set of out-of-distribution examples of a condition."""
    scores = ("entropy", "epistemic", "teacher entropy", "teacher epistemic")
    header = ["AUROC, entropy", "AUROC, epistemic", "teacher's, entropy", "teacher's, epistemic", "difference"]
    cells = [["arm", "examples", *header]]
    for arm, runs in by_condition(results)[condition].items():
        for name in names_of_sets(runs):
            values = [aurocs(runs, name, score) for score in scores]
            spreads = [_spread(list(each.values()), runs) for each in values]
            difference = paired_difference(values[1], values[3])
            shown = interval_text(difference) if difference.count else DASH
            cells.append([arm, name or "all", *spreads, shown])
    return cells


def set_cells(results: dict, condition: str) -> Cells:
    """Return a header and a row for each arm of a condition: parts of its entropy, and each kind of sets."""
    header = [f"{each}: {part}" for each in METHODS.values() for part in ("coverage", "size")]
    cells = [["arm", "entropy", "of it epistemic", *header]]
    for arm, runs in by_condition(results)[condition].items():
        limits = [record["limits"] for record in runs.values() if record.get("limits")]
        if limits:
            entropies = ([each["entropy"][part] for each in limits] for part in ("total", "epistemic"))
            row = [arm, *(_spread(values, runs) for values in entropies)]
            for method in METHODS:
                coverage, size = ([each["sets"][method][part] for each in limits] for part in ("coverage", "size"))
                row += [_spread(coverage, runs, 100, 2), _spread(size, runs, 1, 2)]
            cells.append(row)
    return cells


def _spread(values: list[float], runs: Runs, scale: int = 1, digits: int = 3) -> str:
    return spread_text(spread(values), len(runs), scale, digits)


def limits_sentences(results: dict, condition: str) -> str:
    """Return whether each arm with an epistemic part tells apart what its teacher does, and its accuracy."""
    sentences = []
    for arm, runs in by_condition(results)[condition].items():
        differences = {
            name: paired_difference(aurocs(runs, name, "epistemic"), aurocs(runs, name, "teacher epistemic"))
            for name in names_of_sets(runs)
        }
        said = [f"{_verdict(each)} on {name or 'all'}" for name, each in differences.items() if each.count]
        if said:
            accuracy = 100 * over_seeds(runs, "accuracy").mean
            sentences.append(f"{arm}: {', '.join(said)}; accuracy {accuracy:.2f} %.")
    bar = "A student's epistemic AUROC less its teacher's: "
    return bar + " ".join(sentences) if sentences else ""


def _verdict(difference: Difference) -> str:
    """Return a difference, and whether its interval says that it is no further below 0 than `CLOSE`, or further."""
    head = "as good" if difference.low >= -CLOSE else "lower" if difference.high < -CLOSE else "undecided"
    return f"{head} ({interval_text(difference)})"


def names_of_sets(runs: Runs) -> list[str]:
    """Return the names of the sets of out-of-distribution examples that an arm was measured on."""
    sets = [(record.get("limits") or {}).get("ood_auroc") or {} for record in runs.values()]
    return list(dict.fromkeys(name for each in sets for name in each))


def aurocs(runs: Runs, name: str, score: str) -> dict[int, float]:
    """Return seed -> AUROC of a score on a set of examples, where it is known."""
    values = {
        seed: (((record.get("limits") or {}).get("ood_auroc") or {}).get(name) or {}).get(score)
        for seed, record in runs.items()
    }
    return {seed: value for seed, value in values.items() if value is not None}
