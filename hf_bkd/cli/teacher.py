"""`hf-bkd teacher fit`: from a trained network, or the name of an architecture, to a saved teacher.

The methods and their options are those of the specifications in `teachers`.
"""

from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable
from dataclasses import Field, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from ..study.arguments import check_training
from ..teachers import SPECIFICATIONS, Ensemble, TeacherSpec
from ..teachers.specification import resolved
from ..training.arguments import DistillationTrainingArguments
from ..utils.checks import check_choice, check_count
from ..utils.command_line import Parser, parse_dataclasses
from ..utils.config_files import boolean
from ..utils.errors import UserError
from .architectures import is_architecture
from .arguments import metrics_text, pushing, quiet
from .finished import finish
from .fitting import CommandLineFitting, TrainedNetworks, asked_for, checkpoints_of
from .language_fitting import LanguageModels, fits_language_model
from .networks import is_encoder
from .new_networks import NewNetworks
from .options import METHODS, teacher_fit
from .tables import Tables

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
ADAPTERS = {"learning_rate": 2e-4}  # that are trained in Adam's way
OF_LANGUAGE = ("max_length", "lora_rank")
FROM_SCRATCH = {"num_train_epochs": 50, "learning_rate": 1e-3, "per_device_train_batch_size": 64}


@dataclass
class FitOptions:
    """What is asked for beside the training arguments; `cli/options.py` explains it.

    Args:
        method_options: those that were given, by name.

    Raises:
        UserError: something that is missing or unknown, or a number out of its range.
    """

    method: str
    model: list[str]
    dataset: str | None
    dataset_config: str | None
    eval_dataset: str | None
    train_split: str | None
    validation_split: str | None
    validation_size: int | None
    input_column: list[str] | None
    label_column: list[str] | None
    num_samples: int
    augment: bool
    image_size: int | None
    method_options: dict[str, Any]
    max_length: int | None = None
    lora_rank: int | None = None
    predict_variance: bool = False
    problem_type: str | None = None

    def __post_init__(self):
        check_choice(sorted(SPECIFICATIONS), method=self._needed("method", f", one of {', '.join(METHODS)}"))
        if SPECIFICATIONS[self.method].reads_tables and self.model:
            raise UserError(f"a {self.method} is fitted on the dataset alone: omit --model")
        for name in ("dataset",) if SPECIFICATIONS[self.method].reads_tables else ("model", "dataset"):
            self._needed(name)
        check_count(num_samples=self.num_samples)
        names = ("validation_size", "image_size", "max_length", "lora_rank")
        sizes = {name: getattr(self, name) for name in names}
        check_count(**{name: size for name, size in sizes.items() if size is not None})
        self.spec = self._specification()
        if len(self.model) > 1 and not isinstance(self.spec, Ensemble):
            raise UserError(f"a {self.method} teacher is of one network, and --model names {len(self.model)}")

        if self.predict_variance and self.method == "laplace":
            raise UserError(
                "the curvature of a predicted variance is not known in closed form: omit --predict_variance, or take "
                "--method variational or ensemble"
            )

    def _needed(self, name: str, choices: str = "") -> Any:
        if not getattr(self, name):
            raise UserError(f"pass --{name}{choices}")
        return getattr(self, name)

    @property
    def from_scratch(self) -> bool:
        """Whether the models are architectures; UserError for some of each kind."""
        if not self.model:
            return False
        architectures = [is_architecture(name) for name in self.model]
        if len(set(architectures)) > 1:
            raise UserError("--model names architectures and trained networks: pass several of either kind")
        return architectures[0]

    def _specification(self) -> TeacherSpec:
        """The method with the options that were given; the others have the command line's own defaults."""
        spec, given = resolved(self.method, self.method_options)
        declared = {each.name: each.metadata for each in fields(spec)}
        for name in given:
            if name not in declared:
                raise UserError(f"--{name} is no option of a {self.method} teacher: omit it")
        one_new_network = len(self.model) == 1 and self.from_scratch
        sources = ("command_line", "from_scratch") if one_new_network else ("command_line",)
        defaults = {name: data[s] for s in sources for name, data in declared.items() if data.get(s) is not None}
        return spec(**defaults | given)


def method_options() -> dict[str, tuple[type, dict[str, str]]]:
    """All options of the methods, the specifications' fields that have a help text: name -> (type, method -> text)."""
    kinds: dict[str, type] = {}
    texts: dict[str, dict[str, str]] = defaultdict(dict)
    for method, spec in sorted(SPECIFICATIONS.items()):
        for declared in fields(spec):
            if declared.metadata.get("text"):
                kinds[declared.name] = declared.metadata["kind"] or _kind_of(get_type_hints(spec)[declared.name])
                texts[declared.name][method] = _help(declared)
    return {name: (kind, texts[name]) for name, kind in kinds.items()}


