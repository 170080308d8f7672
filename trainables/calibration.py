"""How many trials of a config one device trains best at the same time, measured in some seconds."""

import contextlib
import dataclasses
import math
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

from trainables import memory
from trainables.batches import EVALUATION_BATCH
from trainables.processes import nameless_program
from trainables.training import Training

TOGETHER = (1, 2, 4, 8)

_ALIKE = ("model", "method", "optim", "augment", "precision", "channels_last", "compile")
_STEPS = 8  # of an epoch, between two looks at the clock
_SECONDS = 3.0
_PATIENCE_S = 120.0  # for a process to start and train an epoch
_COMPILING_S = 600.0
_AS_GOOD = 0.95  # of the best: fewer trials at once end sooner each


@dataclass(frozen=True)
class Load:
    """So many trials at the same time. images_per_s: of all of them, NaN when they did not fit.
    memory_gib: of the device, taken by all; on a CPU of the processes. problem: why not."""

    trials: int
    images_per_s: float
    memory_gib: float
    problem: str = ""


def measure(
    config: dict,
    classes: int,
    image_shape: tuple[int, int, int],
    device: torch.device,
    together: Sequence[int] = TOGETHER,
    seconds: float = _SECONDS,
) -> list[Load]:
    """Trains the config in processes of their own on images made on the spot, so many at once as
    `together` says, one number after the other; each for some seconds, after an epoch that is not
    counted. A number that does not fit ends it.

    config: a trial's, whose method needs no teacher. image_shape: (channels, height, width)."""
    sections = {key: config[key] for key in _ALIKE if key in config}
    batch_size = config["data"].get("batch_size", 128)
    sections["data"] = {
        "name": "synthetic",
        "classes": classes,
        "images": math.ceil(_STEPS * batch_size / 0.9) + classes,
        "channels": image_shape[0],
        "image_size": image_shape[1],
        "batch_size": batch_size,
        "validation_fraction": 0.1,
    }
    threads = max(1, torch.get_num_threads() // max(together))
    patience_s = _COMPILING_S if config.get("compile") else _PATIENCE_S
    loads = []
    with _processes(max(together), sections, device, threads) as pipes:
        for count in together:
            loads.append(_load(pipes[:count], device, seconds, patience_s))
            if loads[-1].problem:
                break
    return loads


def best(loads: Sequence[Load]) -> Load:
    """The fewest trials that together are nearly as fast as any number."""
    most = max(load.images_per_s for load in loads if not load.problem)
    return next(load for load in loads if load.images_per_s >= _AS_GOOD * most)


def _load(
    pipes: Sequence[Connection], device: torch.device, seconds: float, patience_s: float
) -> Load:
    for wanted in (0.0, seconds):  # none begins to count before all have begun to train
        for pipe in pipes:
            pipe.send(wanted)
        answers = [_answer(pipe, patience_s) for pipe in pipes]
        problem = next((answer for answer in answers if isinstance(answer, str)), "")
        if problem:
            return Load(len(pipes), math.nan, math.nan, problem)
    taken = [bytes_ for _, bytes_ in answers]
    in_all = max(taken) if device.type == "cuda" else sum(taken)
    return Load(len(pipes), sum(speed for speed, _ in answers), in_all / 2**30)


def _answer(pipe: Connection, patience_s: float) -> tuple[float, float] | str:
    try:
        return pipe.recv() if pipe.poll(patience_s) else "it does not answer"
    except EOFError:
        return "its process has died"


@contextlib.contextmanager
def _processes(
    count: int, sections: dict, device: torch.device, threads: int
) -> Iterator[list[Connection]]:
    """Processes that train for as many seconds as they are told; they end with the block."""
    context = multiprocessing.get_context("spawn")
    pipes, running = [], []
    try:
        for _ in range(count):
            pipe, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, sections, device, threads), daemon=True
            )
            with nameless_program():
                process.start()
            theirs.close()  # so that its end is heard here
            pipes.append(pipe)
            running.append(process)
        yield pipes
    finally:
        for pipe in pipes:
            pipe.close()
        for process in running:
            process.join(5)
            process.kill()
            process.join()


def _serve(pipe: Connection, sections: dict, device: torch.device, threads: int) -> None:
    torch.set_num_threads(threads)
    training = epochs = None
    while True:
        try:
            seconds = pipe.recv()
            if training is None:
                training = Training(**sections, epochs=10**6, device=device)
                _score_on(training, EVALUATION_BATCH)  # which takes memory, as in any trial
                epochs = training.epochs()
            speed = _timed(epochs, sections["data"]["batch_size"], seconds)
            _score_on(training, 1)
            pipe.send((speed, _taken(device)))
        except EOFError:
            return
        except Exception as error:  # noqa: BLE001 - whoever asked says what it means
            pipe.send((str(error) or type(error).__name__).splitlines()[0])


def _score_on(training: Training, images: int) -> None:
    """Leaves so many to be scored from now on, all the same one."""
    held_out = training.sets.held_out
    rows = torch.zeros(images, dtype=torch.long, device=held_out.labels.device)
    training.sets = dataclasses.replace(training.sets, held_out=held_out.take(rows))


def _timed(epochs: Iterator[dict], batch_size: int, seconds: float) -> float:
    """Images a second, of at least one epoch."""
    began, done = time.perf_counter(), 0
    while not done or time.perf_counter() - began < seconds:
        next(epochs)
        done += _STEPS * batch_size
    return done / (time.perf_counter() - began)


def _taken(device: torch.device) -> float:
    """Bytes: of a GPU what all programs have of it, since the others leave as little room; else
    what this process had at most."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total - free
    return float(memory.peak())
