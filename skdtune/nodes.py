"""Whether every node of a cluster can run the trials: same versions, same storage, the images,
the GPU."""

import contextlib
import time
import uuid
from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from skdtune import capacity, cluster, preflight, provenance, signals
from skdtune.capacity import Slots
from skdtune.errors import ConfigError
from skdtune.settings import Resources
from skdtune.space import SearchSpace
from trainables.storage import Folder

_LISTEN_S = 0.5
_PATIENCE_S = 600.0  # a node may have a data set to download
_DECISIVE = ("python", "torch", "torchvision", "ray")  # our own packages are shipped
_NOTE = "written by "


def prepare(
    space: SearchSpace,
    folder: Folder,
    facts: dict[str, Any],
    address: str,
    wanted: int | None,
    say: Callable[[str], Any] | None = None,
) -> tuple[Resources, Slots, str]:
    """What a trial takes, how many run at once, and a line to print when a trial takes less than
    it asked for; on a cluster once its nodes have been looked at.

    say: prints a line, before a node is waited for; None not to wait. Errors: ConfigError when no
    trial can run, or not on all nodes that it would be sent to."""
    if address == cluster.LOCAL:
        offer = capacity.offered()
        asked, note = capacity.fitted(space.resources, offer, address)
        return asked, Slots(asked, offer, wanted), note
    growth = capacity.growth()
    asked, note = capacity.fitted(space.resources, capacity.offered(), address, growth)
    if say is not None:
        _wait_for_room(asked, say)
    config = space.config(space.first_values(space.first_trials()[0]))
    _check(config, facts["fingerprint"], folder, asked)
    return asked, Slots(asked, capacity.offered(), wanted, growth, follow=True), note


def look(config: dict, place: str, note: str, wants_gpu: bool) -> dict[str, Any]:
    """What one node sees; runs there. Returns its versions, the fingerprint of its images, and
    what it cannot do."""
    import torch

    problems = []
    folder = Folder(place)
    try:
        if folder.read(f"{note}/driver") != note.encode():
            raise OSError("it holds something else")
        own = f"{note}/{ray.get_runtime_context().get_node_id()}"
        folder.write(own, (_NOTE + note).encode())
    except (OSError, ValueError) as error:
        problems.append(
            f"does not see --storage {place} as this machine does ({error}): "
            "name a folder that all nodes share, or a URI"
        )
    fingerprint = None
    try:
        fingerprint = preflight.load_data(config).fingerprint()
    except ConfigError as error:
        problems += [f"{error.source}: {problem}" for problem in error.problems]
    if wants_gpu and not torch.cuda.is_available():
        problems.append("Ray counts a GPU there, but PyTorch finds none: see to its driver")
    return {
        "versions": provenance.versions(),
        "fingerprint": fingerprint,
        "problems": problems,
    }


def _wait_for_room(asked: Resources, say: Callable[[str], Any]) -> None:
    """Returns when a node is there that has room for a trial; asks the autoscaler for one, and
    says so. Errors: Stopped when a signal comes first."""
    if any(capacity.room(asked, node) for node in capacity.offered()):
        return
    say(
        f"no node has {asked.cpu:g} CPU and {asked.gpu:g} GPU for a trial yet: "
        "waiting for the autoscaler to add one"
    )
    task = ray.remote(_nothing).options(num_cpus=asked.cpu, num_gpus=asked.gpu).remote()
    while not ray.wait([task], timeout=_LISTEN_S)[0]:
        signals.check()


def _check(config: dict, fingerprint: str, folder: Folder, asked: Resources) -> None:
    """Looks at every node that trials would run on.

    config: of a trial. fingerprint: of the images as this machine has them. folder: of the study;
    it is written to and left as it was. Errors: ConfigError that names the nodes, what is wrong
    with each, and the mend."""
    nodes = [node for node in ray.nodes() if node["Alive"] and _has_room(asked, node)]
    was_there = folder.exists()
    note = f".nodes-{uuid.uuid4().hex}"
    try:
        folder.write(f"{note}/driver", note.encode())
        problems = _asked(nodes, config, fingerprint, folder, note, asked.gpu > 0)
    except OSError as error:
        raise ConfigError("--storage", [f"{folder.uri} cannot be written: {error}"]) from None
    finally:
        folder.delete(note)
        if folder.local is not None and not was_there:
            with contextlib.suppress(OSError):  # a study has come into it
                folder.local.rmdir()
    if problems:
        raise ConfigError("the cluster's nodes", problems)


def _asked(
    nodes: list[dict], config: dict, fingerprint: str, folder: Folder, note: str, wants_gpu: bool
) -> list[str]:
    """Asks all nodes at once; a line for each thing that is wrong."""
    # once a process: it ends behind it, with the images that it loaded
    once = ray.remote(num_cpus=0, max_calls=1, max_retries=0)(look)
    tasks = {}
    for node in nodes:
        there = once.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        )
        tasks[there.remote(config, folder.uri, note, wants_gpu)] = node
    end = time.monotonic() + _PATIENCE_S
    waiting = list(tasks)
    while waiting and time.monotonic() < end:
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_LISTEN_S)
        signals.check()
    problems = []
    for task, node in tasks.items():
        if task in waiting:
            found = [f"did not answer for {_PATIENCE_S:.0f} s"]
        else:
            found = _wrong(task, node, fingerprint, folder, note)
        problems += [f"{node['NodeManagerAddress']}: {problem}" for problem in found]
    return problems


def _wrong(
    task: ray.ObjectRef, node: dict, fingerprint: str, folder: Folder, note: str
) -> list[str]:
    try:
        answer = ray.get(task)
    except ray.exceptions.RayError as error:
        return [f"cannot run our code: {str(error).strip().splitlines()[-1]}"]
    found = list(answer["problems"])
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
                f"what it writes to --storage {folder.uri} does not arrive here: "
                "name a folder that all nodes share, or a URI"
            )
    return found


def _has_room(asked: Resources, node: dict) -> bool:
    has = node["Resources"]
    return capacity.room(asked, {"cpu": has.get("CPU", 0), "gpu": has.get("GPU", 0)}) > 0


def _nothing() -> None:
    """Takes the room of a trial."""
