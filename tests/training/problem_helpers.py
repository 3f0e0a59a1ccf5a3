"""Students, teachers and rows of each kind of problem, and how tests train them."""

import datasets
import torch
from torch import nn
from transformers import BertConfig, BertForTokenClassification

from hf_bkd import (
    DeterministicTeacher,
    DistillationTrainer,
    EnsembleTeacher,
    Teacher,
    VariationalTeacher,
    make_variational,
)
from hf_bkd.likelihoods import Bernoulli, Gaussian
from hf_bkd.soft_labels import attach
from hf_bkd.soft_labels.identity import Identity
from hf_bkd.utils.random import ExampleGenerator
from tests.training.training_helpers import arguments

N, D, C, WORDS = 22, 6, 3, 20


class Rows(nn.Module):
    """A network of rows of numbers."""

    def __init__(self, outputs=C, problem_type=None):
        super().__init__()
        self.layers, self.head = nn.Sequential(nn.Linear(D, 8), nn.Tanh()), nn.Linear(8, outputs)
        if problem_type is not None:
            self.problem_type = problem_type

    def forward(self, features):
        return self.head(self.layers(features))


def tagger(seed=0, **changes) -> BertForTokenClassification:
    torch.manual_seed(seed)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 16}
    config = BertConfig(vocab_size=WORDS, num_labels=C, **small | still | changes)
    return BertForTokenClassification(config)


def rows(**labels) -> datasets.Dataset:
    features = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    return datasets.Dataset.from_dict({"features": features.tolist(), **labels})


def sentences(padded_to: int | None = None) -> datasets.Dataset:
    """Tokens of sentences of 3 to 9 words, of which the first, the last and some others have no label."""
    generator = torch.Generator().manual_seed(0)
    tokens, masks, labels = [], [], []
    for number in range(N):
        length = 3 + number % 7
        width = padded_to or length
        own = torch.randint(C, (length,), generator=generator)
        own[torch.rand(length, generator=generator) < 0.2] = -100
        own[[0, -1]] = -100
        tokens.append((torch.randint(1, WORDS, (length,), generator=generator).tolist() + [0] * width)[:width])
        masks.append(([1] * length + [0] * width)[:width])
        labels.append((own.tolist() + [-100] * width)[:width])
    return datasets.Dataset.from_dict({"input_ids": tokens, "attention_mask": masks, "labels": labels})


def hot() -> list[list[float]]:
    return torch.randint(2, (N, C), generator=torch.Generator().manual_seed(1)).float().tolist()


def numbers(width=C) -> list[list[float]]:
    return torch.randn(N, width, generator=torch.Generator().manual_seed(2)).tolist()


def student(kind) -> nn.Module:
    torch.manual_seed(7)
    return {
        "labels": lambda: Rows(problem_type="multi_label_classification"),
        "numbers": lambda: Rows(problem_type="regression"),
        "numbers and variances": lambda: Rows(2 * C, problem_type="regression"),
        "tokens": lambda: tagger(7),
    }[kind]()


def teacher(kind) -> Teacher:
    torch.manual_seed(3)
    if kind == "tokens":
        return EnsembleTeacher([DeterministicTeacher(sharper(tagger(seed)), temperature=1.0) for seed in (3, 4)])
    likelihood = Bernoulli() if kind == "labels" else Gaussian((0.5, 0.25, 1.0))
    return VariationalTeacher(make_variational(sharper(Rows()), "head", initial_std=0.3), likelihood=likelihood)


def sharper(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        for weight in network.parameters():
            weight *= 3
    return network.eval()


def examples(kind) -> datasets.Dataset:
    if kind == "tokens":
        return sentences(padded_to=10)
    return rows(labels=hot() if kind == "labels" else numbers())


KINDS = ["labels", "numbers", "numbers and variances", "tokens"]


def labeled(kind, dataset=None, num_samples=6, seed=3) -> datasets.Dataset:
    """Attach a teacher's answers by hand, with the draws of an online teacher of that seed."""
    dataset, by = examples(kind) if dataset is None else dataset, teacher(kind)
    columns = [name for name in dataset.column_names if name != "labels"]
    inputs = {name: torch.tensor(dataset[name][:]) for name in columns}
    ids = Identity(tuple(columns)).of_dataset(dataset)
    answer = by.predict(inputs, num_samples, ExampleGenerator(torch.from_numpy(ids), seed))
    record = {"format": 1, "temperature": 1.0, "tempering": "per_sample", "num_samples": num_samples, "seed": seed}
    record |= by.likelihood.as_json() | {"teacher": {"method": "variational", "num_classes": C}}
    parts, lengths = [answer.mean, answer.variance, answer.noise], None
    if kind == "tokens":
        there, record["positions"] = inputs["attention_mask"].bool(), "tokens"
        lengths, parts = there.sum(dim=1).numpy(), [None if each is None else each[there] for each in parts]
    mean, variance, noise = (None if each is None else each.numpy() for each in parts)
    return attach(dataset, mean, record, variance, storage="float32", noise=noise, lengths=lengths)


def trainer(folder, kind, dataset, **changes) -> DistillationTrainer:
    given = {name: changes.pop(name) for name in ("teacher", "eval_dataset", "model") if name in changes}
    settings = {"kd_lambda": 0.7, "learning_rate": 0.05, "num_train_epochs": 2} | changes
    model = given.pop("model", None) or student(kind)
    return DistillationTrainer(model, arguments(folder, **settings), train_dataset=dataset, **given)


def trained(*given, **changes) -> DistillationTrainer:
    made = trainer(*given, **changes)
    made.train()
    return made
