"""One live owner a study: of two starts one wins, a dead owner's place is free, and the refusal
names who holds it."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock, Timeout
from pyarrow import fs

from skdtune import lock
from skdtune.errors import ConfigError
from tests.size import size
from tests.skdtune.builders import wait_for
from trainables.storage import Folder


def is_held(folder: Folder) -> bool:
    """Whether some process holds the study; on a store asking must not take it."""
    if folder.local is None:
        return time.time() - lock._read(folder).get("beat", 0) < lock._DEAD_AFTER_S
    if not (folder.local / lock._LOCK).exists():
        return False
    try:
        with FileLock(folder.local / lock._LOCK).acquire(timeout=0):
            return False
    except Timeout:
        return True


# Waits for the start signal, tries, says which it was, and holds until it is told to end.
CONTENDER = """
import sys, time
from pathlib import Path
from skdtune import lock
from skdtune.errors import ConfigError
from trainables.storage import Folder
print("ready", flush=True)
for line in sys.stdin:
    place, begin = line.split()
    while time.time() < float(begin):
        pass
    try:
        with lock.held(Folder(place), "tiny"):
            print("held", flush=True)
            sys.stdin.readline()
    except ConfigError as error:
        print("refused", repr(str(error)), flush=True)
        sys.stdin.readline()
    print("done", flush=True)
"""


class Contender:
    """A process that tries to hold a study when it is told to."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", CONTENDER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def says(self) -> str:
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def _contenders():
    found = [Contender(), Contender()]
    try:
        assert [contender.says() for contender in found] == ["ready"] * 2
        yield found
    finally:
        for contender in found:
            contender.end()


@pytest.fixture
def contenders(_contenders):
    return _contenders


def test_of_two_processes_that_start_at_once_exactly_one_holds_each_time(contenders, tmp_path):
    for turn in range(size(10, 20)):
        begin = time.time() + 0.05
        for contender in contenders:
            contender.tell(f"{tmp_path / str(turn % 2)} {begin}")
        said = [contender.says() for contender in contenders]
        assert sorted(word.split()[0] for word in said) == ["held", "refused"], turn
        refusal = next(line for line in said if line.startswith("refused"))
        holder = contenders[[line.split()[0] for line in said].index("held")].process
        assert f"process {holder.pid} on {socket.gethostname()}" in refusal or "?" in refusal
        for contender in contenders:
            contender.tell("")
        assert [contender.says() for contender in contenders] == ["done"] * 2


def test_a_killed_owner_gives_its_place_up_at_once(tmp_path):
    owner = Contender()
    try:
        assert owner.says() == "ready"
        owner.tell(f"{tmp_path} 0")
        assert owner.says() == "held"
        assert is_held(Folder(tmp_path))
        with pytest.raises(ConfigError), lock.held(Folder(tmp_path), "tiny"):
            pass
        os.kill(owner.process.pid, signal.SIGKILL)
        owner.process.wait()
        began = time.monotonic()
        assert not is_held(Folder(tmp_path))
        with lock.held(Folder(tmp_path), "tiny"):
            assert time.monotonic() - began < 1.0
            assert json.loads((tmp_path / "owner.json").read_text())["pid"] == os.getpid()
    finally:
        owner.end()


def test_the_refusal_names_study_host_process_and_place(tmp_path):
    with (
        lock.held(Folder(tmp_path), "my study"),
        pytest.raises(ConfigError) as caught,
        lock.held(Folder(tmp_path), "my study"),
    ):
        pass
    text = str(caught.value)
    for part in ("my study", f"process {os.getpid()}", socket.gethostname(), str(tmp_path)):
        assert part in text
    assert time.strftime("%Y-%m-%d") in text


def test_a_study_is_held_while_the_block_runs_and_not_before_or_after(tmp_path):
    folder = Folder(tmp_path / "study")
    assert not is_held(folder)
    assert not (tmp_path / "study").exists(), "asking makes no folder"
    with lock.held(folder, "tiny"):
        assert is_held(folder)
        assert is_held(folder), "asking does not take it"
    assert not is_held(folder)
    assert folder.names() == []


