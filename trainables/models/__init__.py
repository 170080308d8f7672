"""Backbones, a family a file; whatever a file lists in `__all__` is a backbone by that name."""

import sys
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from trainables.folders import modules


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

    def forward(self, images: Tensor) -> Tensor:
        # [B, C, H, W] -> [B, K]
        return self.head(self.features(images)[-1])


def builders() -> dict[str, Callable[..., Classifier]]:
    """Every backbone by name: a function `(classes, channels, *, options)` that returns a
    `Classifier`."""
    families = modules(sys.modules[__name__]).values()
    return {name: getattr(family, name) for family in families for name in family.__all__}


def build(name: str, classes: int, channels: int, **options) -> Classifier:
    """A backbone with fresh weights. classes: width of the logits; channels: of the images."""
    return builders()[name](classes, channels, **options)
