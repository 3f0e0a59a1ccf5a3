"""What pages say of students and of teachers: tables, the verdict that intervals support, and how to read them."""

from collections.abc import Iterable

from ..hub.cards import METRICS
from .comparisons import LEVEL, Spread, paired_difference
from .results import (
    DASH,
    REFERENCE,
    Arms,
    difference_text,
    has_noisy_labels,
    headline_of,
    interval_text,
    measure_of,
    over_seeds,
    per_seed,
    reference_of,
    spread_text,
    summary_table,
    teacher_table,
)

MOST_NAMED = 4  # arms in a sentence
PERCENT = ("accuracy", "mean_average_precision", "micro_f1", "macro_f1", "coverage", "convergence_noise", "agreement")
COLUMNS = METRICS | {"convergence_noise": "convergence noise", "agreement": "agreement"}  # of students, their headings
SCALED = {"scaled_nll": "scaled NLL", "scaled_ece": "scaled ECE", "temperature": "T"}
TEACHER_SCALED = {"teacher_scaled_nll": "teacher scaled NLL", "teacher_scaled_ece": "teacher scaled ECE"}
Cells = list[list[str]]  # a header, and a row an arm


def student_cells(results: dict, condition: str, arms: Arms, with_std: bool = True) -> Cells:
    """Return the five columns that students are judged by.

    They end in a measure of calibration; at noisy labels, which would spoil ECE, in convergence noise.
    """
    rows, first = summary_table(results, condition), headline_of(arms).metric
    last = next((name for name in ("ece", "coverage") if any(row[name].count for row in rows)), "ece")
    last = "convergence_noise" if has_noisy_labels(condition, arms) else last
    cells = [["arm", COLUMNS[first], _difference_heading(results), "NLL", COLUMNS[last]]]
    for row in rows:
        numbers = [_measured(row, name, with_std) for name in ("nll", last)]
        cells.append([row["arm"], _measured(row, first), difference_text(row), *numbers])
    return cells


def student_details(results: dict, condition: str, arms: Arms) -> Cells:
    """Return what else is known of students; ECE is omitted at noisy labels."""
    rows, first = summary_table(results, condition), headline_of(arms).metric
    shown = (*student_cells(results, condition, arms)[0], COLUMNS[first], COLUMNS["ece"])
    known = {name for runs in arms.values() for record in runs.values() for name in record.get("metrics") or ()}
    others = [name for name in COLUMNS if COLUMNS[name] not in shown and name in known and name != "agreement"]
    hidden = ("scaled_ece", "teacher_scaled_ece") if has_noisy_labels(condition, arms) else ()
    scaled, of_teacher = (
        {
            name: heading
            for name, heading in each.items()
            if name not in hidden and any(row[name].count for row in rows)
        }
        for each in (SCALED, TEACHER_SCALED)
    )
    names = [*others, *scaled, f"teacher_{first}", "teacher_nll", *of_teacher, "agreement"]
    body = [[row["arm"], str(row["seeds"]), *(_measured(row, name) for name in names)] for row in rows]
    headings = [*(COLUMNS[name] for name in others), *scaled.values()]
    headings += [f"teacher {COLUMNS[first]}", "teacher NLL", *of_teacher.values(), "agreement"]
    return _with_significance(["arm", "seeds", *headings], body, rows)


def teacher_cells(results: dict, condition: str, arms: Arms, with_std: bool = True) -> Cells:
    """Return the five columns that teachers are judged by."""
    cells = [["teacher", "accuracy", "scaled NLL", _difference_heading(results), "AUROC, out-of-distribution"]]
    for row in teacher_table(results, condition):
        accuracy, scaled = _number(row, "accuracy", 100, 2, with_std), _number(row, "scaled_nll", with_std=with_std)
        cells.append(
            [row["arm"], accuracy, scaled, difference_text(row), _number(row, "ood_auroc", with_std=with_std)]
        )
    return cells


def teacher_details(results: dict, condition: str, arms: Arms) -> Cells:
    """Return what else is known of teachers; ECE is omitted at noisy labels."""
    eces = {} if has_noisy_labels(condition, arms) else {"ECE": ("ece", 1, 3), "scaled ECE": ("scaled_ece", 1, 3)}
    columns = {"NLL": ("nll", 1, 3), "Brier": ("brier", 1, 3)} | eces
    columns |= {"T": ("temperature", 1, 2), "scaled AUROC": ("scaled_ood_auroc", 1, 3)}
    columns |= {"time, passes": ("relative_time", 1, 2, False), "MB": ("megabytes", 1, 2, False)}
    return _details("teacher", teacher_table(results, condition), columns)


