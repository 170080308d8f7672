"""torchvision's densely connected network, cut into stages, with a stem for small images."""

from torch import nn

from trainables.models import Classifier, Stem, first_convolution, from_torchvision

__all__ = ["densenet121"]


def densenet121(classes: int, channels: int, *, stem: Stem = "small") -> Classifier:
    """DenseNet-BC of 121 layers (arXiv:1608.06993), growth 32: a stage is a dense block after the
    transition that leads to it, the last with the network's final normalisation and ReLU. The
    network activates before it convolves, so the other maps are not activated.

    `small` is a 3x3 convolution of stride 1 and no max-pooling, as the paper and Tf-KD have it on
    CIFAR; images of 8 pixels a side and more fit. Deviations from Tf-KD's form: the transitions
    have their ReLU and the first convolution its normalisation. No dropout in either stem, which
    is torchvision's default."""
    net = from_torchvision("densenet121", classes)
    layers = net.features
    first = first_convolution(layers.conv0, channels, stem)
    nn.init.kaiming_normal_(first.weight)
    pooling = [layers.pool0] if stem == "imagenet" else []
    stages = [
        nn.Sequential(first, layers.norm0, layers.relu0, *pooling, layers.denseblock1),
        nn.Sequential(layers.transition1, layers.denseblock2),
        nn.Sequential(layers.transition2, layers.denseblock3),
        nn.Sequential(layers.transition3, layers.denseblock4, layers.norm5, nn.ReLU(inplace=True)),
    ]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.classifier)
    return Classifier(stages, head, (256, 512, 1024, 1024), classes)
