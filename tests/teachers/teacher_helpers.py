"""Small networks and data that the teachers' tests share."""

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from hf_bkd import create_classifier


class SmallNetwork(nn.Module):
    """x [B, 4] through batch norm and dropout to ``features`` and a linear head; counts its forward passes."""

    def __init__(self, features: int = 5, classes: int = 3, bias: bool = True, scale: float = 1.0):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, features), nn.BatchNorm1d(features), nn.Tanh(), nn.Dropout(0.5))
        self.head = nn.Linear(features, classes, bias=bias)
        self.passes = 0
        with torch.no_grad():
            self.backbone[1].running_mean.uniform_(-0.5, 0.5)
            self.backbone[1].running_var.uniform_(0.5, 2)
            self.head.weight.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.head(self.backbone(x))


class ConvolutionalHead(nn.Module):
    """A network that ends in a convolution: images [B, 1, 8, 8] to logits [B, 3]."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x).flatten(1)


def small_cnn(classes: int = 4):
    """A TimmWrapper for images [B, 1, 8, 8], its norms' statistics not the initial ones, in evaluation mode."""
    network = create_classifier("cnn6_small", classes, in_chans=1, image_size=8, mean=[0.5], std=[0.25])
    network.train()
    with torch.no_grad():
        network(pixel_values=torch.randn(16, 1, 8, 8) + 1)
    return network.eval()


def small_bert(classes: int = 3) -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=12,
        num_labels=classes,
        initializer_range=0.5,
    )
    return BertForSequenceClassification(config).eval()


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(count: int, classes: int = 3, seed: int = 1) -> tuple[Tensor, Tensor]:
    """x [count, 4] and labels [count], all classes among them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    labels[:classes] = torch.arange(classes)
    return x, labels


def in_batches(x: Tensor, labels: Tensor, size: int = 16) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(size), labels.split(size), strict=True))


def assert_equal_means(draws: Tensor, expected: Tensor, standard_errors: float = 5) -> None:
    """The mean over the first dimension is ``expected``, up to so many standard errors of the Monte Carlo draws."""
    draws = draws.double()
    error = draws.std(dim=0) / len(draws) ** 0.5
    deviation = ((draws.mean(dim=0) - expected) / error.clamp_min(1e-12)).abs().max().item()
    assert deviation < standard_errors, f"{deviation:.1f} standard errors away"


def vary_spread(network: nn.Module, low: float = -2.0, high: float = 0.0) -> nn.Module:
    """Give each weight of a network's variational layers another standard deviation, and factors of the same size."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("_log_std"):
                parameter.uniform_(low, high)
            elif name.endswith(("weight_factor", "bias_factor")):
                parameter.normal_(std=0.5)
    return network