def _details(name: str, rows: list[dict], columns: dict[str, tuple]) -> Cells:
    body = [[row["arm"], str(row["seeds"]), *(_number(row, *each) for each in columns.values())] for row in rows]
    return _with_significance([name, "seeds", *columns], body, rows)


def _with_significance(header: list[str], body: Cells, rows: list[dict]) -> Cells:
    ends = [[*cells, *_significance(row)] for cells, row in zip(body, rows, strict=True)]
    return [[*header, "p (Holm)", f"detectable, {rows[0]['measure'].unit}"], *ends]


def _significance(row: dict) -> list[str]:
    """Return the cells of a difference's corrected p-value and of the difference that could have been seen."""
    if not row["difference"] or row["difference"].count < 2:
        return [DASH, DASH]
    p_value, measure = row["p_value"], row["measure"]
    shown = "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"
    return [shown, f"{measure.scale * row['detectable']:.{measure.digits}f}"]


def _measured(row: dict, name: str, with_std: bool = True) -> str:
    """Return a student's measure, or its teacher's, as it is read: in percent where that is usual."""
    percent = name.removeprefix("teacher_") in PERCENT
    percent = percent and not (name == "convergence_noise" and row["rmse"].count)  # it is of the first measure
    return _number(row, name, *((100, 2) if percent else (1, 3)), with_std)


def _number(row: dict, key: str, scale: int = 1, digits: int = 3, with_std: bool = True) -> str:
    return spread_text(row[key], row["seeds"], scale, digits, with_std)


def _difference_heading(results: dict) -> str:
    measure = measure_of(results)
    unit = "scaled NLL" if measure.source == "scaled_metrics" else measure.unit
    return f"vs {reference_of(results)} ({unit}, [95 % CI, Holm])"


def verdict(rows: list[dict]) -> str:
    """Return what a table's intervals say, in words: which arms are better or worse, and which can't be told.

    Of the latter it says how large a true difference would have had to be to be seen four times in five.
    """
    reference = next((row["arm"] for row in rows if row["is_reference"]), None)
    if reference is None:
        return "The arm to compare with is not among these runs, so no differences are given."
    it, measure = named(reference), rows[0]["measure"]
    better, worse, same, undecided, detectable = [], [], [], [], []
    for row in (row for row in rows if row["difference"]):
        low, high = sorted(measure.sign * end for end in row["difference"][1:3])
        if row["difference"].count < 2:
            undecided.append(row["arm"])
        elif low <= 0 <= high:
            same.append(row["arm"])
            detectable.append(measure.scale * row["detectable"])
        else:
            (better if low > 0 else worse).append(row)
    heads = {"Better": better, "Worse": worse}
    sentences = [f"{head} than {it}: {_listed(decided)}." for head, decided in heads.items() if decided]
    if same:
        seen = " to ".join(dict.fromkeys(f"{end(detectable):.{measure.digits}f}" for end in (min, max)))
        who = "it" if sentences else it
        limits = f"(the smallest difference that could have been seen, with 80 % power: {seen} {measure.unit})"
        sentences.append(f"Not distinguishable from {who}: {'; '.join(same)} {limits}.")
    if undecided:
        sentences.append(f"Undecided, with fewer than two shared seeds: {'; '.join(undecided)}.")
    if not sentences:
        return f"There is no other arm yet to compare with {it}."
    return ("" if measure.name == "accuracy" else f"In {measure.name}: ") + " ".join(sentences)


def _listed(rows: list[dict]) -> str:
    """Name arms with their differences; of many, how many there are, and the two at the ends."""
    rows = sorted(rows, key=lambda row: abs(row["difference"].mean), reverse=True)
    measure = rows[0]["measure"]
    shown = [
        f"{row['arm']} ({interval_text(row['difference'], measure.scale, measure.digits)} {measure.unit})"
        for row in rows
    ]
    return "; ".join(shown) if len(shown) <= MOST_NAMED else f"{counted(len(shown), 'arm')}, {shown[0]} to {shown[-1]}"


