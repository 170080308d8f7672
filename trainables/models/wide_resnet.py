"""RSD's wide residual network for 32x32 images."""

from torch import nn

from trainables.models import Classifier

__all__ = ["wrn_20_8"]

_WIDENING = 8
_EXPANSION = 4  # of a bottleneck block


def wrn_20_8(classes: int, channels: int) -> Classifier:
    """20 layers in three groups of two bottleneck blocks whose 3x3 convolutions are 8 times as wide
    as the group: 6,848,090 parameters for 10 classes of colour images, 6,871,220 for 100.

    Source: WRN20_8 of RSD's released code (doi:10.1109/TIP.2024.3463421), which is torchvision's
    ResNet, activated after it convolves, with 16, 32 and 64 channels. It is not the network of
    basic blocks that arXiv:1605.07146 would call WRN-20-8; of that there is none, as its depths
    are 6n + 4. Deviation: without the branches that RSD adds, which belong to the method."""
    stem = [
        nn.Conv2d(channels, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
    ]
    widths = [width * _EXPANSION for width in (16, 32, 64)]
    stages = []
    for before, width, stride in zip((16, *widths), widths, (1, 2, 2), strict=False):
        layers = [] if stages else stem
        stages.append(nn.Sequential(*layers, *_group(before, width, stride)))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))
    network = Classifier(stages, head, widths, classes)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def _group(before: int, width: int, stride: int) -> list[nn.Module]:
    """Two blocks; the first takes the map to its new width and size."""
    from torchvision.models.resnet import Bottleneck

    shortcut = nn.Sequential(
        nn.Conv2d(before, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
    )
    group, across = width // _EXPANSION, 64 * _WIDENING  # torchvision counts in 1/64
    return [
        Bottleneck(before, group, stride, shortcut, base_width=across),
        Bottleneck(width, group, base_width=across),
    ]
