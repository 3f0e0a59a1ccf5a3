"""`hf-bkd teacher fit`: from a trained network, or the name of an architecture, to a saved teacher.

The methods and their options are those of the specifications in `teachers`.
"""

import shutil
from collections import defaultdict
from dataclasses import Field, dataclass, field, fields, make_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import timm
from accelerate import PartialState

from ..hub.transfer import push_folder
from ..metrics import classification_metrics
from ..study.arguments import parse
from ..teachers import SPECIFICATIONS, Ensemble, Teacher, TeacherSpec, predict_all
from ..teachers.specification import resolved
from ..training.arguments import DistillationTrainingArguments
from ..utils.checks import check_choice, check_count
from ..utils.errors import UserError
from ..utils.files import tidy, whole_folder, writable_folder
from ..utils.locks import sole_user
from ..utils.processes import decided_by_main
from .arguments import metrics_text
from .finished import is_finished, mark_finished, remove_unused
from .fitting import NewNetworks, TrainedNetworks, asked_for, checkpoints_of

USAGE = "hf-bkd teacher fit --method METHOD --model MODEL [MODEL ...] --dataset DATASET --output_dir FOLDER [...]"
DESCRIPTION = """
Fit a teacher and save it. A trained classifier of images or texts becomes a teacher as it is (deterministic, laplace,
mc_dropout), or is trained further (variational, ivon); the name of a timm architecture is trained on the dataset from
scratch, and as many times as there are members for an ensemble. All arguments of transformers' Trainer are taken.
An interrupted training goes on with the same command.
"""
DEFAULTS = {
    "output_dir": "",
    "kd_lambda": 0.0,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "lr_scheduler_type": "cosine",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "logging_strategy": "epoch",
    "report_to": "none",
}
FROM_SCRATCH = {"num_train_epochs": 50, "learning_rate": 1e-3, "per_device_train_batch_size": 64}


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class FitOptions:
    """What is asked for beside the training arguments and the options of the method.

    Raises:
        UserError: something that is missing or unknown, or a number out of its range.
    """

    method: str = _option("", f"One of {', '.join(sorted(SPECIFICATIONS))}.")
    model: list[str] = field(
        default_factory=list,
        metadata={"help": "Folder or Hub name of a trained classifier or teacher, or a timm architecture."},
    )
    dataset: str = _option("", "Folder or name on the Hub.")
    train_split: str = _option("train", "What networks are trained and posteriors fitted on.")
    validation_split: str | None = _option(
        None, "What is chosen and measured on; validation if there is one, else a part held out of the training split."
    )
    validation_size: int | None = _option(None, "Examples to hold out; a tenth of the training split if not given.")
    input_column: str | None = _option(None, "Of images or texts, if there are several.")
    label_column: str | None = _option(None, "If it is not called label, labels or fine_label.")
    num_samples: int = _option(10, "Draws from the posterior that choices and validation metrics are made with.")
    augment: bool = _option(False, "Train on random crops and flips of the images.")

    def __post_init__(self):
        self.model = [self.model] if isinstance(self.model, str) else self.model
        for name in ("method", "model", "dataset"):
            if not getattr(self, name):
                choices = f", one of {', '.join(sorted(SPECIFICATIONS))}" if name == "method" else ""
                raise UserError(f"pass --{name}{choices}")
        check_choice(sorted(SPECIFICATIONS), method=self.method)
        check_count(num_samples=self.num_samples)
        if self.validation_size is not None:
            check_count(validation_size=self.validation_size)
        self.spec = self._specification()
        if len(self.model) > 1 and not isinstance(self.spec, Ensemble):
            raise UserError(f"a {self.method} teacher is of one network, and --model names {len(self.model)}")

    @property
    def from_scratch(self) -> bool:
        """Whether the models are architectures; UserError for some of each kind."""
        architectures = [is_architecture(name) for name in self.model]
        if len(set(architectures)) > 1:
            raise UserError("--model names architectures and trained networks: pass several of either kind")
        return architectures[0]

    def _specification(self) -> TeacherSpec:
        """The method with the options that were given; the others have the command line's own defaults."""
        given = {name: getattr(self, name) for name in METHOD_OPTIONS if getattr(self, name, None) is not None}
        spec, given = resolved(self.method, given)
        declared = {each.name: each.metadata for each in fields(spec)}
        for name in given:
            if name not in declared:
                raise UserError(f"--{name} is no option of a {self.method} teacher: omit it")
        one_new_network = len(self.model) == 1 and self.from_scratch
        sources = ("command_line", "from_scratch") if one_new_network else ("command_line",)
        defaults = {name: data[s] for s in sources for name, data in declared.items() if data.get(s) is not None}
        return spec(**defaults | given)


