"""A small network and data, and how the tests of the trainer train it."""

import datasets
import torch
from torch import nn
from transformers import Trainer

from hf_bkd import BatchedDataset, DistillationTrainer, DistillationTrainingArguments, make_variational
from hf_bkd.models.variational_layers import VariationalLinear
from hf_bkd.soft_labels import SoftLabels, attach

N, D, C = 22, 6, 4
NO_SCHEDULE = {"kl_warmup": 0.0, "kl_annealing": 0.0}


class Plain(nn.Module):
    """Returns a bare tensor."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, C))

    def forward(self, features):
        return self.layers(features)


class WithKwargs(Plain):
    """Makes the Trainer believe that the model scales its own loss."""

    def forward(self, features, **kwargs):
        assert not kwargs
        return {"logits": self.layers(features)}


class Tuple(Plain):
    def forward(self, features):
        return None, self.layers(features)


def examples(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "features": torch.randn(N, D, generator=generator),
        "labels": torch.randint(C, (N,), generator=generator),
        "teacher_probs": torch.randn(N, C, generator=generator).mul(2).softmax(dim=-1),
    }


def arrow(values: dict[str, torch.Tensor], **record) -> datasets.Dataset:
    plain = {name: value.tolist() for name, value in values.items() if name != "teacher_probs"}
    teacher = {"format": 1, "temperature": 1.0, "tempering": "per_sample", "class_names": None, "dataset": {}} | record
    storage = record.get("storage", "float32")
    return attach(datasets.Dataset.from_dict(plain), values["teacher_probs"].numpy(), teacher, storage=storage)


def resident(values: dict[str, torch.Tensor] | None = None, kind: type = BatchedDataset) -> BatchedDataset:
    """``examples()`` or others like them as columns in memory, their soft labels with a record."""
    values = examples() if values is None else values
    record = {"format": 1, "temperature": 1.0, "tempering": "post_average"}
    probs = {name: value for name, value in values.items() if name.startswith("teacher_probs")}
    labels = {name.partition("__")[2] or None: SoftLabels.of(value, record) for name, value in probs.items()}
    return kind({name: value for name, value in values.items() if name not in probs}, labels=labels)


def arguments(folder, **changes) -> DistillationTrainingArguments:
    defaults = {
        "per_device_train_batch_size": 8,
        "num_train_epochs": 2,
        "learning_rate": 0.1,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "disable_tqdm": True,
        "use_cpu": True,
        "report_to": "none",
    }
    return DistillationTrainingArguments(output_dir=str(folder), **(defaults | changes))


def new(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return kind()


class Bayesian(Plain):
    def __init__(self):
        super().__init__()
        self.layers[2] = VariationalLinear(8, C, initial_std=0.3)


class Full(Plain):
    """All weights Gaussian, the head's with one direction."""

    def __init__(self):
        super().__init__()
        make_variational(self, "full", initial_std=0.3, rank=1)


class Recording(BatchedDataset):
    """Remembers which rows were asked for, batch by batch, after the few that a trainer looks at before it trains."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.asked: list[list[int]] = []

    @property
    def order(self):
        return self.asked[1:]

    def __getitems__(self, indices):
        self.asked.append(indices)
        return super().__getitems__(indices)


def trained(folder, kind=Plain, values=None, dataset=None, **changes) -> DistillationTrainer:
    dataset = resident(values) if dataset is None else dataset
    trainer = DistillationTrainer(new(kind), arguments(folder, **changes), train_dataset=dataset)
    trainer.train()
    return trainer


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def largest_difference(a: nn.Module, b: nn.Module) -> float:
    return max((x - y).abs().max().item() for x, y in zip(a.parameters(), b.parameters(), strict=True))


def losses(trainer: Trainer, name: str = "loss") -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]
