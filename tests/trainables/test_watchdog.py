"""A process that stands still ends and says where; one that only waits between epochs does not."""

import os
import subprocess
import sys
import time

import pytest

from tests.trainables.trials import given
from trainables import watchdog

pytestmark = pytest.mark.usefixtures("quick_collection")

HANGS = """
import ctypes, sys
from trainables.classifier import ClassifierTrial
from trainables.methods.cross_entropy import CrossEntropy
from tests.trainables.trials import given

losses, calls = CrossEntropy.losses, []

def stuck(self, images, labels):
    calls.append(1)
    if len(calls) == int(sys.argv[2]):
        ctypes.PyDLL(None).sleep(600)  # in C, with Python's lock held
    return losses(self, images, labels)

CrossEntropy.losses = stuck
run = given(sys.argv[1])
run["trial"]["method"] = {"name": "cross_entropy"}
run["run"]["silence_s"] = 2.0
ClassifierTrial(run).train()
"""


@pytest.mark.parametrize("batch", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_process_that_stands_still_ends_and_where_is_kept_with_the_study(start, tmp_path, batch):
    began, log = time.monotonic(), tmp_path / "worker.err"  # as Ray has one of each process
    with log.open("wb") as errors:
        done = subprocess.run(
            [sys.executable, "-c", HANGS, str(tmp_path), str(batch)],
            env={**os.environ, "HOME": str(tmp_path)},
            stderr=errors,
            timeout=120,
            check=False,
        )
    assert done.returncode == 1
    assert time.monotonic() - began < 100
    result = start(given(tmp_path)).train()
    told = "its process stood still and was ended; stood_still/k1.txt says where"
    assert result["warnings"] == [told]
    dump = (tmp_path / "stood_still" / "k1.txt").read_text()
    assert dump.startswith("Timeout (0:00:02)!")
    assert "in stuck" in dump
    resumed = given(tmp_path, after=1, session="s2")  # who ends with its driver is not told of
    assert start(resumed).train()["warnings"] == []


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
