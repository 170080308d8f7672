"""A set of labelled images, as pixels in memory or as files on the disk."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from trainables import decoding

# Up to this side, in pixels, images are held as one tensor on the device; above it as files.
LARGEST_SMALL = 64

# Of up to so many files each is looked at before the training; of more, such as ImageNet's, a
# sample.
LOOKED_AT = 50_000
SAMPLED = 1024
_HASHED = 64


@dataclass(frozen=True)
class Images:
    """pixels: uint8 [N, C, H, W]. labels: int64 [N]."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return tuple(self.pixels.shape[1:])

    def take(self, indices: Tensor) -> Self:
        return Images(self.pixels[indices], self.labels[indices])

    def joined(self, other: Self) -> Self:
        pixels = torch.cat([self.pixels, other.pixels])
        return Images(pixels, torch.cat([self.labels, other.labels]))

    def to(self, device: torch.device) -> Self:
        return Images(self.pixels.to(device), self.labels.to(device))

    def identity(self) -> list[bytes | memoryview]:
        """What tells this set from any other: its pixels and labels."""
        return [tensor.cpu().numpy().data for tensor in (self.pixels, self.labels)]


@dataclass(frozen=True)
class Files:
    """Image files of any size and mode, seen as RGB squares.

    root: the folder they are in; names: their paths below it. labels: int64 [N]. image_size: side
    of the square in pixels."""

    root: Path
    names: Sequence[str]
    labels: Tensor
    image_size: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 3, self.image_size, self.image_size

    def path(self, row: int) -> str:
        return os.path.join(self.root, self.names[row])

    def paths(self, rows: Sequence[int] | None = None) -> list[str]:
        return [self.path(row) for row in (range(len(self)) if rows is None else rows)]

    def take(self, indices: Tensor) -> Self:
        names = [self.names[row] for row in indices.tolist()]
        return Files(self.root, names, self.labels[indices], self.image_size)

    def joined(self, other: Self) -> Self:
        names = [os.path.relpath(path, self.root) for path in other.paths()]
        labels = torch.cat([self.labels, other.labels])
        return Files(self.root, [*self.names, *names], labels, self.image_size)

    def to(self, device: torch.device) -> Self:
        return self  # its batches go there one by one

    def loaded(self) -> Images | Self:
        """The pixels of small images; larger ones stay files. Errors: DataError for what cannot be
        read."""
        if self.image_size > LARGEST_SMALL:
            return self
        size = self.image_size
        pixels = np.empty((len(self), 3, size, size), np.uint8)  # filled in place: one copy

        def read(index: int, path: str) -> None:
            pixels[index] = decoding.square(path, size).transpose(2, 0, 1)

        decoding.each(self.paths(), read)
        return Images(torch.from_numpy(pixels), self.labels)

    def identity(self) -> list[bytes | memoryview]:
        """What tells this set from another: names, labels, sizes of the files (of more than
        LOOKED_AT a sample) and the content of a few; a file that changed in content alone can go
        unseen. Errors: DataError for files that are gone."""
        looked = self.paths(sample(len(self), LOOKED_AT, SAMPLED))
        sizes = decoding.each(looked, lambda _, path: os.path.getsize(path))
        few = self.paths(sample(len(self), _HASHED, _HASHED))
        contents = decoding.each(few, lambda _, path: Path(path).read_bytes())
        words = "\0".join([*self.names, str(self.image_size), str(sizes)])
        return [os.fsencode(words), self.labels.numpy().data, *contents]


@dataclass(frozen=True)
class Source:
    """A data set as published. `test` is read only when it is called: the search never does."""

    classes: tuple[str, ...]
    train: Images | Files
    test: Callable[[], Images | Files] | None  # None: the set has no test part of its own
    validation: Images | Files | None = None  # None: to be split from train


def sample(count: int, all_up_to: int, otherwise: int) -> list[int]:
    """Rows of a set of `count`: every one, or of a set larger than `all_up_to` as many as
    `otherwise` says, drawn evenly, the same each time, in order."""
    if count <= all_up_to:
        return list(range(count))
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:otherwise]
    return drawn.sort().values.tolist()