def test_folders_that_were_there_before_stay(tmp_path):
    for own in (tmp_path / "own", tmp_path / "above"):
        own.mkdir()
    for place in ("own", "above/study", "new/study"):
        with lock.held(Folder(tmp_path / place), "tiny"):
            pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["above", "own"]


def test_an_error_in_the_block_gives_the_study_up(tmp_path):
    folder = Folder(tmp_path)
    with pytest.raises(KeyboardInterrupt), lock.held(folder, "tiny"):
        raise KeyboardInterrupt
    assert not is_held(folder)
    with lock.held(folder, "tiny"):
        pass


def test_a_folder_that_is_gone_at_the_end_hides_nothing(tmp_path):
    folder = Folder(tmp_path / "study")
    with lock.held(folder, "tiny"):
        shutil.rmtree(tmp_path / "study")
    with lock.held(folder, "tiny"):
        pass


def test_a_storage_without_room_for_the_owner_is_one_line(tmp_path, monkeypatch):
    def full(self, name, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", full)
        with (
            pytest.raises(ConfigError, match=r"cannot be written"),
            lock.held(Folder(tmp_path), "t"),
        ):
            pass
    with lock.held(Folder(tmp_path), "tiny"):
        pass


def test_a_refused_start_does_not_disturb_the_owner(tmp_path):
    folder = Folder(tmp_path)
    with lock.held(folder, "tiny"):
        for _ in range(3):
            with pytest.raises(ConfigError), lock.held(folder, "tiny"):
                pass
        assert json.loads(folder.read("owner.json"))["pid"] == os.getpid()
        assert is_held(folder)


def test_studies_are_held_each_on_its_own(tmp_path):
    with lock.held(Folder(tmp_path / "a"), "a"), lock.held(Folder(tmp_path / "b"), "b"):
        assert is_held(Folder(tmp_path / "a"))


# Object stores, where a heartbeat decides


class Store(Folder):
    """A folder that is no path of this machine: what a bucket is to us."""

    def __init__(self, place: Path):
        place.mkdir(parents=True, exist_ok=True)
        self.uri, self.local, self._root = f"bucket://{place.name}", None, "study"
        self._files = fs.SubTreeFileSystem(str(place), fs.LocalFileSystem())
        self.failing = self.unreadable = False

    def read(self, name: str) -> bytes:
        if self.unreadable:
            raise OSError("the store is away")
        return super().read(name)

    def write(self, name: str, data: bytes) -> None:
        if self.failing:
            raise OSError("the store is away")
        part = f".{name}.{threading.get_ident()}"
        super().write(part, data)
        self._files.move(self._path(part), self._path(name))  # an upload appears whole


@pytest.fixture
def _fast(monkeypatch):
    monkeypatch.setattr(lock, "_BEAT_S", 0.05)
    monkeypatch.setattr(lock, "_DEAD_AFTER_S", 0.6)
    monkeypatch.setattr(lock, "_SETTLE_S", 0.2)


@pytest.mark.usefixtures("_fast")
def test_on_a_store_the_second_start_is_refused_while_the_first_beats(tmp_path):
    store = Store(tmp_path)
    assert not is_held(store)
    with lock.held(store, "tiny"):
        time.sleep(0.9)  # longer than a dead owner is waited for
        assert is_held(store)
        with (
            pytest.raises(ConfigError, match=f"process {os.getpid()} on"),
            lock.held(store, "tiny"),
        ):
            pass
    assert not is_held(store)
    assert store.names() == []
    with lock.held(store, "tiny"):
        pass


@pytest.mark.usefixtures("_fast")
def test_on_a_store_an_owner_that_died_is_followed(tmp_path):
    store = Store(tmp_path)
    dead = {"host": "elsewhere", "pid": 1, "since": time.time(), "token": "x", "beat": time.time()}
    store.write("owner.json", json.dumps(dead).encode())
    assert is_held(store)
    with pytest.raises(ConfigError, match="process 1 on elsewhere"), lock.held(store, "tiny"):
        pass
    wait_for(lambda: not is_held(store), 3, "its heartbeat is too old")
    with lock.held(store, "tiny"):
        assert json.loads(store.read("owner.json"))["pid"] == os.getpid()


@pytest.mark.usefixtures("_fast")
@pytest.mark.parametrize("ahead_s", [-3600, 3600])
def test_on_a_store_an_owner_with_a_wrong_clock_lives_as_long_as_it_beats(tmp_path, ahead_s):
    """A clock an hour off says nothing of the owner, neither its own nor ours."""
    store, ended = Store(tmp_path), threading.Event()

    def beat() -> None:
        while not ended.wait(0.05):
            owner = {"host": "off", "pid": 1, "token": "x", "beat": time.time() + ahead_s}
            store.write("owner.json", json.dumps(owner).encode())

    owner = threading.Thread(target=beat)
    owner.start()
    try:
        wait_for(lambda: store.exists("owner.json"), 3, "the owner beats")
        with pytest.raises(ConfigError, match="process 1 on off"), lock.held(store, "tiny"):
            pass
    finally:
        ended.set()
        owner.join()
    with lock.held(store, "tiny"):
        assert json.loads(store.read("owner.json"))["pid"] == os.getpid()


def test_on_a_store_that_cannot_be_read_nobody_is_taken_for_dead(tmp_path):
    store = Store(tmp_path)
    store.unreadable = True
    with pytest.raises(ConfigError, match="cannot be read: the store"), lock.held(store, "tiny"):
        pass
    assert store.names() == []


@pytest.mark.usefixtures("_fast")
def test_on_a_store_of_starts_at_once_exactly_one_holds(tmp_path):
    for turn in range(4):
        store, outcomes = Store(tmp_path / str(turn)), []
        gate, leave = threading.Barrier(3), threading.Event()

        def start(store=store, outcomes=outcomes, gate=gate, leave=leave) -> None:
            gate.wait()
            try:
                with lock.held(store, "tiny"):
                    outcomes.append("held")
                    leave.wait(10)
            except ConfigError:
                outcomes.append("refused")

        threads = [threading.Thread(target=start) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            wait_for(lambda found=outcomes: len(found) == 3, 5, "all have an answer")
            assert sorted(outcomes) == ["held", "refused", "refused"]
            assert is_held(store)
        finally:
            leave.set()
            for thread in threads:
                thread.join()


@pytest.mark.usefixtures("_fast")
def test_on_a_store_an_owner_outlives_a_moment_without_the_store(tmp_path):
    store = Store(tmp_path)
    with lock.held(store, "tiny"):
        store.failing = True
        time.sleep(0.2)
        store.failing = False
        time.sleep(0.9)
        assert is_held(store), "it beats again"


@pytest.mark.usefixtures("_fast")
def test_on_a_store_who_was_followed_leaves_the_new_owner_its_place(tmp_path):
    store = Store(tmp_path)
    with lock.held(store, "tiny"):
        other = {"host": "h", "pid": 2, "since": 0.0, "token": "other", "beat": time.time() + 60}
        store.write("owner.json", json.dumps(other).encode())
        time.sleep(0.3)
        assert json.loads(store.read("owner.json"))["token"] == "other"
    assert json.loads(store.read("owner.json"))["token"] == "other"


@pytest.mark.usefixtures("_fast")
def test_on_a_store_an_error_in_the_block_gives_the_study_up(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ZeroDivisionError), lock.held(store, "tiny"):
        raise ZeroDivisionError
    assert not is_held(store)
    assert not [thread for thread in threading.enumerate() if thread.name == "lock"]
