"""Ray: where it is, and how it is started or joined."""

import gc
import os
import socket
import threading
import time
from concurrent import futures
from pathlib import Path

import ray

from skdtune import flags, signals
from skdtune.errors import ConfigError, NotStarted, first_line

LOCAL = "local"
_VARIABLE = "RAY_ADDRESS"
_LISTEN_EVERY_S = 0.1
_KNOCK_S = 2.0
_KNOCKS, _KNOCK_AGAIN_S = 3, 1.0
_PATIENCE_S = 10.0  # after a signal, with a Ray of our own that is starting
_OBJECT_STORE_BYTES = 256 * 2**20  # trials exchange configs and metrics, no data
_LOOK_EVERY_S = 5.0  # whether Ray lives


def where(address: str | None) -> str:
    """The address to use: the one asked for, else RAY_ADDRESS, else the cluster that this user has
    brought up on this machine, else a Ray of our own. Never one that another program started for
    itself. Errors: ConfigError for a RAY_ADDRESS that is none."""
    asked = address or os.environ.get(_VARIABLE)
    if asked and not address:
        try:
            flags.address(asked)
        except ValueError as error:
            raise ConfigError(_VARIABLE, [str(error)]) from None
    if asked == "auto":  # Ray would try a head that is gone for minutes
        return _noted() or asked
    return asked or _running() or LOCAL


def connect(address: str) -> None:
    """Starts or joins Ray and ships our packages to its nodes. Errors: ConfigError when it
    cannot be reached, NotStarted when one of our own does not come up, Stopped when a signal comes
    first."""
    if _is_deaf(address):  # Ray itself would try for minutes
        problem = "nothing answers there: is its head up, and its port open to this machine?"
        raise ConfigError(f"--address {address}", [problem])
    options = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    if address == LOCAL:
        options |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    else:
        options |= {"runtime_env": {"py_modules": _packages()}}
    started = futures.Future()
    threading.Thread(target=_start, args=(options, started), name="ray", daemon=True).start()
    while not started.done() and signals.received() is None:
        futures.wait([started], _LISTEN_EVERY_S)
    if address == LOCAL:  # stopped half-way it would leave processes behind
        futures.wait([started], _PATIENCE_S)
    if not started.done():
        signals.check()
    try:
        started.result()
    except ray.exceptions.AuthenticationError:
        problem = (
            "its token is not the one here: put that of its head into ~/.ray/auth_token "
            "and set RAY_AUTH_MODE=token"
        )
        raise ConfigError(f"--address {address}", [problem]) from None
    except Exception as error:  # noqa: BLE001 - Ray raises that very class, among others
        what = first_line(error)
        if address == LOCAL:
            raise NotStarted(f"cannot start Ray: {what}") from None
        raise ConfigError(f"--address {address}", [f"cannot reach Ray: {what}"]) from None


def disconnect() -> None:
    """Leaves the cluster, or ends a Ray of our own; as often as one likes.

    What Tune leaves behind is a cycle with an object reference of every trial. It goes first, and
    no garbage is collected meanwhile: a thread that came upon a reference while Ray's core goes
    down would end the whole process, with status 1."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        gc.collect()
        ray.shutdown()
    finally:
        if was_on:
            gc.enable()


class Lost(Exception):
    """Ray has died on this machine."""


class Watch:
    """Looks every few seconds whether Ray still lives on this machine: who waits for its processes
    would wait for ever."""

    def __init__(self):
        self._looked = time.monotonic()

    def check(self) -> None:
        """Errors: Lost."""
        if time.monotonic() - self._looked > _LOOK_EVERY_S:
            self._looked = time.monotonic()
            if _is_lost():
                raise Lost("Ray has died on this machine")


def _is_lost() -> bool:
    """Whether the node that this process belongs to is gone from the cluster it is connected to;
    a head that does not answer says nothing of that."""
    own = ray.get_runtime_context().get_node_id()
    try:
        found = ray.nodes()
    except (ray.exceptions.RayError, RuntimeError, OSError):
        return False
    return not any(node["Alive"] and node["NodeID"] == own for node in found)


def joined() -> str:
    """Which cluster is connected, for a person to read."""
    alive = sum(node["Alive"] for node in ray.nodes())
    return f"the Ray cluster at {ray.get_runtime_context().gcs_address}, of {alive} nodes"


def _running() -> str | None:
    """Address of the cluster that `ray start` of this user has left running here."""
    try:
        if _note().stat().st_uid != os.getuid():
            return None
        address = _noted()
        _knock(address or "")
    except (OSError, ValueError):  # none was started, or it is gone
        return None
    return address


def _noted() -> str | None:
    """Address of the cluster that `ray start` brought up here last."""
    try:
        return _note().read_text().strip()
    except OSError:
        return None


def _note() -> Path:
    return Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")


def _is_deaf(address: str) -> bool:
    """Whether nothing listens at HOST:PORT; a head that is being brought up again gets some
    time."""
    for attempt in range(_KNOCKS):
        time.sleep(attempt and _KNOCK_AGAIN_S)
        signals.check()
        try:
            _knock(address)
        except ValueError:  # `local`, `auto`: it is for Ray to find
            return False
        except OSError:
            continue
        return False
    return True


def _knock(address: str) -> None:
    """Errors: ValueError for what is no HOST:PORT, OSError when nothing listens there."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), _KNOCK_S).close()


def _start(options: dict, started: futures.Future) -> None:
    """For a thread of its own: in the main one `ray.init` takes SIGTERM over, crashes the program
    later on when a signal raises in its midst, and hears none while it looks for a cluster."""
    try:
        started.set_result(ray.init(**options))
    except BaseException as error:  # noqa: BLE001 - whoever waits raises it
        started.set_exception(error)
    threading.Event().wait()  # for ever: Ray's processes die with the thread that started them


def _packages() -> list[str]:
    import search_spaces
    import trainables

    # not skdtune.__file__: where a folder of that name lies in the working folder it has none
    others = [Path(package.__file__).parent for package in (trainables, search_spaces)]
    return [str(Path(__file__).parent), *map(str, others)]