def _kind_of(annotation: Any) -> type:
    return next(kind for kind in get_args(annotation) or (annotation,) if kind is not NoneType)


def _help(declared: Field) -> str:
    data = declared.metadata
    defaults = [data["from_scratch"], data["command_line"], declared.default]
    notes = [", ".join(data["choices"])] if data["choices"] else []
    notes += [f"default: {default}" for default in defaults if default is not None][:1]
    return data["text"] + (f" ({'; '.join(notes)})" if notes else "")


def _parser(prog: str, argv: list[str]) -> Parser:
    """The parser of the command, with the options of all methods; its help shows those of the method in argv."""
    parser = teacher_fit(prog)
    group = parser.add_argument_group("options of the methods")
    words = {word.partition("=")[2] or word for word in argv}
    for name, (kind, texts) in method_options().items():
        text = "; ".join(f"{method}: {text}" for method, text in texts.items())
        kind = boolean if kind is bool else kind
        group.add_argument(f"--{name}", type=kind, help=text, metavar="VALUE").rare = not words & texts.keys()
    return parser


def parse_fit(argv: list[str], prog: str) -> tuple[FitOptions, DistillationTrainingArguments]:
    """Parse the options and the training arguments, with defaults that suit what is trained.

    Raises:
        UserError: as for ``FitOptions`` and ``parse_dataclasses``; no output folder, or a weight of soft labels.
    """

    def parsed(defaults: dict[str, Any]) -> tuple[FitOptions, DistillationTrainingArguments]:
        args, values = parse_dataclasses((DistillationTrainingArguments,), defaults, argv, _parser(prog, argv))
        check_training(args)
        options = _options(values)
        options.problem_type = args.problem_type
        return options, args

    options, _ = parsed(DEFAULTS)
    defaults = DEFAULTS | (FROM_SCRATCH if options.from_scratch else ADAPTERS if options.lora_rank else {})
    if options.spec.learning_rates is not None:
        from_scratch, further = options.spec.learning_rates
        is_new = options.from_scratch or options.lora_rank is not None
        defaults |= {"learning_rate": from_scratch if is_new else further}
    options, args = parsed(defaults)
    if not args.output_dir:
        raise UserError("pass --output_dir, a new folder for the teacher")
    if args.kd_lambda > 0:
        raise UserError(f"a teacher learns from labels alone, and kd_lambda is {args.kd_lambda}: omit it")
    return options, args


def _options(values: Namespace) -> FitOptions:
    given = {name: getattr(values, name) for name in method_options() if getattr(values, name) is not None}
    own = {each.name: getattr(values, each.name) for each in fields(FitOptions) if hasattr(values, each.name)}
    return FitOptions(**own, method_options=given)


def main(argv: list[str], prog: str) -> None:
    """Fit the teacher that the command line asks for, save it and print how good it is.

    Raises:
        UserError: something that is missing, can't be loaded or does not fit together.
    """
    options, args = parse_fit(argv, prog)
    quiet()
    output_dir = Path(args.output_dir)
    settings, make = asked_for(options, args), lambda: _fitted(options, args, output_dir)
    finish(output_dir, checkpoints_of(args), settings, make, pushing(args))


def _source(options: FitOptions) -> type[CommandLineFitting]:
    """What a teacher is made of: a table, new networks or trained ones."""
    if options.spec.reads_tables:
        return Tables
    if fits_language_model(options):
        return LanguageModels
    for name in (name for name in OF_LANGUAGE if getattr(options, name) is not None):
        raise UserError(f"--{name} is for language models that learn texts, and {options.model[0]} is none: omit it")
    return NewNetworks if options.from_scratch or is_encoder(options.model[0]) else TrainedNetworks


def _fitted(options: FitOptions, args: DistillationTrainingArguments, output_dir: Path) -> Callable[[Path], str]:
    """Fit the teacher; return what saves it and says how good it is."""
    context = _source(options)(options, args)
    teacher = context.fitted(options.spec)
    teacher.processing_class = context.processing_class
    teacher.record |= context.facts() | options.spec.facts()
    if "validation" not in teacher.record:
        teacher.record["validation"] = context.measures(teacher)

    def save(folder: Path) -> str:
        teacher.save_pretrained(folder, license=args.license)
        size, metrics = len(context.examples.validation), metrics_text(teacher.record["validation"])
        return f"{options.spec.method} teacher in {output_dir}; on {size} validation examples: {metrics}"

    return save
