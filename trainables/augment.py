"""Batched augmentation on the device: uint8 images in, normalised float images out."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from trainables.bounds import CountOrZero


class Augment:
    """Random crop with padding, horizontal flip and cutout, each drawn per image.

    crop_padding: black pixels added on each side before a crop back to the image's size (0:
    off). flip: mirror left to right with probability 1/2. cutout: side of a square set to the
    mean, in pixels, its centre anywhere (0: off; arXiv:1708.04552)."""

    def __init__(
        self, *, crop_padding: CountOrZero = 4, flip: bool = True, cutout: CountOrZero = 0
    ):
        self.crop_padding = crop_padding
        self.flip = flip
        self.cutout = cutout

    def __call__(self, images: Tensor, mean: Tensor, std: Tensor, generator: Generator) -> Tensor:
        """# uint8 [B, C, H, W], [C], [C] -> float [B, C, H, W]"""
        if self.crop_padding:
            images = _random_crop(images, self.crop_padding, generator)
        if self.flip:
            mirrored = _random(len(images), 2, images, generator).bool()
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        images = normalise(images, mean, std)
        if self.cutout:
            images = images.masked_fill(_random_squares(images, self.cutout, generator), 0.0)
        return images


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Pixels to [0, 1], then to zero mean and unit deviation."""
    # uint8 [B, C, H, W] -> float [B, C, H, W]
    scale = 1 / (255 * std)
    return images.float() * scale[:, None, None] - (mean / std)[:, None, None]


def _random_crop(images: Tensor, padding: int, generator: Generator) -> Tensor:
    height, width = images.shape[-2:]
    padded = F.pad(images, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: [B, C, 2p+1, 2p+1, H, W]
    count, choices = len(images), 2 * padding + 1
    down = _random(count, choices, images, generator)
    right = _random(count, choices, images, generator)
    return windows[torch.arange(count, device=images.device), :, down, right]


def _random_squares(images: Tensor, side: int, generator: Generator) -> Tensor:
    # [B, C, H, W] -> bool [B, 1, H, W]
    count, _, height, width = images.shape
    rows = (
        torch.arange(height, device=images.device)
        - _random(count, height, images, generator)[:, None]
    )
    columns = (
        torch.arange(width, device=images.device)
        - _random(count, width, images, generator)[:, None]
    )
    low, high = -(side // 2), side - side // 2
    in_rows = (rows >= low) & (rows < high)
    in_columns = (columns >= low) & (columns < high)
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


def _random(count: int, below: int, like: Tensor, generator: Generator) -> Tensor:
    return torch.randint(below, (count,), device=like.device, generator=generator)
