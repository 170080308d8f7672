"""What a node of the cluster sees: versions, storage, images, GPU; and what of it is wrong."""

import contextlib
import time
import uuid
import weakref
from collections.abc import Iterable
from math import ceil
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from skdtune import preflight, provenance
from skdtune.errors import ConfigError, first_line, last_line
from skdtune.settings import Resources
from trainables.storage import Folder

_DECISIVE = ("python", "torch", "torchvision", "ray")  # our own packages are shipped
_NOTE = "written by "
_ASKED = "asked at"  # by this machine's clock, beside what Ray says of a node
_MOST_SKEW_S = 60.0  # object stores refuse requests from 15 minutes on
_IN_USE = ("out of memory", "busy or unavailable")  # so a GPU says that works, for others


class Inspection:
    """Asks nodes whether they can run the trials. The note that they read and answer is in the
    study's folder until the inspection is closed or gone.

    config: of a trial. fingerprint: of the images as this machine has them. flag: that names the
    folder. Errors: OSError when the folder cannot be written."""

    def __init__(
        self,
        config: dict,
        fingerprint: str,
        folder: Folder,
        asked: Resources,
        flag: str = "--storage",
    ):
        self.config, self.fingerprint, self.folder = config, fingerprint, folder
        self.wants_gpu, self.flag = asked.gpu > 0, flag
        self.note = f".nodes-{uuid.uuid4().hex}"
        self.asked: dict[ray.ObjectRef, dict] = {}  # what has not answered yet, with its node
        self.began = time.monotonic()
        self.close = weakref.finalize(self, _delete, folder, self.note)  # also when we end early
        folder.write(f"{self.note}/driver", self.note.encode())

    def begin(self, nodes: Iterable[dict]) -> None:
        """Asks these of Ray's nodes, all at once."""
        # once a process: it ends behind it, with the images that it loaded
        once = ray.remote(num_cpus=0, max_calls=1, max_retries=2)(look)
        now = time.time()
        for node in nodes:
            there = once.options(scheduling_strategy=on(node))
            gpus = ceil(node["Resources"].get("GPU", 0)) if self.wants_gpu else 0
            task = there.remote(self.config, self.folder.uri, self.note, gpus, self.flag)
            self.asked[task] = {**node, _ASKED: now}

    def answers(self, patience_s: float) -> list[tuple[dict, list[str]]]:
        """Nodes that have answered since, each with what is wrong there; waits for the rest of
        them at most so long."""
        if not self.asked:
            return []
        tasks = list(self.asked)
        done, _ = ray.wait(tasks, num_returns=len(tasks), timeout=patience_s)
        found = []
        for task in done:
            node = self.asked.pop(task)
            wrong = _wrong(task, node, self.fingerprint, self.folder, self.note, self.flag)
            found.append((node, wrong))
        return found


def _delete(folder: Folder, note: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # out of reach: a hidden file stays
        folder.delete(note)


def on(node: dict) -> NodeAffinitySchedulingStrategy:
    """To run on this of Ray's nodes and on no other."""
    return NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)


def look(config: dict, place: str, note: str, gpus: int, flag: str) -> dict[str, Any]:
    """What one node sees; runs there. gpus: how many of its GPUs trials are to use. Returns its
    versions, the fingerprint of its images, what it cannot do, and the time by its clock."""
    problems = []
    folder = Folder(place)
    try:
        if folder.read(f"{note}/driver") != note.encode():
            raise OSError("it holds something else")
        own = f"{note}/{ray.get_runtime_context().get_node_id()}"
        folder.write(own, (_NOTE + note).encode())
    except (OSError, ValueError) as error:
        problems.append(
            f"does not see {flag} {place} as this machine does ({error}): "
            "name a folder that all nodes share, or a URI"
        )
    fingerprint = None
    try:
        fingerprint = preflight.load_data(config).fingerprint()
    except ConfigError as error:
        problems += [f"{error.source}: {problem}" for problem in error.problems]
    if gpus:
        problems += _gpu_problems(gpus)
    return {
        "versions": provenance.versions(),
        "fingerprint": fingerprint,
        "problems": problems,
        "time": time.time(),
    }


def _gpu_problems(count: int) -> list[str]:
    """A GPU that is counted may be dead, without a driver, or of a kind that this PyTorch has no
    code for."""
    if not torch.cuda.is_available():
        return ["Ray counts a GPU there, but PyTorch finds none: see to its driver"]
    there = torch.cuda.device_count()
    problems = [f"Ray counts {count} GPUs there, PyTorch finds {there}"] if there < count else []
    for index in range(min(count, there)):
        try:
            torch.ones(8, device=f"cuda:{index}").sum().item()
        except Exception as error:  # noqa: BLE001 - whatever the driver says
            if not any(words in str(error) for words in _IN_USE):
                problems.append(f"its GPU {index} cannot be used: {first_line(error)}")
    return problems


def _wrong(
    task: ray.ObjectRef, node: dict, fingerprint: str, folder: Folder, note: str, flag: str
) -> list[str]:
    try:
        answer = ray.get(task)
    except ray.exceptions.RayError as error:
        return [f"cannot run our code: {last_line(error)}"]
    found = list(answer["problems"])
    ahead = answer["time"] - time.time()
    behind = node[_ASKED] - answer["time"]
    if (skew := max(ahead, behind)) > _MOST_SKEW_S:
        way = "ahead of" if ahead > behind else "behind"
        found.append(f"its clock is {skew:.0f} s {way} this machine's: set both by NTP")
    here = provenance.versions()
    for package in _DECISIVE:
        if answer["versions"][package] != here[package]:
            found.append(
                f"{package} is {answer['versions'][package]}, {here[package]} on this machine: "
                "install the same requirements.lock on both"
            )
    if answer["fingerprint"] not in (None, fingerprint):
        found.append("its images or labels are not those that this machine has")
    if not found:
        try:
            folder.read(f"{note}/{node['NodeID']}")
        except OSError:
            found.append(
                f"what it writes to {flag} {folder.uri} does not arrive here: "
                "name a folder that all nodes share, or a URI"
            )
    return found
