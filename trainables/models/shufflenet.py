"""torchvision's ShuffleNetV2, cut into stages, with a stem for small images."""

from torch import nn

from trainables.models import Classifier, Stem, first_convolution, from_torchvision

__all__ = ["shufflenet_v2_x1_0"]


def shufflenet_v2_x1_0(classes: int, channels: int, *, stem: Stem = "small") -> Classifier:
    """ShuffleNetV2 of width 1 (arXiv:1807.11164): the stem is a stage, then a stage for each group
    of units, the last with the 1x1 convolution to 1024 channels.

    `small` is a 3x3 convolution of stride 1 and no max-pooling, as in Tf-KD. Deviation from
    Tf-KD's form: a ReLU in the stem and no bias in the convolutions, as torchvision has it. No
    dropout in either stem."""
    net = from_torchvision("shufflenet_v2_x1_0", classes)
    net.conv1[0] = first_convolution(net.conv1[0], channels, stem)
    pooling = [net.maxpool] if stem == "imagenet" else []
    stages = [
        nn.Sequential(*net.conv1, *pooling),
        net.stage2,
        net.stage3,
        nn.Sequential(*net.stage4, *net.conv5),
    ]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.fc)
    return Classifier(stages, head, (24, 116, 232, 1024), classes)
