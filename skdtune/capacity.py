"""What Ray's nodes offer, what a trial takes of it, and how many trials fit, while nodes come and
go."""

import os
import time
from dataclasses import dataclass, replace
from math import floor
from pathlib import Path

import ray
import yaml

from skdtune.cluster import LOCAL
from skdtune.errors import ConfigError
from skdtune.settings import Resources

Node = dict[str, float]  # "cpu", "gpu": how many it has

_LOOK_EVERY_S = 2.0
_UNKNOWN_TRIALS = 4  # asked of an autoscaler that does not say what it may add
_LAUNCHED_WITH = "~/ray_bootstrap_config.yaml"  # on a head that `ray up` started
_AUTOSCALER = b"__autoscaler"


@dataclass(frozen=True)
class Growth:
    """That an autoscaler adds nodes. nodes: all that it may have in the end, None when it does not
    say. on_demand: only for trials that wait for one."""

    nodes: list[Node] | None
    on_demand: bool = True


class Nodes:
    """Ray's nodes as they come and go."""

    def usable(self) -> list[Node]:
        """Those that trials may be sent to at this moment."""
        return offered()

    def doubt(self) -> None:
        """A trial has failed, as it may for the sake of its node."""

    def close(self) -> None:
        """The last call."""


class Slots:
    """How many trials may run at once, at most `wanted`: as many as fit on the nodes of the
    moment, or on those that the autoscaler would add for them.

    follow: the nodes, where they come and go; closed with the slots."""

    def __init__(
        self,
        asked: Resources,
        nodes: list[Node],
        wanted: int | None = None,
        growth: Growth | None = None,
        follow: Nodes | None = None,
    ):
        self.asked, self.wanted, self.growth = asked, wanted, growth
        self._follow = follow
        self._looked = time.monotonic()
        self._count = self._counted(nodes)

    @property
    def most(self) -> int | None:
        """A bound that holds whatever nodes come; None when there is none."""
        return self._count if self._follow is None else self.wanted

    def now(self) -> int:
        """Looks at Ray's nodes every other second, where they can change."""
        if self._follow is not None and time.monotonic() - self._looked > _LOOK_EVERY_S:
            self._count = self._counted(self._follow.usable())
            self._looked = time.monotonic()
        return self._count

    def doubt(self) -> None:
        """A trial has failed, as it may for the sake of its node."""
        if self._follow is not None:
            self._follow.doubt()

    def close(self) -> None:
        """Ends what follows the nodes; once before Ray is disconnected, as often as one likes."""
        if self._follow is not None:
            self._follow.close()

    def _counted(self, nodes: list[Node]) -> int:
        fit = sum(room(self.asked, node) for node in nodes)
        if self.growth and self.growth.on_demand:
            later = self.growth.nodes
            more = fit + max(fit, _UNKNOWN_TRIALS) if later is None else 0
            fit = max(fit, more, sum(room(self.asked, node) for node in later or []))
        return max(1, min(fit, self.wanted or fit))


def offered() -> list[Node]:
    """CPUs and GPUs of each node: of the cluster once connected, of this machine before."""
    if ray.is_initialized():
        return [of(node) for node in ray.nodes() if node["Alive"]]
    import torch

    return [{"cpu": float(os.cpu_count() or 1), "gpu": float(torch.cuda.device_count())}]


def of(node: dict) -> Node:
    """What one of Ray's nodes has."""
    return {kind.lower(): node["Resources"].get(kind, 0) for kind in ("CPU", "GPU")}


def room(asked: Resources, node: Node) -> int:
    """How many trials one node holds; a trial lies on one GPU, never across two."""
    fit = floor(node["cpu"] / asked.cpu + 1e-9)
    if asked.gpu:
        whole = floor(node["gpu"])
        on_gpus = whole * floor(1 / asked.gpu + 1e-9)
        on_gpus += floor((node["gpu"] - whole) / asked.gpu + 1e-9)
        fit = min(fit, on_gpus)
    return fit


