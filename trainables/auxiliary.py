"""The auxiliary classifier that taps a backbone's stage: attention, separable convolutions, a
linear layer."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.precision import exactly


class AuxiliaryHead(nn.Module):
    """Classifies from the feature map after one stage, at the authors' full width.

    Source: the adapter of LightSKD's released code (arXiv:2305.09183; the attention and "scala"
    head of Be Your Own Teacher, arXiv:1905.08094). Each separable convolution halves the map and
    takes it to the width of the next stage, until the last stage's. Deviations: the width comes
    from the backbone instead of being wired to one; the pooling is adaptive and the gate is
    resized to the map's own size, so any image size works.

    widths: channels of the tapped stage and of every stage after it.
    """

    def __init__(self, widths: Sequence[int], classes: int):
        super().__init__()
        first = widths[0]
        self.gate = nn.Sequential(_separable(first, first), nn.BatchNorm2d(first), nn.ReLU())
        self.trunk = nn.Sequential(*(_separable(a, b) for a, b in pairwise(widths)))
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes)
        )

    def forward(self, features: Tensor) -> Tensor:
        # [B, C, H, W] -> [B, K]
        return exactly(self.head, self._last_map(features))

    def embed(self, features: Tensor) -> Tensor:
        """What the linear layer sees.  # [B, C, H, W] -> [B, widths[-1]]"""
        return self.head[:-1](self._last_map(features))

    def classify(self, embedding: Tensor) -> Tensor:
        """The logits of what `embed` gave.  # [B, widths[-1]] -> [B, K]"""
        return exactly(self.head[-1], embedding)

    def _last_map(self, features: Tensor) -> Tensor:
        # [B, C, H, W] -> [B, widths[-1], H', W']
        gate = F.interpolate(
            self.gate(features), size=features.shape[-2:], mode="bilinear", align_corners=True
        )
        # autocast on a GPU takes the gate up in float32; the map that it weighs stays as it is
        return self.trunk(gate.sigmoid().to(features.dtype) * features)


def _separable(channels: int, out_channels: int) -> nn.Sequential:
    """Two depthwise-separable convolutions, the first with stride 2."""
    # [B, C, H, W] -> [B, C', H/2, W/2]
    return nn.Sequential(
        _depthwise(channels, stride=2),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        _depthwise(channels),
        nn.Conv2d(channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def _depthwise(channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
