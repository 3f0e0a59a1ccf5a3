"""What a page about students and a page about teachers show: columns, the verdict and how to read them."""

from collections.abc import Callable
from textwrap import fill
from typing import NamedTuple

from .results import (
    REFERENCE,
    compares_teachers,
    difference_text,
    measure_of,
    reference_of,
    spread_text,
    summary_table,
    teacher_table,
)

NAME_WIDTH = 26  # of an arm in the terminal, so that the table fits into 80 columns
Columns = dict[str, Callable[[dict], str]]  # heading -> what it shows of a row


class Page(NamedTuple):
    """How results are shown: rows of a condition, columns on the page and in the terminal, and how to read them."""

    rows: Callable[[dict, str], list[dict]]
    columns: Columns
    terminal_columns: Columns
    how_to_read: str


def page_of(results: dict) -> Page:
    """The page of these results, which names what its arms are compared with, and in what."""
    page = TEACHERS if compares_teachers(results) else STUDENTS
    reference, measure = reference_of(results), measure_of(results)
    told = {"reference": reference, "it": _named(reference), "measure": measure.name, "unit": measure.unit}
    columns, terminal = (
        {heading.format(**told): show for heading, show in each.items()}
        for each in (page.columns, page.terminal_columns)
    )
    window = max((record.get("noise_window") or 0 for record in results["arms"]), default=0) or "few"
    return page._replace(
        columns=columns, terminal_columns=terminal, how_to_read=page.how_to_read.format(window=window, **told)
    )


def _number(key: str, scale: int = 1, digits: int = 3, with_std: bool = True) -> Callable[[dict], str]:
    """Shows a `Spread` of a row."""
    return lambda row: spread_text(row[key], row["seeds"], scale, digits, with_std)


def _name(row: dict) -> str:
    return row["arm"]


def _short_name(row: dict) -> str:
    return fill(row["arm"], NAME_WIDTH, subsequent_indent="  ")


def verdict(rows: list[dict]) -> str:
    """What a table's intervals say, in words: the one conclusion of the page, made from its numbers."""
    reference = next((row["arm"] for row in rows if row["is_reference"]), None)
    if reference is None:
        return "The arm to compare with is not among these runs, so no differences are given."
    it, measure = _named(reference), rows[0]["measure"]
    found: dict[str, list[str]] = {"better": [], "worse": [], "same": [], "open": []}
    for row in (row for row in rows if row["difference"]):
        mean, *ends, count = row["difference"]
        low, high = sorted(measure.sign * end for end in ends)
        kind = "open" if count < 2 else "better" if low > 0 else "worse" if high < 0 else "same"
        shown = f"{measure.scale * mean:+.{measure.digits}f}{' points' if measure.unit == 'points' else ''}"
        found[kind].append(row["arm"] if kind in ("same", "open") else f"{row['arm']} ({shown})")
    heads = {
        "better": f"Better than {it} beyond seed noise",
        "worse": f"Worse than {it} beyond seed noise",
        "same": "Not distinguishable from it",
        "open": "Undecided, with fewer than two shared seeds",
    }
    sentences = [f"{heads[kind]}: {'; '.join(names)}." for kind, names in found.items() if names]
    if found["same"] and not found["better"] and not found["worse"]:
        sentences[0] = f"No arm differs from {it} beyond seed noise."
    if not sentences:
        return f"There is no other arm yet to compare with {it}."
    return ("" if measure.name == "accuracy" else f"In {measure.name}: ") + " ".join(sentences)


def _named(reference: str) -> str:
    return "the deterministic teacher" if reference == REFERENCE else f'"{reference}"'


STUDENTS = Page(
    rows=summary_table,
    columns={
        "arm": _name,
        "seeds": lambda row: str(row["seeds"]),
        "accuracy": _number("accuracy", 100, 2),
        "vs {reference} ({unit}, [95 % CI])": difference_text,
        "NLL": _number("nll"),
        "ECE": _number("ece"),
        "Brier": _number("brier"),
        "convergence noise": _number("convergence_noise", 100, 2),
        "teacher accuracy": _number("teacher_accuracy", 100, 2),
        "teacher NLL": _number("teacher_nll"),
        "agreement": _number("agreement", 100, 2),
    },
    terminal_columns={
        "arm": _short_name,
        "accuracy": _number("accuracy", 100, 2),
        "vs {reference}\n({unit}, [95 % CI])": difference_text,
        "NLL": _number("nll", with_std=False),
        "conv.\nnoise": _number("convergence_noise", 100, 2, with_std=False),
    },
    how_to_read="""## How to read this

- Accuracy is the final epoch's on the test split; nothing is selected on test.
- Numbers are mean ± standard deviation (ddof 1) over seeds; accuracy, agreement and convergence noise in percent.
- "vs {reference}" is the paired difference in {measure} to {it}'s student over shared seeds, in {unit}, with its 95 %
  Student-t interval. It covers variation between seeds, not the choice of test examples, and each interval stands
  alone: of 20 arms that change nothing, about one would exclude zero.
- Convergence noise is the standard deviation (ddof 1) of test accuracy over the last {window} evaluations of a run.
- Agreement is the share of test examples on which student and teacher predict the same class.
""",
)
TEACHERS = Page(
    rows=teacher_table,
    columns={
        "teacher": _name,
        "seeds": lambda row: str(row["seeds"]),
        "accuracy": _number("accuracy", 100, 2),
        "NLL": _number("nll"),
        "ECE": _number("ece"),
        "Brier": _number("brier"),
        "AUROC, out-of-distribution": _number("ood_auroc"),
        "T": _number("temperature", 1, 2),
        "scaled NLL": _number("scaled_nll"),
        "vs {reference} (scaled NLL, [95 % CI])": difference_text,
        "scaled ECE": _number("scaled_ece"),
        "scaled AUROC": _number("scaled_ood_auroc"),
        "time, passes": _number("relative_time", 1, 2, with_std=False),
        "MB": _number("megabytes", 1, 2, with_std=False),
    },
    terminal_columns={
        "teacher": _short_name,
        "accuracy": _number("accuracy", 100, 2, with_std=False),
        "NLL": _number("nll", with_std=False),
        "ECE": _number("ece", with_std=False),
        "scaled\nNLL": _number("scaled_nll", with_std=False),
        "scaled\nECE": _number("scaled_ece", with_std=False),
        "AUROC": _number("ood_auroc", with_std=False),
        "time": _number("relative_time", 1, 1, with_std=False),
    },
    how_to_read="""## How to read this

- All numbers are of the teacher itself on the test split; nothing is selected on test. Mean ± standard deviation
  (ddof 1) over seeds; accuracy in percent, NLL in nats.
- "Scaled": after temperature scaling of the averaged probabilities, p^(1/T) renormalized, T by NLL on the validation
  split. A teacher that is merely under- or over-confident is helped by this one number as much as by a posterior, so
  compare posteriors by the scaled columns.
- "vs {reference}" is the paired difference in scaled NLL over shared seeds (negative is better), with its 95 %
  Student-t interval; each interval stands alone.
- AUROC: how well the entropy of a prediction tells out-of-distribution images from the test split's; 0.5 is chance.
- Time: of a prediction with all its draws, in plain passes of the same images through one network, measured in
  alternation. MB: on disk, network and posterior.
""",
)
