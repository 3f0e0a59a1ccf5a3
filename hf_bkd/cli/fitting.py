"""The contexts of `hf-bkd teacher fit`: trained networks or new ones, and the examples that they read."""

import sys
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import datasets
import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import set_seed

from ..data.augmentations import CropAndFlip
from ..data.preprocessors import Preprocessor, class_names
from ..data.rows import as_stored
from ..data.views import Views
from ..models.class_names import order_by_name
from ..models.token_networks import classifies_tokens
from ..study.fitting import Fitting, train_network
from ..study.settings import check_same_settings, content_digest, decisive
from ..teachers import DeterministicTeacher, Ensemble, EnsembleTeacher, Teacher, predict_all
from ..training.arguments import DistillationTrainingArguments
from ..training.batched_dataset import BatchedDataset
from ..training.problem import Problem
from ..utils.errors import UserError
from ..utils.files import bare_name
from ..utils.processes import decided_by_main
from .examples import Examples, labeled_batches, reader_of
from .finished import SETTINGS, contents
from .networks import load_trained

# the options that change a training, beside the training arguments
CHOSEN = ("model", "dataset", "train_split", "validation_split", "validation_size", "label_column", "augment")
OPTIONAL = (
    "dataset_config",
    "eval_dataset",
    "image_size",
    "predict_variance",
    "max_length",
    "lora_rank",
)  # as well, where they are given


def checkpoints_of(args: DistillationTrainingArguments) -> Path:
    """Return the folder, beside the output folder, of the trainings that go on."""
    folder = Path(args.output_dir)
    return folder.with_name(f"{folder.name}.training")


def asked_for(options: Any, args: DistillationTrainingArguments) -> dict[str, Any]:
    """Return all that makes a fitted teacher what it is, as the command line says it."""
    settings = decisive(args) | {name: v for name, v in args.to_dict().items() if name.startswith("kl_")}
    settings |= chosen(options) | {"input_column": options.input_column, "num_samples": options.num_samples}
    settings |= {"seed": args.seed, "method": options.spec.kind, **asdict(options.spec)}
    settings |= {
        "content of dataset": contents(options.dataset),
        "content of model": [*map(contents, options.model)],
    }
    return settings | ({"content of eval_dataset": contents(options.eval_dataset)} if options.eval_dataset else {})


def chosen(options: Any) -> dict[str, Any]:
    """Return the options that change a training."""
    given = [name for name in OPTIONAL if getattr(options, name) not in (None, False)]
    return {name: getattr(options, name) for name in (*CHOSEN, *given)}


class CommandLineFitting(Fitting):
    """The context in which the command line's teacher is fitted; checkpoints stand beside its output folder.

    Args:
        options, args: what was asked for.

    Subclasses set ``examples``, ``reader``, a network ``_reads`` that reads alike and, where there is one,
    ``processing_class``.
    """

    examples: Examples
    reader: Preprocessor
    _reads: nn.Module
    processing_class: Any = None
    size = 1

    def __init__(self, options: Any, args: DistillationTrainingArguments):
        self.options, self.args = options, args
        self.num_samples, self.learning_rate, self.seed = options.num_samples, args.learning_rate, args.seed
        self.problem_type = args.problem_type
        self.trainings: list[str] = []  # of all members: their contexts share it
        self.checkpoints = checkpoints_of(args)

    @property
    def num_train(self) -> int:
        """N, the number of training examples."""
        return len(self.examples.train)

    def train_batches(self) -> Iterator[dict[str, Tensor]]:
        """Iterate over the training examples, not augmented."""
        return self._batches(self.examples.train, None if self.args.disable_tqdm else "fitting")

    def validation_batches(self) -> Iterator[dict[str, Tensor]]:
        """Iterate over the validation examples."""
        return self._batches(self.examples.validation)

    def measures(self, teacher: Teacher) -> dict[str, float]:
        """Measure a teacher on the validation examples."""
        predictions = predict_all(teacher, self.validation_batches(), self.num_samples)
        return teacher.likelihood.measures(*predictions)

    def _batches(self, rows: Any, progress: str | None = None) -> Iterator[dict[str, Tensor]]:
        return labeled_batches(self._reads, rows, self.processing_class, self.examples.problem, progress)

    def members(self, number: int | None) -> list[Self]:
        """Return a context for each member: of one new architecture, or of each model."""
        models = len(self.options.model)
        if number is not None and (models > 1 or not self.options.from_scratch):
            raise UserError("--members is of an ensemble of one new architecture: omit it")
        size = models if number is None else number
        return [self.with_(number=member, size=size) for member in range(size)]

    def train(
        self, network: nn.Module, optimizer: Optimizer | None = None, callbacks: Sequence[Any] = (), masks: int = 1
    ) -> nn.Module:
        """Train a network with the member's seed, going on from its last complete checkpoint."""
        args, seed, data, evaluated = self.args, self.args.seed + self.number, self.training_set, None
        decided_by_main(self._check_same_training)
        if PartialState().is_main_process:
            print(f"training network {self.number + 1} of {self.size}", flush=True)
        if self.options.augment:
            data.views = Views(CropAndFlip(), seed=seed)
        if args.eval_strategy != "no":
            evaluated = self._as_trained_on(self.examples.validation)
        train_network(
            network,
            args,
            data,
            folder=self.checkpoints / str(self.number),
            optimizer=optimizer,
            callbacks=callbacks,
            dropout_masks=masks,
            evaluated=evaluated,
            processing_class=None if self.examples.problem.is_plain else self.processing_class,
            seed=seed,
            remove_unused_columns=False,
            dataloader_pin_memory=args.dataloader_pin_memory and args.device.type != "cpu",
        )
        self.trainings.append(self.name)
        return network

    @property
    def training_set(self) -> Any:
        """The training examples as networks are trained on them."""
        data = self._training_examples
        if self.options.augment and not isinstance(data, BatchedDataset):
            raise UserError("--augment is for images of the size that the network takes: omit it here")
        return data

    @cached_property
    def _training_examples(self) -> Any:
        return self._as_trained_on(self.examples.train)

    def _as_trained_on(self, rows: Any) -> Any:
        problem = self.examples.problem
        if not problem.is_plain and (problem.per_token or not self.reader.only_normalizes(rows)):
            return rows
        return training_set(self.reader, rows, self.args.device, problem.likelihood.problem_type)

    def _check_same_training(self) -> None:
        """Refuse to go on with a training that was begun with other settings."""
        settings = decisive(self.args) | {name: v for name, v in self.args.to_dict().items() if name.startswith("kl_")}
        settings |= chosen(self.options) | {"seed": self.args.seed}
        if self.spec is None:
            settings["method"] = self.name.removesuffix(f"-{self.number}")
        else:
            settings |= {"method": self.spec.kind, **asdict(self.spec)}
        for name in ("train", "validation"):
            settings[f"the data's {name} split"] = content_digest(getattr(self.examples, name))
        remedy = "go on with the same, or delete that folder"
        check_same_settings(self.checkpoints / SETTINGS, settings, "a training", remedy)

    def facts(self) -> dict[str, Any]:
        """Return what the teacher's card should say of all this."""
        options, args = self.options, self.args
        facts = {
            "dataset": bare_name(options.dataset),
            **({"network": ", ".join(map(bare_name, options.model))} if options.model else {}),
            "validation examples": len(self.examples.validation),
        }
        if self.trainings:
            length = ("steps", args.max_steps) if args.max_steps > 0 else ("epochs", args.num_train_epochs)
            batch = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
            facts |= dict([length]) | {"learning rate": args.learning_rate, "batch size": batch, "seed": args.seed}
        return facts

    @abstractmethod
    def network(self, **settings: Any) -> nn.Module:
        """Return a network to train."""


