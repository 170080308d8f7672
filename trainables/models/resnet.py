"""torchvision's residual networks with a stem for small images, cut into stages."""

from collections.abc import Callable

import torchvision
from torch import nn

from trainables.models import Classifier

__all__ = ["resnet18", "resnet34", "resnet50", "resnet101"]


def resnet18(classes: int, channels: int) -> Classifier:
    """11,220,132 parameters for 100 classes of colour images."""
    return _cut(torchvision.models.resnet18, classes, channels)


def resnet34(classes: int, channels: int) -> Classifier:
    return _cut(torchvision.models.resnet34, classes, channels)


def resnet50(classes: int, channels: int) -> Classifier:
    return _cut(torchvision.models.resnet50, classes, channels)


def resnet101(classes: int, channels: int) -> Classifier:
    return _cut(torchvision.models.resnet101, classes, channels)


def _cut(
    network: Callable[..., torchvision.models.ResNet], classes: int, channels: int
) -> Classifier:
    """The network after He et al. 2016 (arXiv:1512.03385) with the CIFAR stem of LightSKD and
    Tf-KD: a 3x3 convolution of stride 1 and no max-pooling, so a 32x32 image keeps its size in
    stage 1."""
    net = network(weights=None, num_classes=classes)
    stem = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    stages = [
        nn.Sequential(stem, net.bn1, net.relu, net.layer1),
        net.layer2,
        net.layer3,
        net.layer4,
    ]
    expansion = net.fc.in_features // 512
    head = nn.Sequential(net.avgpool, nn.Flatten(), net.fc)
    return Classifier(stages, head, [width * expansion for width in (64, 128, 256, 512)], classes)
