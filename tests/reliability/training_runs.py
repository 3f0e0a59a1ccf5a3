"""A tiny distillation with checkpoints, and how tests of its reliability run and compare it."""

from pathlib import Path
from typing import Any

import datasets
import torch
from torch import nn
from transformers import PrinterCallback, TrainerCallback

from hf_bkd import DistillationTrainer
from hf_bkd.teachers import MCDropoutTeacher

from ..training.training_helpers import C, D, Plain, arguments, examples, new, resident

RUNTIMES = ("runtime", "per_second")


class Dropping(nn.Module):
    """A teacher's network, whose draws depend on the batch."""

    def __init__(self):
        super().__init__()
        self.num_labels = C
        self.layers = nn.Sequential(nn.Linear(D, 8), nn.Dropout(0.5), nn.Linear(8, C))

    def forward(self, features):
        return self.layers(features)


class Student(Plain):
    """Its dropout reads the random state, which a resume has to restore."""

    def forward(self, features):
        return self.layers(nn.functional.dropout(features, 0.2, self.training))


def tiny(folder: Path, **changes: Any) -> DistillationTrainer:
    """Two epochs of three steps, which save and evaluate as ``changes`` say."""
    settings = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "epoch", "kd_lambda": 0.5} | changes
    kwargs = {} if settings["eval_strategy"] == "no" else {"eval_dataset": resident(examples(1))}
    trainer = DistillationTrainer(new(Student), arguments(folder, **settings), train_dataset=resident(), **kwargs)
    trainer.remove_callback(PrinterCallback)
    return trainer


def asking(folder: Path, stream: bool = False, **changes: Any) -> DistillationTrainer:
    """A student of an online teacher whose batches have no ids, so that each batch has new draws."""
    values = {name: value.tolist() for name, value in examples().items() if name != "teacher_probs"}
    rows = datasets.Dataset.from_dict(values).with_format("torch")
    teacher = MCDropoutTeacher(new(Dropping))
    settings = {"save_strategy": "steps", "save_steps": 1, "online_teacher": True, "teacher_samples": 2} | changes
    args = arguments(folder, remove_unused_columns=False, **settings)
    rows = rows.to_iterable_dataset() if stream else rows
    trainer = DistillationTrainer(new(Student), args, train_dataset=rows, teacher=teacher)
    return trainer


def history(trainer: DistillationTrainer) -> list[dict[str, float]]:
    """All that was logged, in its order, but for runtimes."""
    entries = trainer.state.log_history
    return [{k: v for k, v in entry.items() if not k.endswith(RUNTIMES)} for entry in entries]


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, by their steps."""
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def assert_same(trainer: DistillationTrainer, whole: DistillationTrainer) -> None:
    """Check that two trainings logged the same and ended in the same weights, to the last bit."""
    assert history(trainer) == history(whole)
    assert trainer.evaluations() == whole.evaluations()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], value), name


class Killed(BaseException):
    """What nothing catches."""


class KillAt(TrainerCallback):
    """A callback that ends the training at one of its events, and counts them all."""

    def __init__(self, number: int | None = None):
        self.number, self.events = number, 0


def _event(name: str):
    def event(self, args, state, control, **kwargs):
        self.events += 1
        if self.events == self.number:
            raise Killed(name)

    return event


EVENTS = "step_begin optimizer_step step_end log evaluate save epoch_begin epoch_end train_end"
for _name in EVENTS.split():
    setattr(KillAt, f"on_{_name}", _event(_name))
