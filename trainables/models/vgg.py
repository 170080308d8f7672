"""torchvision's VGG networks with batch norm, cut into stages, with a head for small images."""

from torch import nn

from trainables.models import Classifier, Stem, first_convolution

__all__ = ["vgg16_bn", "vgg19_bn"]


def vgg16_bn(classes: int, channels: int, *, stem: Stem = "small") -> Classifier:
    return _cut("D", classes, channels, stem)


def vgg19_bn(classes: int, channels: int, *, stem: Stem = "small") -> Classifier:
    return _cut("E", classes, channels, stem)


def _cut(configuration: str, classes: int, channels: int, stem: Stem) -> Classifier:
    """A configuration of Simonyan and Zisserman 2015 (arXiv:1409.1556), cut before each
    max-pooling: that opens the next stage, the last one the head.

    The convolutions are the same for both stems. `small` is the usual CIFAR form: instead of the
    pooling to 7x7 and three linear layers with dropout it has one linear layer on the averaged
    map, without dropout, and its max-poolings keep the last row and column of a map of odd side,
    so images of any size fit. Deviations from RSD's form: biases in the convolutions, at 32x32 a
    max-pooling before the fifth stage too (there at 64x64 only), and one after it (there none)."""
    from torchvision.models.vgg import VGG, cfgs, make_layers

    features = make_layers(cfgs[configuration], batch_norm=True)
    features[0] = first_convolution(features[0], channels, stem)
    *stages, pooling = _parts(features, keep_last=stem == "small")
    if stem == "small":
        rest = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes)]
    else:
        net = VGG(features, classes, init_weights=False)
        rest = [net.avgpool, nn.Flatten(), *net.classifier]
    network = Classifier(stages, nn.Sequential(*pooling, *rest), (64, 128, 256, 512, 512), classes)
    for module in network.modules():  # as torchvision initialises it
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
    return network


def _parts(features: nn.Sequential, keep_last: bool) -> list[nn.Sequential]:
    """The layers up to the first max-pooling, then from each to the next; the last is alone."""
    parts = [nn.Sequential()]
    for layer in features:
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = keep_last
            parts.append(nn.Sequential())
        parts[-1].append(layer)
    return parts
