"""What a trial trains and is scored on: split, on the device, shared by the trials of one
process."""

import dataclasses
import functools
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from trainables.bounds import Count, CountOrZero, Share
from trainables.sources import READERS, DataError, Images, Source

_TEST_FRACTION = 0.2
_TEST_SEED = 0  # the test part of a set that has none of its own is the same for every config


@dataclass(frozen=True)
class Sets:
    """train and held_out: what is trained on and what is scored (validation, or test in final
    training).

    mean, std: [C], of the training images in [0, 1]. classes: their names, in the order of the
    labels."""

    train: Images
    held_out: Images
    classes: tuple[str, ...]
    mean: Tensor
    std: Tensor
    batch_size: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)"""
        return tuple(self.train.pixels.shape[1:])

    def fingerprint(self) -> str:
        """A digest of the pixels and labels, so that a resumed study can tell a changed data
        set."""
        digest = hashlib.sha256()
        for part in (self.train, self.held_out):
            for tensor in (part.pixels, part.labels):
                digest.update(tensor.cpu().numpy().data)
        return digest.hexdigest()[:16]


def build(
    name: str,
    *,
    root: str = "~/data",
    batch_size: Count = 128,
    validation_fraction: Share = 0.1,
    split_seed: CountOrZero = 0,
    final: bool = False,
    device: torch.device | None = None,
    **options,
) -> Sets:
    """The sets of the data set `name`, loaded once per process.

    root: folder where the set is, or is downloaded to. batch_size: images a step.
    validation_fraction: share of the training images held out, the same in every class, drawn
    with `split_seed`. device: where the images lie, the CPU unless said. final: train on all
    training images, validation included, and hold out the test part; nothing else reads it.
    Errors: `DataError` for a set that is missing, damaged or too small."""
    device = device or torch.device("cpu")
    key = tuple(sorted(options.items()))
    sets = _build(name, root, validation_fraction, split_seed, final, device, key)
    return dataclasses.replace(sets, batch_size=batch_size)


def forget() -> None:
    """Lets go of the set that is held for the next trial of this process."""
    _build.cache_clear()


# The trials of a study share one set; a second would double the memory.
@functools.lru_cache(maxsize=1)
def _build(
    name: str,
    root: str,
    fraction: float,
    seed: int,
    final: bool,
    device: torch.device,
    options: tuple,
) -> Sets:
    try:
        place = Path(root).expanduser().absolute()
    except RuntimeError as error:  # ~nobody
        raise DataError(f"{root}: {error}") from None
    source = READERS[name](place, **dict(options))
    train, held_out = _final_parts(source) if final else _search_parts(source, fraction, seed)
    mean, std = _statistics(train.pixels)
    train, held_out, mean, std = (part.to(device) for part in (train, held_out, mean, std))
    return Sets(train, held_out, source.classes, mean, std, batch_size=0)


def _search_parts(source: Source, fraction: float, seed: int) -> tuple[Images, Images]:
    if source.validation is not None:
        return source.train, source.validation
    train = source.train if source.test else _split(source.train, _TEST_FRACTION, _TEST_SEED)[0]
    return _split(train, fraction, seed)


def _final_parts(source: Source) -> tuple[Images, Images]:
    if source.test is None:
        return _split(source.train, _TEST_FRACTION, _TEST_SEED)
    if source.validation is None:
        return source.train, source.test()
    pixels = torch.cat([source.train.pixels, source.validation.pixels])
    labels = torch.cat([source.train.labels, source.validation.labels])
    return Images(pixels, labels), source.test()


def _split(images: Images, fraction: float, seed: int) -> tuple[Images, Images]:
    """(rest, held out): of each class the same share, at least one image on both sides."""
    generator = Generator().manual_seed(seed)
    rest, held_out = [], []
    for label in range(int(images.labels.max()) + 1):
        members = (images.labels == label).nonzero()[:, 0]
        if len(members) < 2:
            raise DataError(f"class {label} has {len(members)} image(s): too few to hold one out")
        members = members[torch.randperm(len(members), generator=generator)]
        count = min(max(1, math.floor(len(members) * fraction + 0.5)), len(members) - 1)
        held_out.append(members[:count])
        rest.append(members[count:])
    return tuple(images.take(torch.cat(part).sort().values) for part in (rest, held_out))


def _statistics(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation a channel of images in [0, 1], exact, from a histogram of the
    256 values."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in range(pixels.shape[1]):
        share = torch.bincount(pixels[:, channel].flatten(), minlength=256).double()
        share /= share.sum()
        mean = (share * values).sum()
        means.append(mean)
        deviations.append((share * (values - mean) ** 2).sum().sqrt().clamp(min=1e-3))
    return torch.stack(means).float(), torch.stack(deviations).float()
