"""The context of `hf-bkd teacher fit` for language models: as they are, or with new adapters that are trained."""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import datasets
from torch import Tensor, nn
from transformers import set_seed

from ..data.columns import has_labels
from ..data.loading import check_split, choose_split, load_splits
from ..data.preprocessors import tokenizer_of
from ..data.subsets import random_split
from ..likelihoods import CATEGORICAL
from ..models.adapters import is_adapted
from ..models.saving import is_adapted_language_model
from ..models.token_networks import vocabulary_size
from ..teachers import DeterministicTeacher, EnsembleTeacher, Teacher
from ..teachers.next_tokens import TokenBatches
from ..training.arguments import DistillationTrainingArguments
from ..training.problem import Problem
from ..utils.errors import UserError
from .fitting import CommandLineFitting
from .language import (
    adapted,
    check_others_have_base,
    in_tokens,
    is_language_model,
    load_language_model,
    measured,
    texts_of,
    train_adapters,
)
from .networks import load_trained, processor_of

KINDS = ("deterministic", "ensemble", "ivon", "mc_dropout")
MEMBERS = 5


class TokenExamples(NamedTuple):
    """Rows of tokens to train adapters on, and to choose and measure on."""

    train: datasets.Dataset
    validation: datasets.Dataset
    problem: Problem


def fits_language_model(options: Any) -> bool:
    """Say whether a language model is to be fitted on texts, and not a classifier on labels.

    A language model of a labeled dataset becomes a classifier, unless something is asked for that only the other has.
    """
    if options.from_scratch or not options.model or not is_language_model(options.model[0]):
        return False
    if options.lora_rank is not None or options.max_length is not None or is_adapter(options.model[0]):
        return True
    splits = load_splits(options.dataset, configuration=options.dataset_config)
    train = splits[choose_split(splits, options.train_split, ("train",), options.dataset)]
    return not (options.label_column or has_labels(train))


def is_adapter(name: str) -> bool:
    """Say whether a folder has a language model's adapters without it."""
    return is_adapted_language_model(Path(name).expanduser())


class LanguageModels(CommandLineFitting):
    """Language models and their adapters, used as they are, or with adapters that are trained on texts.

    Raises:
        UserError: one can't be loaded, or some don't go together; a method or an option of other networks.
    """

    def __init__(self, options: Any, args: DistillationTrainingArguments):
        super().__init__(options, args)
        if options.spec.kind not in KINDS:
            raise UserError(
                f"a {options.spec.kind} teacher is of networks with a label for each example, and "
                f"{options.model[0]} is a language model: pass --method {', '.join(KINDS[:-1])} or {KINDS[-1]}"
            )
        if options.augment:
            raise UserError("--augment is for images, and a language model reads texts: omit it")
        if len(options.model) > 1 and options.lora_rank is not None:
            raise UserError(
                "--lora_rank is of new adapters over one language model, and --model names several: omit it"
            )
        self.loaded = self._loaded()
        for each in self.loaded:
            each.to(args.device)
        first = self.loaded[0]
        self._reads = first.network
        self.processing_class = first.processing_class or tokenizer_of(first.network)
        if self.processing_class is None:
            self.processing_class = processor_of(options.model[0], "text")  # which says that there is none
        if args.push_to_hub and self._has_adapters:
            check_others_have_base(self.network(), args)
        self.examples = self._examples()

    def _loaded(self) -> list[Teacher]:
        """Return the models as teachers; adapters over one base model share it."""
        names = self.options.model
        if len(names) > 1 and all(map(is_adapter, names)):
            return list(EnsembleTeacher.from_adapters(names).members)
        if self._trains:
            folder = Path(names[0]).expanduser()
            if (folder / "teacher.json").is_file():
                return [DeterministicTeacher(load_trained(names[0]).network)]
            return [DeterministicTeacher(load_language_model(names[0]))]
        return [load_trained(name) for name in names]

    @property
    def _trains(self) -> bool:
        """Whether adapters are trained."""
        return self.options.lora_rank is not None or self.options.spec.kind == "ivon"

    @property
    def _has_adapters(self) -> bool:
        return self._trains or is_adapted(self.loaded[0].network)

    def _examples(self) -> TokenExamples:
        options = self.options
        arguments = Namespace(
            **{name: getattr(options, name) for name in ("input_column", "label_column", "max_length")}
        )
        splits = load_splits(options.dataset, configuration=options.dataset_config)
        name = choose_split(splits, options.train_split, ("train",), options.dataset)
        train, others = texts_of(splits[name], arguments), splits
        chosen = options.validation_split or ("validation" if "validation" in splits else None)
        if options.eval_dataset:
            others = load_splits(options.eval_dataset)
            usual = ("validation", "test")
            chosen = choose_split(others, options.validation_split, usual, options.eval_dataset)
        elif chosen is not None:
            check_split(splits, chosen, options.dataset)
        if chosen is None:
            validation, train = random_split(train, options.validation_size or max(len(train) // 10, 1), seed=0)
        else:
            validation = texts_of(others[chosen], arguments)
        problem = Problem(CATEGORICAL, True, vocabulary_size(self._reads), next_tokens=True)
        return TokenExamples(*in_tokens([train, validation], self.processing_class, arguments), problem)

    def _batches(self, rows: Any, progress: str | None = None) -> Iterator[dict[str, Tensor]]:
        return TokenBatches.of(self._reads, rows, self.processing_class, progress)

    def measures(self, teacher: Teacher) -> dict[str, float]:
        """Measure a teacher on the validation examples."""
        return measured(teacher, self.examples.validation, self.num_samples, self.processing_class, "measuring")

    def facts(self) -> dict[str, Any]:
        rank = self.options.lora_rank
        return super().facts() | ({} if rank is None else {"rank of the adapters": rank})

    def members(self, number: int | None) -> list[Self]:
        """Return a context for each model, or for each of the adapters that are trained over one."""
        models = len(self.options.model)
        if models == 1 and not self._trains:
            raise UserError(
                "an ensemble of one language model is that model: pass --lora_rank 4 to train adapters over it, or "
                "several trained ones as --model"
            )
        if models > 1 and number is not None:
            raise UserError("--members is of an ensemble of new adapters, and --model names the members: omit it")
        size = models if models > 1 else number or MEMBERS
        return [self.with_(number=member, size=size) for member in range(size)]

    def supplied(self, method: str) -> Teacher | None:
        """Return the member's teacher as it was loaded, where nothing is to be trained."""
        return self.loaded[self.number] if method == DeterministicTeacher.method and not self._trains else None

    def network(self, **settings: Any) -> nn.Module:
        """Return the language model with new adapters, to be trained; or as it was loaded, with its own.

        Raises:
            UserError: settings, which only new adapters can have.
        """
        set_seed(self.args.seed + self.number)
        network, rank = self.loaded[0 if self._trains else self.number].network, self.options.lora_rank
        if rank is not None:
            return adapted(network, rank, settings.get("drop_rate", 0.0)).to(self.args.device)
        if settings:
            raise UserError(f"--{next(iter(settings))} is of new adapters: pass --lora_rank 4 too, or omit it")
        if self._trains and not is_adapted(network):
            raise UserError(
                "IVON trains a language model's adapters, and the model has none: pass --lora_rank 4 for new ones"
            )
        if self._trains:
            train_adapters(network)
        return network
