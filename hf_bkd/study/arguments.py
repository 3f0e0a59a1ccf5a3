"""What a study can be asked for, on the command line or in a YAML file."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..training.arguments import DistillationTrainingArguments
from ..utils.checks import check_count, check_not_negative, check_positive
from ..utils.command_line import parse_dataclasses
from ..utils.deprecation import warn_renamed
from ..utils.errors import UserError
from ..utils.files import slug
from .arms import Arm

COUNTS = ("num_samples", "ensemble_size", "workers", "validation_size", "max_train_samples", "max_test_samples")
LARGEST_SEED = 4_000_000  # the seeds of a cell's networks are up to a thousand times as large, and below 2^32
NOT_NEGATIVE = ("learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "dataloader_num_workers", "seed")
AT_LEAST_ONE = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
RENAMED = {"--foreign_dataset": "--ood_dataset"}


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class StudyArguments:
    """What a study is asked for beside the training arguments; a recipe adds its own by a subclass.

    Raises:
        UserError: seeds that are no whole numbers or repeat one, or a count below 1.
    """

    COMMA_LISTS: ClassVar = ("seeds", "arms")

    dataset: str = _option("", "Name on the Hub, or a local folder.")
    ood_dataset: str = _option("", "Out-of-distribution images, for teachers to be unsure of; name or folder.")
    teacher_model: str = _option(
        "resnet50_cifar",
        "Network of the teacher: a timm architecture; of texts all-layers or layers-1-2 and so on.",
    )
    student_model: str = _option("resnet18_cifar", "Network of the student, likewise.")
    pretrained: str = _option("", "Pretrained encoder that networks of texts start from; folder or name on the Hub.")
    teacher: str | None = _option(
        None, "A saved teacher, folder or name on the Hub, to use instead of training one of its kind."
    )
    seeds: str = _option("0,1,2", "Whole numbers with commas between them.")
    arms: str = _option(
        "all", "Arms to run, with commas between them: names in lower case, words joined by hyphens; or all."
    )
    teacher_epochs: float | None = _option(None, "Epochs of a teacher's training; the students' if not given.")
    teacher_learning_rate: float | None = _option(
        None, "Learning rate of a teacher's training; the students' if not given."
    )
    num_samples: int = _option(10, "Draws from the teacher's posterior per example.")
    views: int | None = _option(
        None, "Augmented views of each image that are labeled, 0 for the plain image; the study's own."
    )
    ensemble_size: int = _option(3, "Members of a deep ensemble.")
    validation_size: int | None = _option(None, "Examples held out of the training split; a tenth if not given.")
    max_train_samples: int | None = _option(None, "Use only so many training examples.")
    max_test_samples: int | None = _option(None, "Use only so many test examples.")
    workers: int = _option(1, "Processes that share the conditions and seeds between them.")

    def __post_init__(self):
        try:
            self.seed_list = [int(seed) for seed in self.seeds.split(",")]
        except ValueError:
            raise UserError(
                f"seeds must be whole numbers with commas between them, and they are {self.seeds!r}"
            ) from None
        repeated = [seed for seed in self.seed_list if self.seed_list.count(seed) > 1]
        if repeated:
            raise UserError(f"seeds has {repeated[0]} more than once: each seed is run once")
        outside = [seed for seed in self.seed_list if not 0 <= seed <= LARGEST_SEED]
        if outside:
            raise UserError(f"seeds must be between 0 and {LARGEST_SEED:,}, and one is {outside[0]}")
        check_positive(**self._given("teacher_epochs", "teacher_learning_rate"))
        check_count(0, **self._given("views"))
        check_count(**self._given(*COUNTS))

    def _given(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def chosen(self, arms: Iterable[Arm]) -> tuple[Arm, ...]:
        """Return the arms asked for, in the study's order; UserError for one that it doesn't have."""
        if self.arms == "all":
            return tuple(arms)
        by_slug = {slug(arm.name): arm for arm in arms}
        asked = [name.strip() for name in self.arms.split(",")]
        unknown = [name for name in asked if name not in by_slug]
        if unknown:
            raise UserError(f"there is no arm {unknown[0]!r}; the arms are {', '.join(by_slug)}")
        return tuple(arm for name, arm in by_slug.items() if name in asked)


def parse(
    defaults: dict[str, Any] | Callable[[Any], dict[str, Any]],
    argv: list[str],
    kind: type = StudyArguments,
    **about: str,
) -> tuple[Any, DistillationTrainingArguments]:
    """Parse the command line over ``--config file.yaml`` over a recipe's defaults.

    Args:
        defaults: by name, or a function that makes them from the options.
        argv: arguments.
        kind: dataclass of what is asked for beside the training arguments.
        about: what the parser's ``--help`` says, such as its ``prog`` and ``description``.

    Raises:
        UserError: as :func:`parse_dataclasses`, a training argument out of its range, or no training at all.
    """
    for old, new in RENAMED.items():
        if any(word.partition("=")[0] == old for word in argv):
            warn_renamed(old, new)
            argv = [new + word.removeprefix(old) if word.partition("=")[0] == old else word for word in argv]
    if callable(defaults):
        options, _ = parse(defaults(kind()), argv, kind, **about)
        defaults = defaults(options)
    options, args = parse_dataclasses((kind, DistillationTrainingArguments), defaults, argv, **about)
    check_training(args)
    return options, args


def check_training(args: DistillationTrainingArguments) -> None:
    """Raise a UserError for a training argument out of its range, or no training at all."""
    check_not_negative(**{name: getattr(args, name) for name in NOT_NEGATIVE})
    check_count(**{name: getattr(args, name) for name in AT_LEAST_ONE})
    if not (args.num_train_epochs > 0 or args.max_steps > 0):
        raise UserError(f"num_train_epochs must be above 0, and it is {args.num_train_epochs}")
