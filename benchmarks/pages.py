"""What the pages of several benchmarks have in common."""

import statistics
import time
from collections.abc import Sequence

from benchmarks.step import machine
from skdtune.provenance import versions


def head(title: str, module: str, arguments: Sequence[str], more: str) -> list[str]:
    """The first lines of a page: command, date, machine, versions, and what else is to be known."""
    known = ", ".join(f"{name} {version}" for name, version in versions().items())
    return [
        f"# {title}",
        "",
        f"`{' '.join([f'python -m benchmarks.{module}', *arguments])}`",
        f"{time.strftime('%Y-%m-%d')}, {machine()}, {known}. {more}",
        "",
    ]


def spread(values: Sequence[float], digits: int) -> str:
    """The median, least and most."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
