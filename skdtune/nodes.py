"""Whether every node of a cluster can run the trials: same versions, same storage, the images,
the GPU."""

import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ray

from skdtune import capacity, cluster, signals
from skdtune.capacity import Slots
from skdtune.errors import ConfigError
from skdtune.inspection import Inspection
from skdtune.newcomers import Newcomers
from skdtune.settings import Resources
from skdtune.space import SearchSpace
from trainables.storage import Folder

_LISTEN_S = 0.5
_PATIENCE_S = 600.0  # a node may have a data set to download
_REMIND_EVERY_S = 300.0
_GIVE_UP_S = 3600.0  # what the autoscaler cannot get or set up it tries again for ever, at a price
WHY = "why, say `ray status` and, on the head, /tmp/ray/session_latest/logs/monitor*"


def prepare(
    space: SearchSpace,
    folder: Folder,
    fingerprint: str,
    address: str,
    wanted: int | None,
    say: Callable[[str], Any],
    wait: bool = True,
    flag: str = "--storage",
) -> tuple[Resources, Slots, str]:
    """What a trial takes, how many run at once, and a line to print when a trial takes other than
    it asked for; on a cluster once its nodes have been looked at.

    fingerprint: of the images that every node must have. say: prints a line, before a node is
    waited for and when one that joins later is left out.
    wait: for a node, when there is none yet, and look at those to come until the slots are closed.
    flag: that names the folder.
    Errors: ConfigError when no trial can run, or not on all nodes that it would be sent to."""
    if address == cluster.LOCAL:
        offer = capacity.offered()
        asked, note = capacity.fitted(space.resources, offer, address)
        asked, shared = capacity.even_share(asked, offer, wanted, grows=False)
        return asked, Slots(asked, offer, wanted), note or shared
    growth = capacity.growth()
    asked, _ = capacity.fitted(space.resources, capacity.offered(), address, growth)
    if wait:
        _wait_for_room(asked, say)
    grows = growth is not None and growth.on_demand
    asked, note = capacity.even_share(asked, capacity.offered(), wanted, grows)
    inspect = partial(Inspection, space.first_config(), fingerprint, folder, asked, flag)
    nodes = [n for n in ray.nodes() if n["Alive"] and capacity.room(asked, capacity.of(n))]
    _check(inspect, folder, nodes, flag)
    offer = capacity.offered()
    if not wait:
        return asked, Slots(asked, offer, wanted, growth), note
    newcomers = Newcomers(inspect, asked, {node["NodeID"] for node in nodes}, say)
    return asked, Slots(asked, offer, wanted, growth, newcomers), note


def _wait_for_room(asked: Resources, say: Callable[[str], Any]) -> None:
    """Returns when a node is there that has room for a trial; asks the autoscaler for one, and
    says so, now and then again. Errors: Stopped when a signal comes first; ConfigError when no
    node comes."""
    if any(capacity.room(asked, node) for node in capacity.offered()):
        return
    say(
        f"no node has {asked.cpu:g} CPU and {asked.gpu:g} GPU for a trial yet: "
        "waiting for the autoscaler to add one"
    )
    task = ray.remote(_nothing).options(num_cpus=asked.cpu, num_gpus=asked.gpu).remote()
    began = told = time.monotonic()
    while not ray.wait([task], timeout=_LISTEN_S)[0]:
        signals.check()
        now = time.monotonic()
        waited = f"{(now - began) / 60:.0f} minutes"
        if now - began >= _GIVE_UP_S:
            problem = f"none that has room for a trial has come in {waited}; {WHY}"
            raise ConfigError("the cluster's nodes", [problem])
        if now - told >= _REMIND_EVERY_S:
            told = now
            say(f"still waiting for a node, {waited} now; {WHY}")


def _check(
    inspect: Callable[[], Inspection], folder: Folder, nodes: list[dict], flag: str = "--storage"
) -> None:
    """Looks at every node that trials would run on.

    folder: of the study; it is written to and left as it was. Errors: ConfigError that names the
    nodes, what is wrong with each, and the mend."""
    was_there = folder.exists()
    inspection = None
    try:
        inspection = inspect()
        inspection.begin(nodes)
        answers = []
        while inspection.asked and time.monotonic() - inspection.began < _PATIENCE_S:
            answers += inspection.answers(_LISTEN_S)
            signals.check()
        late = [f"did not answer for {_PATIENCE_S:.0f} s"]
        answers += [(node, late) for node in inspection.asked.values()]
    except OSError as error:
        raise ConfigError(flag, [f"{folder.uri} cannot be written: {error}"]) from None
    finally:
        if inspection is not None:
            inspection.close()
        if folder.local is not None and not was_there:
            with contextlib.suppress(OSError):  # a study has come into it
                folder.local.rmdir()
    problems = [
        f"{node['NodeManagerAddress']}: {problem}" for node, found in answers for problem in found
    ]
    if problems:
        raise ConfigError("the cluster's nodes", problems)


def _nothing() -> None:
    """Takes the room of a trial."""
