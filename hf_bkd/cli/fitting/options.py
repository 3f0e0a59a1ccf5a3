"""What `hf-bkd teacher fit` can be asked for, on the command line or in a YAML file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm

from ...study.arguments import parse
from ...teachers.curvature import STRUCTURES
from ...teachers.laplace import LINKS
from ...teachers.variational import POSTERIORS
from ...training.arguments import DistillationTrainingArguments
from ...utils.errors import UserError

METHODS = ("deterministic", "laplace", "mc_dropout", "variational", "ensemble")
CHOICES = {
    "method": METHODS,
    "structure": tuple(STRUCTURES),
    "link": LINKS,
    "posterior": (*POSTERIORS, "ivon"),
}
USAGE = "hf-bkd teacher fit --method METHOD --model MODEL [MODEL ...] --dataset DATASET --output_dir FOLDER [...]"
DESCRIPTION = """
Fit a teacher and save it. A trained classifier of images or texts becomes a teacher as it is (deterministic, laplace,
mc_dropout), or is trained further (variational); the name of a timm architecture is trained on the dataset from
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
IVON_RATES = {"from scratch": 0.3, "further": 0.005}  # on the scale of SGD's


def _option(default: Any, about: str) -> Any:
    if isinstance(default, list):
        return field(default_factory=list, metadata={"help": about})
    return field(default=default, metadata={"help": about})


@dataclass
class FitOptions:
    """What is asked for beside the training arguments.

    Raises:
        UserError: something that is missing or unknown, or a number out of its range.
    """

    method: str = _option("", f"{', '.join(METHODS[:-1])} or {METHODS[-1]}.")
    model: list[str] = _option([], "Folder or Hub name of a trained classifier or teacher, or a timm architecture.")
    dataset: str = _option("", "Folder or name on the Hub.")
    train_split: str = _option("train", "What networks are trained and posteriors fitted on.")
    validation_split: str | None = _option(
        None, "What is chosen and measured on; validation if there is one, else a part held out of the training split."
    )
    validation_size: int | None = _option(None, "Examples to hold out; a tenth of the training split if not given.")
    input_column: str | None = _option(None, "Of images or texts, if there are several.")
    label_column: str | None = _option(None, "If it is not called label, labels or fine_label.")
    structure: str = _option("kron", "laplace: of the curvature; kron, diag or full.")
    link: str = _option("probit", "laplace: from logits to probabilities; probit, bridge, or mc (draws).")
    prior_precision: str | None = _option(
        None, "laplace: a number or marginal_likelihood; chosen by validation NLL if not given."
    )
    posterior: str = _option("head", "variational: over the head, the full network, or all weights trained by ivon.")
    rank: int = _option(0, "variational, head and full: of the head's covariance beside its diagonal.")
    hess_init: float = _option(
        1.0, "variational, ivon: a short training leaves standard deviations near 1 / sqrt(hess_init * examples)."
    )
    members: int = _option(5, "ensemble: networks of one architecture, trained with a seed each.")
    drop_rate: float = _option(0.1, "mc_dropout: dropout of an architecture trained from scratch.")
    num_samples: int = _option(10, "Draws from the posterior that choices and validation metrics are made with.")
    augment: bool = _option(False, "Train on random crops and flips of the images.")

    def __post_init__(self):
        self.model = [self.model] if isinstance(self.model, str) else self.model
        for name in ("method", "model", "dataset"):
            if not getattr(self, name):
                choices = f", one of {', '.join(CHOICES[name])}" if name in CHOICES else ""
                raise UserError(f"pass --{name}{choices}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}")
        for name, least in (("members", 1), ("num_samples", 1), ("validation_size", 1), ("rank", 0)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, and it is {getattr(self, name)}")
        if not 0 < self.drop_rate < 1:
            raise UserError(f"drop_rate must be between 0 and 1, and it is {self.drop_rate}")
        if self.prior_precision not in (None, "marginal_likelihood"):
            self.prior_precision = _precision(self.prior_precision)
        if len(self.model) > 1 and self.method != "ensemble":
            raise UserError(f"a {self.method} teacher is of one network, and --model names {len(self.model)}")

    @property
    def from_scratch(self) -> bool:
        """Whether the models are architectures; UserError for some of each kind."""
        architectures = [is_architecture(name) for name in self.model]
        if len(set(architectures)) > 1:
            raise UserError("--model names architectures and trained networks: pass several of either kind")
        return architectures[0]


def _precision(given: str | float) -> float:
    try:
        value = float(given)
    except (TypeError, ValueError):
        value = 0.0
    if not value > 0:
        raise UserError(f"prior_precision is {given!r}; it must be a number above 0 or marginal_likelihood")
    return value


def is_architecture(name: str) -> bool:
    return not Path(name).is_dir() and timm.is_model(name)


def parse_fit(argv: list[str]) -> tuple[FitOptions, DistillationTrainingArguments]:
    """The options and the training arguments, with defaults that suit what is trained.

    Raises:
        UserError: as for ``FitOptions`` and ``parse``; no output folder, or a weight of soft labels.
    """
    about = {"prog": "hf-bkd teacher fit", "usage": USAGE, "description": DESCRIPTION}
    options, _ = parse(DEFAULTS, argv, FitOptions, **about)
    defaults = DEFAULTS | (FROM_SCRATCH if options.from_scratch else {})
    if (options.method, options.posterior) == ("variational", "ivon"):
        defaults |= {"learning_rate": IVON_RATES["from scratch" if options.from_scratch else "further"]}
    options, args = parse(defaults, argv, FitOptions, **about)
    if not args.output_dir:
        raise UserError("pass --output_dir, a new folder for the teacher")
    if args.kd_lambda > 0:
        raise UserError(f"a teacher learns from labels alone, and kd_lambda is {args.kd_lambda}: leave it out")
    return options, args
