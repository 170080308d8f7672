"""Nodes that join a search that runs, and those where a trial has failed: looked at as the first
ones were, and left out while they cannot run a trial."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle

from skdtune import capacity
from skdtune.capacity import Node, Nodes
from skdtune.inspection import Inspection, on
from skdtune.settings import Resources

_LOOK_EVERY_S = 2.0
_ASK_AGAIN_S = 120.0  # one that is left out, for what it lacks may have come, and one in doubt
_PATIENCE_S = 600.0  # a node may have a data set to download; then it is waited for no longer
_END_S = 10.0


@dataclass
class _LeftOut:
    """places: the processes that take its room. asked: when it was asked last."""

    places: list[ActorHandle]
    asked: float


class Newcomers(Nodes):
    """Looks at nodes in a thread of its own, so that no storage that hangs holds the search up.

    A node is used from when it joins, and until it is found wanting. What is wrong with it is told,
    and the room that it has for trials is taken by processes that do nothing; a trial that has
    begun there comes to its end or fails for the node's sake, and is run again elsewhere. It is
    asked again every two minutes, and given back its room when all is well.
    inspect: begins an inspection. asked: what a trial takes. known: ids of nodes that were looked
    at before. say: prints a line."""

    def __init__(
        self,
        inspect: Callable[[], Inspection],
        asked: Resources,
        known: set[str],
        say: Callable[[str], Any],
    ):
        self.inspect, self.asked, self.known, self.say = inspect, asked, known, say
        self.inspections: list[Inspection] = []  # not yet answered
        self.left_out: dict[str, _LeftOut] = {}
        self._in_doubt = False
        self._doubted = -_ASK_AGAIN_S
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="newcomers", daemon=True)
        self._thread.start()

    def usable(self) -> list[Node]:
        alive = [node for node in ray.nodes() if node["Alive"]]
        return [capacity.of(node) for node in alive if node["NodeID"] not in self.left_out]

    def doubt(self) -> None:
        """A trial has failed, as it may for the sake of its node: all are looked at once more."""
        self._in_doubt = True

    def close(self) -> None:
        """Looks at none any more. To be called while Ray is connected."""
        self._closed.set()
        self._thread.join(_END_S)

    def _run(self) -> None:
        while not self._closed.wait(_LOOK_EVERY_S):
            try:
                alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
                self._hear(alive)
                self._ask(alive)
            except (OSError, ValueError, ray.exceptions.RayError):
                continue  # the storage or the head is out of reach: another time
        for inspection in self.inspections:
            inspection.close()

    def _hear(self, alive: dict[str, dict]) -> None:
        for inspection in list(self.inspections):
            for node, problems in inspection.answers(0):
                if node["NodeID"] in alive and not self._closed.is_set():
                    self._judge(node, problems)
            if not inspection.asked or time.monotonic() - inspection.began > _PATIENCE_S:
                inspection.close()
                self.inspections.remove(inspection)

    def _ask(self, alive: dict[str, dict]) -> None:
        now = time.monotonic()
        if self._in_doubt and now - self._doubted > _ASK_AGAIN_S:
            self._in_doubt, self._doubted = False, now
            self.known &= self.left_out.keys()
        again = {key for key, out in self.left_out.items() if now - out.asked > _ASK_AGAIN_S}
        asked = [node for key, node in alive.items() if key not in self.known or key in again]
        asked = [node for node in asked if capacity.room(self.asked, capacity.of(node))]
        if not asked:
            return
        inspection = self.inspect()
        self.inspections.append(inspection)
        if self._closed.is_set():  # the storage hung; a task would start a Ray that is gone again
            return
        inspection.begin(asked)
        self.known |= {node["NodeID"] for node in asked}
        for key in again:
            self.left_out[key].asked = now

    def _judge(self, node: dict, problems: list[str]) -> None:
        key, address = node["NodeID"], node["NodeManagerAddress"]
        out = self.left_out.get(key)
        if problems and out is None:
            place = _placeholder().options(
                num_cpus=self.asked.cpu, num_gpus=self.asked.gpu, scheduling_strategy=on(node)
            )
            count = capacity.room(self.asked, capacity.of(node))
            places = [place.remote() for _ in range(count)]
            self.left_out[key] = _LeftOut(places, time.monotonic())
            self.say(f"{address} is left out: {'; '.join(problems)}")
        elif out is not None and not problems:
            del self.left_out[key]
            for taken in out.places:
                ray.kill(taken)
            self.say(f"{address} is well now and used again")


def _placeholder() -> ray.actor.ActorClass:
    """Takes the room of a trial. A class in a function goes to the node as a whole: it can be
    there where our packages cannot be imported."""

    class Place:
        pass

    return ray.remote(max_restarts=-1)(Place)
