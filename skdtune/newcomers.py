"""Nodes that join a search that runs: looked at as the first ones were, and left out when they
cannot run a trial."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import ray

from skdtune import capacity
from skdtune.capacity import Node
from skdtune.inspection import Inspection, on
from skdtune.settings import Resources

_PATIENCE_S = 600.0  # a node may have a data set to download; then it is asked no longer


class Newcomers:
    """Never waits: it goes on whenever it is asked for the nodes.

    A node is used from when it joins. What is wrong with it is told once, and the room that it has
    for trials is taken by processes that do nothing, which end with the search; a trial that ran
    there comes to its end or fails for the node's sake, and is run again elsewhere.
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
        self.left_out: dict[str, list[ray.actor.ActorHandle]] = {}  # and what takes their room

    def usable(self) -> list[Node]:
        """The nodes of the moment without those that are left out."""
        alive = [node for node in ray.nodes() if node["Alive"]]
        self._hear(alive)
        self._ask(alive)
        return [capacity.of(node) for node in alive if node["NodeID"] not in self.left_out]

    def _hear(self, alive: list[dict]) -> None:
        ids = {node["NodeID"] for node in alive}
        for inspection in list(self.inspections):
            for node, problems in inspection.answers(0):
                if problems and node["NodeID"] in ids:  # else it has gone meanwhile
                    self._leave_out(node, problems)
            if not inspection.asked or time.monotonic() - inspection.began > _PATIENCE_S:
                inspection.close()
                self.inspections.remove(inspection)

    def _ask(self, alive: list[dict]) -> None:
        new = [node for node in alive if node["NodeID"] not in self.known]
        new = [node for node in new if capacity.room(self.asked, capacity.of(node))]
        if not new:
            return
        with contextlib.suppress(OSError):  # the storage is out of reach: another time
            inspection = self.inspect()
            inspection.begin(new)
            self.inspections.append(inspection)
            self.known |= {node["NodeID"] for node in new}

    def _leave_out(self, node: dict, problems: list[str]) -> None:
        self.say(f"{node['NodeManagerAddress']} has joined and is left out: {'; '.join(problems)}")
        place = ray.remote(_Place).options(
            num_cpus=self.asked.cpu, num_gpus=self.asked.gpu, scheduling_strategy=on(node)
        )
        count = capacity.room(self.asked, capacity.of(node))
        self.left_out[node["NodeID"]] = [place.remote() for _ in range(count)]


class _Place:
    """Takes the room of a trial."""
