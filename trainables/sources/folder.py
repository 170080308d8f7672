"""Anybody's own images, in a folder of one folder a class."""

from pathlib import Path

from trainables import decoding, listing
from trainables.bounds import Count
from trainables.decoding import DataError
from trainables.images import LARGEST_SMALL, Source
from trainables.listing import Listing

__all__ = ["imagefolder"]

_PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def imagefolder(root: Path, *, image_size: Count | None = None) -> Source:
    """A folder of one folder of images a class, of any size and mode, read as RGB.

    `train/` with `test/`: these. `train/` with `val/` alone: `val/` is the test part, as on
    ImageNet, and validation is split from train. All three: each is what it says. None of them:
    one folder to split. image_size: side of the square that images are resized and cropped to;
    None takes their own size when all share one of at most 64 pixels, else 64."""
    if not root.is_dir():
        raise DataError(
            f"{root}: no such folder; trial.data.root must be a folder of class folders"
        )
    train_folder = root / "train"
    if not _has_folders(train_folder):
        parts = listing.class_folders(root)
        if parts and all(n.lower() in _PARTS and _has_folders(root / n) for n in parts):
            raise DataError(
                f"{root}: {', '.join(parts)} but no train/ with class folders; a set in parts has "
                "train/ with test/ or val/, one that is to be split has class folders alone"
            )
        every = listing.read(root)
        return Source(every.classes, every.files(image_size or _own_size(every)).loaded(), None)
    train = listing.read(train_folder)
    parts = {name: listing.read(root / name) for name in ("val", "test") if (root / name).is_dir()}
    for name, part in parts.items():
        if part.classes != train.classes:
            odd = sorted(set(part.classes) ^ set(train.classes))
            raise DataError(
                f"{root}: train/ and {name}/ differ in the classes {', '.join(odd[:5])}"
            )
    size = image_size or _own_size(train)
    validation = parts.pop("val").files(size).loaded() if len(parts) == 2 else None
    held_out = next(iter(parts.values()), None)
    test = None if held_out is None else lambda: held_out.files(size).loaded()
    return Source(train.classes, train.files(size).loaded(), test, validation)


def _has_folders(folder: Path) -> bool:
    """Whether it can be a part of a set: a class may have the name of one, but holds images."""
    return folder.is_dir() and bool(listing.class_folders(folder))


def _own_size(images: Listing) -> int:
    paths = images.files(LARGEST_SMALL).paths()
    sizes = set(decoding.each(paths, lambda _, path: decoding.header_size(path)))
    height, width = next(iter(sizes))
    own = len(sizes) == 1 and height == width and height <= LARGEST_SMALL
    return height if own else LARGEST_SMALL
