"""A recipe's command line, and the run behind it."""

import dataclasses
import gc
import json
import multiprocessing
import platform
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
import yaml
from accelerate import PartialState

from ..errors import UserError
from ..files import writable_folder, write_json
from ..hub import push_folder
from ..progress import progress_bar
from ..report import print_summary, write_report
from ..training_args import DistillationTrainingArguments
from .arms import Arm, Study, slug
from .cell import Cell

_TICKS: Any = None  # a worker's line to the progress bar
# Arguments that change results: an output folder holds one setting of them.
DECISIVE = (
    "bf16", "fp16", "gradient_accumulation_steps", "kd_lambda", "label_smoothing_factor", "learning_rate",
    "lr_scheduler_type", "max_grad_norm", "max_steps", "noise_epochs", "num_train_epochs", "optim",
    "per_device_train_batch_size", "student_temperature", "teacher_temperature", "temperature_scale", "warmup_steps",
    "weight_decay",
)  # fmt: skip


@dataclass
class StudyArguments:
    """What a recipe is asked for beside the training arguments.

    Raises:
        UserError: seeds that are no whole numbers, or a count below 1.
    """

    dataset: str = field(default="", metadata={"help": "Name on the Hub, or a local folder."})
    teacher_model: str = field(default="resnet50_cifar", metadata={"help": "timm architecture of the teacher."})
    student_model: str = field(default="resnet18_cifar", metadata={"help": "timm architecture of the student."})
    teacher: str | None = field(
        default=None,
        metadata={"help": "A saved teacher, folder or name on the Hub, to use instead of training one of its kind."},
    )
    seeds: str = field(default="0,1,2", metadata={"help": "Whole numbers with commas between them."})
    arms: str = field(
        default="all",
        metadata={
            "help": "Arms to run: their names in lower case, words joined by hyphens, with commas between them; or all."
        },
    )
    teacher_epochs: float | None = field(
        default=None, metadata={"help": "Epochs of a teacher's training; the students' if not given."}
    )
    num_samples: int = field(default=10, metadata={"help": "Draws from the teacher's posterior per example."})
    ensemble_size: int = field(default=3, metadata={"help": "Members of a deep ensemble."})
    validation_size: int | None = field(
        default=None, metadata={"help": "Examples held out of the training split; a tenth if not given."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Use only so many training examples."})
    max_test_samples: int | None = field(default=None, metadata={"help": "Use only so many test examples."})
    workers: int = field(default=1, metadata={"help": "Processes that share the conditions and seeds between them."})

    def __post_init__(self):
        try:
            self.seed_list = [int(seed) for seed in self.seeds.split(",")]
        except ValueError:
            raise UserError(
                f"seeds must be whole numbers with commas between them, and they are {self.seeds!r}"
            ) from None
        for name in (
            "num_samples",
            "ensemble_size",
            "workers",
            "validation_size",
            "max_train_samples",
            "max_test_samples",
        ):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, and it is {getattr(self, name)}")

    def chosen(self, arms: Iterable[Arm]) -> tuple[Arm, ...]:
        """The arms asked for, in the study's order; UserError for one it doesn't have."""
        if self.arms == "all":
            return tuple(arms)
        by_slug = {slug(arm.name): arm for arm in arms}
        asked = self.arms.split(",")
        unknown = [name for name in asked if name not in by_slug]
        if unknown:
            raise UserError(f"there is no arm {unknown[0]!r}; the arms are {', '.join(by_slug)}")
        return tuple(arm for name, arm in by_slug.items() if name in asked)


def main(study: Study, defaults: dict[str, Any], argv: list[str] | None = None) -> None:
    """Run a recipe from the command line: parse, run, report; what a user can cause ends in one sentence.

    Args:
        study: what to run.
        defaults: the recipe's own defaults of study and training arguments.
        argv: arguments; the process' own if not given.
    """
    try:
        options, args = parse(defaults, sys.argv[1:] if argv is None else argv)
        run(dataclasses.replace(study, arms=options.chosen(study.arms)), options, args)
    except UserError as error:
        _end(f"error: {error}", 2)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _end(
            f"error: {error.strerror or error}{where}; what was finished is kept: the same command goes on from there",
            2,
        )
    except KeyboardInterrupt:
        _end("interrupted; what was finished is kept: the same command goes on from there", 130)


def _end(sentence: str, status: int) -> None:
    print(sentence, file=sys.stderr)
    sys.exit(status)


def parse(defaults: dict[str, Any], argv: list[str]) -> tuple[StudyArguments, DistillationTrainingArguments]:
    """The command line over ``--config file.yaml`` over the recipe's defaults.

    Raises:
        UserError: an unknown argument, or a value of the wrong kind.
    """

    def refuse(message: str) -> None:
        raise UserError(f"{message} (--help lists all arguments)")

    parser = transformers.HfArgumentParser((StudyArguments, DistillationTrainingArguments), allow_abbrev=False)
    parser.add_argument("--config", help="YAML file of further arguments; the command line wins over it.")
    parser.error = refuse
    known = {action.dest for action in parser._actions}
    parser.set_defaults(**defaults)
    for file in (value for flag, value in zip(argv, argv[1:], strict=False) if flag == "--config"):
        parser.set_defaults(**_read_config(Path(file), known))
    options, args, _ = parser.parse_args_into_dataclasses(args=argv, look_for_args_file=False)
    return options, args


def _read_config(path: Path, known: set[str]) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"cannot read --config {path}: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise UserError(f"--config {path} must hold one 'argument: value' per line")
    unknown = sorted(set(content) - known)
    if unknown:
        raise UserError(f"--config {path} names an unknown argument: {unknown[0]}")
    return content


def run(study: Study, options: StudyArguments, args: DistillationTrainingArguments) -> dict[str, Any]:
    """Run all cells of a study, write ``results.json`` and the report, and return the results."""
    output_dir = writable_folder(args.output_dir)
    _check_same_settings(output_dir, study, options, args)
    cells = [(condition, seed) for condition in study.conditions for seed in options.seed_list]
    main_process = PartialState().is_main_process
    if args.disable_tqdm:
        quiet()
    if options.workers > 1 and PartialState().num_processes == 1:
        records = _run_in_pool(study, options, args, cells)
    else:
        records = _run_here(study, options, args, cells)
    results = {
        "recipe": study.name,
        "dataset": options.dataset,
        "environment": environment(args),
        "arms": _in_order(study, records),
    }
    if main_process:
        write_json(output_dir / "results.json", results)
        report = write_report(results, output_dir)
        print_summary(results)
        print(f"report: {report}")
        if args.push_to_hub:
            print(f"pushed: {_push(study, options, args)}")
    PartialState().wait_for_everyone()
    return results


def planned_trainings(study: Study, options: StudyArguments) -> int:
    """How many networks one cell trains at most."""
    kinds = {arm.teacher for arm in study.arms}
    networks = options.ensemble_size if "ensemble" in kinds else int(bool(kinds & {"deterministic", "laplace"}))
    networks += "variational" in kinds
    for arm in study.arms:
        networks += arm.folds * (options.ensemble_size if arm.teacher == "ensemble" else 1)
    plain_students = sum(
        arm.teacher == "deterministic" and arm.temperatures == (1.0,) and not arm.scaled for arm in study.arms
    )
    repeated = (
        sum(1.0 in arm.temperatures and len(arm.temperatures) > 1 for arm in study.arms) if plain_students else 0
    )
    return networks + sum(len(arm.temperatures) for arm in study.arms) - repeated


def run_cell(
    study: Study,
    options: StudyArguments,
    args: DistillationTrainingArguments,
    cell: tuple[str, int],
    on_trained: Callable[[], None],
) -> list[dict[str, Any]]:
    """The records of all arms of one (condition, seed)."""
    condition, seed = cell
    work = Cell(study, condition, seed, options, args, on_trained)
    return [work.run(arm) for arm in work.arms()]


def _run_here(study: Study, options: StudyArguments, args: Any, cells: list) -> list[dict[str, Any]]:
    """One cell after the other, in this process or in step with its fellows under accelerate."""
    total = planned_trainings(study, options) * len(cells)
    with progress_bar(disable=not PartialState().is_main_process) as bar:
        task = bar.add_task("training networks", total=total)
        records = [run_cell(study, options, args, cell, lambda: bar.advance(task)) for cell in cells]
        bar.update(task, completed=total)
    return [record for part in records for record in part]


def _run_in_pool(study: Study, options: StudyArguments, args: Any, cells: list) -> list[dict[str, Any]]:
    """Cells shared between processes of one thread each, which beats threads for small networks."""
    context = multiprocessing.get_context("spawn")
    ticks = context.Queue()
    total = planned_trainings(study, options) * len(cells)
    pool = ProcessPoolExecutor(options.workers, mp_context=context, initializer=_start_worker, initargs=(ticks,))
    try:
        with progress_bar() as bar:
            task = bar.add_task("training networks", total=total)
            pending = {pool.submit(_run_cell_in_worker, study, options, args, cell) for cell in cells}
            records = []
            while pending:
                done, pending = wait(pending, timeout=0.5)
                while not ticks.empty():
                    ticks.get()
                    bar.advance(task)
                for future in done:
                    records += future.result()
            bar.update(task, completed=total)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return records


def _start_worker(ticks: Any) -> None:
    global _TICKS
    _TICKS = ticks
    torch.set_num_threads(1)
    gc.freeze()  # the Trainer collects garbage whenever it starts: spare it the imported libraries
    quiet()


def _run_cell_in_worker(
    study: Study, options: StudyArguments, args: Any, cell: tuple[str, int]
) -> list[dict[str, Any]]:
    return run_cell(study, options, args, cell, lambda: _TICKS.put(1))


def quiet() -> None:
    """No bars and notes of the libraries underneath: a study shows its own bar."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def _in_order(study: Study, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    conditions, arms = list(study.conditions), [arm.name for arm in study.arms]
    return sorted(records, key=lambda r: (conditions.index(r["condition"]), arms.index(r["arm"]), r["seed"]))


def _check_same_settings(output_dir: Path, study: Study, options: StudyArguments, args: Any) -> None:
    """An output folder holds the results of one setting; refuse another one instead of mixing them."""
    ignored = {"seeds", "arms", "workers"}
    settings = {name: value for name, value in dataclasses.asdict(options).items() if name not in ignored}
    settings |= {"recipe": study.name} | {name: args.to_dict()[name] for name in DECISIVE}
    settings = json.loads(json.dumps(settings, default=str))
    file = output_dir / "settings.json"
    if not file.is_file():
        if PartialState().is_main_process:
            write_json(file, settings)
        return
    before = json.loads(file.read_text())
    for name in settings:
        if before.get(name) != settings[name]:
            raise UserError(
                f"{output_dir} holds a run with {name} {before.get(name)!r}, and this one has {settings[name]!r}: pass "
                "another --output_dir, or delete that one"
            )


def environment(args: DistillationTrainingArguments) -> dict[str, str]:
    """Versions and hardware, as strings."""
    packages = ("hf_bkd", "torch", "transformers", "datasets", "accelerate", "timm", "laplace-torch")
    hardware = torch.cuda.get_device_name() if args.device.type == "cuda" else f"{platform.machine()} CPU"
    versions = {name: version(name) for name in packages}
    return {"python": platform.python_version(), **versions, "hardware": hardware, "processes": str(args.world_size)}


def _push(study: Study, options: StudyArguments, args: DistillationTrainingArguments) -> str:
    """Push the last arm's student of the first condition and seed, which is the one that the recipe is about."""
    condition, seed = next(iter(study.conditions)), options.seed_list[0]
    student = Path(args.output_dir, "students", slug(condition) or "all", f"seed-{seed}", slug(study.arms[-1].name))
    return push_folder(
        student, args.hub_model_id or f"{study.name}-student", private=args.hub_private_repo, token=args.hub_token
    )
