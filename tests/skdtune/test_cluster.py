"""What a trial takes and how many fit, from tables, and how Ray is waited for; Ray is not
started."""

import os
import signal
import threading
import time

import pytest
import ray

from skdtune import cluster, signals
from skdtune.errors import ConfigError
from skdtune.settings import Resources


def offer(cpu: float, gpu: float = 0) -> list[dict[str, float]]:
    """One node."""
    return [{"cpu": cpu, "gpu": gpu}]


@pytest.mark.parametrize(
    ("asked", "offered", "address", "expected"),
    [
        ((1, 0), (2, 0), "local", (1, 0)),
        ((2, 0), (2, 0), "local", (2, 0)),
        ((1, 0.25), (4, 1), "local", (1, 0.25)),
        ((1, 1), (4, 2), "auto", (1, 1)),
        ((0.5, 0), (1, 8), "10.0.0.1:6379", (0.5, 0)),
    ],
)
def test_what_fits_is_taken_as_asked(asked, offered, address, expected):
    resources, note = cluster.fitted(
        Resources(cpu=asked[0], gpu=asked[1]), offer(*offered), address
    )
    assert (resources.cpu, resources.gpu) == expected
    assert note == ""


def test_on_a_machine_of_ones_own_without_a_gpu_a_trial_takes_its_cpu_and_says_so():
    resources, note = cluster.fitted(Resources(cpu=2, gpu=0.25), offer(4), "local")
    assert (resources.cpu, resources.gpu) == (2, 0)
    assert note.startswith("resources.gpu: 0.25 asked; this machine has none")


@pytest.mark.parametrize(
    ("asked", "offered", "address", "problems"),
    [
        ((3, 0), (2, 0), "local", ["resources.cpu: a trial asks for 3, this machine has 2"]),
        (
            (1, 1),
            (4, 0),
            "auto",
            ["resources.gpu: a trial asks for 1, a node of Ray has at most 0"],
        ),
        ((1, 2), (4, 1), "local", ["resources.gpu: a trial asks for 2, this machine has 1"]),
        (
            (8, 2),
            (4, 1),
            "h:1",
            [
                "resources.cpu: a trial asks for 8, a node of Ray has at most 4",
                "resources.gpu: a trial asks for 2, a node of Ray has at most 1",
            ],
        ),
        ((8, 2), (4, 0), "local", ["resources.cpu: a trial asks for 8, this machine has 4"]),
    ],
)
def test_a_trial_that_fits_nowhere_is_refused_with_every_shortage(
    asked, offered, address, problems
):
    with pytest.raises(ConfigError) as caught:
        cluster.fitted(Resources(cpu=asked[0], gpu=asked[1]), offer(*offered), address)
    assert caught.value.problems == problems


@pytest.mark.parametrize(
    ("asked", "offered", "wanted", "expected"),
    [
        ((1, 0), (2, 0), None, 2),
        ((1, 0), (2, 0), 1, 1),
        ((1, 0), (2, 0), 9, 2),
        ((2, 0), (5, 0), None, 2),
        ((0.1, 0), (0.3, 0), None, 3),
        ((0.5, 0), (2, 8), None, 4),
        ((1, 0.25), (8, 1), None, 4),
        ((1, 0.1), (64, 0.3), None, 3),
        ((2, 1), (3, 8), None, 1),
        ((1, 1), (64, 8), 4, 4),
    ],
)
def test_as_many_run_at_once_as_fit_at_most_as_wanted(asked, offered, wanted, expected):
    resources = Resources(cpu=asked[0], gpu=asked[1])
    assert cluster.concurrency(resources, offer(*offered), wanted) == expected


@pytest.mark.parametrize(
    ("asked", "environment", "expected"),
    [
        (None, None, "local"),
        (None, "auto", "auto"),
        ("h:1", "auto", "h:1"),
        ("local", "auto", "local"),
    ],
)
def test_where_ray_is(monkeypatch, asked, environment, expected):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if environment:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    assert cluster.where(asked) == expected


def test_before_ray_is_there_the_machine_is_what_is_offered():
    assert not ray.is_initialized()
    (found,) = cluster.offered()
    assert found["cpu"] >= 1
    assert found["gpu"] >= 0


def test_a_trial_lies_on_one_node_and_on_one_gpu():
    nodes = [*offer(3), *offer(3)]
    assert cluster.concurrency(Resources(cpu=2), nodes, None) == 2
    assert cluster.concurrency(Resources(cpu=1, gpu=0.6), offer(16, 4), None) == 4
    with pytest.raises(ConfigError, match="a node of Ray has at most 3"):
        cluster.fitted(Resources(cpu=4), nodes, "auto")
    with pytest.raises(ConfigError, match="no node has 2 CPUs and 1 GPUs together"):
        cluster.fitted(Resources(cpu=2, gpu=1), [*offer(8), *offer(1, 1)], "auto")


def test_the_packages_that_are_shipped_are_folders_of_code():
    from pathlib import Path

    names = {Path(place).name for place in cluster._packages()}
    assert names == {"skdtune", "trainables", "search_spaces"}
    assert all((Path(place) / "__init__.py").is_file() for place in cluster._packages())


@pytest.fixture
def slow_ray(monkeypatch, fresh_signals):
    """A Ray that is there when the event is set, and a signal that comes before."""
    signals.listen(signals.stop)
    ready = threading.Event()

    def init(**options):
        assert threading.current_thread() is not threading.main_thread()
        os.kill(os.getpid(), signal.SIGTERM)
        ready.wait()

    monkeypatch.setattr(cluster.ray, "init", init)
    yield ready
    ready.set()


@pytest.mark.parametrize("address", ["local", "10.0.0.1:6379"])
def test_a_signal_is_not_held_up_by_a_ray_that_does_not_come(slow_ray, monkeypatch, address):
    monkeypatch.setattr(cluster, "_PATIENCE_S", 0.2)
    began = time.monotonic()
    with pytest.raises(signals.Stopped, match="SIGTERM"), signals.deferred():
        cluster.connect(address)
    assert time.monotonic() - began < 5


def test_a_ray_of_our_own_that_is_starting_is_waited_for_so_that_it_can_be_ended(slow_ray):
    threading.Timer(0.3, slow_ray.set).start()
    with signals.deferred():
        cluster.connect("local")
    assert slow_ray.is_set()
    assert signals.received() == signal.SIGTERM


def test_what_keeps_ray_from_starting_is_said(monkeypatch):
    def init(**options):
        raise ConnectionError("nobody there\nand more")

    monkeypatch.setattr(cluster.ray, "init", init)
    with pytest.raises(ConfigError, match="--address h:1") as caught:
        cluster.connect("h:1")
    assert caught.value.problems == ["cannot reach Ray: nobody there"]
