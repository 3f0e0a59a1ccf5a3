"""A network of three convolutions for very small images, registered with timm.

``cnn6_small`` and ``cnn16_small`` (2,188 and 14,458 parameters for 10 classes and one channel): 3x3 convolutions of w,
2w and 2w channels with batch norm and ReLU, the last two with stride 2, then mean pooling and a linear head. Another w
is their argument ``width``.
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

CONFIG = {"input_size": (1, 8, 8), "mean": (0.5,), "std": (0.5,), "num_classes": 10}
default_cfgs = generate_default_cfgs(
    {name: {**CONFIG, "first_conv": "convolutions.0", "classifier": "fc"} for name in ("cnn6_small", "cnn16_small")}
)


class SmallCnn(nn.Module):
    """Convolutional classifier from images [B, in_chans, H, W] to logits [B, num_classes].

    Args:
        width: w, channels of the first convolution.
        num_classes: C.
        in_chans: channels of the images.
    """

    def __init__(self, width: int, num_classes: int = 10, in_chans: int = 1):
        super().__init__()
        layers, before = [], in_chans
        for channels, stride in ((width, 1), (2 * width, 2), (2 * width, 2)):
            convolution = nn.Conv2d(before, channels, 3, stride=stride, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
            before = channels
        self.convolutions = nn.Sequential(*layers)
        self.num_features, self.num_classes = before, num_classes
        self.fc = nn.Linear(before, num_classes)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes)

    def forward_features(self, images: Tensor) -> Tensor:
        return self.convolutions(images)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = features.mean(dim=(2, 3))
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))


def _build(name: str, width: int, pretrained: bool, kwargs: dict[str, Any]) -> SmallCnn:
    return build_model_with_cfg(SmallCnn, name, pretrained, **{"width": width} | kwargs)


@register_model
def cnn6_small(pretrained: bool = False, **kwargs: Any) -> SmallCnn:
    """Build the student of the digits recipe."""
    return _build("cnn6_small", 6, pretrained, kwargs)


@register_model
def cnn16_small(pretrained: bool = False, **kwargs: Any) -> SmallCnn:
    """Build the teacher of the digits recipe."""
    return _build("cnn16_small", 16, pretrained, kwargs)