def calibration(condition: str, arms: Arms) -> str:
    """Return a sentence on the ECE of the best calibrated student with a teacher, and of the best without one.

    Empty where labels are noisy, or where there are no such two.
    """
    if has_noisy_labels(condition, arms):
        return ""
    eces: dict[bool, dict[str, Spread]] = {True: {}, False: {}}
    for arm, runs in arms.items():
        if (value := over_seeds(runs, "ece")).count:
            eces[any(record.get("teacher", "none") != "none" for record in runs.values())][arm] = value
    if not all(eces.values()):
        return ""
    taught, alone = (min(eces[kind], key=lambda arm, kind=kind: eces[kind][arm].mean) for kind in (True, False))
    pairs = len(eces[True]) * len(eces[False])  # of which these two were chosen, so the interval is Bonferroni's
    values = (per_seed(arms[arm], "ece") for arm in (taught, alone))
    difference = paired_difference(*values, level=1 - (1 - LEVEL) / pairs)
    undecided = difference.count < 2 or difference.low <= 0 <= difference.high
    return (
        f"The lowest ECE of {counted(len(eces[True]), 'arm')} with a teacher is {eces[True][taught].mean:.3f} "
        f"({taught}), of {len(eces[False])} without one {eces[False][alone].mean:.3f} ({alone}): "
        f"{interval_text(difference)}{', not distinguishable' if undecided else ''}."
    )


def named(reference: str) -> str:
    """Return a reference arm as sentences name it."""
    return "the deterministic teacher" if reference == REFERENCE else f'"{reference}"'


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as "three seeds"."""
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return f"{words[number] if number < len(words) else number} {noun}{'' if number == 1 else 's'}"


def values_of(records: Iterable[dict], key: str) -> str:
    """Return the different values of a field, such as `1, 2, 4`, of many their range; a dash where there is none."""
    values = sorted(
        {record[key] for record in records if record.get(key) is not None}, key=lambda v: (str(type(v)), v)
    )
    shown = list(dict.fromkeys(value if isinstance(value, str) else f"{value:.4g}" for value in values))
    if len(shown) > MOST_NAMED and not any(isinstance(value, str) for value in values):
        return f"{shown[0]} to {shown[-1]}"
    return ", ".join(shown) or DASH


STUDENTS = """\
- Accuracy is the final epoch's on the test split; nothing is selected on test.
- Numbers are mean ± standard deviation (ddof 1) over seeds; accuracy, agreement, coverage, convergence noise, mean
  average precision (mAP) and F1 in percent.
- "vs {reference}" is the paired difference in {measure} to {it}'s student over shared seeds, in {unit}, with its
  Student-t interval.
- Convergence noise is the standard deviation (ddof 1) of test accuracy over the last {window} evaluations of a run.
- "Scaled": after temperature scaling with the T of least NLL on the validation split, students' and teachers' each
  with its own. It repairs what is over- or under-confident throughout, so a student that is better only before it is
  no better.
- Agreement is the share of test examples on which student and teacher predict the same class.
"""
TEACHERS = """\
- All numbers are of the teacher itself on the test split; nothing is selected on test. Mean ± standard deviation
  (ddof 1) over seeds; accuracy in percent, NLL in nats.
- "Scaled": after temperature scaling of the averaged probabilities, p^(1/T) renormalized, T by NLL on the validation
  split. A teacher that is merely under- or over-confident is helped by this one number as much as by a posterior, so
  compare posteriors by the scaled columns.
- "vs {reference}" is the paired difference in scaled NLL over shared seeds (negative is better), with its Student-t
  interval.
- AUROC: how well the entropy of a prediction separates out-of-distribution images from the test split's; 0.5 is
  chance.
- Time: of a prediction with all its draws, in plain passes of the same images through one network, measured in
  alternation. MB: on disk, network and posterior.
"""
HOLM = """\
- The intervals and p of a table are corrected for its m comparisons by Holm's steps: the one with the k-th smallest
  p-value of the paired t test has the level 1 - 0.05 / (m - k + 1), and from the first interval that covers zero on,
  all have the level of that one. With a probability of 95 % no arm that equals the reference is said to differ.
  Tables of several conditions are not corrected for one another. The interval of the two lowest ECE is Bonferroni's
  for all pairs of an arm with a teacher and one without.
- "Detectable" is the true difference that would be told from zero in 80 % of repetitions:
  (t_{1 - a/2} + t_{0.8}) s / sqrt(n), with the interval's level 1 - a, the standard deviation s of the paired
  differences, and quantiles of Student's t with n - 1 degrees of freedom.
"""
