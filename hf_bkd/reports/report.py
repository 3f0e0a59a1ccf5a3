"""What a study found, in words and tables: `report.md` with its plots, and a summary for the terminal.

Rules of the page: it begins with the finding, the data and the limits, all three made from the numbers; accuracy is
the final epoch's; arms are compared by paired differences over shared seeds; what was not measured is a dash, never a
zero; what the numbers do not decide is said to be undecided.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from textwrap import fill

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..utils.files import write_text
from ..utils.markdown import escaped, folded, table
from .claims.claim import checks_of
from .claims.page import table_of
from .limits_page import HOW_TO_READ as LIMITS_HOW_TO_READ
from .limits_page import has_limits, limits_sentences, ood_cells, set_cells
from .pages import (
    HOLM,
    STUDENTS,
    TEACHERS,
    Cells,
    calibration,
    counted,
    named,
    student_cells,
    student_details,
    teacher_cells,
    teacher_details,
    values_of,
    verdict,
)
from .plots import write_plots
from .records import check_results
from .results import (
    DASH,
    SETTINGS,
    Arms,
    by_condition,
    has_noisy_labels,
    headline_of,
    kind_of,
    measure_of,
    reference_of,
    summary_table,
    teacher_table,
    title_of,
)
from .swept_settings import by_example_cells
from .uncertainty_page import (
    DETAILS,
    MAIN,
    has_posteriors,
    how_to_read,
    mixing_sentence,
    uncertainty_cells,
)

NAME_WIDTH = 26  # of an arm in the terminal, so that the table fits into 80 columns
TESTED: dict[str, tuple[str, Callable[[list], float]]] = {  # what a reliability diagram's bins count
    "accuracy": ("test examples", sum),
    "mean_average_precision": ("labels of test examples", sum),
    "rmse": ("numbers of test examples", max),  # each level of intervals has all of them
}
BEST_FIXED = (
    "The best fixed λ, the labels alone (λ = 0) included, is chosen by these same numbers, which favors it; the "
    "intervals are Student's, paired and not corrected.\n"
)
COSTS = {
    "label_bytes": "bytes of labels an example",
    "label_seconds": "seconds to label",
    "relative_time": "time, teacher's passes",
}


def write_report(results: dict, output_dir: str | os.PathLike) -> Path:
    """Write `report.md` and its plots into `output_dir` (made if missing) and return the path of `report.md`.

    `results` is the content of a study's `results.json`. Arms may lack seeds or metrics; histories and reliability
    bins are drawn where all runs have them; ``"checks"`` are bars that the study set itself, ``"planned"`` says how
    many runs it has if not those of all arms and seeds. Each file appears under its final name only when complete.

    Raises:
        UserError: ``results`` has no list "arms", or a record that can't be read.
    """
    check_results(results)
    folder, bars = Path(output_dir), checks_of(results)
    pictures = write_plots(results, folder)
    sections = [*_opening(results, folder), *_results(results)]
    if bars:
        sections += ["## Bars\n", table_of(bars)]
    if has_posteriors(results):
        sections += ["## What the students do not know\n", *_uncertainty(results)]
        sections.append(folded("How to read these columns", how_to_read(results)))
    if has_limits(results):
        sections += ["## What the students know of their limits\n", *_limits_known(results)]
        sections.append(folded("How to read these columns", LIMITS_HOW_TO_READ))
    if pictures:
        sections.append("## Plots\n")
    sections += [f"![{Path(name).stem}]({name})\n\n*{escaped(caption)}*\n" for name, caption in pictures.items()]
    sections.append(folded("How to read the numbers", _how_to_read(results)))
    sections.append(folded("Settings of each arm", _settings(results)))
    environment = (results.get("environment") or {}).items()
    sections.append(
        folded("Environment", "".join(f"- {escaped(name)}: {escaped(value)}\n" for name, value in environment))
    )
    write_text(folder / "report.md", "\n".join(sections))
    return folder / "report.md"


def print_summary(results: dict, console: Console | None = None) -> None:
    """Print each condition's table, and the sentence that it supports, to the terminal (or to `console`)."""
    console = console or Console(width=None if sys.stdout.isatty() else 1000)  # nothing is wrapped in a file
    for number, (condition, arms) in enumerate(by_condition(results).items()):
        header, *body = _main_cells(results, condition, arms, with_std=False)
        shown = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
        for i, heading in enumerate(header):
            width = max(11, *(len(row[i]) for row in body))
            lines = fill(heading, width, break_long_words=False, break_on_hyphens=False)
            shown.add_column(Text(lines), justify="right" if i else "left", no_wrap=i > 0)
        for name, *cells in body:
            shown.add_row(Text(fill(name, NAME_WIDTH, subsequent_indent="  ")), *map(Text, cells))
        title = f"{condition or results.get('recipe', 'Results')}, {counted(_most_seeds(arms), 'seed')}"
        console.print(Text(f"\n{title}" if number else title, style="bold"))
        console.print(shown)
        console.print(Text(verdict(_rows(results, condition))))


