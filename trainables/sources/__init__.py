"""Data sets as they are published, a family a file; whatever a file lists in `__all__` is a data
set by that name."""

import sys
from collections.abc import Callable

from trainables.decoding import DataError
from trainables.folders import listed
from trainables.images import Source

__all__ = ["DataError", "readers"]


def readers() -> dict[str, Callable[..., Source]]:
    """Every data set by name: a function `(root, *, options)` that returns the set as it came,
    checked and not yet split. Errors: BrokenFile."""
    return listed(sys.modules[__name__])
