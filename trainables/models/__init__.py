"""Backbones, a family a file; whatever a file lists in `__all__` is a backbone by that name."""

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn

from trainables.folders import listed
from trainables.images import LARGEST_SMALL
from trainables.precision import exactly

# How a backbone takes its first steps: `imagenet` as published for 224x224, where most make a map
# of 1/4 the image's side at once; `small`, for 32x32 and 64x64, keeps the side.
Stem = Literal["small", "imagenet"]


class Classifier(nn.Module):
    """An image classifier cut into stages, so that a method can tap or mix what lies between them.

    stages: feature map -> feature map, one after the other; the first includes the stem.
    head: last feature map -> logits [B, K].
    widths: channels of the map after each stage.
    """

    def __init__(
        self, stages: Sequence[nn.Module], head: nn.Module, widths: Sequence[int], classes: int
    ):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.head = head
        self.widths = tuple(widths)
        self.classes = classes

    def features(self, images: Tensor, start: int = 0) -> list[Tensor]:
        """The maps after each stage from stage `start` on; `images` is what that stage takes in."""
        maps = []
        for stage in self.stages[start:]:
            images = stage(images)
            maps.append(images)
        return maps

    def classify(self, last_map: Tensor) -> Tensor:
        """The logits of what the last stage gave, in float32 under mixed precision too.
        # [B, widths[-1], H, W] -> [B, K]"""
        *before, last = self.head if isinstance(self.head, nn.Sequential) else [self.head]
        for layer in before:
            last_map = layer(last_map)
        return exactly(last, last_map)

    def forward(self, images: Tensor) -> Tensor:
        # [B, C, H, W] -> [B, K]
        return self.classify(self.features(images)[-1])


def from_torchvision(name: str, classes: int, **options) -> nn.Module:
    """torchvision's network of that name, with random weights.

    torchvision comes with all of torch.compile, whose import takes 2 s: a program that builds none
    of its networks does not wait for that."""
    import torchvision

    return torchvision.models.get_model(name, weights=None, num_classes=classes, **options)


def builders() -> dict[str, Callable[..., Classifier]]:
    """Every backbone by name: a function `(classes, channels, *, options)` that returns a
    `Classifier`. One with two stems has an option `stem`. Errors: BrokenFile."""
    return listed(sys.modules[__name__])


def build(name: str, classes: int, image_shape: tuple[int, int, int], **options) -> Classifier:
    """A backbone with fresh weights. classes: width of the logits. image_shape: (C, H, W); by it
    the stem is chosen that `options` does not name."""
    builder = builders()[name]
    channels, height, width = image_shape
    if "stem" in inspect.signature(builder).parameters:
        stem: Stem = "small" if max(height, width) <= LARGEST_SMALL else "imagenet"
        options = {"stem": stem, **options}
    return builder(classes, channels, **options)


def first_convolution(published: nn.Conv2d, channels: int, stem: Stem) -> nn.Conv2d:
    """The convolution that a family puts in place of its published first one, to be initialised as
    that family does: of the published size for `imagenet`, 3x3 with stride 1 for `small`."""
    size = (published.kernel_size, published.stride, published.padding)
    kernel, stride, padding = (3, 1, 1) if stem == "small" else size
    bias = published.bias is not None
    return nn.Conv2d(channels, published.out_channels, kernel, stride, padding, bias=bias)