def is_architecture(name: str) -> bool:
    """Say whether a model is the name of a timm architecture and no folder."""
    return not Path(name).is_dir() and timm.is_model(name)


def _method_options() -> dict[str, tuple[str, Any, Any]]:
    """All options of the methods: the specifications' fields that have a help text."""
    kinds, texts = {}, defaultdict(list)
    for method, spec in sorted(SPECIFICATIONS.items()):
        for declared in fields(spec):
            if declared.metadata.get("text"):
                kinds[declared.name] = declared.metadata["kind"] or _kind_of(get_type_hints(spec)[declared.name])
                texts[declared.name].append(f"{method}: {_help(declared)}")
    return {name: (name, kind | None, _option(None, "; ".join(texts[name]) + ".")) for name, kind in kinds.items()}


def _kind_of(annotation: Any) -> type:
    return next(kind for kind in get_args(annotation) or (annotation,) if kind is not NoneType)


def _help(declared: Field) -> str:
    data = declared.metadata
    defaults = [data["from_scratch"], data["command_line"], declared.default]
    notes = [", ".join(data["choices"])] if data["choices"] else []
    notes += [f"{default} if not given" for default in defaults if default is not None][:1]
    return data["text"] + (f" ({'; '.join(notes)})" if notes else "")


METHOD_OPTIONS = _method_options()
Options = make_dataclass("Options", METHOD_OPTIONS.values(), bases=(FitOptions,))


def parse_fit(argv: list[str], prog: str) -> tuple[FitOptions, DistillationTrainingArguments]:
    """Parse the options and the training arguments, with defaults that suit what is trained.

    Raises:
        UserError: as for ``FitOptions`` and ``parse``; no output folder, or a weight of soft labels.
    """
    about = {"prog": prog, "usage": USAGE, "description": DESCRIPTION}
    options, _ = parse(DEFAULTS, argv, Options, **about)
    defaults = DEFAULTS | (FROM_SCRATCH if options.from_scratch else {})
    if options.spec.learning_rates is not None:
        from_scratch, further = options.spec.learning_rates
        defaults |= {"learning_rate": from_scratch if options.from_scratch else further}
    options, args = parse(defaults, argv, Options, **about)
    if not args.output_dir:
        raise UserError("pass --output_dir, a new folder for the teacher")
    if args.kd_lambda > 0:
        raise UserError(f"a teacher learns from labels alone, and kd_lambda is {args.kd_lambda}: omit it")
    return options, args


def main(argv: list[str], prog: str) -> None:
    """Fit the teacher that the command line asks for, save it and print how good it is.

    Raises:
        UserError: something that is missing, can't be loaded or does not fit together.
    """
    options, args = parse_fit(argv, prog)
    output_dir, checkpoints = Path(args.output_dir), checkpoints_of(args)
    settings = asked_for(options, args)
    writable_folder(output_dir.parent)
    with sole_user(checkpoints):
        try:
            done = decided_by_main(lambda: is_finished(output_dir, settings))
            decided_by_main(lambda: tidy(output_dir))
            if not done:
                _fit(options, args, output_dir, settings)
            PartialState().wait_for_everyone()
            if PartialState().is_main_process:
                shutil.rmtree(checkpoints, ignore_errors=True)
        finally:
            if PartialState().is_main_process:
                remove_unused(checkpoints)
    if done and PartialState().is_main_process:
        print(f"{output_dir} is finished already, by the same command")
    if args.push_to_hub:
        access = {"private": args.hub_private_repo, "token": args.hub_token}
        address = decided_by_main(lambda: push_folder(output_dir, args.hub_model_id or output_dir.name, **access))
        if PartialState().is_main_process:
            print(f"pushed: {address}")
    PartialState().destroy_process_group()


def _fit(options: FitOptions, args: DistillationTrainingArguments, output_dir: Path, settings: dict) -> None:
    """Fit the teacher, save it and print how good it is."""
    context = (NewNetworks if options.from_scratch else TrainedNetworks)(options, args)
    teacher = context.fitted(options.spec)
    teacher.record |= context.facts() | options.spec.facts()
    if "validation" not in teacher.record:
        predictions = predict_all(teacher, context.validation_batches(), options.num_samples)
        teacher.record["validation"] = classification_metrics(*predictions)
    decided_by_main(lambda: _save(teacher, context, output_dir, settings, args.license))
    if PartialState().is_main_process:
        size = len(context.examples.validation)
        metrics = metrics_text(teacher.record["validation"])
        print(f"{options.spec.method} teacher in {output_dir}; on {size} validation examples: {metrics}")


def _save(teacher: Teacher, context: Any, output_dir: Path, settings: dict, license: str | None) -> None:
    with whole_folder(output_dir) as temporary:
        teacher.save_pretrained(temporary, license=license)
        context.reader.save(temporary)
        mark_finished(temporary, settings)
