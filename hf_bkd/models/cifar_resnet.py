"""Residual networks for small images, registered with timm.

Importing this module registers with timm the networks that CIFAR papers compare, after which ``timm.create_model``,
transformers' ``AutoModelForImageClassification.from_pretrained`` and the Hub all know them:

==================== ========== ============== ===================================================================
name                 parameters map of a 32x32 source
==================== ========== ============== ===================================================================
``resnet18_cifar``   11,220,132 512 x 4 x 4    He et al. 2016 (arXiv 1512.03385), table 1, with a 3x3 stride-1 stem
``resnet34_cifar``   21,328,292 512 x 4 x 4
``resnet50_cifar``   23,705,252 2048 x 4 x 4
``resnet20_cifar``      278,324 64 x 8 x 8     He et al. 2016, section 4.2, with 1x1 convolutions as shortcuts
``resnet32_cifar``      472,756 64 x 8 x 8
``resnet56_cifar``      861,620 64 x 8 x 8
``resnet8x4_cifar``   1,233,540 256 x 8 x 8    the same, 4 times as wide, as in Tian et al. 2020 (arXiv 1910.10699)
``resnet32x4_cifar``  7,433,860 256 x 8 x 8
``wrn_16_1_cifar``      180,916 64 x 8 x 8     Zagoruyko and Komodakis 2016 (arXiv 1605.07146), without dropout
``wrn_16_2_cifar``      703,284 128 x 8 x 8
``wrn_40_1_cifar``      569,780 64 x 8 x 8
``wrn_40_2_cifar``    2,255,156 128 x 8 x 8
==================== ========== ============== ===================================================================

Parameters are counted for 100 classes and 3 channels. The first three, made for ImageNet, have four stages and an
output stride of 8; the others, made for CIFAR, have three stages and an output stride of 4.
"""

from collections.abc import Sequence
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

__all__ = ["CIFAR100_MEAN", "CIFAR100_STD", "CifarResNet"]

CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


class PreActivationBlock(BasicBlock):
    """Residual block with norm and ReLU before each of its two 3x3 convolutions.

    It maps x [B, inplanes, H, W] to [B, planes, H / stride, W / stride] (Zagoruyko and Komodakis 2016, figure 1a).
    Where the shape changes the shortcut is a 1x1 convolution of the activated input, elsewhere the input itself.
    """

    def __init__(self, inplanes: int, planes: int, *args: Any, norm_layer: Any = nn.BatchNorm2d, **kwargs: Any):
        super().__init__(inplanes, planes, *args, norm_layer=norm_layer, **kwargs)
        self.bn1 = norm_layer(inplanes).to(self.conv1.weight)
        if self.downsample is not None:
            self.downsample = self.downsample[0]  # timm's is a convolution and a norm

    def zero_init_last(self) -> None:
        nn.init.zeros_(self.conv2.weight)  # no norm comes last here

    def forward(self, x: Tensor) -> Tensor:
        activated = self.act1(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(activated)
        residual = self.conv2(self.act2(self.bn2(self.conv1(activated))))
        return shortcut + (residual if self.drop_path is None else self.drop_path(residual))


class CifarResNet(ResNet):
    """ResNet of timm with a 3x3 stride-1 stem convolution, no max-pool and three or four stages.

    It maps images [B, in_chans, H, W] to features [B, num_features, H / s, W / s] with s = 4 or 8, and these to logits
    [B, num_classes].

    Args:
        block: timm's BasicBlock or Bottleneck, or :class:`PreActivationBlock`.
        layers: number of blocks of each stage.
        channels: of each of the three or four stages.
        stem_width: channels of the stem, even.
        kwargs: those of timm's ResNet.
    """

    def __init__(
        self,
        block: type[nn.Module],
        layers: Sequence[int],
        channels: Sequence[int] = (64, 128, 256, 512),
        stem_width: int = 64,
        **kwargs: Any,
    ):
        # whichever of timm's stems is built is replaced below; only the deep one may have another width than 64
        super().__init__(block, layers, channels=channels, stem_type="deep", stem_width=stem_width // 2, **kwargs)
        like = next(self.parameters())
        self.conv1 = nn.Conv2d(self.conv1[0].in_channels, stem_width, 3, padding=1, bias=False).to(like)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = nn.Identity()
        for info in self.feature_info:
            info["reduction"] = max(1, info["reduction"] // 4)
        if len(channels) == 3:  # timm runs four stages: the fourth is empty, or the norm that pre-activation ends in
            self.layer4 = nn.Sequential()
            self.feature_info.append({**self.feature_info[-1], "module": "layer4"})
            head = self.global_pool, self.fc
            del self.global_pool, self.fc
            self.global_pool, self.fc = head  # timm extracts features from modules in the order they run in
        if block is PreActivationBlock:
            self.layer4.extend([nn.BatchNorm2d(self.num_features).to(like), nn.ReLU(inplace=True)])
            self.bn1, self.act1 = nn.Identity(), nn.Identity()


def _cifar(block: type[nn.Module], depth: int, stem_width: int, width: int) -> dict[str, Any]:
    stages = {"layers": (depth, depth, depth), "channels": (width, 2 * width, 4 * width)}
    # no norm starts at zero, as published
    return {"block": block, **stages, "stem_width": stem_width, "zero_init_last": False}


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "resnet18_cifar": {"block": BasicBlock, "layers": (2, 2, 2, 2)},
    "resnet34_cifar": {"block": BasicBlock, "layers": (3, 4, 6, 3)},
    "resnet50_cifar": {"block": Bottleneck, "layers": (3, 4, 6, 3)},
    "resnet20_cifar": _cifar(BasicBlock, 3, 16, 16),
    "resnet32_cifar": _cifar(BasicBlock, 5, 16, 16),
    "resnet56_cifar": _cifar(BasicBlock, 9, 16, 16),
    "resnet8x4_cifar": _cifar(BasicBlock, 1, 32, 64),
    "resnet32x4_cifar": _cifar(BasicBlock, 5, 32, 64),
    "wrn_16_1_cifar": _cifar(PreActivationBlock, 2, 16, 16),
    "wrn_16_2_cifar": _cifar(PreActivationBlock, 2, 16, 32),
    "wrn_40_1_cifar": _cifar(PreActivationBlock, 6, 16, 16),
    "wrn_40_2_cifar": _cifar(PreActivationBlock, 6, 16, 32),
}

_CFG = {"input_size": (3, 32, 32), "mean": CIFAR100_MEAN, "std": CIFAR100_STD, "crop_pct": 1.0, "num_classes": 100}
default_cfgs = generate_default_cfgs(
    {name: {**_CFG, "first_conv": "conv1", "classifier": "fc"} for name in ARCHITECTURES}
)


def _entrypoint(name: str) -> Any:
    def build(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
        return build_model_with_cfg(CifarResNet, name, pretrained, **{**ARCHITECTURES[name], **kwargs})

    build.__name__ = name
    return build


for _name in ARCHITECTURES:
    globals()[_name] = register_model(_entrypoint(_name))  # timm lists it in __all__
