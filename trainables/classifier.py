"""The Ray trainable: a trial's config in, one report an epoch, its own checkpoints. The one file
that knows Ray."""

import gc
import os
import re
import socket
import time
import traceback
from collections.abc import Iterator

import ray
import torch
from ray import tune

from trainables import metrics
from trainables.attempts import Attempts, KeepsFailing
from trainables.checkpoint import CHECKPOINTS, Checkpoints, StorageFull
from trainables.sources import DataError
from trainables.storage import Folder
from trainables.training import Diverged, Training
from trainables.watchdog import Watchdog

OUTCOME = "outcome"  # how a trial ended: one of those below; the last is no fault of its own
FINISHED, DIVERGED, FAILED = "finished", "diverged", "failed"
STORAGE_FULL = "storage full"

# What another attempt may mend, in a fresh process or on another node; Tune retries it. Anything
# else would fail again.
_PASSING = (
    OSError,
    DataError,
    ray.exceptions.RayError,
    getattr(torch, "AcceleratorError", OSError),
)
# Some of the GPU's libraries say so in words alone, and the process is of no more use.
_COMPILERS = ("torch._dynamo", "torch._inductor")  # what they refuse they refuse everywhere
_OF_THE_GPU = re.compile("CUDA|cudaGet|CUBLAS|CUDNN|cuDNN|(?i:cusolver)|find an engine")
# So long a trial keeps the next one from a node that it does not fit, or whose GPU has failed.
_NODE_PAUSE_S = 10.0


class UnfitNode(OSError):
    """The trial must not run on this machine, which is not as the others are."""


class ClassifierTrial(tune.Trainable):
    """Trains one config; an epoch a step.

    Tune hands over `{"trial": its config, "run": {...}}`. What stands in `run`: key, of the trial;
    identity, whose its checkpoints are; role and beside, for the scheduler; study, its folder;
    after, the last epoch that it has on record; threads, of the CPU; device, `cpu` or `cuda`;
    session, which run of the study this is; images, the fingerprint of those that it trains on
    (None: any); silence_s, how long a batch, or all before the first, may take before the process
    counts as hung; watched, the metrics that sampler and scheduler go by.

    It looks for its own checkpoints, so a retry, a resumed study and a lost node are all one path,
    and reports each epoch that the record lacks without training it again. The process is reused:
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
        self.watchdog.beat()  # the images, the network and the first batch may hang too
        try:
            return self._report(self._next())
        except Diverged as error:
            return self._end(DIVERGED, str(error))
        except StorageFull as error:
            return self._end(STORAGE_FULL, _one_line(error))
        except torch.OutOfMemoryError as error:
            self._failed(explained(error), lacks_memory=True)
            raise
        except Exception as error:
            if not is_passing(error):  # a bug in a method ends its trial, not the search
                return self._end(FAILED, _one_line(error), traceback.format_exc())
            self._failed(_one_line(error))
            if isinstance(error, UnfitNode | DataError) or is_of_the_gpu(error):
                time.sleep(_NODE_PAUSE_S)
            raise
        finally:
            self.watchdog.rest()

    def cleanup(self) -> None:
        self._forget()

    def _begin(self, config: dict) -> None:
        self._forget()
        self.trial, self.run = config["trial"], config["run"]
        self.reports: Iterator[dict] | None = None
        self.watchdog = Watchdog(self.run["silence_s"])

    def _forget(self) -> None:
        self.reports = self.checkpoints = self.attempts = self.last = None
        self.device, self.warnings = "", []
        gc.collect()
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
            self.checkpoints = Checkpoints(folder, self.run["identity"])
            session = self.run["session"]
            self.attempts = Attempts(study, self.run["key"], session, _node())
            silent = self.attempts.begin(self.checkpoints.newest_epoch, _is_gone)
            self.warnings = [silent] if silent else []
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
        self.device = training.place
        return training.epochs(self.checkpoints, self.watchdog.beat)

    def _failed(self, error: str, lacks_memory: bool = False) -> None:
        if self.attempts is not None:
            self.attempts.failed(error, lacks_memory)

    def _report(self, report: dict) -> dict:
        done = report[metrics.EPOCH] >= self.trial["epochs"]
        outcome = {OUTCOME: FINISHED} if done else {}
        watched = {name: report[name] for name in self.run["watched"] if name in report}
        # pairs: of every number it can see Tune keeps statistics, 2 KB of the driver's memory each
        pairs = list(report.items())
        return {"report": pairs, **watched, **outcome, **self._where(), "done": done}

    def _end(self, outcome: str, error: str, details: str = "") -> dict:
        self.reports = None
        return {OUTCOME: outcome, "error": error, "details": details, **self._where(), "done": True}

    def _where(self) -> dict:
        place = {"host": socket.gethostname(), "worker": os.getpid(), "device": self.device}
        if self.checkpoints is None:
            return place
        newest = self.checkpoints.newest
        newest = f"{CHECKPOINTS}/{self.run['key']}/{newest}" if newest else ""
        warnings = [*self.checkpoints.skipped, *self.warnings]
        return {**place, "checkpoint": newest, "warnings": warnings}


def _node() -> str | None:
    """The node of Ray that this process runs on."""
    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else None


def _is_gone(node: str | None) -> bool:
    if node is None or not ray.is_initialized():
        return False
    return node not in {known["NodeID"] for known in ray.nodes() if known["Alive"]}


def is_passing(error: Exception) -> bool:
    """Whether another process or another machine may do better."""
    if isinstance(error, KeepsFailing):  # it quotes an error that may have passed
        return False
    return isinstance(error, _PASSING) or is_of_the_gpu(error)


def is_of_the_gpu(error: Exception) -> bool:
    """Whether this process can do nothing more on its GPU."""
    if isinstance(error, torch.OutOfMemoryError | NotImplementedError):  # which say CUDA too
        return False
    if any(kind.__module__.startswith(_COMPILERS) for kind in type(error).__mro__):
        return False
    kinds = (RuntimeError, torch.cuda.DeferredCudaCallError)
    return isinstance(error, kinds) and bool(_OF_THE_GPU.search(str(error)))


def explained(error: BaseException) -> str:
    """In a line, with what to change where that is known."""
    hint = "out of memory: lower trial.data.batch_size, or raise resources.gpu; "
    return (hint if isinstance(error, torch.OutOfMemoryError) else "") + _one_line(error)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}"
