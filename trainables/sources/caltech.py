"""Caltech-101: objects, photographed and drawn."""

from pathlib import Path

from trainables import listing
from trainables.bounds import Count
from trainables.images import Source
from trainables.sources._layout import locate

__all__ = ["caltech101"]

_FOLDER = "101_ObjectCategories"
_NOT_A_CLASS = "BACKGROUND_Google"
_ORIGIN = "caltech-101.zip from the Caltech 101 page of CaltechDATA and unpack all of it there"


def caltech101(root: Path, *, image_size: Count = 224) -> Source:
    """8,677 images of 101 classes; the folder of images of none of them is left out. No split was
    published: the test part is drawn from each class, the same for every config."""
    folder = locate(root, ("caltech101", "caltech-101"), (f"{_FOLDER}/",), _ORIGIN)
    images = listing.read(folder / _FOLDER, leave_out=[_NOT_A_CLASS])
    return Source(images.classes, images.files(image_size).loaded(), test=None)
