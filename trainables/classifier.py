"""The Ray trainable: a trial's config in, one report an epoch, its own checkpoints. The one file
that knows Ray."""

import contextlib
import gc
import json
import os
import socket
import time
import traceback
from collections.abc import Iterator

import ray
import torch
from ray import tune

from trainables import metrics
from trainables.checkpoint import CHECKPOINTS, Checkpoints
from trainables.sources import DataError
from trainables.storage import Folder
from trainables.training import Diverged, Training

OUTCOME = "outcome"  # how a trial ended: one of the three below
FINISHED, DIVERGED, FAILED = "finished", "diverged", "failed"

# What another attempt may mend, in a fresh process or on another node; Tune retries it. Anything
# else would fail again.
_PASSING = (
    OSError,
    DataError,
    ray.exceptions.RayError,
    getattr(torch, "AcceleratorError", OSError),
)
_MOST_RETRIES = 3  # of one and the same epoch
_ATTEMPT = "attempt.json"
_NODE_PAUSE_S = 10.0  # so long a trial that does not fit its node keeps the next one from it


class KeepsFailing(RuntimeError):
    """A trial failed, time after time, before it had finished one more epoch."""


class UnfitNode(OSError):
    """The trial must not run on this machine, which is not as the others are."""


class ClassifierTrial(tune.Trainable):
    """Trains one config; an epoch a step.

    The config Tune hands over is `{"trial": the config, "run": {"key", "study", "after",
    "threads", "device", "session", "images"}}`: the trial's key, the study's folder, the last epoch
    the study has on record, CPU threads, `cpu` or `cuda`, which run of the study this is, and the
    fingerprint of the images that it trains on (None: any). It looks
    for its own checkpoints, so a retry, a resumed study and a lost node are all one path, and
    reports each epoch that the record lacks without training it again. The process is reused:
    every trial builds all it needs afresh, and only the image set stays."""

    def setup(self, config: dict) -> None:
        # what the imports made stays for good: looking through it took longer than all else
        # between two trials
        gc.freeze()
        self._begin(config)

    def reset_config(self, new_config: dict) -> bool:
        self._begin(new_config)
        return True

    def step(self) -> dict:
        try:
            return self._report(self._next())
        except Diverged as error:
            return self._end(DIVERGED, str(error))
        except torch.OutOfMemoryError as error:
            hint = "lower trial.data.batch_size"
            return self._end(FAILED, f"out of memory: {_one_line(error)}; {hint}")
        except _PASSING as error:
            self._note_attempt(error=_one_line(error))
            if isinstance(error, UnfitNode | DataError):
                time.sleep(_NODE_PAUSE_S)
            raise
        except Exception as error:  # noqa: BLE001 - a bug in a method ends its trial, not the search
            return self._end(FAILED, _one_line(error), traceback.format_exc())

    def cleanup(self) -> None:
        self._forget()

    def _begin(self, config: dict) -> None:
        self._forget()
        self.trial, self.run = config["trial"], config["run"]
        self.reports: Iterator[dict] | None = None

    def _forget(self) -> None:
        self.reports = self.checkpoints = self.last = None
        self.attempt: dict = {}
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _next(self) -> dict:
        """The next epoch that the study has no record of; the last one again when it has them
        all."""
        if self.reports is None:
            torch.set_num_threads(self.run["threads"])
            study = Folder(self.run["study"])
            if not study.exists():
                raise UnfitNode(f"{study.uri}, the study, is not seen on {socket.gethostname()}")
            folder = study.folder(f"{CHECKPOINTS}/{self.run['key']}")
            self.checkpoints = Checkpoints(folder, self.run["key"])
            self._count_attempt()
            self.reports = self._epochs()
        for report in self.reports:
            self.last = report
            if report[metrics.EPOCH] > self.run["after"]:
                break
        return self.last

    def _epochs(self) -> Iterator[dict]:
        training = Training(**self.trial, device=torch.device(self.run["device"]))
        wanted = self.run["images"]
        if wanted is not None and training.sets.fingerprint() != wanted:
            raise UnfitNode(f"the images or labels on {socket.gethostname()} are not the study's")
        return training.epochs(self.checkpoints)

    def _count_attempt(self) -> None:
        """Notes that the trial starts from this epoch, so that one whose process dies again and
        again without getting further is given up, however long the search. A start on a node that
        is gone does not count. Errors: KeepsFailing."""
        here = {"session": self.run["session"], "epoch": self.checkpoints.newest_epoch}
        try:
            seen = json.loads(self.checkpoints.folder.read(_ATTEMPT))
        except (OSError, ValueError):
            seen = None
        known = isinstance(seen, dict) and here.items() <= seen.items()
        starts = seen.get("starts", 0) - _is_gone(seen.get("node")) if known else 0
        if starts > _MOST_RETRIES:
            error = seen.get("error", "its process died")
            raise KeepsFailing(f"{error} ({starts} times in epoch {here['epoch'] + 1})")
        self.attempt = {**here, "starts": starts + 1, "node": _node()}
        self._note_attempt()

    def _note_attempt(self, **more: str) -> None:
        if self.checkpoints is None:
            return
        with contextlib.suppress(OSError):  # where nothing can be written, checkpoints say so
            content = json.dumps({**self.attempt, **more})
            self.checkpoints.folder.write(_ATTEMPT, content.encode())

    def _report(self, report: dict) -> dict:
        done = report[metrics.EPOCH] >= self.trial["epochs"]
        outcome = {OUTCOME: FINISHED} if done else {}
        return {"report": report, **report, **outcome, **self._where(), "done": done}

    def _end(self, outcome: str, error: str, details: str = "") -> dict:
        self.reports = None
        return {OUTCOME: outcome, "error": error, "details": details, **self._where(), "done": True}

    def _where(self) -> dict:
        place = {"host": socket.gethostname(), "worker": os.getpid()}
        if self.checkpoints is None:
            return place
        newest = self.checkpoints.newest
        newest = f"{CHECKPOINTS}/{self.run['key']}/{newest}" if newest else ""
        return {**place, "checkpoint": newest, "warnings": list(self.checkpoints.skipped)}


def _node() -> str | None:
    """The node of Ray that this process runs on."""
    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else None


def _is_gone(node: str | None) -> bool:
    if node is None or not ray.is_initialized():
        return False
    return node not in {known["NodeID"] for known in ray.nodes() if known["Alive"]}


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}"