def _opening(results: dict, folder: Path) -> Iterator[str]:
    yield f"# {escaped(title_of(results))}\n"
    if results["arms"]:
        yield (
            "\n".join([*_finding(results), f"- **Data.** {_data(results)}", f"- **Limits.** {_limits(results)}"])
            + "\n"
        )
    else:
        yield "No run has finished yet.\n"
    if results.get("note"):
        yield f"{escaped(results['note'], markup=True)}\n"
    if (folder / "results.json").is_file():
        yield "All numbers: [results.json](results.json).\n"
    if (folder / "students").is_dir():
        yield "The students, ready for `from_pretrained`: [`students/CONDITION/seed-S/ARM`](students).\n"


def _finding(results: dict) -> Iterator[str]:
    groups = by_condition(results)
    head = f"- **Finding, with {counted(max(map(_most_seeds, groups.values())), 'seed')}.**"
    students = kind_of(results) == "study"
    sentences = {
        condition: escaped(f"{verdict(_rows(results, condition))} {calibration(condition, arms) if students else ''}")
        for condition, arms in groups.items()
    }
    if len(groups) == 1:
        yield f"{head} {next(iter(sentences.values()))}"
    else:
        yield head
        yield from (f"  - {escaped(condition)}: {sentence}" for condition, sentence in sentences.items())


def _data(results: dict) -> str:
    records, groups = results["arms"], by_condition(results)
    counts = [record["reliability"]["count"] for record in records if record.get("reliability")]
    what, number_of = TESTED[headline_of(next(iter(groups.values()))).metric]
    tested = {number_of(count) for count in counts}
    subject = "student" if kind_of(results) == "study" else "network"
    parts = [results.get("dataset") or "unnamed data"]
    if tested:
        parts.append(f"{' or '.join(f'{number:,.0f}' for number in sorted(tested))} {what}")
    conditions = f" under {len(groups)} conditions" if len(groups) > 1 else ""
    runs = (
        f"{counted(len(records), 'run').capitalize()} of {len({record['arm'] for record in records})} arms{conditions}"
    )
    return escaped(f"{', '.join(parts)}. {runs}; the {subject} is {values_of(records, subject)}.")


def _limits(results: dict) -> str:
    records, groups = results["arms"], by_condition(results)
    seeds = {record["seed"] for record in records}
    compared = max(sum(bool(row["difference"]) for row in _rows(results, condition)) for condition in groups)
    expected = (len(arms) * len(set().union(*arms.values())) for arms in groups.values())
    missing = results.get("planned", sum(expected)) - len(records)
    noisy = [condition for condition, arms in groups.items() if has_noisy_labels(condition, arms)]
    sentences = [
        f"{counted(len(seeds), 'seed').capitalize()}: the intervals cover what seeds change, not the choice of test "
        "examples."
    ]
    if compared > 1:
        sentences.append("Intervals are corrected for the arms compared within a condition, by Holm's steps.")
    if missing:
        sentences.append(f"{counted(missing, 'run').capitalize()} {'is' if missing == 1 else 'are'} missing so far.")
    if noisy:
        sentences.append(
            f"ECE is omitted where labels are noisy ({'; '.join(noisy)}): it would judge by what the labels got wrong."
        )
    sentences.append(mixing_sentence(results))
    return escaped(" ".join(sentences))


