"""A three-stage convolutional network that learns small images in seconds on a CPU."""

from torch import nn

from trainables.bounds import Count
from trainables.models import Classifier

__all__ = ["small_cnn"]


def small_cnn(classes: int, channels: int, *, width: Count = 16) -> Classifier:
    """Stages of one 3x3 convolution each, `width`, 2x and 4x `width` channels, halving the map
    twice."""
    widths = (width, 2 * width, 4 * width)
    stages = [
        nn.Sequential(
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        )
        for before, after, stride in zip((channels, *widths), widths, (1, 2, 2), strict=False)
    ]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))
    return Classifier(stages, head, widths, classes)
