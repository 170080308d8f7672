"""Which image files a folder of one folder a class holds."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trainables.decoding import SUFFIXES, DataError
from trainables.images import Files


@dataclass(frozen=True)
class Listing:
    """classes: names of the class folders, sorted. names: paths of the images below `root`, class
    by class. labels: int64 [N]."""

    root: Path
    classes: tuple[str, ...]
    names: list[str]
    labels: Tensor

    def files(self, image_size: int) -> Files:
        return Files(self.root, self.names, self.labels, image_size)


def class_folders(root: Path, leave_out: Collection[str] = ()) -> list[str]:
    """Names of the folders in `root`, sorted, hidden ones left out. Errors: DataError when it
    cannot be read."""
    try:
        with os.scandir(root) as entries:
            found = [entry.name for entry in entries if entry.is_dir()]
    except OSError as error:
        raise DataError(f"{root}: cannot be read: {error.strerror}") from None
    return sorted(name for name in found if name[0] != "." and name not in leave_out)


def read(root: Path, leave_out: Collection[str] = ()) -> Listing:
    """The images in the class folders of `root` and the folders below them. Errors: DataError for
    fewer than two classes and for classes without images."""
    classes = class_folders(root, leave_out)
    found = [_images(root, name) for name in classes]
    empty = [name for name, names in zip(classes, found, strict=True) if not names]
    if len(classes) < 2 or empty:
        few = f"{len(classes)} class folder(s)"
        what = f"no images in {', '.join(empty[:5])}" if empty else few
        raise DataError(
            f"{root}: {what}; expected one folder of images for each of at least 2 classes"
        )
    labels = torch.tensor([label for label, names in enumerate(found) for _ in names])
    return Listing(root, tuple(classes), [name for names in found for name in names], labels)


def _images(root: Path, class_folder: str) -> list[str]:
    """Sorted by folder, then by name."""
    found = []
    for folder, _, files in os.walk(root / class_folder):
        below = os.path.relpath(folder, root)
        found += [
            f"{below}/{name}"
            for name in files
            if os.path.splitext(name)[1].lower() in SUFFIXES and name[0] != "."
        ]
    return sorted(found, key=lambda name: name.split("/"))
