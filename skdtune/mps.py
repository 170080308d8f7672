"""CUDA MPS, which lets the trials on one GPU run at the same moment; without it they take turns."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

_CONTROL = "nvidia-cuda-mps-control"
_PLACES = ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY")
_PATIENCE_S = 10.0


@contextlib.contextmanager
def serving(is_wanted: bool) -> Iterator[bool]:
    """A daemon of one's own for the processes that are started in the block; whether there is one.

    None is started where one runs already (its directory is in the environment) or where the
    driver brings none. Source: NVIDIA's documentation of the Multi-Process Service."""
    if not is_wanted or any(place in os.environ for place in _PLACES) or not shutil.which(_CONTROL):
        yield any(place in os.environ for place in _PLACES)
        return
    with tempfile.TemporaryDirectory(prefix="skdtune-mps-") as folder:
        os.environ.update(dict.fromkeys(_PLACES, folder))
        started = _said("-d")
        try:
            yield started
        finally:
            if started:
                _said(words="quit\n")
            for place in _PLACES:
                os.environ.pop(place, None)


def note(is_served: bool) -> str:
    """A line to print about trials that share a GPU."""
    if is_served:
        return "trials share a GPU through CUDA MPS"
    return "trials share a GPU in turns: there is no CUDA MPS here"


def _said(*arguments: str, words: str = "") -> bool:
    try:
        done = subprocess.run(
            [_CONTROL, *arguments],
            input=words,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
