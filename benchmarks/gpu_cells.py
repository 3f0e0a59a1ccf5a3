"""First real cells: CIFAR-100, ResNet-50 to ResNet-18, in a fast protocol, seed by seed as long as there is time.

bf16, channels_last, SGD with Nesterov momentum and one cycle of the learning rate, 40 epochs, batches of 512; soft
labels of four views, top 10 and tail. Clean, and with 40 % of the training and validation labels replaced at random.

python benchmarks/gpu_cells.py --record FILE --work FOLDER --data CIFAR100
"""

import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from gpu_cells_kept import HEADER
from gpu_record import Record, part_arguments, write_json
from gpu_works import describe
from PIL import Image
from torch import nn

from hf_bkd.data.columns import as_image_classification
from hf_bkd.data.subsets import stratified_split, with_label_noise
from hf_bkd.models.cifar_resnet import CIFAR100_MEAN, CIFAR100_STD
from hf_bkd.study import LAPLACE, ONE_HOT, TUNED, Arm, Deterministic, Images, Splits, Study
from hf_bkd.study import main as run_study

SEEDS = (0, 1, 2)
NOISE = 0.4
TRAIN = 50_000  # images of CIFAR-100
PAIR = Arm("cross-fitted pair", Deterministic(), folds=2)
FULL = {
    "teacher_model": "resnet50_cifar",
    "student_model": "resnet18_cifar",
    "num_train_epochs": 40,
    "validation_size": 5000,
    "per_device_train_batch_size": 512,
    "per_device_eval_batch_size": 1000,
    "bf16": True,
    "save_strategy": "steps",
    "save_steps": 0.125,  # of a training: what was cut off goes on from there, if its folder is still there
    "save_total_limit": 1,
}
TOY = {
    "teacher_model": "cnn16_small",
    "student_model": "cnn6_small",
    "num_train_epochs": 2,
    "validation_size": 16,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
    "save_strategy": "no",
}
PROTOCOL = {
    "dataset": "uoft-cs/cifar100",
    "learning_rate": 0.2,
    "optim": "sgd",
    "optim_args": "momentum=0.9,nesterov=true",
    "weight_decay": 5e-4,
    "max_grad_norm": 5.0,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.2,  # of the steps
    "logging_strategy": "no",
    "logging_nan_inf_filter": False,  # it waits for the device at each step
    "disable_tqdm": True,
    "report_to": "none",
}


class ChannelsLast(Images):
    """Networks whose convolutions keep their channels together, as tensor cores want them."""

    def network(self, *args: Any, **settings: Any) -> nn.Module:
        return super().network(*args, **settings).to(memory_format=torch.channels_last)


def study(train: datasets.Dataset, test: datasets.Dataset, toy: bool = False) -> Study:
    """What is run, on the images that there are."""

    def condition(noise: float) -> Callable[[Any, int], Splits]:
        def splits(options: Any, seed: int) -> Splits:
            # one split for all seeds, so that a teacher of another run has not seen the validation images
            validation, rest = stratified_split(train.shuffle(seed=0), options.validation_size, seed=0)
            if noise:
                rest, _ = with_label_noise(rest, noise, 2 * seed)
                validation, _ = with_label_noise(validation, noise, 2 * seed + 1)
            return Splits(rest, validation, test, ChannelsLast(CIFAR100_MEAN, CIFAR100_STD, augment=True))

        return splits

    arms = (ONE_HOT, LAPLACE, TUNED, PAIR)
    conditions = {"clean": condition(0.0), "40 % label noise": condition(NOISE)}
    protocol = " ".join(__doc__.split("\n\n")[1].split())
    return Study(
        name="gpu_cells",
        arms=tuple(replace(arm, storage="top_k") for arm in arms),
        conditions={"clean": conditions["clean"]} if toy else conditions,
        num_views=4,
        reference=TUNED.name,
        note=f"{protocol} Test labels are clean. {len(train):,} of the {TRAIN:,} images of the training split were "
        "there.",
    )


def images(folder: str) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Training and test split from a folder of parquet files, or from the folders of several parts of them."""
    splits = []
    for name in ("train", "test"):
        files = sorted(str(path) for path in Path(folder).rglob(f"{name}-*.parquet"))
        if not files:
            raise FileNotFoundError(f"{folder or 'no folder'} holds no {name}-*.parquet: pass --data")
        splits.append(as_image_classification(datasets.Dataset.from_parquet(files)))
    return splits[0], splits[1]


def toy_images() -> tuple[datasets.Dataset, datasets.Dataset]:
    """Four colors, noisy, of 8 x 8 pixels."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=4)})
    random, made = np.random.default_rng(0), []
    for number in (64, 32):
        labels = np.arange(number) % 4
        pixels = random.integers(128, size=(number, 8, 8, 3)) + 40 * (labels[:, None, None, None] == range(3))
        rows = {"image": [Image.fromarray(image.astype(np.uint8)) for image in pixels], "label": labels}
        made.append(datasets.Dataset.from_dict(rows, features=features))
    return made[0], made[1]


def run(options: Namespace, record: Record) -> None:
    """Run the study seed by seed."""
    train, test = toy_images() if options.toy and not options.data else images(options.data)
    declared, folder = study(train, test, options.toy), options.work / "study"
    environment = record.facts.get("environment", {})
    facts = {"recipe": declared.name, "dataset": PROTOCOL["dataset"], "note": declared.note}
    facts |= {"reference": declared.reference, "measure": declared.measure, "environment": environment}
    write_json(folder / HEADER, facts)
    settings = PROTOCOL | (TOY if options.toy else FULL) | {"output_dir": str(folder)}
    settings |= {"max_train_samples": len(train), "use_cpu": options.device == "cpu"}
    for seed in SEEDS[:1] if options.toy else SEEDS:
        name = f"seed {seed}"
        if name not in record:
            with record.attempt(name):
                run_study(declared, settings, ["--seeds", str(seed)])
                record.add(name, "finished")


def main(argv: list[str] | None = None) -> int:
    """Run the part."""
    options = part_arguments(argv)
    record = Record(options.record)
    describe(record, options.device)
    if options.device == "cuda":
        torch.backends.cudnn.benchmark = True
    with record.attempt("the study"):
        run(options, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
