"""What a teacher is fitted from: networks, the examples that they read, and a trainer for those that need it."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import datasets
import timm
import torch
from accelerate import PartialState
from torch import Tensor, nn
from transformers import set_seed
from transformers.utils import logging

from ...data.augmentations import CropAndFlip
from ...data.columns import as_classification
from ...data.loading import check_split, load_splits
from ...data.preprocessing import ImagePreprocessor
from ...data.reading import Reader, class_names, kind_of, reader_for
from ...data.subsets import check_labeled, stratified_split
from ...data.views import Views
from ...models.classifier import create_classifier
from ...study.settings import DECISIVE
from ...teachers import DeterministicTeacher, EnsembleTeacher, Teacher
from ...teachers.loading import load_teacher
from ...training.arguments import DistillationTrainingArguments
from ...training.batched_dataset import BatchedDataset, training_set
from ...training.trainer import DistillationTrainer
from ...utils.errors import UserError
from ...utils.files import bare_name, write_json
from .options import FitOptions

# what another training would come of: beginnings of the names of training arguments, and the options beside them
TRAINING = (*DECISIVE, "kl_", "seed")
CHOSEN = ("model", "dataset", "train_split", "validation_split", "validation_size", "label_column", "augment")


@dataclass
class Task:
    """What the methods share.

    Args:
        options, args: what was asked for.
        members: a teacher for each model: as it was loaded, or of a new network.
        train, validation: columns ``image`` or ``text``, and ``label``; no ``train`` where nothing is fitted on it.
        reader: how all members read them.
        decoded: the training set of new networks.
    """

    options: FitOptions
    args: DistillationTrainingArguments
    members: list[Teacher]
    train: datasets.Dataset | None
    validation: datasets.Dataset
    reader: Reader
    decoded: BatchedDataset | None = None

    def batches(self, dataset: datasets.Dataset, progress: str | None = None) -> Iterator[dict[str, Tensor]]:
        return self.reader.batches(dataset, None if self.args.disable_tqdm else progress)

    def trained(self, number: int) -> Teacher:
        """A member as it was loaded, or after its training."""
        member = self.members[number]
        if self.options.from_scratch:
            self.train_network(member.network, number)
        return member

    def train_network(
        self, network: nn.Module, number: int = 0, optimizer: torch.optim.Optimizer | None = None
    ) -> nn.Module:
        """Train a network in place with the number's seed, going on from its last complete checkpoint."""
        seed, data, evaluated = self.args.seed + number, self.training_set, None
        if PartialState().is_main_process:
            self._note_settings()
            print(f"training network {number + 1} of {len(self.members)}", flush=True)
        if self.options.augment:
            data.views = Views(CropAndFlip(), seed=seed)
        if self.args.eval_strategy != "no":
            evaluated = training_set(self.reader, self.validation, self.args.device)
        args = replace(
            self.args,
            output_dir=str(self.checkpoints / str(number)),
            seed=seed,
            remove_unused_columns=False,
            dataloader_pin_memory=self.args.dataloader_pin_memory and self.args.device.type != "cpu",
            push_to_hub=False,
        )
        trainer = DistillationTrainer(
            network, args, train_dataset=data, eval_dataset=evaluated, optimizers=(optimizer, None)
        )
        trainer.train(resume_from_checkpoint=True)
        return network

    @cached_property
    def training_set(self) -> Any:
        data = self.decoded or training_set(self.reader, self.train, self.args.device)
        if self.options.augment and not isinstance(data, BatchedDataset):
            raise UserError("--augment is for images of the size that the network takes: leave it out here")
        return data

    @property
    def checkpoints(self) -> Path:
        """Of trainings that are not finished, beside the output folder."""
        folder = Path(self.args.output_dir)
        return folder.with_name(f"{folder.name}.training")

    def _note_settings(self) -> None:
        """Refuse to go on with a training that was begun with other settings."""
        file, options = self.checkpoints / "settings.json", asdict(self.options)
        settings = {name: value for name, value in self.args.to_dict().items() if name.startswith(TRAINING)}
        settings |= {name: options[name] for name in CHOSEN}
        settings |= {name: options[name] for name in self._own_options()}
        settings = json.loads(json.dumps(settings, default=str))
        before = json.loads(file.read_text()) if file.is_file() else settings
        for name in settings.keys() | before.keys():
            if before.get(name) != settings.get(name):
                raise UserError(
                    f"{self.checkpoints} holds a training with {name} {before.get(name)!r}, and this one has "
                    f"{settings.get(name)!r}: go on with the same, or delete that folder"
                )
        write_json(file, settings)

    def _own_options(self) -> tuple[str, ...]:
        """Options of the method that change a training."""
        return {"variational": ("method", "posterior", "rank", "hess_init"), "mc_dropout": ("drop_rate",)}.get(
            self.options.method, ()
        )

    def record(self) -> dict[str, Any]:
        """What a teacher's card should say of all this."""
        options, args = self.options, self.args
        facts = {
            "dataset": bare_name(options.dataset),
            "network": ", ".join(map(bare_name, options.model)),
            "validation examples": len(self.validation),
        }
        if options.method == "variational":
            facts["posterior"] = options.posterior
        if options.from_scratch or options.method == "variational":
            length = ("steps", args.max_steps) if args.max_steps > 0 else ("epochs", args.num_train_epochs)
            batch = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
            facts |= dict([length]) | {"learning rate": args.learning_rate, "batch size": batch, "seed": args.seed}
        return facts


