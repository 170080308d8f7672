"""torchvision's residual networks, cut into stages, with a stem for small images."""

from torch import nn

from trainables.models import Classifier, Stem, first_convolution, from_torchvision

__all__ = ["resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d"]


def resnet18(classes: int, channels: int, *, stem: Stem = "small") -> Classifier:
    """11,220,132 parameters for 100 classes of colour images."""
    return _cut("resnet18", classes, channels, stem)


def resnet34(classes: int, channels: int, *, stem: Stem = "small") -> Classifier:
    return _cut("resnet34", classes, channels, stem)


def resnet50(classes: int, channels: int, *, stem: Stem = "small") -> Classifier:
    return _cut("resnet50", classes, channels, stem)


def resnet101(classes: int, channels: int, *, stem: Stem = "small") -> Classifier:
    return _cut("resnet101", classes, channels, stem)


def resnext50_32x4d(classes: int, channels: int, *, stem: Stem = "small") -> Classifier:
    """ResNet-50 with 3x3 convolutions in 32 groups of 4 channels (arXiv:1611.05431). LightSKD's
    ResNeXt50; not Tf-KD's ResNeXt29, which has three stages."""
    return _cut("resnext50_32x4d", classes, channels, stem)


def _cut(name: str, classes: int, channels: int, stem: Stem) -> Classifier:
    """The network after He et al. 2016 (arXiv:1512.03385). `small` is the CIFAR stem of LightSKD
    and Tf-KD: a 3x3 convolution of stride 1 and no max-pooling, so a 32x32 image keeps its size in
    stage 1."""
    net = from_torchvision(name, classes)
    first = first_convolution(net.conv1, channels, stem)
    nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
    pooling = [net.maxpool] if stem == "imagenet" else []
    stages = [
        nn.Sequential(first, net.bn1, net.relu, *pooling, net.layer1),
        net.layer2,
        net.layer3,
        net.layer4,
    ]
    expansion = net.fc.in_features // 512
    head = nn.Sequential(net.avgpool, nn.Flatten(), net.fc)
    return Classifier(stages, head, [width * expansion for width in (64, 128, 256, 512)], classes)
