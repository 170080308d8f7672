"""What a trial trains and is scored on: split, on the device, shared by the trials of one
process."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Generator, Tensor

from trainables import decoding, sharing, sources, views
from trainables.bounds import Count, CountOrZero, NonNegative, Share
from trainables.decoded import Decoded
from trainables.images import SAMPLED, Files, Images, Source, sample
from trainables.loading import Loader
from trainables.memory import Shared
from trainables.sources import DataError

_TEST_FRACTION = 0.2
_TEST_SEED = 0  # the test part of a set that has none of its own is the same for every config

Pair = tuple[Images, Images] | tuple[Files, Files]


@dataclass(frozen=True)
class Sets:
    """train and held_out: what is trained on and what is scored (validation, or test in final
    training).

    mean, std: [C], of the training images in [0, 1], on the device of the training. classes: their
    names, in the order of the labels. loader: makes the batches of images that are files, those of
    train numbered before those of held_out; None for pixels in memory. unseen: the split whose
    validation images are not trained on, empty for a set that has its own; None when all are.
    digest: the fingerprint once it was asked for."""

    train: Images | Files
    held_out: Images | Files
    classes: tuple[str, ...]
    mean: Tensor
    std: Tensor
    batch_size: int
    loader: Loader | None = None
    unseen: dict[str, float] | None = None
    digest: list[str] = field(default_factory=list)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)"""
        return self.train.image_shape

    def fingerprint(self) -> str:
        """A digest of the images and labels as they were loaded (of files see `Files.identity`), so
        that a resumed study and another machine can tell a changed data set. Errors: DataError for
        files that are gone."""
        if not self.digest:
            digest = hashlib.sha256()
            for part in (self.train, self.held_out):
                for words in part.identity():
                    digest.update(words)
            self.digest.append(digest.hexdigest()[:16])
        return self.digest[0]

    def close(self) -> None:
        """Ends the processes that make batches."""
        if self.loader is not None:
            self.loader.close()


def build(
    name: str,
    *,
    root: str = "~/data",
    batch_size: Count = 128,
    validation_fraction: Share = 0.1,
    split_seed: CountOrZero = 0,
    train_on_validation: bool = True,
    workers: CountOrZero | None = None,
    cache_gib: NonNegative | None = None,
    final: bool = False,
    device: torch.device | None = None,
    **options,
) -> Sets:
    """The sets of the data set `name`, loaded once per process.

    root: folder where the set is, or is downloaded to. batch_size: images a step.
    validation_fraction: share of the training images held out, the same in every class, drawn
    with `split_seed`. train_on_validation: whether the final training learns from these images too;
    a model that has not may teach in a search, which scores on them. Two settings for images above
    64 pixels, which change no result: workers, processes that decode and crop (0: none but this;
    None: as many as its threads, see `Loader`), and cache_gib, memory for decoded images (None:
    half of what is free, see `Decoded`).
    device: where the images lie or their batches go, the CPU unless said. final: train on all
    training images, validation included unless said, and hold out the test part; nothing else
    reads it.
    Errors: `DataError` for a set that is missing, damaged or too small."""
    device = device or torch.device("cpu")
    key = tuple(sorted(options.items()))
    parts = _Parts(validation_fraction, split_seed, final, train_on_validation)
    sets, decoded, _ = _build(name, root, parts, device, cache_gib, key)
    loader = Loader(decoded, workers, device) if decoded else None
    return dataclasses.replace(sets, batch_size=batch_size, loader=loader)


def forget() -> None:
    """Lets go of the set that is held for the next trial of this process."""
    _build.cache_clear()


@dataclass(frozen=True)
class _Parts:
    """Which images are trained on and which are scored; see `build`."""

    fraction: float
    seed: int
    final: bool
    train_on_validation: bool

    def of(self, source: Source) -> Pair:
        if not self.final:
            return _search_parts(source, self.fraction, self.seed)
        train, test = _final_parts(source)
        if not self.train_on_validation:
            train, _ = _search_parts(source, self.fraction, self.seed)
        return train, test

    def unseen(self, source: Source) -> dict[str, float] | None:
        if self.final and self.train_on_validation:
            return None
        if source.validation is not None:
            return {}
        return {"validation_fraction": self.fraction, "split_seed": self.seed}