def fitted(
    asked: Resources, nodes: list[Node], address: str, growth: Growth | None = None
) -> tuple[Resources, str]:
    """What a trial takes here, and a line to print when that is less than it asked for.

    On a machine of one's own without a GPU a trial takes its CPU. Errors: ConfigError when no
    node has room for a trial, and none that may still be added."""
    note = ""
    if asked.gpu and address == LOCAL and not any(node["gpu"] for node in nodes):
        note = f"resources.gpu: {asked.gpu:g} asked; this machine has none: trials run on its CPU"
        asked = replace(asked, gpu=0)
    if growth and growth.nodes is None:
        return asked, note
    nodes = [*nodes, *(growth.nodes if growth else [])]
    place = "this machine has" if address == LOCAL else "a node of Ray has at most"
    problems = []
    for kind, wanted in (("cpu", asked.cpu), ("gpu", asked.gpu)):
        most = max((node[kind] for node in nodes), default=0)
        if wanted > most:
            problems.append(f"resources.{kind}: a trial asks for {wanted:g}, {place} {most:g}")
    if not problems and not any(room(asked, node) for node in nodes):
        problems.append(
            f"resources: no node has {asked.cpu:g} CPUs and {asked.gpu:g} GPUs together"
        )
    if problems:
        raise ConfigError("resources", problems)
    return asked, note


def even_share(
    asked: Resources, nodes: list[Node], wanted: int | None, grows: bool
) -> tuple[Resources, str]:
    """Raises a trial's share of a GPU, to one over a whole number, as far as each node still has
    room for as many trials; and a line to print when it is another than asked for.

    Ray fills one GPU before it takes the next, so that of two one would idle where a node's cores,
    or the trials `wanted` at once, do not fill both; and it may send a trial to a node whose GPUs
    have room for it only together, where it would never start. grows: whether an autoscaler adds
    nodes; then a larger share could want more of them, and only the second is mended. Of other
    nodes that join, those with more cores a GPU than the first ones get fewer trials than asked
    for."""
    if not 0 < asked.gpu < 1:
        return asked, ""
    together = floor(1 / asked.gpu + 1e-9)
    for count in range(together if grows else 1, together + 1):
        share = floor(1e4 / count) / 1e4  # as exactly as Ray counts
        larger = replace(asked, gpu=share)
        if grows or all(_held(larger, n, wanted) >= _held(asked, n, wanted) for n in nodes):
            break
    else:
        return asked, ""
    if abs(share - asked.gpu) < 1e-3:
        return larger, ""
    return larger, f"resources.gpu: {asked.gpu:g} asked, {share:g} taken: as many trials fit"


def _held(asked: Resources, node: Node, wanted: int | None) -> int:
    fit = room(asked, node)
    return min(fit, wanted or fit)


def growth() -> Growth | None:
    """What Ray's autoscaler may add to the cluster that is connected; None without one."""
    launched = _launched()
    if launched is not None:
        return launched_growth(launched)
    from ray.experimental import internal_kv

    key = b"__autoscaler_v2_enabled"  # Kubernetes: its operator alone knows the node types
    found = internal_kv._internal_kv_get(key, namespace=_AUTOSCALER)
    return Growth(None) if found == b"1" else None


def launched_growth(config: dict) -> Growth:
    """The same of a file that `ray up` took."""
    if config.get("provider", {}).get("type") == "local":  # it starts all that it is told of
        return Growth(None, on_demand=False)
    nodes = []
    for name, kind in config.get("available_node_types", {}).items():
        if name != config.get("head_node_type"):
            has = kind.get("resources", {})
            node = {"cpu": float(has.get("CPU", 0)), "gpu": float(has.get("GPU", 0))}
            nodes += [node] * kind.get("max_workers", config.get("max_workers", 0))
    largest_first = sorted(nodes, key=lambda node: (node["gpu"], node["cpu"]), reverse=True)
    return Growth(largest_first[: config.get("max_workers", len(nodes))])


def _launched() -> dict | None:
    """The file that `ray up` started the connected cluster with, when this machine is its head."""
    head = ray.get_runtime_context().gcs_address.rpartition(":")[0]
    if head != ray.util.get_node_ip_address():
        return None
    try:
        config = yaml.safe_load(Path(_LAUNCHED_WITH).expanduser().read_text())
    except (OSError, yaml.YAMLError):
        return None
    return config if isinstance(config, dict) else None
