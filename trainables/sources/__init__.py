"""Data sets as they are published, a family a file; whatever a file lists in `__all__` is a data
set by that name."""

import sys
from collections.abc import Callable

from trainables.decoding import DataError
from trainables.folders import modules
from trainables.images import Images, Source

__all__ = ["READERS", "DataError", "Images", "Source"]

# A reader is a function `(root, *, options)` that returns the set as it came, checked and not yet
# split.
READERS: dict[str, Callable[..., Source]] = {
    name: getattr(family, name)
    for family in modules(sys.modules[__name__]).values()
    for name in family.__all__
}
