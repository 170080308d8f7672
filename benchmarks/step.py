"""A training step: ours against the authors' loop, and DRG and DSR against plain training.

    python -m benchmarks.step [--images ROOT] [--rounds 7] [--steps N] [--threads 2] [--workers N]
                              [--minutes 3] [--compile] [--graphs] [--search-algorithms]
                              [--output FILE]

resnet18, 100 classes (of ROOT: as many as it has), batches of 128 images of 32x32, crops of random
size and flips on all sides. Ours is the real `Training` over images in memory; the rival is
benchmarks/authors.py. All live in one process and take --steps steps each in turn, in a new random
order every round; a first round warms up and is not counted, and after --minutes no new one
starts. A ratio compares two times of the same round. DSR goes on from one round to the next, so
that every step of ours has its term.

The ratio to the authors' loop is of wall-clock time. That of DRG+DSR and DSR to cross entropy is
of the process's CPU time on a CPU (all threads; other programs disturb it less; wall-clock time is
shown beside it) and of wall-clock time on a GPU. ROOT: an image folder with train/ (README,
`imagefolder`), of which so many images are taken as a round needs; without it, noise. --steps: 2
on a CPU, 100 on a GPU. --workers: of the authors' DataLoader; 0 on a CPU, whose cores the network
takes anyway, and 8 on a GPU. --compile: DRG+DSR once more with `trial.compile`, compiled in the
first round, and on a GPU a second time with CUDA graphs. --graphs: DRG+DSR once more with CUDA
graphs alone (benchmarks/graphs.py), on a GPU. --search-algorithms: all of it with
`torch.backends.cudnn.benchmark`, to be held against a run without. On a GPU also: the share of the
bfloat16 matrix peak that a multiplication of 8192x8192 matrices reaches in the same run.
"""

import argparse
import dataclasses
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch

from benchmarks import graphs
from benchmarks.authors import Loop
from benchmarks.backbones import measure
from skdtune.provenance import versions
from trainables import batches, metrics
from trainables.compiling import compile_parts
from trainables.images import Images
from trainables.training import Training

BATCH, CLASSES, BACKBONE = 128, 100, "resnet18"
AUTHORS, PLAIN = "the authors' loop (DRG+DSR)", "cross entropy"
METHODS = {
    "DRG+DSR": {"name": "drg_dsr", "carry_across_epochs": True},
    "DSR": {"name": "drg_dsr", "variant": "dsr", "carry_across_epochs": True},
    PLAIN: {"name": "cross_entropy"},
}
_SCORED = 10  # images, as few as there can be: a training scores some after every epoch


@dataclasses.dataclass(frozen=True)
class Took:
    """Seconds of the steps of one round."""

    wall: float
    processor: float


def main(arguments: list[str]) -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", metavar="ROOT")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=100 if gpu else 2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=8 if gpu else 0)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--graphs", action="store_true")
    parser.add_argument("--search-algorithms", action="store_true")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    if options.graphs and not gpu:
        parser.error("--graphs needs a GPU")
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = options.search_algorithms
    found = _measure(options)
    text = _page(options, found, arguments)
    print(text)
    if options.output:
        options.output.write_text(text)


def _measure(options: argparse.Namespace) -> dict[str, list[Took]]:
    """What each loop took, by its name, round by round."""
    trainings = {name: _training(options, method) for name, method in METHODS.items()}
    if options.compile:
        trainings["DRG+DSR, compiled"] = _compiled(options)
    if options.compile and torch.cuda.is_available():
        trees = {"triton.cudagraphs": True}
        trainings["DRG+DSR, compiled, CUDA graphs"] = _compiled(options, trees)
    if options.graphs:
        trainings["DRG+DSR, CUDA graphs"] = _graphed(options)
    some = next(iter(trainings.values()))
    authors = Loop(some.sets.train, len(some.sets.classes), BATCH, options.workers, some.device)
    turns = {name: _turn_of(training, options.steps) for name, training in trainings.items()}
    turns[AUTHORS] = lambda: _timed(lambda: authors.train(options.steps))
    found: dict[str, list[Took]] = {name: [] for name in turns}
    chance = random.Random(0)
    deadline = time.monotonic() + 60 * options.minutes
    for number in range(options.rounds + 1):
        if number > 1 and time.monotonic() > deadline:
            break
        for name in chance.sample(list(turns), len(turns)):
            took = turns[name]()
            if number:
                found[name].append(took)
    return found


def _compiled(options: argparse.Namespace, more: dict[str, bool] | None = None) -> Training:
    """DRG+DSR with `trial.compile` and more of the compiler's options. It scores nothing: without a
    gradient one stage's graph would write over what the next one reads."""
    training = _training(options, METHODS["DRG+DSR"])
    compile_parts(training.method, more)
    training._scores = dict
    return training


def _graphed(options: argparse.Namespace) -> Training:
    training = _training(options, METHODS["DRG+DSR"])
    chance = torch.Generator(training.device).manual_seed(0)
    images, labels, _ = next(batches.training(training.sets, training.augment, None, chance))
    graphs.record(training, images.contiguous(memory_format=training.memory_format), labels)
    return training


