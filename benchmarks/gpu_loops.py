"""Training steps that are timed against each other: under the trainer, written out by hand, and torchdistill's.

All of them train the same network on the same images, which lie on the device, in bf16 by autocast, with the same
optimizer. Each function returns the seconds of a step, without those of warming up.
"""

import copy
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import TrainerCallback

from hf_bkd import (
    BatchedDataset,
    CropAndFlip,
    DistillationTrainer,
    DistillationTrainingArguments,
    ImagePreprocessor,
    Views,
    create_classifier,
)
from hf_bkd.data.columns import PROBS
from hf_bkd.soft_labels import SoftLabels
from hf_bkd.soft_labels.layout import Layout
from hf_bkd.soft_labels.record import LabelRecord

MEAN, STD = (0.5,) * 3, (0.25,) * 3
PADDING, VIEWS, TOP = 4, 4, 10
RECORD = {"format": 1, "temperature": 1.0, "tempering": "post_average"}


@dataclass(frozen=True)
class Setup:
    """What is trained; the values of images and labels make no difference to speed."""

    device: torch.device
    student: str = "resnet18_cifar"
    teacher: str = "resnet50_cifar"
    classes: int = 100
    side: int = 32
    examples: int = 50_000
    batch: int = 512
    warmup: int = 15
    steps: int = 75

    @cached_property
    def pixels(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        shape = (self.examples, 3, self.side, self.side)
        return torch.randint(256, shape, dtype=torch.uint8, generator=generator).to(self.device)

    @cached_property
    def labels(self) -> Tensor:
        numbers = torch.randint(self.classes, (self.examples,), generator=torch.Generator().manual_seed(0))
        return numbers.to(self.device)

    def network(self, architecture: str, channels_last: bool = True) -> nn.Module:
        torch.manual_seed(0)
        made = create_classifier(architecture, self.classes, image_size=self.side, mean=MEAN, std=STD)
        return made.to(self.device, memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def sgd(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)


# Under the trainer


class Stopwatch(TrainerCallback):
    """Seconds of the steps after ``warmup`` ones; ``around`` is started before them and stopped after them."""

    def __init__(self, setup: Setup, around: Any = None):
        self.setup, self.around, self.seconds = setup, around, 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step not in (self.setup.warmup, state.max_steps):
            return
        self.setup.synchronize()
        if state.global_step == self.setup.warmup:
            if self.around is not None:
                self.around.start()
            self.seconds = -time.perf_counter()
        else:
            self.seconds += time.perf_counter()
            if self.around is not None:
                self.around.stop()


def trainer_of(setup: Setup, channels_last: bool = True, labels: SoftLabels | None = None, **changes: Any):
    """A trainer of as many steps as are timed."""
    settings = {
        "max_steps": setup.warmup + setup.steps,
        "per_device_train_batch_size": setup.batch,
        "dataloader_drop_last": True,
        "kd_lambda": 0.0 if labels is None else 0.9,
        "bf16": setup.device.type == "cuda",
        "use_cpu": setup.device.type == "cpu",
        "logging_nan_inf_filter": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
        "output_dir": tempfile.gettempdir(),
    }
    views = Views(CropAndFlip(PADDING), num_views=None if labels is None else VIEWS)
    values = {"pixel_values": setup.pixels, "labels": setup.labels}
    held = {} if labels is None else {None: labels}
    data = BatchedDataset(values, ImagePreprocessor(MEAN, STD), views, held, np.arange(setup.examples))
    network = setup.network(setup.student, channels_last)
    return DistillationTrainer(
        network,
        DistillationTrainingArguments(**settings | changes),
        train_dataset=data,
        optimizers=(sgd(network), None),
    )


def trainer_step(setup: Setup, around: Any = None, **settings: Any) -> float:
    """Seconds of a step under the trainer; ``settings`` are those of :func:`trainer_of`."""
    trainer, stopwatch = trainer_of(setup, **settings), Stopwatch(setup, around)
    trainer.add_callback(stopwatch)
    trainer.train()
    return stopwatch.seconds / setup.steps


def stored_labels(setup: Setup) -> SoftLabels:
    """Top 10 and tail of four views of each image, on the device."""
    generator = torch.Generator(setup.device).manual_seed(0)
    shape = (setup.examples, VIEWS, setup.classes)
    probs = torch.rand(shape, device=setup.device, generator=generator).pow(8)
    probs /= probs.sum(dim=-1, keepdim=True)
    top = probs.topk(min(TOP, setup.classes - 1), dim=-1)
    tail = (1 - top.values.sum(dim=-1, keepdim=True)).clamp_min(0)
    parts = {"classes": top.indices.to(torch.uint8), "probs": top.values.half(), "tail": tail.half()}
    return SoftLabels(Layout(PROBS, VIEWS, setup.classes, LabelRecord.from_json(RECORD)), parts)


# By hand, as in airbench (Jordan 2024): all images of an epoch are augmented at once, and batches are cut from them


def written_step(setup: Setup, channels_last: bool = True) -> float:
    """Seconds of a step, the augmentation of its share of an epoch among them."""
    network = setup.network(setup.student, channels_last).train()
    optimizer = sgd(network)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    padded = F.pad((setup.pixels.float() / 255 - MEAN[0]) / STD[0], (PADDING,) * 4, mode="reflect")

    def run(steps: int) -> None:
        chosen = torch.randperm(setup.examples, device=setup.device)[: steps * setup.batch]
        images = flipped(cropped(padded[chosen], setup.side)).contiguous(memory_format=layout)
        labels = setup.labels[chosen]
        for start in range(0, steps * setup.batch, setup.batch):
            step(images[start : start + setup.batch], labels[start : start + setup.batch])

    def step(images: Tensor, labels: Tensor) -> None:
        with torch.autocast(setup.device.type, torch.bfloat16, enabled=setup.device.type == "cuda"):
            logits = network(pixel_values=images).logits
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return timed(setup, run)


def cropped(images: Tensor, size: int) -> Tensor:
    """Random crops [B, C, size, size] of padded images: for each shift those images that it is drawn for."""
    room = images.shape[-1] - size
    shifts = torch.randint(room + 1, (len(images), 2), device=images.device)
    rows = torch.empty((*images.shape[:2], size, images.shape[-1]), device=images.device, dtype=images.dtype)
    crops = torch.empty((*images.shape[:2], size, size), device=images.device, dtype=images.dtype)
    for shift in range(room + 1):
        chosen = shifts[:, 0] == shift
        rows[chosen] = images[chosen, :, shift : shift + size]
    for shift in range(room + 1):
        chosen = shifts[:, 1] == shift
        crops[chosen] = rows[chosen, :, :, shift : shift + size]
    return crops


def flipped(images: Tensor) -> Tensor:
    """Half of the images mirrored."""
    chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(chosen, images.flip(-1), images)


def timed(setup: Setup, run: Callable[[int], None]) -> float:
    """Seconds of a step of ``run(steps)``, after a warm-up."""
    run(setup.warmup)
    setup.synchronize()
    start = time.perf_counter()
    run(setup.steps)
    setup.synchronize()
    return (time.perf_counter() - start) / setup.steps


# torchdistill's, which asks the teacher at each step


def torchdistill_step(setup: Setup) -> float:
    """Seconds of a step of its own loop, on tensors that need neither decoding nor augmentation.

    Raises:
        ImportError: it isn't there.
    """
    from torchdistill.core.distillation import get_distillation_box

    data = (setup.pixels[: (setup.warmup + setup.steps) * setup.batch].float() / 255 - MEAN[0]) / STD[0]
    rows = torch.utils.data.TensorDataset(data.cpu(), setup.labels[: len(data)].cpu())
    teacher, student = (Logits(setup.network(name)) for name in (setup.teacher, setup.student))
    whole = {"forward_proc": "forward_batch_only", "sequential": [], "forward_hook": {"input": [], "output": []}}
    loss = {"student_module_path": ".", "student_module_io": "output", "teacher_module_path": "."}
    loss |= {"teacher_module_io": "output", "temperature": 1.0, "alpha": 0.9, "reduction": "batchmean"}
    term = {"criterion": {"key": "KDLoss", "kwargs": loss}, "weight": 1.0}
    config = {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": torch.utils.data.RandomSampler, "kwargs": {}},
            "kwargs": {
                "batch_size": setup.batch,
                "num_workers": 8 * (setup.device.type == "cuda"),
                "pin_memory": setup.device.type == "cuda",
            },
        },
        "teacher": whole | {"requires_grad": False},
        "student": whole | {"requires_grad": True},
        "optimizer": {"key": "SGD", "kwargs": {"lr": 1e-3, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": term}}},
    }
    box = get_distillation_box(
        teacher, student, {"train": rows}, copy.deepcopy(config), setup.device, None, False, 1, None
    )
    box.pre_epoch_process(epoch=0)
    batches = iter(box.train_data_loader)

    def run(steps: int) -> None:
        for _ in range(steps):
            images, labels, extra = next(batches)
            images, labels = (each.to(setup.device, non_blocking=True) for each in (images, labels))
            with torch.autocast(setup.device.type, torch.bfloat16, enabled=setup.device.type == "cuda"):
                loss = box.forward_process(images, labels, extra)
            box.post_forward_process(loss=loss)

    return timed(setup, run)


class Logits(nn.Module):
    """A classifier as a function from images to logits."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(pixel_values=images).logits
