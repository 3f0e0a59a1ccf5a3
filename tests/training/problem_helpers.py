"""Students, teachers and rows of each kind of problem, and how tests train them."""

import datasets
import torch
from torch import nn
from transformers import BertConfig, BertForTokenClassification

from hf_bkd import DistillationTrainer, VariationalTeacher, add_soft_labels, make_variational
from hf_bkd.likelihoods import CATEGORICAL, Bernoulli, Gaussian
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
    config = BertConfig(vocab_size=WORDS, num_labels=C, max_position_embeddings=16, **small | changes)
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


def teacher(kind) -> VariationalTeacher:
    torch.manual_seed(3)
    likelihood = {"labels": Bernoulli(), "tokens": CATEGORICAL}.get(kind, Gaussian((0.5, 0.25, 1.0)))
    network = tagger(3) if kind == "tokens" else Rows()
    with torch.no_grad():
        for weight in network.parameters():
            weight *= 3
    return VariationalTeacher(make_variational(network.eval(), "head", initial_std=0.3), likelihood=likelihood)


def examples(kind) -> datasets.Dataset:
    if kind == "tokens":
        return sentences(padded_to=10)
    return rows(labels=hot() if kind == "labels" else numbers())


KINDS = ["labels", "numbers", "numbers and variances", "tokens"]


def labeled(kind, dataset=None, **options) -> datasets.Dataset:
    options = {"storage": "float32", "seed": 3, "progress": False, "num_samples": 6, "variance": "full"} | options
    return add_soft_labels(examples(kind) if dataset is None else dataset, teacher(kind), **options)


def trainer(folder, kind, dataset, **changes) -> DistillationTrainer:
    given = {name: changes.pop(name) for name in ("teacher", "eval_dataset", "model") if name in changes}
    settings = {"kd_lambda": 0.7, "learning_rate": 0.05, "num_train_epochs": 2} | changes
    model = given.pop("model", None) or student(kind)
    return DistillationTrainer(model, arguments(folder, **settings), train_dataset=dataset, **given)


def trained(*given, **changes) -> DistillationTrainer:
    made = trainer(*given, **changes)
    made.train()
    return made