def _training(options: argparse.Namespace, method: dict) -> Training:
    """Over as many images as one round takes, so that a round is an epoch."""
    count = options.steps * BATCH
    data = {"name": "synthetic", "classes": CLASSES, "image_size": 32, "images": 2 * count}
    if options.images:
        data = {"name": "imagefolder", "root": options.images, "image_size": 32}
    training = Training(
        data={**data, "batch_size": BATCH},
        augment={"crop_area": 0.08},
        model={"name": BACKBONE},
        method=method,
        optim={"lr": 0.01},
        epochs=options.rounds + 1,
    )
    sets = training.sets
    if len(sets.train) < count:
        raise SystemExit(f"{options.images}: needs {count} images in train/, has {len(sets.train)}")
    train, held_out = _first(sets.train, count), _first(sets.held_out, _SCORED)
    training.sets = dataclasses.replace(sets, train=train, held_out=held_out)
    return training


def _first(images: Images, count: int) -> Images:
    return images.take(torch.arange(count, device=images.labels.device))


def _turn_of(training: Training, steps: int) -> Callable[[], Took]:
    running = training.epochs()

    def turn() -> Took:
        reports: list[dict] = []
        took = _timed(lambda: reports.append(next(running)))
        wall = steps * BATCH / reports[0][metrics.IMAGES_PER_SECOND]  # without the scoring
        return Took(wall, took.processor)

    return turn


def _timed(work: Callable[[], object]) -> Took:
    """`work` ends with a number that comes from the device, so nothing is under way after it."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return Took(time.perf_counter() - wall, time.process_time() - processor)


def _page(options: argparse.Namespace, found: dict[str, list[Took]], arguments: list[str]) -> str:
    gpu = torch.cuda.is_available()
    shown = ["ROOT" if word == options.images else word for word in arguments]
    command = " ".join(["python -m benchmarks.step", *shown])
    head = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        "# A training step",
        "",
        f"`{command}`",
        f"{date.today()}, {machine()}, {head}. {BACKBONE}, batch {BATCH}, 32x32, "
        f"{len(found[PLAIN])} rounds of {options.steps} step(s), {options.threads} thread(s); "
        "median (least to most). How it is measured: the docstring of benchmarks/step.py.",
        "",
        "| loop | n | images/s | wall-clock time, ratio to cross entropy | CPU time, ratio |",
        "|---|---|---|---|---|",
    ]
    for name in (AUTHORS, *(name for name in found if name != AUTHORS)):
        speeds = [options.steps * BATCH / took.wall for took in found[name]]
        ratios = [_spread(_ratios(found, name, PLAIN, clock)) for clock in ("wall", "processor")]
        lines.append(f"| {name} | {len(speeds)} | {_spread(speeds, 1)} | {' | '.join(ratios)} |")
    clock = "wall" if gpu else "processor"
    speedup = _ratios(found, AUTHORS, "DRG+DSR", "wall")
    lines += ["", "| bar | wanted | found | |", "|---|---|---|---|"]
    lines.append(_bar("DRG+DSR, images/s to the authors' loop", speedup, 8 if gpu else 2.3, True))
    for name, most in (("DRG+DSR", 1.10), ("DSR", 1.02)):
        costs = _ratios(found, name, PLAIN, clock)
        lines.append(_bar(f"{name}, time to cross entropy", costs, most, False))
    if gpu:
        lines.append(_bar("DRG+DSR, share of the matrix peak", _shares(options, found), 0.4, True))
    return "\n".join(lines) + "\n"


def _ratios(found: dict[str, list[Took]], name: str, other: str, clock: str) -> list[float]:
    return [
        getattr(mine, clock) / getattr(theirs, clock)
        for mine, theirs in zip(found[name], found[other], strict=True)
    ]


def _spread(values: list[float], digits: int = 3) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _bar(what: str, values: list[float], wanted: float, at_least: bool) -> str:
    middle = statistics.median(values)
    met = middle >= wanted if at_least else middle <= wanted
    sign = "at least" if at_least else "at most"
    return f"| {what} | {sign} {wanted} | {_spread(values)} | {'met' if met else 'missed'} |"


def _shares(options: argparse.Namespace, found: dict[str, list[Took]]) -> list[float]:
    """Of the matrix peak: two operations a multiply-add, three passes a step; the head left out."""
    operations = 6 * measure(BACKBONE).multiply_adds * BATCH * options.steps
    peak = _matrix_peak()
    return [operations / took.wall / peak for took in found["DRG+DSR"]]


def _matrix_peak(side: int = 8192, times: int = 50) -> float:
    """Operations a second of a bfloat16 matrix product on the GPU."""
    one = torch.randn(side, side, device="cuda", dtype=torch.bfloat16)
    for _ in range(5):
        one @ one
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        one @ one
    torch.cuda.synchronize()
    return 2 * side**3 * times / (time.perf_counter() - began)


def machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main(sys.argv[1:])