def _results(results: dict) -> Iterator[str]:
    yield "## Results\n"
    groups = by_condition(results)
    details = student_details if kind_of(results) == "study" else teacher_details
    for condition, arms in groups.items():
        if len(groups) > 1:
            yield f"### {escaped(condition) or 'no condition named'}\n"
        yield table(_main_cells(results, condition, arms))
        if measure_of(results).unit == "points" and (cells := by_example_cells(arms, measure_of(results))):
            yield table(cells)
            yield BEST_FIXED
        yield folded("More columns", table(details(results, condition, arms)))


def _main_cells(results: dict, condition: str, arms: Arms, with_std: bool = True) -> Cells:
    """The five columns of a condition, without differences where the reference arm is missing."""
    cells = (student_cells if kind_of(results) == "study" else teacher_cells)(results, condition, arms, with_std)
    if reference_of(results) in arms:
        return cells
    return [
        [cell for cell, heading in zip(row, cells[0], strict=True) if not heading.startswith("vs ")] for row in cells
    ]


def _rows(results: dict, condition: str) -> list[dict]:
    return (summary_table if kind_of(results) == "study" else teacher_table)(results, condition)


def _most_seeds(arms: Arms) -> int:
    return max(map(len, arms.values()))


def _uncertainty(results: dict) -> Iterator[str]:
    groups = by_condition(results)
    for condition in groups:
        if len(groups) > 1:
            yield f"### {escaped(condition)}\n"
        yield table(uncertainty_cells(results, condition, MAIN))
        yield folded("More columns", table(uncertainty_cells(results, condition, DETAILS)))


def _limits_known(results: dict) -> Iterator[str]:
    for condition in by_condition(results):
        if condition:
            yield f"### {escaped(condition)}\n"
        if sentence := limits_sentences(results, condition):
            yield f"{escaped(sentence)}\n"
        yield table(ood_cells(results, condition))
        yield table(set_cells(results, condition))


def _how_to_read(results: dict) -> str:
    reference, measure = reference_of(results), measure_of(results)
    windows = sorted({record.get("noise_window") or 0 for record in results["arms"]} - {0})
    page = (STUDENTS if kind_of(results) == "study" else TEACHERS).format(
        reference=escaped(reference),
        it=escaped(named(reference)),
        measure=measure.name,
        unit=measure.unit,
        window=" or ".join(map(str, windows)) or "few",
    )
    return page + HOLM


def _settings(results: dict) -> str:
    groups, records = by_condition(results), results["arms"]
    settings = {key: name for key, name in SETTINGS.items() if any(record.get(key) for record in records)}
    costs = {key: name for key, name in COSTS.items() if any(record.get(key) for record in records)}
    cells = [["condition", "arm", "teacher", *settings.values(), *costs.values(), "seconds a run"]]
    for condition, arms in groups.items():
        for arm, runs in arms.items():
            values = [values_of(runs.values(), key) for key in ("teacher", *settings)]
            means = [
                _mean(runs.values(), key, digits) for key, digits in (*((key, 3) for key in costs), ("seconds", 0))
            ]
            cells.append([condition, arm, *values, *means])
    return table(cells if len(groups) > 1 else [row[1:] for row in cells])


def _mean(records: Iterable[dict], key: str, digits: int) -> str:
    values = [record[key] for record in records if record.get(key) is not None]
    return DASH if not values else f"{np.mean(values):.{digits}f}" if digits == 0 else f"{np.mean(values):.{digits}g}"
