"""What a recipe can be asked for, on the command line or in a YAML file."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..training.arguments import DistillationTrainingArguments
from ..utils.command_line import parse_dataclasses
from ..utils.errors import UserError
from .arms import Arm, slug


@dataclass
class StudyArguments:
    """What a recipe is asked for beside the training arguments.

    Raises:
        UserError: seeds that are no whole numbers, or a count below 1.
    """

    dataset: str = field(default="", metadata={"help": "Name on the Hub, or a local folder."})
    ood_dataset: str = field(
        default="", metadata={"help": "Images of other classes, for teachers to be unsure of; name or folder."}
    )
    teacher_model: str = field(
        default="resnet50_cifar",
        metadata={"help": "Network of the teacher: a timm architecture; of texts all-layers or layers-1-2 and so on."},
    )
    student_model: str = field(default="resnet18_cifar", metadata={"help": "Network of the student, likewise."})
    pretrained: str = field(
        default="",
        metadata={"help": "Pretrained encoder that networks of texts start from; folder or name on the Hub."},
    )
    teacher: str | None = field(
        default=None,
        metadata={"help": "A saved teacher, folder or name on the Hub, to use instead of training one of its kind."},
    )
    seeds: str = field(default="0,1,2", metadata={"help": "Whole numbers with commas between them."})
    arms: str = field(
        default="all",
        metadata={
            "help": "Arms to run, with commas between them: names in lower case, words joined by hyphens; or all."
        },
    )
    teacher_epochs: float | None = field(
        default=None, metadata={"help": "Epochs of a teacher's training; the students' if not given."}
    )
    teacher_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of a teacher's training; the students' if not given."}
    )
    num_samples: int = field(default=10, metadata={"help": "Draws from the teacher's posterior per example."})
    views: int | None = field(
        default=None,
        metadata={"help": "Augmented views of each image that are labeled, 0 for the plain image; the study's own."},
    )
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
        for name in ("teacher_epochs", "teacher_learning_rate"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, and it is {getattr(self, name)}")
        if self.views is not None and self.views < 0:
            raise UserError(f"views must be at least 0, and it is {self.views}")
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


def parse(
    defaults: dict[str, Any], argv: list[str], kind: type = StudyArguments, **about: str
) -> tuple[Any, DistillationTrainingArguments]:
    """The command line over ``--config file.yaml`` over the recipe's defaults.

    Args:
        defaults: by name.
        argv: arguments.
        kind: dataclass of what is asked for beside the training arguments.
        about: what the parser's ``--help`` says, such as its ``prog`` and ``description``.

    Raises:
        UserError: as :func:`parse_dataclasses`, or no training at all.
    """
    options, args = parse_dataclasses((kind, DistillationTrainingArguments), defaults, argv, **about)
    if not (args.num_train_epochs > 0 or args.max_steps > 0):
        raise UserError(f"num_train_epochs must be above 0, and it is {args.num_train_epochs}")
    return options, args
