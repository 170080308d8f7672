"""The thin residual networks of He et al. for 32x32 images: 6n+2 layers, 16, 32 and 64 channels."""

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.models import Classifier

__all__ = ["resnet20", "resnet32", "resnet56", "resnet110"]


def resnet20(classes: int, channels: int) -> Classifier:
    return _thin(20, classes, channels)


def resnet32(classes: int, channels: int) -> Classifier:
    return _thin(32, classes, channels)


def resnet56(classes: int, channels: int) -> Classifier:
    return _thin(56, classes, channels)


def resnet110(classes: int, channels: int) -> Classifier:
    return _thin(110, classes, channels)


def _thin(depth: int, classes: int, channels: int) -> Classifier:
    """Section 4.2 of arXiv:1512.03385, with its parameter-free shortcuts (option A). RSD's networks
    of these names project instead: its ResNet32 has 0.467 million parameters for 10 classes, this
    one 0.464, and its ResNet110 is made of bottlenecks."""
    blocks = (depth - 2) // 6
    widths = (16, 32, 64)
    stem = [
        nn.Conv2d(channels, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
    ]
    stages = []
    for before, width, stride in zip((16, 16, 32), widths, (1, 2, 2), strict=True):
        first, rest = (
            _Block(before, width, stride),
            [_Block(width, width, 1) for _ in range(blocks - 1)],
        )
        stages.append(nn.Sequential(*([] if stages else stem), first, *rest))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))
    network = Classifier(stages, head, widths, classes)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut that subsamples and pads with zero channels."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.stride, self.padding = stride, width - before
        self.residual = nn.Sequential(
            nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, maps: Tensor) -> Tensor:
        # [B, C, H, W] -> [B, C', H/stride, W/stride]
        shortcut = maps[:, :, :: self.stride, :: self.stride]
        if self.padding:
            half = self.padding // 2
            shortcut = F.pad(shortcut, (0, 0, 0, 0, half, self.padding - half))
        return F.relu(self.residual(maps) + shortcut)
