"""Runs the programs as a user would: a process of their own, in a folder of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from skdtune import formats, records
from skdtune.leaderboard import rank
from skdtune.records import Record, Study
from trainables.storage import Folder

FAST = [
    "quickstart",
    "--set=trial.data.name=synthetic",
    "--set=trial.data.images=256",
    "--set=trial.optim.lr=0.02",
]


def program(
    name: str, *arguments: str, folder: Path, timeout_s: float = 180
) -> subprocess.CompletedProcess:
    """`python -m skdtune.NAME ARGUMENTS` in the folder, to its end."""
    return subprocess.run(
        [sys.executable, "-m", f"skdtune.{name}", *arguments],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@contextmanager
def started(name: str, *arguments: str, folder: Path) -> Iterator[subprocess.Popen]:
    """The same, running; its whole process group is killed when the block ends."""
    with python("-m", f"skdtune.{name}", *arguments, folder=folder, out=f"{name}.out") as process:
        yield process


@contextmanager
def python(*arguments: str | Path, folder: Path, out: str) -> Iterator[subprocess.Popen]:
    """Python with these arguments in the folder, as above; what it prints goes to a file there."""
    with (folder / out).open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment(folder),
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
        with killed_after(process):
            yield process


@contextmanager
def killed_after(process: subprocess.Popen) -> Iterator[None]:
    """Nothing of it is left when the block ends."""
    try:
        yield
    finally:
        family = [process.pid, *descendants(process.pid)]
        for pid in family:
            _kill(pid)
        process.wait(30)


def environment(folder: Path) -> dict[str, str]:
    """Nothing of this machine's own Ray or MLflow reaches a test's program."""
    kept = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    return {**kept, "HOME": str(folder), "COLUMNS": "200", "RAY_ADDRESS": "local"}


def read_study(folder: Path, name: str) -> Study:
    return records.load(Folder(folder / "studies" / name))


def leaderboard(folder: Path, name: str) -> dict:
    """What `leaderboard NAME --format=json` prints, without the seconds that a process takes."""
    return json.loads(formats.as_json(rank(read_study(folder, name))))


def at_once(found: Collection[Record]) -> int:
    """How many of the trials ran at the same time, at most."""
    changes = sorted([(r.started, 1) for r in found] + [(r.ended, -1) for r in found])
    running = most = 0
    for _, change in changes:
        running += change
        most = max(most, running)
    return most


def wait_for(condition, timeout_s: float, what: str) -> None:
    """Polls until the condition holds; fails with what was waited for."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.05)


def epochs_on_disk(folder: Path, name: str) -> int:
    """Epochs of all trials on record, read while another process writes them."""
    total = 0
    for path in (folder / "studies" / name / "trials").glob("[!.]*.json"):
        total += len(json.loads(path.read_text())["epochs"])
    return total


def descendants(pid: int) -> list[int]:
    """The processes below one, from /proc."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended while we looked
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def trial_workers(pid: int) -> list[int]:
    """The processes below a driver that hold a trial, between two steps or in one."""
    names = ("ray::ClassifierTrial", "ray::ResourceTrainable")  # the latter is Tune's wrapper
    return [child for child in descendants(pid) if title(child).startswith(names)]


def state(pid: int) -> str:
    """Of a process as /proc has it, such as R, T for one that is stopped, Z for one that has ended
    and was not reaped; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Whether the process has not ended."""
    return state(pid) not in ("", "Z")


def title(pid: int) -> str:
    """A process's command line, or what it calls itself; empty once it has ended."""
    try:
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    except OSError:
        return ""


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
