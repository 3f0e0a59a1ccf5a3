"""A perceptron for precomputed features, saved together with their scale."""

from collections.abc import Sequence

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn


class Perceptron(nn.Module, PyTorchModelHubMixin):
    """Multilayer perceptron that standardizes features [B, d] and maps them to logits [B, C], with ReLU in between.

    ``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` store it as safetensors.

    Args:
        in_features: d.
        num_classes: C.
        hidden: widths of the hidden layers.
        dropout: share in [0, 1) of the units of each hidden layer that training drops.
        label_names: C names of the classes, where they have any.
        feature_names: of the columns that the features stand in, in their order; a column of lists is one.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        hidden: Sequence[int] = (128,),
        dropout: float = 0.0,
        label_names: Sequence[str] | None = None,
        feature_names: Sequence[str] | None = None,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.label_names, self.feature_names = label_names, feature_names
        self.register_buffer("mean", torch.zeros(in_features))
        self.register_buffer("std", torch.ones(in_features))
        layers, width = [], in_features
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(dropout)]
            width = size
        self.body, self.head = nn.Sequential(*layers), nn.Linear(width, num_classes)

    def standardize(self, features: Tensor) -> None:
        """Set mean and scale to those of a training set's features [N, d]; a constant feature keeps the scale 1."""
        std, mean = torch.std_mean(features.float(), dim=0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 0, std, 1.0))

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.body((features - self.mean) / self.std))
