"""Networks and data for the benchmarks, with random values, which make no difference to speed."""

import timm
import torch
from torch import Tensor, nn

import hf_bkd.models.cifar_resnet  # noqa: F401  (timm knows its networks then)
from hf_bkd import LaplaceTeacher

NUM_CLASSES = 100
EXAMPLES = 1024  # on which a head's posterior is fitted


def classifier(architecture: str, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(architecture, num_classes=NUM_CLASSES).to(device).eval()


def head_only(width: int, device: torch.device) -> nn.Module:
    """Make what remains of a classifier whose features are cached."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Identity(), nn.Linear(width, NUM_CLASSES)).to(device).eval()


def images(number: int, device: torch.device) -> Tensor:
    return torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)


def features(number: int, width: int, device: torch.device) -> Tensor:
    """Draw features as a ReLU leaves them, none negative."""
    return torch.randn(number, width, generator=torch.Generator().manual_seed(0)).relu().to(device)


def labels(number: int, device: torch.device) -> Tensor:
    return torch.randint(NUM_CLASSES, (number,), generator=torch.Generator().manual_seed(0)).to(device)


def laplace_of_head(width: int, device: torch.device) -> LaplaceTeacher:
    """Fit a Kronecker posterior of :func:`head_only`, from which logits are drawn."""
    data = features(EXAMPLES, width, device), labels(EXAMPLES, device)
    return LaplaceTeacher.fit(head_only(width, device), [data], link="mc", prior_precision=1.0)


def laplace_of(network: nn.Module, device: torch.device) -> LaplaceTeacher:
    """Give a whole network the posterior of :func:`laplace_of_head`."""
    fitted = laplace_of_head(network.num_features, device)
    return LaplaceTeacher(network, fitted.curvature, fitted.prior_precision, fitted.link)


def forward(network: nn.Module, inputs: Tensor) -> None:
    """Make one deterministic pass, as a plain teacher does."""
    with torch.no_grad():
        network(inputs)