def training_set(
    reader: Preprocessor, dataset: datasets.Dataset, device: torch.device, problem_type: str | None = None
) -> BatchedDataset | datasets.Dataset:
    """Return ``dataset`` as the trainer reads it: in memory on ``device`` if its images are only normalized."""
    if reader.only_normalizes(dataset):
        return BatchedDataset.from_images(dataset, reader.normalization, device=device, problem_type=problem_type)
    stored = as_stored(dataset)
    labeled = lambda rows: reader(stored.finished(rows)) | {"labels": torch.tensor(rows["label"])}  # noqa: E731
    return stored.rows.with_transform(labeled)


class TrainedNetworks(CommandLineFitting):
    """Trained networks and teachers, used as they are or trained further.

    Raises:
        UserError: one can't be loaded, or some don't go together.
    """

    def __init__(self, options: Any, args: DistillationTrainingArguments):
        super().__init__(options, args)
        self.loaded = [load_trained(name, options.problem_type).to(args.device) for name in options.model]
        ensemble = isinstance(options.spec, Ensemble)
        if ensemble and len(self.loaded) == 1:
            raise UserError(
                "an ensemble of one network is that network: pass several trained ones as --model, or the name of an "
                "architecture to train --members of"
            )
        if not ensemble and isinstance(self.loaded[0], EnsembleTeacher):
            name = options.model[0]
            raise UserError(f"{name} is an ensemble: pass one of its members, such as its folder members/0")
        first = self.loaded[0]
        self.processing_class = first.processing_class
        problem = Problem(first.likelihood, classifies_tokens(first.network))
        classes = class_names(first.network)
        self.examples = Examples(options, first.network, classes, self.processing_class, problem)
        self._reads = first.network
        validation = self.examples.validation
        if self.examples.validation_split is None and PartialState().is_main_process:
            print(
                f"note: {len(validation)} examples of the split {self.examples.train_split} are used for validation; "
                "if the network was trained on them, pass a --validation_split that it has not seen",
                file=sys.stderr,
            )
        readers = [reader_of(each.network, validation, each.processing_class) for each in self.loaded]
        _check_alike(options.model, self.loaded, readers)
        self.reader = readers[0]

    def supplied(self, method: str) -> Teacher | None:
        """Return the member's teacher as it was loaded, where one of a trained network is asked for."""
        return self.loaded[self.number] if method == DeterministicTeacher.method else None

    def network(self, **settings: Any) -> nn.Module:
        """Return the member's trained network, to be trained further.

        Raises:
            UserError: settings, which only a new network can have.
        """
        if settings:
            raise UserError(f"--{next(iter(settings))} is of a new architecture, and --model is trained: omit it")
        set_seed(self.args.seed + self.number)  # of what a posterior over its weights starts from
        return self.loaded[self.number].network

    def trained(self, **settings: Any) -> Teacher:
        """Return the member's teacher."""
        return self.loaded[self.number]


def _check_alike(names: list[str], members: list[Teacher], readers: list[Preprocessor]) -> None:
    """An ensemble prepares inputs once, for all members, and averages class by class."""
    for name, member, reader in zip(names, members, readers, strict=True):
        if reader.settings != readers[0].settings:
            raise UserError(
                f"{name} reads {reader.kind}s in another way than {names[0]} does, so they can't be members"
            )
        theirs, ours = member.class_names, members[0].class_names
        if order_by_name(theirs, ours, name, names[0], "give them the same id2label in their config.json") is not None:
            raise UserError(f"{name} has the classes of {names[0]} in another order, so they can't be members")
