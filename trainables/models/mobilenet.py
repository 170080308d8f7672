"""torchvision's MobileNetV2, cut into stages, with a stem for small images."""

from torch import nn

from trainables.models import Classifier, Stem, first_convolution, from_torchvision

__all__ = ["mobilenet_v2"]


def mobilenet_v2(classes: int, channels: int, *, stem: Stem = "small") -> Classifier:
    """Inverted residuals (arXiv:1801.04381): a stage holds all blocks of one map size, the last
    also the 1x1 convolution to 1280 channels. A block ends in a linear bottleneck, so the maps of
    the first three stages are not activated.

    `small` is the usual CIFAR form: stride 1 in the first convolution and in the first block of
    stride 2, so a 32x32 image keeps its size in stage 1. Deviations from Tf-KD's form: a 3x3 first
    convolution (there 1x1 on a padded image), strides 1, 2, 2, 1, 2 of the groups of 24 to 160
    channels (there 2, 2, 2, 1, 1), torchvision's dropout of 0.2 before the linear layer, which
    both stems keep."""
    net = from_torchvision("mobilenet_v2", classes)
    blocks = net.features
    first = first_convolution(blocks[0][0], channels, stem)
    nn.init.kaiming_normal_(first.weight, mode="fan_out")
    blocks[0][0] = first
    if stem == "small":
        blocks[2].conv[1][0].stride = (1, 1)  # its depthwise convolution
    stages = [blocks[:4], blocks[4:7], blocks[7:14], blocks[14:]]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.classifier)
    return Classifier(stages, head, (24, 32, 96, 1280), classes)
