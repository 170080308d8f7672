"""CUDA MPS, which lets the trials on one GPU run at the same moment; without it they take turns.

    python -m skdtune.mps FOLDER

starts it on a node of a cluster, its files in FOLDER, and leaves it running; exit code 1 where no
process gets at a GPU through it. The environment of its clients must name the folder."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from skdtune import signals

_CONTROL = "nvidia-cuda-mps-control"
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_PLACES = ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY")
_PATIENCE_S = 10.0
_FIRST_USE_S = 60.0
_ATTEMPTS, _PAUSE_S = 3, 2.0  # the first client of a GPU may come before its server is ready
# A process that gets no answer of the daemon's goes on without it: whether there is a server for it
# says the daemon.
_USE = f"""
import subprocess, sys, torch
torch.ones(8, device="cuda").sum().item()
asked = {{"input": "get_server_list\\n", "capture_output": True, "text": True, "timeout": 10}}
said = subprocess.run(["{_CONTROL}"], **asked).stdout.split()
sys.exit(not any(word.isdigit() for word in said))
"""


@contextlib.contextmanager
def serving(is_wanted: bool) -> Iterator[bool]:
    """A daemon of one's own for the processes that are started in the block; whether there is one.

    None is started where one runs already (its directory is in the environment; an empty name is a
    no) or where the driver brings none; one that a process cannot use, as in a container without
    the host's IPC, is ended again. Source: NVIDIA's documentation of the Multi-Process Service."""
    named = [os.environ[place] for place in _PLACES if place in os.environ]
    if named or not is_wanted or not shutil.which(_CONTROL):
        yield any(named)
        return
    # the daemon may write a last line into it while it is removed
    with tempfile.TemporaryDirectory(prefix="skdtune-mps-", ignore_cleanup_errors=True) as folder:
        if _start(folder):
            try:
                yield True
            finally:
                _end()
            return
    yield False


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m skdtune.mps FOLDER", file=sys.stderr)
        return 2
    return 0 if _start(arguments[0]) else 1


def note(is_served: bool) -> str:
    """A line to print about trials that share a GPU."""
    if is_served:
        return "trials share a GPU through CUDA MPS"
    return "trials share a GPU in turns: there is no CUDA MPS here"


def _start(folder: str) -> bool:
    """Whether there is a daemon now that a process can use; else it is ended again."""
    os.environ.update(dict.fromkeys(_PLACES, folder))
    is_of_use = False
    try:
        is_of_use = _said("-d") and _is_of_use()
    finally:
        if not is_of_use:
            _end()
    return is_of_use


def _end() -> None:
    _said(words="quit -t 5\n")
    for place in _PLACES:
        os.environ.pop(place, None)


def _said(*arguments: str, words: str = "") -> bool:
    """Whether the daemon has taken the words, or the flags it is started with. It serves all GPUs:
    those that the environment names it would number anew, and its clients choose among them once
    more."""
    seen = {key: value for key, value in os.environ.items() if key != _VISIBLE}
    return _succeeds([_CONTROL, *arguments], words, _PATIENCE_S, seen)


def _is_of_use() -> bool:
    """Whether a new process gets at the GPU through it; no process is waited for when the program
    is to stop."""
    end = time.monotonic() + _FIRST_USE_S
    for attempt in range(_ATTEMPTS):
        time.sleep(_PAUSE_S * bool(attempt))
        left_s = end - time.monotonic()
        if left_s <= 0 or signals.received() is not None:
            return False
        if _succeeds([sys.executable, "-c", _USE], "", left_s):
            return True
    return False


def _succeeds(
    command: list[str], words: str, patience_s: float, environment: dict[str, str] | None = None
) -> bool:
    try:
        done = subprocess.run(
            command,
            input=words,
            capture_output=True,
            text=True,
            timeout=patience_s,
            check=False,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
