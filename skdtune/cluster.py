"""Ray: where it is, what it offers a trial, how many trials fit."""

import os
import threading
from concurrent import futures
from dataclasses import replace
from math import floor
from pathlib import Path

import ray

from skdtune import signals
from skdtune.errors import ConfigError
from skdtune.settings import Resources

LOCAL = "local"
_LISTEN_EVERY_S = 0.1
_PATIENCE_S = 10.0  # after a signal, with a Ray of our own that is starting
_OBJECT_STORE_BYTES = 256 * 2**20  # trials exchange configs and metrics, no data


def where(address: str | None) -> str:
    """The address to use: the one asked for, else RAY_ADDRESS, else a Ray of our own on this
    machine. Never a cluster that just happens to run here."""
    return address or os.environ.get("RAY_ADDRESS") or LOCAL


def connect(address: str) -> None:
    """Starts or joins Ray and ships our packages to its nodes. Errors: ConfigError when it
    cannot be reached, Stopped when a signal comes first."""
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
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"--address {address}", [f"cannot reach Ray: {first}"]) from None


def _start(options: dict, started: futures.Future) -> None:
    """For a thread of its own: in the main one `ray.init` takes SIGTERM over, crashes the program
    later on when a signal raises in its midst, and hears none while it looks for a cluster."""
    try:
        started.set_result(ray.init(**options))
    except BaseException as error:  # noqa: BLE001 - whoever waits raises it
        started.set_exception(error)
    threading.Event().wait()  # for ever: Ray's processes die with the thread that started them


def offered() -> list[dict[str, float]]:
    """CPUs and GPUs of each node: of the cluster once connected, of this machine before."""
    if ray.is_initialized():
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return [{"cpu": node.get("CPU", 0), "gpu": node.get("GPU", 0)} for node in nodes]
    import torch

    return [{"cpu": float(os.cpu_count() or 1), "gpu": float(torch.cuda.device_count())}]


def fitted(asked: Resources, nodes: list[dict[str, float]], address: str) -> tuple[Resources, str]:
    """What a trial takes here, and a line to print when that is less than it asked for.

    On a machine of one's own without a GPU a trial takes its CPU. Errors: ConfigError when no
    node has room for a trial."""
    note = ""
    if asked.gpu and address == LOCAL and not any(node["gpu"] for node in nodes):
        note = f"resources.gpu: {asked.gpu:g} asked; this machine has none: trials run on its CPU"
        asked = replace(asked, gpu=0)
    place = "this machine has" if address == LOCAL else "a node of Ray has at most"
    problems = []
    for kind, wanted in (("cpu", asked.cpu), ("gpu", asked.gpu)):
        most = max((node[kind] for node in nodes), default=0)
        if wanted > most:
            problems.append(f"resources.{kind}: a trial asks for {wanted:g}, {place} {most:g}")
    if not problems and not any(_room(asked, node) for node in nodes):
        problems.append(
            f"resources: no node has {asked.cpu:g} CPUs and {asked.gpu:g} GPUs together"
        )
    if problems:
        raise ConfigError("resources", problems)
    return asked, note


def concurrency(asked: Resources, nodes: list[dict[str, float]], wanted: int | None) -> int:
    """How many trials run at once: as many as fit, at most `wanted`."""
    fit = sum(_room(asked, node) for node in nodes)
    return max(1, min(fit, wanted or fit))


def _room(asked: Resources, node: dict[str, float]) -> int:
    """How many trials one node holds; a trial lies on one GPU, never across two."""
    fit = floor(node["cpu"] / asked.cpu + 1e-9)
    if asked.gpu:
        whole = floor(node["gpu"])
        on_gpus = whole * floor(1 / asked.gpu + 1e-9)
        on_gpus += floor((node["gpu"] - whole) / asked.gpu + 1e-9)
        fit = min(fit, on_gpus)
    return fit


def _packages() -> list[str]:
    import search_spaces
    import skdtune
    import trainables

    return [str(Path(package.__file__).parent) for package in (skdtune, trainables, search_spaces)]
