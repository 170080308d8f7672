"""What only a GPU can show, in one command of at most ten minutes: first whether all of it works
there, then the tables.

    python -m benchmarks.gpu [--only checks step sharing fused graphs searched compiled]
                             [--output FILE] [--minutes 9.5] [--cpu]

It needs torch, torchvision and scikit-learn; no Ray, no MLflow. The checks, on resnet20 and noise
of 32x32, for every method that teaches itself: it trains in bfloat16 where the device has it and
stays finite; batches make the host wait no more often when there are twice as many (torch's own
warnings of synchronising calls are counted over an epoch of 4 and one of 8 batches); the second
epoch, gone on with from a checkpoint, is that of the unbroken run within 1 %; and what a training
has taken of the device is given back when it is gone. The tables are those of the benchmarks of
these names; only when they are asked for, `graphs`, the step with CUDA graphs too, `searched`,
the step with cuDNN's search for algorithms, and `compiled`, that with torch.compile, alone and with
CUDA graphs, which takes minutes. Each part is written to FILE as soon as it is done, and none goes
on after --minutes. --cpu: the checks alone, on the CPU, to see that this program runs.
"""

import argparse
import gc
import math
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.pages import head, written
from skdtune.errors import first_line
from trainables import data, methods
from trainables.checkpoint import Checkpoints
from trainables.storage import Folder
from trainables.teachers import Taught
from trainables.training import Training

# a benchmark, its flags, and the seconds it may take
PARTS = {
    "step": ("step", ["--minutes", "2"], 170),
    "sharing": ("sharing", ["--together", "1", "2", "4", "--seconds", "4", "--rounds", "2"], 260),
    "fused": ("fused", ["--rounds", "3", "--together", "4"], 170),
    "graphs": ("step", ["--minutes", "2", "--graphs"], 170),
    "searched": ("step", ["--minutes", "2", "--search-algorithms"], 170),
    "compiled": ("step", ["--minutes", "5", "--compile"], 480),
}
_USUAL = ["checks", "step", "sharing", "fused"]
_BATCH, _NEAR = 64, 0.01


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=["checks", *PARTS], default=_USUAL)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--minutes", type=float, default=9.5)
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args(arguments)
    if not (options.cpu or torch.cuda.is_available()):
        print("there is no GPU here", file=sys.stderr)
        return 2
    device = torch.device("cpu" if options.cpu else "cuda")
    began = time.monotonic()
    text = "\n".join(head("On a GPU", "gpu", arguments, "")) + "\n"
    for part in ["checks"] if options.cpu else options.only:
        left = began + 60 * options.minutes - time.monotonic()
        text += (_checks(device) if part == "checks" else _page(part, left)) + "\n"
        if options.output:
            options.output.write_text(text)
    print(text)
    print(f"{time.monotonic() - began:.0f} s in all.")
    return int("| no:" in text)


def _checks(device: torch.device) -> str:
    """A line a method, a column a check; `no` and what was found where it fails."""
    checks: dict[str, Callable[[str, torch.device], str]] = {
        "stays finite": _finite,
        "waits no more for more batches": _waits,
        "goes on as unbroken": _goes_on,
        "gives its memory back": _memory,
    }
    lines = [f"| method | {' | '.join(checks)} |", "|---" * (len(checks) + 1) + "|"]
    # those that are taught by a teacher from a file are left out: the student is like the others
    alone = [name for name, kind in methods.classes().items() if not issubclass(kind, Taught)]
    for name in sorted(alone):
        found = []
        for check in checks.values():
            try:
                found.append(check(name, device))
            except Exception as error:  # noqa: BLE001 - one that fails is a line of the table
                found.append(f"no: {type(error).__name__}: {first_line(error)[:120]}")
        lines.append(f"| {name} | {' | '.join(found)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    if device.type == "cuda":  # what this process keeps is not the next one's to measure
        torch.cuda.empty_cache()
    return "\n".join(lines) + "\n"


def _training(name: str, device: torch.device, batches: int = 4, epochs: int = 2) -> Training:
    side = 32 if device.type == "cuda" else 8  # a CPU would take minutes
    images = {"images": batches * _BATCH, "image_size": side, "classes": 100}
    return Training(
        data={"name": "synthetic", **images, "batch_size": _BATCH},
        model={"name": "resnet20"},
        method={"name": name},
        optim={"lr": 0.02},
        epochs=epochs,
        device=device,
        final=True,
    )


def _finite(name: str, device: torch.device) -> str:
    last = list(_training(name, device).epochs())[-1]
    return "yes" if all(map(math.isfinite, last.values())) else f"no: {last}"


def _waits(name: str, device: torch.device) -> str:
    if device.type != "cuda":
        return "not on a CPU"
    counts = []
    for batches in (4, 8):
        training = _training(name, device, batches, epochs=2)
        reports = training.epochs()
        next(reports)  # the first epoch tries algorithms out
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                next(reports)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        counts.append(sum("synchroniz" in str(each.message) for each in seen))
    return f"yes ({counts[0]})" if counts[0] == counts[1] else f"no: {counts[0]}, then {counts[1]}"


def _goes_on(name: str, device: torch.device) -> str:
    unbroken = list(_training(name, device).epochs())[-1]["loss/total"]
    with tempfile.TemporaryDirectory() as folder:
        begun = _training(name, device).epochs(Checkpoints(Folder(folder), name))
        next(begun)
        begun.close()
        resumed = list(_training(name, device).epochs(Checkpoints(Folder(folder), name)))[-1]
    off = abs(resumed["loss/total"] - unbroken) / max(abs(unbroken), 1e-6)
    return "yes" if off <= _NEAR else f"no: {off:.3f} off"


def _memory(name: str, device: torch.device) -> str:
    if device.type != "cuda":
        return "not on a CPU"
    data.forget()
    gc.collect()
    before = torch.cuda.memory_allocated()
    list(_training(name, device).epochs())
    data.forget()
    gc.collect()
    left = (torch.cuda.memory_allocated() - before) / 2**20
    return "yes" if left < 1 else f"no: {left:.1f} MiB left"


def _page(part: str, left_s: float) -> str:
    name, flags, limit_s = PARTS[part]
    try:
        return written(name, flags, max(1.0, min(limit_s, left_s)))
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        return f"# {part}\n\n| no: {error} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
