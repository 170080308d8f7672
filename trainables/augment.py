"""Batched augmentation on the device: uint8 images in, normalised float images out."""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from trainables.bounds import Bounds, CountOrZero
from trainables.images import LARGEST_SMALL

_TRIES = 10  # as torchvision's RandomResizedCrop, and the two below
_SHAPES = (3 / 4, 4 / 3)
_SMALLEST_AREA = 0.08


class Augment:
    """A random crop, horizontal flip and cutout, each drawn per image.

    image_size: side of the images in pixels, by which the crop is chosen that is not given:
    `crop_padding` of 4 up to 64 pixels, `crop_area` of 0.08 above.
    crop_padding: black pixels added on each side before a crop back to the image's size (0: off).
    crop_area: the smallest share of the image that a crop of random area and shape takes, which is
    then resized (torchvision's RandomResizedCrop); out of files it is taken from the whole image,
    not from the square. flip: mirror left to right with probability 1/2. cutout: side of a square
    set to the mean, in pixels, its centre anywhere (0: off; arXiv:1708.04552).
    Errors: ValueError for two ways to crop."""

    def __init__(
        self,
        image_size: int,
        *,
        crop_padding: CountOrZero | None = None,
        crop_area: Annotated[float, Bounds(above=0, at_most=1)] | None = None,
        flip: bool = True,
        cutout: CountOrZero = 0,
    ):
        if crop_padding and crop_area:
            raise ValueError("augment.crop_area: crop_padding is the other way to crop; give one")
        if crop_padding is None and crop_area is None:
            if image_size <= LARGEST_SMALL:
                crop_padding = 4
            else:
                crop_area = _SMALLEST_AREA
        self.crop_padding = crop_padding or 0
        self.crop_area = crop_area
        self.flip = flip
        self.cutout = cutout

    def __call__(
        self,
        images: Tensor,
        mean: Tensor,
        std: Tensor,
        generator: Generator,
        is_cropped: bool = False,
    ) -> Tensor:
        """is_cropped: `crop_area` was seen to already.
        # uint8 [B, C, H, W], [C], [C] -> float [B, C, H, W]"""
        if self.crop_padding:
            images = _random_crop(images, self.crop_padding, generator)
        if self.crop_area is not None and not is_cropped:
            images = _random_resized_crop(images, self.crop_area, generator)
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


def _random_resized_crop(images: Tensor, smallest: float, generator: Generator) -> Tensor:
    """torchvision's RandomResizedCrop of a whole batch, bilinear; the whole image where none of
    ten draws fits into it."""
    # uint8 [B, C, H, W] -> float [B, C, H, W]
    count, _, height, width = images.shape
    area, shape, down, right = torch.rand(
        (4, count, _TRIES), device=images.device, generator=generator
    )
    area = (smallest + (1 - smallest) * area) * height * width
    low, high = map(math.log, _SHAPES)
    shape = torch.exp(low + (high - low) * shape)
    tall, wide = (area / shape).sqrt().round(), (area * shape).sqrt().round()
    fits = (tall >= 1) & (tall <= height) & (wide >= 1) & (wide <= width)
    first = fits.int().argmax(dim=1, keepdim=True)
    none = ~fits.any(dim=1)
    tall = tall.gather(1, first)[:, 0].masked_fill(none, height)
    wide = wide.gather(1, first)[:, 0].masked_fill(none, width)
    top = (down[:, 0] * (height - tall + 1)).floor().minimum(height - tall)
    left = (right[:, 0] * (width - wide + 1)).floor().minimum(width - wide)
    rows, columns = _between(top, tall, height), _between(left, wide, width)
    grid = torch.stack(
        torch.broadcast_tensors(columns[:, None, :], rows[:, :, None]), dim=3
    )  # [B, H, W, 2]
    return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=True)


def _between(first: Tensor, count: Tensor, size: int) -> Tensor:
    """Where the `size` pixels of a resized axis lie, on the scale from -1 to 1 of the axis before,
    within the `count` pixels from `first` on.  # [B], [B] -> [B, size]"""
    steps = (torch.arange(size, device=first.device) + 0.5) / size
    places = first[:, None] + steps * count[:, None] - 0.5
    last = first + count - 1
    places = places.maximum(first[:, None]).minimum(last[:, None])
    return places * (2 / max(size - 1, 1)) - 1


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
