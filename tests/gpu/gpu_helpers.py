"""Small images, networks and teachers of every kind, for what is to run on a GPU as it does on the CPU."""

from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hf_bkd import (
    BatchedDataset,
    ClassMap,
    CropAndFlip,
    DeterministicTeacher,
    DistillationTrainer,
    DistillationTrainingArguments,
    EnsembleTeacher,
    ImagePreprocessor,
    LangevinTeacher,
    LaplaceTeacher,
    MCDropoutTeacher,
    MultiTeacher,
    OracleTeacher,
    Teacher,
    VariationalTeacher,
    Views,
    create_classifier,
    make_variational,
)
from hf_bkd.theory import GaussianMixture

N, C, SIDE = 24, 4, 8
PREPROCESS = ImagePreprocessor((0.5,) * 3, (0.25,) * 3)
VIEWS = Views(CropAndFlip(padding=2), num_views=2)


def images(number: int = N) -> datasets.Dataset:
    pixels = np.random.default_rng(0).integers(256, size=(number, SIDE, SIDE, 3), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=C)})
    rows = {"image": [Image.fromarray(image) for image in pixels], "label": np.arange(number) % C}
    return datasets.Dataset.from_dict(rows, features=features)


def inputs(number: int = N) -> dict[str, Tensor]:
    return PREPROCESS(images(number)[:])


def network(seed: int = 1, architecture: str = "cnn6_small") -> nn.Module:
    """In evaluation mode, its norms' statistics those of the images."""
    torch.manual_seed(seed)
    made = create_classifier(architecture, C, image_size=SIDE, mean=PREPROCESS.mean, std=PREPROCESS.std)
    made.train()
    with torch.no_grad():
        made(**inputs())
    return made.eval()


class WithDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 16), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(16, C)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.body(pixel_values))


def batches(device: torch.device | str = "cpu") -> list[dict[str, Tensor]]:
    """All images, on a device, with their labels."""
    moved = {name: value.to(device) for name, value in inputs().items()}
    return [moved | {"labels": (torch.arange(N) % C).to(device)}]


def laplace(structure: str = "kron", link: str = "mc") -> LaplaceTeacher:
    return LaplaceTeacher.fit(network(), batches(), prior_precision=1.0, structure=structure, link=link)


def langevin(parameters: str = "head", device: torch.device | str = "cpu", **changes) -> LangevinTeacher:
    short = {"chains": 2, "steps": 60, "burn_in": 40, "thinning": 2} | changes
    return LangevinTeacher.fit(network().to(device), batches(device), parameters=parameters, **short)


def variational(posterior: str, rank: int = 0) -> VariationalTeacher:
    return VariationalTeacher(make_variational(network(), posterior, initial_std=0.1, rank=rank))


def oracle(**noise: float) -> OracleTeacher:
    return OracleTeacher(GaussianMixture(torch.eye(C, 3), torch.eye(3)), **noise)


# the random numbers of all of them are drawn by example or where the generator is: equal on all devices
TEACHERS: dict[str, Callable[[], Teacher]] = {
    "deterministic": lambda: DeterministicTeacher(network(), temperature=2.0),
    "deterministic, residual": lambda: DeterministicTeacher(network(architecture="wrn_16_1_cifar")),
    "laplace, draws": laplace,
    "laplace, probit": lambda: laplace(link="probit"),
    "laplace, bridge": lambda: laplace(link="bridge"),
    "laplace, diagonal": lambda: laplace("diag"),
    "laplace, full": lambda: laplace("full", "probit"),  # its draws need a basis that is defined up to signs
    "variational head": lambda: variational("head"),
    "variational head, low rank": lambda: variational("head", rank=2),
    "variational network": lambda: variational("full"),
    "langevin, head": langevin,
    "langevin, network": lambda: langevin("all", sampler="sgld", step_size=1e-5),
    "ensemble": lambda: EnsembleTeacher([laplace(), DeterministicTeacher(network(2))]),
    "multi": lambda: MultiTeacher({"a": laplace(), "b": DeterministicTeacher(network(2))}, weights="entropy"),
    "class map": lambda: ClassMap(DeterministicTeacher(network()), [0, 2, 2, 4], num_classes=5),
    "oracle, additive": lambda: oracle(variance=0.01),
    "oracle, dirichlet": lambda: oracle(concentration=5.0),
}


def asked_with(name: str) -> Tensor | dict[str, Tensor]:
    """What the teacher of that name is asked."""
    points = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
    return points if name.startswith("oracle") else inputs()


def dropout() -> MCDropoutTeacher:
    torch.manual_seed(1)
    return MCDropoutTeacher(WithDropout().eval())


def held(dataset: datasets.Dataset, device: torch.device, views: Views | None = None) -> BatchedDataset:
    return BatchedDataset.from_images(dataset, PREPROCESS, views, device, progress=False)


def arguments(folder: Path, device: torch.device, **changes) -> DistillationTrainingArguments:
    settings = {
        "per_device_train_batch_size": 8,
        "num_train_epochs": 2,
        "learning_rate": 0.05,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": device.type == "cpu",
    }
    return DistillationTrainingArguments(output_dir=str(folder), **(settings | changes))


def losses(trainer: DistillationTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(model: nn.Module) -> list[Tensor]:
    return [value.detach().cpu() for value in model.state_dict().values()]
