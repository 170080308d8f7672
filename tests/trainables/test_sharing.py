"""Trials of one machine hold one copy of their images, whatever happens to any of them."""

import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import torch

from tests.programs import wait_for
from trainables import data, sharing
from trainables.images import Images

HOLDER = """
import sys
import threading
from trainables import sharing
shared = sharing.block("it", 8 << 20, lambda room: room.fill_(7))
shared.pixels.sum()
print("has it", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """The list of holders is the test's own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    data.forget()
    yield tmp_path / f"skdtune-shared-{os.getuid()}"
    data.forget()


@pytest.fixture
def holders():
    """Starts processes that hold eight MiB."""
    started = []

    def start() -> subprocess.Popen:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, "-c", HOLDER], **pipes)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def never(room):
    pytest.fail("filled again")


def mapped(process: subprocess.Popen, name: str) -> int:
    """KiB of the memory, by the kernel's account. name: of the row."""
    lines = Path(f"/proc/{process.pid}/smaps").read_text().splitlines()
    at = next(row for row, line in enumerate(lines) if "/memfd:skdtune-" in line)
    return next(int(line.split()[1]) for line in lines[at:] if line.startswith(f"{name}:"))


@pytest.mark.slow
def test_processes_have_one_copy_between_them(holders):
    several = [holders() for _ in range(3)]
    assert [process.stdout.readline() for process in several] == ["has it\n"] * 3
    assert all(mapped(process, "Rss") == 8 << 10 for process in several)
    assert sum(mapped(process, "Pss") for process in several) <= (8 << 10) + 2


@pytest.mark.slow
def test_it_outlives_who_filled_it(holders):
    first, second = holders(), None
    first.stdout.readline()
    second = holders()
    second.stdout.readline()
    first.send_signal(signal.SIGKILL)
    first.wait()
    shared = sharing.block("it", 8 << 20, never)
    assert shared.pixels.min() == shared.pixels.max() == 7


@pytest.mark.slow
def test_nothing_is_left_when_nobody_holds_it(holders, place):
    process = holders()
    process.stdout.readline()
    assert sharing.is_held("it")
    process.communicate("")
    assert list(place.iterdir()) == []
    process = holders()
    process.stdout.readline()
    process.kill()
    process.wait()
    wait_for(lambda: not sharing.is_held("it"), 10, "the kernel")
    other = sharing.block("other", 1, lambda room: room.fill_(1))
    assert len(list(place.iterdir())) == 1, "what the killed one has left is gone"
    del other
    assert list(place.iterdir()) == []


def test_who_waits_for_another_to_fill_it_gives_signs_of_life():
    beats, filling, go_on = [], threading.Event(), threading.Event()

    def fill(room):
        filling.set()
        assert go_on.wait(10)
        room.fill_(1)

    first = threading.Thread(target=sharing.block, args=("slow", 4, fill))
    first.start()
    assert filling.wait(10)
    second = threading.Thread(target=sharing.block, args=("slow", 4, fill, lambda: beats.append(1)))
    second.start()
    wait_for(lambda: len(beats) > 2, 10, "it beats")
    go_on.set()
    first.join()
    second.join()


def test_other_content_is_another_block():
    one = sharing.block("one", 4, lambda room: room.fill_(1))
    two = sharing.block("two", 4, lambda room: room.fill_(2))
    assert (one.pixels.tolist(), two.pixels.tolist()) == ([1] * 4, [2] * 4)


def test_a_fill_that_fails_leaves_the_place_to_the_next(place):
    def fail(room):
        raise OSError("no such image")

    with pytest.raises(OSError, match="no such image"):
        sharing.block("it", 4, fail)
    gc.collect()
    assert list(place.iterdir()) == []
    assert sharing.block("it", 4, lambda room: room.fill_(3)).pixels.tolist() == [3] * 4


@pytest.mark.parametrize("trap", ["of another user", "a link", "a file"])
def test_without_a_place_of_its_own_a_process_has_its_own_copy(place, monkeypatch, trap):
    elsewhere = place.with_name("elsewhere")
    elsewhere.mkdir()
    (elsewhere / "archive.tar.gz").touch()
    (elsewhere / "skdtune-archive.tar.gz").touch()
    if trap == "a link":
        place.symlink_to(elsewhere)
    elif trap == "a file":
        place.touch()
    else:
        other = os.getuid() + 1
        elsewhere = elsewhere.rename(place.with_name(f"skdtune-shared-{other}"))
        monkeypatch.setattr(sharing.os, "getuid", lambda: other)
    shared = sharing.block("it", 4, lambda room: room.fill_(5))
    assert shared.pixels.tolist() == [5] * 4
    assert not sharing.is_held("it")
    names = {entry.name for entry in elsewhere.iterdir()}
    assert names == {"archive.tar.gz", "skdtune-archive.tar.gz"}


def test_images_come_back_to_the_bit():
    pixels = torch.randint(256, (5, 3, 4, 4), dtype=torch.uint8).permute(0, 1, 3, 2)
    labels = torch.arange(5)
    found, held = sharing.images(Images(pixels, labels))
    again, _ = sharing.images(Images(pixels.clone(), labels))
    assert torch.equal(found.pixels, pixels)
    assert torch.equal(again.pixels, pixels)
    again.pixels[0, 0, 0, 0] += 1
    assert not torch.equal(found.pixels, pixels), "one memory"
    assert held is not None


@pytest.mark.slow
def test_the_trials_of_two_processes_train_on_the_same_memory(place):
    program = """
import sys
import threading
from trainables import data
sets = data.build("synthetic", images=256, classes=4)
print(sets.fingerprint(), flush=True)
sys.stdin.read()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program], **pipes) as process:
        fingerprint = process.stdout.readline().strip()
        first = {entry.name for entry in place.iterdir()}
        mine = data.build("synthetic", images=256, classes=4)
        assert mine.fingerprint() == fingerprint
        names = [entry.name.split(".")[0] for entry in place.iterdir()]
        assert len(names) == 4, "train and held out, each held twice"
        assert {name.split(".")[0] for name in first} == set(names)
        process.communicate("")
