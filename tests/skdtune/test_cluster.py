"""Where Ray is, how it is waited for, and how it is left."""

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref

import pytest

from skdtune import cluster, errors, signals
from skdtune.errors import ConfigError
from tests.skdtune.builders import free_port


@pytest.mark.parametrize(
    ("asked", "environment", "expected"),
    [
        (None, None, "local"),
        (None, "auto", "auto"),
        ("h:1", "auto", "h:1"),
        ("local", "auto", "local"),
    ],
)
def test_where_ray_is(monkeypatch, tmp_path, asked, environment, expected):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if environment:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    assert cluster.where(asked) == expected


@pytest.mark.parametrize("environment", ["ray://h:10001", "http://127.0.0.1:8265", "h"])
def test_a_variable_that_is_no_address_is_named(monkeypatch, environment):
    monkeypatch.setenv("RAY_ADDRESS", environment)
    with pytest.raises(ConfigError, match="RAY_ADDRESS: 1 problem") as caught:
        cluster.where(None)
    assert caught.value.problems == [f"{environment!r} is not local, auto or HOST:PORT"]
    assert cluster.where("local") == "local"


def test_a_cluster_that_this_user_has_running_here_is_joined(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    note = tmp_path / "ray" / "ray_current_cluster"
    note.parent.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        note.write_text(address + "\n")
        assert cluster.where(None) == address
        assert cluster.where("local") == "local"
        with monkeypatch.context() as patch:
            patch.setattr(cluster.os, "getuid", lambda: note.stat().st_uid + 1)
            assert cluster.where(None) == "local"  # somebody else's
    assert cluster.where(None) == "local"  # gone, and its note left behind


@pytest.mark.parametrize("text", ["", "nonsense", "host:port", "1.2.3.4"])
def test_a_note_that_names_no_cluster_is_none(monkeypatch, tmp_path, text):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(text)
    assert cluster.where(None) == "local"


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
    monkeypatch.setattr(cluster, "_is_deaf", lambda address: False)
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
    monkeypatch.setattr(cluster, "_is_deaf", lambda address: False)
    with pytest.raises(ConfigError, match="--address h:1") as caught:
        cluster.connect("h:1")
    assert caught.value.problems == ["cannot reach Ray: nobody there"]


def test_a_ray_of_our_own_that_does_not_come_up_is_nobodys_mistake(monkeypatch, capsys):
    def init(**options):
        raise Exception("The current node timed out during startup.")  # as Ray raises it

    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.setattr(errors.signals, "listen", lambda handler: None)  # pytest keeps its own
    with pytest.raises(SystemExit) as caught:
        errors.run(lambda arguments: cluster.connect("local"))
    assert caught.value.code == 1
    said = "cannot start Ray: The current node timed out during startup.\n"
    assert capsys.readouterr().err == said


def test_an_address_where_nothing_listens_is_said_before_ray_tries_for_minutes(monkeypatch):
    monkeypatch.setattr(cluster, "_KNOCK_AGAIN_S", 0.01)
    monkeypatch.setattr(cluster.ray, "init", lambda **options: pytest.fail("Ray was asked"))
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ConfigError, match=address) as caught:
        cluster.connect(address)
    (problem,) = caught.value.problems
    assert problem.startswith("nothing answers there")


def test_a_head_that_comes_up_again_is_given_some_time(monkeypatch):
    monkeypatch.setattr(cluster, "_KNOCK_AGAIN_S", 0.3)
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{head.getsockname()[1]}"
        threading.Timer(0.2, head.listen).start()
        assert not cluster._is_deaf(address)


def test_auto_is_the_cluster_that_was_brought_up_here_even_when_it_is_gone(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert cluster.where("auto") == "auto"
    note = tmp_path / "ray" / "ray_current_cluster"
    note.parent.mkdir()
    note.write_text("127.0.0.1:1\n")
    assert cluster.where("auto") == "127.0.0.1:1"
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster.where(None) == "local"


def test_garbage_is_collected_before_ray_is_left_and_not_meanwhile(monkeypatch):
    class Link:
        pass

    left = Link()
    left.itself = left
    gone, seen = weakref.ref(left), []
    del left

    def shutdown():
        seen.append((gone() is None, gc.isenabled()))
        raise ConnectionError

    monkeypatch.setattr(cluster.ray, "shutdown", shutdown)
    with pytest.raises(ConnectionError):
        cluster.disconnect()
    assert seen == [(True, False)]
    assert gc.isenabled()


_LITTER = """
import gc, threading, time, ray
from skdtune import cluster

class Link: pass

def litter():
    while refs and not ended.is_set():
        link = Link()
        link.itself, link.ref = link, refs.pop()
        del link
        [[] for _ in range(20)]
        time.sleep(0.0002)

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
one, ended = ray.put(0), threading.Event()
refs = [ray.ObjectRef(one.binary()) for _ in range(300_000)]  # a minute's, at the thread's pace
gc.freeze()
gc.set_threshold(5, 1000, 1000)
thread = threading.Thread(target=litter, daemon=True)
thread.start()
cluster.disconnect()
ended.set()
thread.join()
print("left" if refs else "too few references")
"""


@pytest.mark.slow
def test_a_thread_that_makes_garbage_does_not_end_the_program_when_ray_is_left():
    """With a bare `ray.shutdown()` Ray ends the process: 'The core worker has already been
    shutdown'."""
    done = subprocess.run(
        [sys.executable, "-c", _LITTER], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "left\n"), done.stderr
