"""A process that stands still ends and says where; one that only waits between epochs does not."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.programs import killed_after, state, wait_for
from tests.trainables.trials import given
from trainables import watchdog

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("quick_collection")

FAULTY = """
import ctypes, os, signal, sys
from trainables.classifier import ClassifierTrial
from trainables.methods.cross_entropy import CrossEntropy
from tests.trainables.trials import given
from trainables import watchdog

losses, calls = CrossEntropy.losses, []

def stuck(self, images, labels):
    calls.append(1)
    if len(calls) == int(sys.argv[2]):
        {fault}
    return losses(self, images, labels)

CrossEntropy.losses = stuck
run = given(sys.argv[1])
run["trial"]["method"] = {"name": "cross_entropy"}
run["run"]["silence_s"] = 2.0
watchdog._GRACE_S = 1.0
ClassifierTrial(run).train()
"""


HANGS_IN_C = "ctypes.PyDLL(None).sleep(600)"  # with Python's lock held
IS_STOPPED = "os.kill(os.getpid(), signal.SIGSTOP)"


def ended(fault: str, batch: int, folder: Path, log: Path) -> int:
    """The exit code of a trial's process to which that happens in that batch."""
    began = time.monotonic()
    with log.open("wb") as errors:  # as Ray has one of each process
        done = subprocess.run(
            [sys.executable, "-c", FAULTY.replace("{fault}", fault), str(folder), str(batch)],
            env={**os.environ, "HOME": str(folder)},
            stderr=errors,
            timeout=120,
            check=False,
        )
    assert time.monotonic() - began < 100
    return done.returncode


@pytest.mark.parametrize("batch", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_process_that_stands_still_ends_and_where_is_kept_with_the_study(start, tmp_path, batch):
    assert ended(HANGS_IN_C, batch, tmp_path, tmp_path / "worker.err") == 1
    result = start(given(tmp_path)).train()
    told = "its process stood still and was ended; stood_still/k1.txt says where"
    assert result["warnings"] == [told]
    dump = (tmp_path / "stood_still" / "k1.txt").read_text()
    assert dump.startswith("Timeout (0:00:02)!")
    assert "in stuck" in dump
    resumed = given(tmp_path, after=1, session="s2")  # who ends with its driver is not told of
    assert start(resumed).train()["warnings"] == []


@pytest.mark.slow
def test_a_process_that_is_stopped_is_killed_and_its_trial_tried_again(start, tmp_path):
    log = tmp_path / "worker.err"
    assert ended(IS_STOPPED, 2, tmp_path, log) == -signal.SIGKILL
    told = "its process died, or stood still and was ended"
    where = f"its log is {log} on {socket.gethostname()}"
    assert start(given(tmp_path)).train()["warnings"] == [f"{told}; {where}"]


WATCHED = """
import os, signal, time
from trainables import watchdog

watchdog._GRACE_S = 0.1
watched = watchdog.Watchdog(0.3)
with watched.pausable():
    watched.beat()
    {then}
    time.sleep(0.1)  # until the clock in C runs
    os.kill(os.getpid(), signal.{signal})
    watched.beat()
watched.rest()
"""


@pytest.mark.parametrize(
    ("then", "number", "stays"),
    [("", "SIGSTOP", False), ("watched.rest()", "SIGSTOP", True), ("", "SIGTSTP", True)],
)
def test_who_is_stopped_at_work_is_killed_who_rests_or_is_paused_goes_on(then, number, stays):
    """The last is Ctrl-Z."""
    code = WATCHED.replace("{then}", then).replace("{signal}", number)
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True)
    with killed_after(process):
        if not stays:
            assert process.wait(60) == -signal.SIGKILL
            return
        wait_for(lambda: state(process.pid) == "T", 60, "it to stop")
        time.sleep(1.0)
        assert state(process.pid) == "T"
        process.send_signal(signal.SIGCONT)
        assert process.wait(60) == 0


def test_between_epochs_a_process_may_wait_as_long_as_it_likes(start, monkeypatch, tmp_path):
    """The clock is set while an epoch runs, and off when it is reported."""
    calls = []
    monkeypatch.setattr(
        watchdog.faulthandler, "dump_traceback_later", lambda *a, **k: calls.append("set")
    )
    monkeypatch.setattr(
        watchdog.faulthandler, "cancel_dump_traceback_later", lambda: calls.append("off")
    )
    trainable = start(given(tmp_path))
    for _ in range(3):
        calls.clear()
        trainable.train()
        assert calls[0] == "set"
        assert calls[-1] == "off"
