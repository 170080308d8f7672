"""Batches of image files, decoded and cropped by worker processes that end with the training."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trainables import decoding, views
from trainables.decoded import Decoded, Place, fetch
from trainables.decoding import DataError
from trainables.memory import Shared
from trainables.processes import nameless_program

_MOST_WORKERS = 16
# How torch's errors begin when a worker was lost, or the thread that copies what it made.
_LOST = ("DataLoader worker", "Pin memory thread")


@dataclass(frozen=True)
class BatchRequest:
    """What to make a batch of. rows: [B], which images. seeds: [B], each draws one image's random
    crop of at least the share `area`; None: the centre of each."""

    rows: Tensor
    seeds: Tensor | None = None
    area: float = 1.0


class Loader:
    """Makes batches of the images of `decoded`; what it makes does not depend on the workers.

    workers: how many processes; 0: none but this one; None: as many as the threads that torch may
    use here, at most 16. They start with the first batch, stay for all others and end with `close`,
    with this object or with this process, however that ends. device: where the batches go. beat:
    called with each image that is brought into memory before the first batch."""

    def __init__(self, decoded: Decoded, workers: int | None, device: torch.device):
        self.decoded = decoded
        self.workers = min(torch.get_num_threads(), _MOST_WORKERS) if workers is None else workers
        self.device = device
        self.beat: Callable[[], None] = decoding.nothing
        self._tasks = _Tasks(decoded)
        self._loader: DataLoader | None = None

    def load(self, requests: Iterable[BatchRequest]) -> Iterator[Tensor]:
        """The images of each batch, in order.  # -> uint8 [B, 3, S, S]

        Errors: DataError that names what is damaged in a batch; OSError for a disk that does not
        answer or a worker that was killed, which another attempt may mend."""
        if self._loader is None:
            self._loader = self._start()
        self._tasks.requests = requests
        try:
            with nameless_program():
                batches = iter(self._loader)
            for made in batches:
                made.raise_faults()
                yield made.images.to(self.device, non_blocking=True)
        except Exception as error:
            self.close()
            if isinstance(error, RuntimeError) and str(error).startswith(_LOST):
                raise OSError(f"a process that reads images was lost: {error}") from error
            raise
        finally:
            batches = None  # this frame lives as long as the error's traceback; workers must not

    def close(self) -> None:
        """Ends the workers; the next batch would start others."""
        self._loader = None

    def _start(self) -> DataLoader:
        shared = self.decoded.prepare(self.beat)
        image_size = self.decoded.parts[0].image_size
        return DataLoader(
            _Squares(shared, image_size),
            batch_size=None,  # a task is a batch already
            sampler=self._tasks,
            num_workers=self.workers,
            collate_fn=_as_it_is,
            pin_memory=self.device.type == "cuda",
            persistent_workers=self.workers > 0,
            multiprocessing_context=_context() if self.workers else None,
            worker_init_fn=_settle,
            generator=torch.Generator(),  # else it would draw from the global one each epoch
        )


class _Task(NamedTuple):
    places: list[Place]
    seeds: list[int] | None
    area: float


class _Tasks:
    """The requests of one pass as the tasks of workers."""

    def __init__(self, decoded: Decoded):
        self.decoded = decoded
        self.requests: Iterable[BatchRequest] = ()

    def __iter__(self) -> Iterator[_Task]:
        for request in self.requests:
            places = [self.decoded.place(row) for row in request.rows.tolist()]
            seeds = None if request.seeds is None else request.seeds.tolist()
            yield _Task(places, seeds, request.area)


class _Made(NamedTuple):
    """images: uint8 [B, 3, S, S]. damaged: files that are no whole images; unanswered: files that
    the system could not read."""

    images: Tensor
    damaged: list[str]
    unanswered: list[str]

    def raise_faults(self) -> None:
        if self.unanswered:
            raise OSError(decoding.unreadable(self.unanswered, len(self.images)))
        if self.damaged:
            raise DataError(decoding.unreadable(self.damaged, len(self.images)))


class _Squares(Dataset):
    """Makes the batch of a task: all that a worker process is given."""

    def __init__(self, shared: Shared | None, image_size: int):
        self.shared = shared
        self.image_size = image_size
        self.shorter_side = views.shorter_side(image_size)

    def __getitem__(self, task: _Task) -> _Made:
        shape = (len(task.places), 3, self.image_size, self.image_size)
        made = _Made(torch.zeros(shape, dtype=torch.uint8), [], [])
        for index, place in enumerate(task.places):
            try:
                image = fetch(place, self.shared, self.shorter_side)
            except decoding.UNREADABLE as error:
                passing = isinstance(error, OSError) and error.errno is not None
                faults = made.unanswered if passing else made.damaged
                faults.append(decoding.damage(place, error))
                continue
            made.images[index] = self._square(image, task, index)
        return made

    def _square(self, image: Tensor, task: _Task, index: int) -> Tensor:
        if task.seeds is None:
            return views.centre(image, self.image_size)
        return views.random_crop(image, self.image_size, task.area, task.seeds[index])


def _as_it_is(made: _Made) -> _Made:
    return made


def _context() -> BaseContext:
    """Workers are forked from a process of one thread that has imported all they need: a fork of
    this one, with the threads of torch and Ray, could hold a lock for ever, and fresh processes
    would import torch one by one. That server is started once and ends with this process."""
    context = multiprocessing.get_context("forkserver")
    # and what views.py imports when it makes one
    context.set_forkserver_preload([__name__, "torchvision.transforms.v2"])
    return context


def _settle(worker: int) -> None:
    """What a worker process does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """torch's own watch asks for the process that forked the worker, which here outlives a training
    that is killed."""
    multiprocessing.parent_process().join()
    os._exit(1)
