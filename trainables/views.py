"""What the training and the evaluation see of a decoded image: a square of it.

torchvision is imported by who makes one: what has no such images need not wait for it."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor


def shorter_side(image_size: int) -> int:
    """Side in pixels that the shorter side of an image gets before its centre is cut out: 256 for
    224, the share in use since ImageNet's first networks."""
    return round(image_size * 256 / 224)


def centre(image: Tensor, image_size: int) -> Tensor:
    """The shorter side resized to `shorter_side`, then the centre.
    # uint8 [3, H, W] -> uint8 [3, S, S]"""
    from torchvision.transforms.v2 import functional as F

    resized = F.resize(image, [shorter_side(image_size)], antialias=True)
    return F.center_crop(resized, [image_size, image_size])


def random_crop(image: Tensor, image_size: int, area: float, seed: int) -> Tensor:
    """A random part of the image, `area` to all of it, of a shape between 3:4 and 4:3, resized:
    torchvision's RandomResizedCrop, whose draws here depend on the seed alone.
    # uint8 [3, H, W] -> uint8 [3, S, S]"""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        return _crop(image_size, area)(image)
    finally:
        torch.set_rng_state(before)  # in the training's own process others draw from it


@functools.lru_cache(maxsize=1)
def _crop(image_size: int, area: float) -> Callable[[Tensor], Tensor]:
    from torchvision.transforms import v2

    return v2.RandomResizedCrop(image_size, scale=(area, 1.0), antialias=True)
