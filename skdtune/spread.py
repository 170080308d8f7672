"""A final training on Ray's nodes: as many of its runs at once as fit."""

import contextlib
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.actor import ActorHandle

from skdtune import capacity, cluster, final, final_run, mps, nodes, preflight, records, signals
from skdtune.capacity import Slots
from skdtune.errors import ConfigError, last_line
from skdtune.final import PAUSES_S, Desk
from skdtune.records import Record, Study
from skdtune.settings import Resources
from skdtune.space import SearchSpace
from trainables import data
from trainables.attempts import MOST_RETRIES, MOST_RETRIES_WITHOUT_MEMORY
from trainables.classifier import explained, is_passing
from trainables.storage import Folder
from trainables.watchdog import SILENCE_S, Watchdog

_LISTEN_S = 0.5


class Runner:
    """One run in a process of Ray's. A process that hangs ends itself.

    task: see `final_run.task`. threads: of the CPU. is_on_gpu: whether it has one."""

    def __init__(self, task: dict[str, Any], threads: int, is_on_gpu: bool, silence_s: float):
        torch.set_num_threads(threads)
        self.watchdog = Watchdog(silence_s)
        device = torch.device("cuda" if is_on_gpu else "cpu")
        self.events = final_run.events(task, device, self.watchdog.beat)

    def next(self) -> dict[str, Any] | None:
        """The next event, with the node it comes from; a last one with a `status` when the run
        failed; None once it is done. Errors: what another process may do better."""
        self.watchdog.beat()
        try:
            event = next(self.events, None)
            return event and {**event, "node": ray.get_runtime_context().get_node_id()}
        except Exception as error:
            if is_passing(error) or isinstance(error, torch.OutOfMemoryError):
                raise  # without its neighbours it may fit
            return final_run.failure(error)
        finally:
            self.watchdog.rest()


@dataclass(frozen=True)
class Room:
    """resources: of one run. line: where they run and how many at a time, to print."""

    resources: Resources
    slots: Slots
    line: str


def is_of_use(space: SearchSpace, address: str, runs: int) -> bool:
    """Whether Ray is wanted for so many runs: on a cluster, or for a machine that holds several of
    them at once."""
    if address != cluster.LOCAL:
        return True
    if runs == 1:
        return False
    offer = capacity.offered()
    try:
        asked, _ = capacity.fitted(space.resources, offer, address)
    except ConfigError:  # a smaller machine than the search had: one alone may take what there is
        return False
    return Slots(asked, offer).now() > 1


@contextlib.contextmanager
def connected(
    space: SearchSpace, folder: Folder, address: str, runs: int, say: Callable[[str], Any]
) -> Iterator[Room]:
    """Ray, with nodes that can run the space's config and see the folder. runs: how many are to be
    trained. Errors: ConfigError."""
    local = address == cluster.LOCAL
    fingerprint = ""
    if not local:
        fingerprint = preflight.load_data(space.fixed).fingerprint()
        data.forget()  # the driver trains nothing
    shares = local and 0 < space.resources.gpu < 1
    with signals.deferred(), mps.serving(shares):
        cluster.connect(address)
        try:
            asked, slots, note = nodes.prepare(
                space, folder, fingerprint, address, runs, say, flag="--output"
            )
            if note:
                say(note)
            where = "this machine" if local else cluster.joined()
            with contextlib.closing(slots):
                yield Room(asked, slots, f"{slots.now()} at a time on {where}")
        finally:
            cluster.disconnect()


def train(study: Study, wanted: list[Record], desk: Desk, room: Room) -> None:
    """`final.train`, spread. A run whose process dies goes on in another from its last checkpoint,
    a few times in one epoch; one whose node is gone as often as it takes.

    Errors: KeyboardInterrupt when the program is stopped, cluster.Lost when Ray has died, each with
    the study resumable."""
    waiting = deque(record for record in wanted if not record.has_ended)
    running: dict[ray.ObjectRef, tuple[Record, ActorHandle]] = {}
    places: dict[str, str] = {}  # of each run, the node it was heard from last
    retries, watch = _Retries(), cluster.Watch()
    try:
        while waiting or running:
            signals.check()
            watch.check()
            for record in _next(waiting, desk, retries, room.slots.now() - len(running)):
                actor = _start(study, record, room.resources)
                desk.begin(record)
                running[actor.next.remote()] = record, actor
            if not running:  # what is left has to pause, or to find a node
                time.sleep(_LISTEN_S)
                continue
            done, _ = ray.wait(list(running), timeout=_LISTEN_S)
            for heard in done:
                record, actor = running.pop(heard)
                try:
                    event = ray.get(heard)
                except ray.exceptions.RayError as error:
                    ray.kill(actor)
                    cause = getattr(error, "cause", None) or error
                    if not isinstance(cause, torch.OutOfMemoryError):
                        room.slots.doubt()
                    if retries.grant(record, cause, _is_alive(places.pop(record.key, None))):
                        waiting.appendleft(record)
                    elif cause is error:
                        desk.end(record, records.FAILED, f"its process died: {last_line(error)}")
                    else:
                        desk.end(record, records.FAILED, explained(cause))
                    continue
                if event is None or "status" in event:
                    ray.kill(actor)
                    desk.end(record, **(event or {}))
                else:
                    places[record.key] = event["node"]
                    desk.tell(record, event)
                    running[actor.next.remote()] = record, actor
    finally:
        for _, actor in running.values():
            ray.kill(actor)
    final.write_result(study)


class _Retries:
    """How often each run has failed in one epoch, and from when on it may be tried again."""

    def __init__(self):
        self.failures: Counter[tuple[str, int]] = Counter()
        self.not_before: dict[str, float] = {}

    def grant(self, record: Record, cause: Exception, is_node_alive: bool) -> bool:
        """Whether the run is tried again, after a pause unless its node is gone, which is no fault
        of its own."""
        if not is_node_alive:
            return True
        place = record.key, record.epoch
        self.failures[place] += 1
        lacks_memory = isinstance(cause, torch.OutOfMemoryError)
        most = MOST_RETRIES_WITHOUT_MEMORY if lacks_memory else MOST_RETRIES
        if self.failures[place] > most:
            return False
        pause_s = PAUSES_S[min(self.failures[place], len(PAUSES_S)) - 1]
        self.not_before[record.key] = time.monotonic() + pause_s
        return True

    def may_start(self, record: Record) -> bool:
        return time.monotonic() >= self.not_before.get(record.key, 0.0)


def _next(waiting: deque[Record], desk: Desk, retries: _Retries, count: int) -> list[Record]:
    """Takes so many out that can be started now; those that never can are dropped."""
    found = []
    for record in list(waiting):
        waits = desk.waits(record)
        if waits is None:
            waiting.remove(record)
        elif not waits and retries.may_start(record) and len(found) < count:
            waiting.remove(record)
            found.append(record)
    return found


def _start(study: Study, record: Record, asked: Resources) -> ActorHandle:
    runner = ray.remote(num_cpus=asked.cpu, num_gpus=asked.gpu)(Runner)
    task, threads = final_run.task(study, record), max(1, math.ceil(asked.cpu))
    return runner.remote(task, threads, asked.gpu > 0, SILENCE_S)


def _is_alive(node: str | None) -> bool:
    """None: of a process that never said where it was."""
    return node is None or any(n["NodeID"] == node and n["Alive"] for n in ray.nodes())
