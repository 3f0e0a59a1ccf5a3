"""Running a study's cells, here or shared between processes, and writing its results and report.

Whatever is finished stands under its final name in ``output_dir``, so that an interrupted run goes on from there:

    teachers/CONDITION/seed-S/...     fitted teachers
    labels/CONDITION/seed-S/...       their soft labels, with what made them
    students/CONDITION/seed-S/ARM/    a student and its card
    arms/CONDITION/seed-S/ARM.json    its record
    data/CONDITION/seed-S/            digests of the data that all these are made from
    settings.json                     what they are made with
    checkpoints/                      of the training that goes on at present
"""

import atexit
import dataclasses
import gc
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from accelerate import PartialState

from ..hub.transfer import push_folder
from ..reports.report import print_summary, write_report
from ..training.arguments import DistillationTrainingArguments
from ..utils.environment import environment
from ..utils.errors import told_in_a_sentence
from ..utils.files import bare_name, slug, tidy, writable_folder, write_json
from ..utils.locks import sole_user
from ..utils.processes import decided_by_main
from ..utils.progress import progress_bar
from .arguments import StudyArguments, parse
from .arms import Study
from .cell import Cell
from .comparison import TeacherComparison
from .posteriors import check_lambdas
from .settings import check_same_study
from .students import StudentTraining
from .workers import in_workers


def main(
    study: Study | Callable[[Any], Study],
    defaults: dict[str, Any] | Callable[[Any], dict[str, Any]],
    argv: list[str] | None = None,
    arguments: type[StudyArguments] = StudyArguments,
) -> None:
    """Run a recipe from the command line: parse, run, report; a user's mistake ends in one sentence.

    Args:
        study: to run, or a function that makes it from the options.
        defaults: the recipe's own defaults of study and training arguments, or a function of the options.
        argv: arguments; the process' own if not given.
        arguments: what it can be asked for.
    """
    with told_in_a_sentence():
        options, args = parse(defaults, sys.argv[1:] if argv is None else argv, arguments)
        study = study if isinstance(study, Study) else study(options)
        run(dataclasses.replace(study, arms=options.chosen(study.arms)), options, args)
        PartialState().destroy_process_group()


def run(study: Study, options: StudyArguments, args: DistillationTrainingArguments) -> dict[str, Any]:
    """Run all cells of a study, write ``results.json`` and the report, and return the results.

    Raises:
        UserError: the folder is in use, can't be written, or holds another study.
    """
    output_dir, _ = writable_folder(args.output_dir), args.device  # asking for the device sets up the processes
    with sole_user(output_dir):
        return _run_alone(study, options, args, output_dir)


def _run_alone(
    study: Study, options: StudyArguments, args: DistillationTrainingArguments, output_dir: Path
) -> dict[str, Any]:
    decided_by_main(lambda: _begin(study, options, args, output_dir))
    cells = [  # a seed's all first
        (condition, seed)
        for number, seed in enumerate(options.seed_list)
        for condition in study.conditions
        if number < study.num_seeds.get(condition, len(options.seed_list))
    ]
    if args.disable_tqdm:
        quiet()
    if options.workers > 1 and PartialState().num_processes == 1:
        records = _run_in_pool(study, options, args, cells)
    else:
        records = _run_here(study, options, args, cells)
    results = {
        "recipe": study.name,
        "kind": "study" if study.students else "teachers",
        "dataset": bare_name(options.dataset),
        "note": study.note,
        "reference": study.reference,
        "measure": study.measure,
        "environment": environment(args.device, args.world_size),
        "arms": _in_order(study, records),
    }
    decided_by_main(lambda: _finish(study, options, args, results))
    return results


def _begin(study: Study, options: StudyArguments, args: DistillationTrainingArguments, output_dir: Path) -> None:
    check_lambdas(study, args)
    tidy(output_dir)
    check_same_study(output_dir, study, options, args)


def _finish(
    study: Study, options: StudyArguments, args: DistillationTrainingArguments, results: dict[str, Any]
) -> None:
    """Write and print the results, and push if asked to."""
    output_dir = Path(args.output_dir)
    for folder in (*output_dir.glob("checkpoints/*"), output_dir / "checkpoints"):
        with suppress(OSError):  # an interrupted training's are there, or there were none
            folder.rmdir()
    write_json(output_dir / "results.json", results)
    report = write_report(results, output_dir)
    print_summary(results)
    print(f"report: {report}")
    if args.push_to_hub:
        print(f"pushed: {_push(study, options, args)}")


def run_cell(
    study: Study,
    options: StudyArguments,
    args: DistillationTrainingArguments,
    place: tuple[str, int],
    on_finished: Callable[[], None],
) -> list[dict[str, Any]]:
    """Return the records of all arms of one (condition, seed); ``on_finished`` is called after each."""
    cell = Cell(study, *place, options, args)
    measured = StudentTraining(cell) if study.students else TeacherComparison(cell)
    records = []
    for arm in cell.arms():
        records.append(measured.run(arm))
        on_finished()
    return records


def _run_here(study: Study, options: StudyArguments, args: Any, cells: list) -> list[dict[str, Any]]:
    """Run one cell after the other; each is shared by the processes of an accelerate launch."""
    total = len(study.arms) * len(cells)
    with progress_bar(disable=not args.disable_tqdm or not PartialState().is_main_process) as bar:
        task = bar.add_task("arms", total=total)
        records = [run_cell(study, options, args, cell, lambda: bar.advance(task)) for cell in cells]
        bar.update(task, completed=total)
    return [record for part in records for record in part]


def _run_in_pool(study: Study, options: StudyArguments, args: Any, cells: list) -> list[dict[str, Any]]:
    """Run cells in processes of one thread each, which beats threads for small networks."""
    total = len(study.arms) * len(cells)
    with progress_bar() as bar:
        task = bar.add_task("arms", total=total)
        parts = in_workers(
            options.workers,
            cells,
            partial(run_cell, study, options, args),
            _start_worker,
            lambda: bar.advance(task),
            lambda cell: ", ".join(filter(None, [cell[0], f"seed {cell[1]}"])),
        )
        records = [record for part in parts for record in part]
        bar.update(task, completed=total)
    return records


def _start_worker() -> None:
    torch.set_num_threads(1)
    gc.freeze()  # the Trainer collects garbage whenever it starts: spare it the imported libraries
    atexit.register(gc.unfreeze)
    quiet()


def quiet() -> None:
    """Silence the bars and notes of the libraries underneath: a study shows its own bar."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def _in_order(study: Study, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    conditions, arms = list(study.conditions), [arm.name for arm in study.arms]
    return sorted(records, key=lambda r: (conditions.index(r["condition"]), arms.index(r["arm"]), r["seed"]))


def _push(study: Study, options: StudyArguments, args: DistillationTrainingArguments) -> str:
    """Push the last arm's student of the first condition and seed, which is the one that the recipe is about."""
    condition, seed = next(iter(study.conditions)), options.seed_list[0]
    student = Path(args.output_dir, "students", slug(condition) or "all", f"seed-{seed}", slug(study.arms[-1].name))
    return push_folder(
        student, args.hub_model_id or f"{study.name}-student", private=args.hub_private_repo, token=args.hub_token
    )