def start(options: FitOptions, args: DistillationTrainingArguments) -> Task:
    """Load or make the networks and load the examples.

    Raises:
        UserError: something can't be loaded, or does not fit together.
    """
    logging.disable_progress_bar()
    return _of_architectures(options, args) if options.from_scratch else _of_networks(options, args)


def _of_networks(options: FitOptions, args: DistillationTrainingArguments) -> Task:
    loaded = [_load(name) for name in options.model]
    members = [teacher.to(args.device) for teacher, _ in loaded]
    if options.method == "ensemble" and len(members) == 1:
        raise UserError(
            "an ensemble of one network is that network: pass several trained ones as --model, or the name of an "
            "architecture to train --members of"
        )
    if options.method != "ensemble" and isinstance(members[0], EnsembleTeacher):
        raise UserError(f"{options.model[0]} is an ensemble: pass one of its members, such as its folder members/0")
    network = members[0].network
    needs_train = options.method in ("laplace", "variational")
    train, validation, held_out = _examples(options, kind_of(network), class_names(network), needs_train)
    if held_out and PartialState().is_main_process:
        print(
            f"note: {len(validation)} examples of the split {options.train_split} are used for validation; if the "
            "network was trained on them, pass a --validation_split that it has not seen",
            file=sys.stderr,
        )
    readers = [
        reader_for(member.network, folder, validation) for member, (_, folder) in zip(members, loaded, strict=True)
    ]
    _check_alike(options.model, members, readers)
    return Task(options, args, members, train, validation, readers[0])


def _load(name: str) -> tuple[Teacher, Path]:
    try:
        return load_teacher(name)
    except UserError as error:
        near = get_close_matches(name, timm.list_models())
        raise UserError(
            f"{error}; architectures with such a name: {', '.join(near)}" if near else str(error)
        ) from None


def _check_alike(names: list[str], members: list[Teacher], readers: list[Reader]) -> None:
    """An ensemble prepares inputs once, for all members, and averages class by class."""
    for name, member, reader in zip(names, members, readers, strict=True):
        if reader.settings != readers[0].settings:
            raise UserError(
                f"{name} reads {reader.kind}s in another way than {names[0]} does, so they can't be members"
            )
        theirs, ours = class_names(member.network), class_names(members[0].network)
        if theirs != ours and sorted(theirs) == sorted(ours):
            raise UserError(f"{name} has the classes of {names[0]} in another order, so they can't be members")


def _of_architectures(options: FitOptions, args: DistillationTrainingArguments) -> Task:
    train, validation, _ = _examples(options, "image", None, True)
    decoded = BatchedDataset.from_images(train, None, device=args.device, progress=not args.disable_tqdm)
    images, classes = decoded.values["pixel_values"], train.features["label"].names
    if images.shape[-1] != images.shape[-2]:
        raise UserError(f"the images are {images.shape[-2]} x {images.shape[-1]}: networks are trained on square ones")
    mean, std = _channel_statistics(images)
    decoded.preprocessor = ImagePreprocessor(mean, std)
    alone = options.method == "ensemble" and len(options.model) == 1
    settings = {"in_chans": images.shape[1], "image_size": images.shape[-1], "mean": mean, "std": std}
    settings |= {"drop_rate": options.drop_rate} if options.method == "mc_dropout" else {}
    members = []
    for number, name in enumerate(options.model * (options.members if alone else 1)):
        set_seed(args.seed + number)
        try:
            network = create_classifier(name, len(classes), label_names=classes, **settings)
        except TypeError as error:  # of the architecture's constructor
            raise UserError(f"{name} can't be built with {', '.join(settings)} ({error})") from None
        members.append(DeterministicTeacher(network.to(args.device)))
    reader = reader_for(members[0].network, None, validation)
    return Task(options, args, members, train, validation, reader, decoded)


def _channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images [N, C, H, W], on the scale of [0, 1]."""
    levels = torch.arange(256, dtype=torch.float64, device=images.device) / 255
    shares = [torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)]
    shares = [counts / counts.sum() for counts in shares]
    means = [(share * levels).sum().item() for share in shares]
    variances = [(share * (levels - mean).square()).sum().item() for share, mean in zip(shares, means, strict=True)]
    return tuple(round(mean, 4) for mean in means), tuple(round(variance**0.5, 4) for variance in variances)


def _examples(
    options: FitOptions, kind: str, classes: list[str] | None, needs_train: bool
) -> tuple[datasets.Dataset | None, datasets.Dataset, bool]:
    """Training and validation examples, and whether the latter were held out of the training split."""
    splits = load_splits(options.dataset)
    name = options.validation_split or ("validation" if "validation" in splits else None)
    read = partial(as_classification, kind=kind, input_column=options.input_column, label_column=options.label_column)
    train = validation = None
    if needs_train or name is None:
        check_split(splits, options.train_split, options.dataset)
        train = read(splits[options.train_split], classes=classes)
        check_labeled(train, options.train_split)
        classes = classes or train.features["label"].names
    if name is None:
        validation, train = stratified_split(train, options.validation_size or len(train) // 10, seed=0)
        return train, validation, True
    check_split(splits, name, options.dataset)
    validation = read(splits[name], classes=classes)
    check_labeled(validation, name)
    return train, validation, False
