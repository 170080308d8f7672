"""What the pages of several benchmarks have in common."""

import contextlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.step import machine
from skdtune.provenance import versions

_LAST_WORDS_S = 20.0


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


def written(name: str, arguments: Sequence[str], limit_s: float) -> str:
    """The page that a benchmark writes, run as the command it is. One that takes longer is told to
    end as by Ctrl-C, so that it ends what it has started. Errors: CalledProcessError,
    TimeoutExpired."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.md")
        command = [sys.executable, "-m", f"benchmarks.{name}", *arguments, "--output", str(page)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                process.wait(limit_s)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_LAST_WORDS_S)
                raise
            finally:
                process.kill()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        # a temporary file's name is no part of the command that a reader would type
        return page.read_text().replace(f" --output {page}", "")


def spread(values: Sequence[float], digits: int) -> str:
    """The median, least and most."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