# The trials of a study share one set; a second would double the memory.
@functools.lru_cache(maxsize=1)
def _build(
    name: str,
    root: str,
    parts: _Parts,
    device: torch.device,
    cache_gib: float | None,
    options: tuple,
) -> tuple[Sets, Decoded | None, list[Shared | None]]:
    try:
        place = Path(root).expanduser().absolute()
    except RuntimeError as error:  # ~nobody
        raise DataError(f"{root}: {error}") from None
    source = sources.readers()[name](place, **dict(options))
    train, held_out = parts.of(source)
    decoded = Decoded((train, held_out), cache_gib) if isinstance(train, Files) else None
    mean, std = _statistics(train)
    held: list[Shared | None] = []  # as long as this set is, for the trials of other processes
    if device.type == "cpu":
        (train, first), (held_out, second) = sharing.images(train), sharing.images(held_out)
        held += [first, second]
    train, held_out, mean, std = (part.to(device) for part in (train, held_out, mean, std))
    unseen = parts.unseen(source)
    return Sets(train, held_out, source.classes, mean, std, 0, unseen=unseen), decoded, held


def _search_parts(source: Source, fraction: float, seed: int) -> Pair:
    if source.validation is not None:
        return source.train, source.validation
    classes = source.classes
    if source.test:
        return _split(source.train, fraction, seed, classes)
    train, _ = _split(source.train, _TEST_FRACTION, _TEST_SEED, classes)
    return _split(train, fraction, seed, classes, " after the test part is taken")


def _final_parts(source: Source) -> Pair:
    if source.test is None:
        return _split(source.train, _TEST_FRACTION, _TEST_SEED, source.classes)
    if source.validation is None:
        return source.train, source.test()
    return source.train.joined(source.validation), source.test()


def _split(
    images: Images | Files, fraction: float, seed: int, classes: Sequence[str], when: str = ""
) -> Pair:
    """(rest, held out): of each class the same share, at least one image on both sides. when: it
    is done, in an error."""
    generator = Generator().manual_seed(seed)
    rest, held_out = [], []
    counts = images.labels.bincount().tolist()
    few = [f"{classes[label]} has {count}" for label, count in enumerate(counts) if count < 2]
    if few:
        listed = ", ".join(few[:5]) + (", ..." if len(few) > 5 else "")
        raise DataError(f"too few images of a class to hold one out{when}: {listed}")
    for label in range(len(counts)):
        members = (images.labels == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        count = min(max(1, math.floor(len(members) * fraction + 0.5)), len(members) - 1)
        held_out.append(members[:count])
        rest.append(members[count:])
    return tuple(images.take(torch.cat(part).sort().values) for part in (rest, held_out))


def _statistics(images: Images | Files) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation a channel of images in [0, 1], from a histogram of the 256
    values: exact for pixels in memory; of files, of the centres of at most SAMPLED of them, the
    same each time, whether they are held in memory or not.  # -> [C], [C]"""
    if isinstance(images, Files):
        paths = images.paths(sample(len(images), SAMPLED, SAMPLED))
        counts = sum(decoding.each(paths, lambda _, path: _centre_counts(path, images.image_size)))
    else:
        counts = _counts(images.pixels)
    values = torch.arange(256, dtype=torch.float64) / 255
    shares = counts / counts.sum(dim=1, keepdim=True)
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(dim=1)
    return mean.float(), variance.sqrt().clamp(min=1e-3).float()


def _centre_counts(path: str, image_size: int) -> Tensor:
    image = torch.from_numpy(decoding.reduced(path, views.shorter_side(image_size)))
    return _counts(views.centre(image.permute(2, 0, 1), image_size)[None])


def _counts(pixels: Tensor) -> Tensor:
    """How often each channel has each value.  # uint8 [N, C, H, W] -> [C, 256]"""
    channels = pixels.unbind(dim=1)
    return torch.stack([torch.bincount(c.flatten(), minlength=256).double() for c in channels])
