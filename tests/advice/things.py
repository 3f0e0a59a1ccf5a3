"""Small networks and datasets whose soft labels can be computed at once."""

from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch import nn

from hf_bkd import DeterministicTeacher, DistillationTrainer, DistillationTrainingArguments, add_soft_labels
from hf_bkd.soft_labels import read

from ..properties.texts import CLS, SEP, network_of, numbers_of, tokenizer_of

NAMES = ["cat", "dog", "eel"]
X = np.array([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0], [1.0, 0.0, 2.0], [3.0, 1.0, 0.0]], np.float32)
TEXTS = ["who where", "how", "when why how", "where where who"]
QUIET = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "max_steps": 1}
TRAINERS = (
    "optimizers",
    "eval_dataset",
    "compute_metrics",
    "processing_class",
    "preprocessor",
    "teacher",
    "compute_loss_func",
    "data_collator",
)


def linear(seed: int = 0) -> nn.Linear:
    """A network of three numbers and three classes."""
    layer = nn.Linear(3, 3)
    layer.bias.data.zero_()
    layer.weight.data = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, 3)).astype("f4"))
    return layer


def points(labels: Any = (0, 1, 2, 0), **columns: Any) -> datasets.Dataset:
    """Rows of the three numbers of ``X``, with class numbers that have no names, or without any."""
    own = {} if labels is None else {"label": list(labels)}
    return datasets.Dataset.from_dict({"x": X.tolist()} | own | columns)


def by_hand(network: nn.Module, inputs: Any = X, temperature: float = 1.0) -> np.ndarray:
    """What a network says, computed without the library."""
    with torch.no_grad():
        answer = network.eval()(torch.as_tensor(inputs))
    return (getattr(answer, "logits", answer).double() / temperature).softmax(-1).numpy()


def labeled(dataset: Any, network: Any, **settings: Any) -> datasets.Dataset:
    """Label with a teacher, or with a network as one."""
    teacher = DeterministicTeacher(network) if isinstance(network, nn.Module) else network
    return add_soft_labels(dataset, teacher, **{"storage": "float32", "progress": False} | settings)


def stored(dataset: datasets.Dataset) -> np.ndarray:
    """The soft labels of a dataset, [N, C]."""
    return read(dataset).probs.numpy().reshape(len(dataset), -1)


def same(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Check that two arrays are equal up to rounding."""
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), atol=tolerance, rtol=0)


def trainer(folder: Any, student: nn.Module, rows: Any, **settings: Any) -> DistillationTrainer:
    """A trainer of one step; settings are its own or those of its arguments."""
    own = {name: settings.pop(name) for name in TRAINERS if name in settings}
    args = DistillationTrainingArguments(str(folder), **QUIET | {"logging_steps": 1} | settings)
    return DistillationTrainer(student, args, train_dataset=rows, **own)


def logged(trained: DistillationTrainer, name: str = "loss") -> float:
    """Train, and return what the first step logged."""
    trained.train()
    return next(entry[name] for entry in trained.state.log_history if name in entry)


def bert(kind: str = "bert", seed: int = 0) -> nn.Module:
    """A small network of texts without dropout."""
    network = network_of(kind, 3, seed, None)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def texts(labels: Any = (0, 1, 2, 0), column: str = "text") -> datasets.Dataset:
    """Four short texts."""
    return datasets.Dataset.from_dict({column: TEXTS} | ({} if labels is None else {"label": list(labels)}))


def tokenizer(**settings: Any) -> Any:
    """A tokenizer of the words that these texts hold."""
    return tokenizer_of(True, **{"pad_token": "[PAD]"} | settings)


def answers(network: nn.Module, given: list[str] = TEXTS) -> np.ndarray:
    """What a network of texts says of each text alone."""
    return np.concatenate([by_hand(network, [[CLS, *numbers_of(text), SEP]]) for text in given])


def pictures(mode: str = "RGB", size: int = 8) -> datasets.Dataset:
    """Three images of noise, with labels."""
    made = []
    for seed in range(3):
        noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3)).astype("uint8")
        made.append(Image.fromarray(noise).convert(mode))
    columns = {"image": made, "label": [0, 1, 2]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    return datasets.Dataset.from_dict(columns, features=features)


def pixels(rows: datasets.Dataset, mean: float = 0.5, std: float = 0.5) -> torch.Tensor:
    """The images of a dataset, normalized without the library."""
    arrays = [np.asarray(image.convert("RGB"), np.float32) / 255 for image in rows["image"][:]]
    return (torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) - mean) / std


class Seeing(nn.Module):
    """A network of images of 8 by 8 that says nothing of how they are to be prepared."""

    def __init__(self, channels: int = 3):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(channels * 64, 3)

    def forward(self, pixel_values):
        return self.head(pixel_values.flatten(1))
