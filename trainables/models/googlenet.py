"""torchvision's GoogLeNet, cut into stages, with a stem for small images."""

from torch import nn

from trainables.models import Classifier, Stem, first_convolution, from_torchvision

__all__ = ["googlenet"]


def googlenet(classes: int, channels: int, *, stem: Stem = "small") -> Classifier:
    """Inception modules with batch norm (arXiv:1409.4842), without the two auxiliary classifiers:
    stages 2 and 3 end where those tap the published network, after modules 4a and 4d.

    `small` is Tf-KD's: one 3x3 convolution of stride 1 to 192 channels instead of three
    convolutions and two max-poolings, so a 32x32 image keeps its size in stage 1. Deviations from
    Tf-KD's form: torchvision's modules (one 3x3 convolution where Tf-KD has two for the 5x5 of
    the paper, no bias), its max-poolings, and its dropout of 0.2 before the linear layer, which
    both stems keep."""
    net = from_torchvision("googlenet", classes, aux_logits=False, init_weights=True)
    if stem == "small":
        entry, opening = net.conv3, [net.conv3]
    else:
        entry, opening = net.conv1, [net.conv1, net.maxpool1, net.conv2, net.conv3, net.maxpool2]
    entry.conv = first_convolution(entry.conv, channels, stem)
    nn.init.trunc_normal_(entry.conv.weight, std=0.01, a=-2, b=2)
    stages = [
        nn.Sequential(*opening, net.inception3a, net.inception3b),
        nn.Sequential(net.maxpool3, net.inception4a),
        nn.Sequential(net.inception4b, net.inception4c, net.inception4d),
        nn.Sequential(net.inception4e, net.maxpool4, net.inception5a, net.inception5b),
    ]
    head = nn.Sequential(net.avgpool, nn.Flatten(), net.dropout, net.fc)
    return Classifier(stages, head, (480, 512, 528, 1024), classes)
