"""Teachers of every kind to save, and what a folder holds."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from hf_bkd import create_classifier
from hf_bkd.models.heads import classification_head
from hf_bkd.teachers import (
    DeterministicTeacher,
    DirichletStudent,
    EnsembleTeacher,
    LangevinTeacher,
    LaplaceTeacher,
    MCDropoutTeacher,
    Teacher,
    VariationalTeacher,
    make_variational,
)
from tests.teachers.teacher_helpers import SmallNetwork, points, small_bert, small_cnn, vary_spread

Inputs = dict | Tensor

WORDS = {
    "input_ids": torch.randint(20, (5, 6), generator=torch.Generator().manual_seed(0)),
    "attention_mask": torch.ones(5, 6, dtype=torch.long),
}
IMAGES = {"pixel_values": torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))}

# a network, its inputs, and what to load a teacher of it into
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Inputs, Callable[[], nn.Module | None]]] = {
    "timm": (small_cnn, IMAGES, lambda: None),
    "bert": (small_bert, WORDS, lambda: None),
    "plain": (SmallNetwork, points(5)[0], SmallNetwork),
    "plain without bias": (lambda: SmallNetwork(bias=False), points(5)[0], lambda: SmallNetwork(bias=False)),
}


def deterministic(network: nn.Module, inputs: Inputs) -> Teacher:
    return DeterministicTeacher(network, temperature=1.5)


def laplace(network: nn.Module, inputs: Inputs, structure: str = "kron", link: str = "mc", **settings) -> Teacher:
    labels = torch.tensor([0, 1, 2, 0, 1])
    batches = [{**inputs, "labels": labels}] if isinstance(inputs, dict) else [(inputs, labels)]
    curvature = LaplaceTeacher.fit(network, batches, structure=structure, prior_precision=1.0).curvature
    settings = {"temperature": 0.8, "tempering": "per_sample"} | settings
    return LaplaceTeacher(network, curvature, 0.37, link, **settings)


def variational(
    network: nn.Module, inputs: Inputs, posterior: str = "head", rank: int = 0, prior_std: float = 0.6
) -> Teacher:
    network = vary_spread(make_variational(network, posterior, prior_std=prior_std, rank=rank))
    return VariationalTeacher(network, temperature=3.0, tempering="post_average")


def given(network: nn.Module, inputs: Inputs) -> Teacher:
    """A standard deviation for every parameter, as IVON finds them."""
    return VariationalTeacher(network, {n: torch.rand_like(p) / 5 + 0.01 for n, p in network.named_parameters()})


def langevin(network: nn.Module, inputs: Inputs, names: str = "head") -> Teacher:
    """Eight samples of the head's weights, or of all."""
    head = classification_head(network)[0]
    return LangevinTeacher(
        network,
        {
            name: p.detach() + torch.randn(8, *p.shape) / 10
            for name, p in network.named_parameters()
            if names == "all" or name.startswith(head)
        },
        temperature=1.3,
    )


def dropout(network: nn.Module, inputs: Inputs) -> Teacher:
    if hasattr(network, "timm_model"):
        network = create_classifier("resnet8x4_cifar", 4, in_chans=1, mean=[0.5], std=[0.25], drop_rate=0.3).eval()
    return MCDropoutTeacher(network, temperature=2.0)


def ensemble(network: nn.Module, inputs: Inputs) -> Teacher:
    plain = not hasattr(network, "config")
    others = [
        SmallNetwork(bias=network.head.bias is not None) if plain else type(network)(network.config) for _ in "ab"
    ]
    members = [deterministic(network, inputs), laplace(others[0], inputs), variational(others[1], inputs, "full", 1)]
    return EnsembleTeacher(members, 2.0, "per_sample")


KINDS: dict[str, Callable[[nn.Module, Inputs], Teacher]] = {
    "deterministic": deterministic,
    "laplace": laplace,
    "laplace, full, probit": lambda network, inputs: laplace(network, inputs, "full", "probit"),
    "laplace, diagonal, bridge": lambda network, inputs: laplace(network, inputs, "diag", "bridge"),
    "variational head": variational,
    "variational head of rank 2": lambda network, inputs: variational(network, inputs, rank=2),
    "variational": lambda network, inputs: variational(network, inputs, "full"),
    "variational with a head of rank 2": lambda network, inputs: variational(network, inputs, "full", 2),
    "given deviations": given,
    "langevin": langevin,
    "langevin of all weights": lambda network, inputs: langevin(network, inputs, "all"),
    "dropout": dropout,
    "dirichlet": lambda network, inputs: DirichletStudent(network, 2.0),
    "ensemble": ensemble,
}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
