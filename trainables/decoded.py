"""The decoded images of a data set: in memory that worker processes share when all of them fit,
else read anew each time."""

import itertools
import math
import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainables import decoding, memory, sharing, views
from trainables.images import LOOKED_AT, SAMPLED, Files, sample

# Where an image is: a path, or in shared memory (its first byte, height, width).
Place = str | tuple[int, int, int]

_GIB = 2**30
_SHARE = 0.5


class Decoded:
    """The images of several parts, numbered through, each reduced so that its shorter side is at
    most that of the evaluation's resize (`views.shorter_side`).

    gib: how much memory they may take together. None: half of what is free, or less for a process
    that may use but some of the CPUs, so that the trials of one machine fit beside each other.

    Every file is looked at, its header and its end; of more than LOOKED_AT a sample. Errors:
    DataError that counts and names what cannot be read."""

    def __init__(self, parts: Sequence[Files], gib: float | None):
        self.parts = tuple(parts)
        self.shorter_side = views.shorter_side(parts[0].image_size)
        self.count = sum(map(len, parts))
        self._gib = gib
        self._sizes = self._look(sample(self.count, LOOKED_AT, SAMPLED))
        self._first_bytes: list[int] = []
        self._shared: memory.Shared | None = None
        self._is_decided = False

    def path(self, row: int) -> str:
        for part in self.parts:
            if row < len(part):
                return part.path(row)
            row -= len(part)
        raise IndexError(row)

    def place(self, row: int) -> Place:
        """Where the image is, once `prepare` has decided it."""
        if self._shared is None:
            return self.path(row)
        return self._first_bytes[row], *self._sizes[row]

    def prepare(self, beat: Callable[[], None] = decoding.nothing) -> memory.Shared | None:
        """The memory that holds all images, filled by the first call; None when they do not fit.
        beat: called with each image, and while another process fills it.

        Errors: DataError that counts and names what cannot be read."""
        if not self._is_decided:
            key = self._key()
            room = self._room(key)
            if self._bytes() <= room:  # as far as a sample of them tells
                if len(self._sizes) < self.count:
                    self._sizes = self._look(range(self.count), beat)
                if self._bytes() <= room:
                    self._shared = self._filled(key, beat)
            self._is_decided = True
        return self._shared

    def _look(
        self, rows: Sequence[int], beat: Callable[[], None] = decoding.nothing
    ) -> list[tuple[int, int]]:
        """Height and width of each image when it is reduced."""
        paths = [self.path(row) for row in rows]
        sizes = decoding.each(paths, lambda _, path: decoding.look(path), beat)
        return [decoding.reduced_size(*size, self.shorter_side) for size in sizes]

    def _room(self, key: str) -> float:
        if self._gib is not None:
            return self._gib * _GIB
        if sharing.is_held(key):  # by another trial: they take nothing more
            return math.inf
        cpus = torch.get_num_threads() / (os.cpu_count() or 1)
        return memory.available() * _SHARE * min(1.0, cpus)

    def _bytes(self) -> float:
        known = sum(3 * height * width for height, width in self._sizes)
        return known / len(self._sizes) * self.count

    def _key(self) -> str:
        """What tells these images from any others: names, sizes and times of change (of more than
        LOOKED_AT files of a sample)."""
        paths = [self.path(row) for row in range(self.count)]
        looked = [paths[row] for row in sample(self.count, LOOKED_AT, SAMPLED)]
        told = decoding.each(looked, lambda _, path: _age(path))
        return "\0".join([*paths, *told, str(self.shorter_side)])

    def _filled(self, key: str, beat: Callable[[], None]) -> memory.Shared:
        lengths = [3 * height * width for height, width in self._sizes]
        *self._first_bytes, total = itertools.accumulate(lengths, initial=0)

        def fill(room: Tensor) -> None:
            def read(row: int, path: str) -> None:
                image = torch.from_numpy(decoding.reduced(path, self.shorter_side))
                room[self._first_bytes[row] :][: image.numel()] = image.flatten()

            decoding.each([self.path(row) for row in range(self.count)], read, beat)

        return sharing.block(key, total, fill, beat)


def _age(path: str) -> str:
    try:
        found = os.stat(path)
    except OSError:  # whoever reads it will say so
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def fetch(place: Place, shared: memory.Shared | None, shorter_side: int) -> Tensor:
    """The image at a place.  # -> uint8 [3, H, W]

    Errors: `decoding.UNREADABLE` for a file."""
    if isinstance(place, str):
        return torch.from_numpy(decoding.reduced(place, shorter_side)).permute(2, 0, 1)
    first, height, width = place
    pixels = shared.pixels[first : first + 3 * height * width]
    return pixels.view(height, width, 3).permute(2, 0, 1)
