"""How often a trial has started from one and the same epoch, noted beside its checkpoints."""

import contextlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

from trainables.checkpoint import CHECKPOINTS
from trainables.storage import Folder
from trainables.watchdog import last_dump

MOST_RETRIES = 3  # of one and the same epoch
MOST_RETRIES_WITHOUT_MEMORY = 1  # a neighbour on the GPU may have taken it; more would only wait
_NOTE = "attempt.json"
_STOOD_STILL = "stood_still"  # a file a trial: where each thread of its process stood


class KeepsFailing(RuntimeError):
    """A trial failed, time after time, before it had finished one more epoch."""


class Attempts:
    """Gives a trial up that fails again and again without getting further, however long the search.

    study: its folder. key: of the trial. session: which run of the study this is; a resumed one
    gives every trial as many attempts again. node: that this process runs on."""

    def __init__(self, study: Folder, key: str, session: str, node: str | None):
        self.study, self.key, self.session, self.node = study, key, session, node
        self.folder = study.folder(f"{CHECKPOINTS}/{key}")
        self.noted: dict = {}

    def begin(self, epoch: int, is_gone: Callable[[str | None], bool]) -> str:
        """Notes that the trial starts from `epoch`. A start on a node that is gone by now does
        not count. Returns how the process before this one ended, if that had no words for it; else
        an empty text. Errors: KeepsFailing."""
        here = {"session": self.session, "epoch": epoch}
        seen = self._read()
        is_silent = seen.get("session") == self.session and "error" not in seen
        silent, where = self._end_of_silent(seen) if is_silent else ("", "")
        before = seen.get("starts") if here.items() <= seen.items() else None
        starts = [node for node in before if not is_gone(node)] if isinstance(before, list) else []
        most = MOST_RETRIES_WITHOUT_MEMORY if seen.get("lacks_memory") else MOST_RETRIES
        if len(starts) > most:
            error = silent or seen["error"]
            raise KeepsFailing(f"{error} ({len(starts)} times in epoch {epoch + 1})")
        place = {"host": socket.gethostname(), "log": _log()}
        self.noted = {**here, "starts": [*starts, self.node], **place}
        self._write()
        return silent + where

    def failed(self, error: str, lacks_memory: bool = False) -> None:
        """Notes why this one failed, unless it never began."""
        if not self.noted:
            return
        self.noted |= {"error": error, "lacks_memory": lacks_memory}
        self._write()

    def _end_of_silent(self, seen: dict) -> tuple[str, str]:
        """What is known of a process that was gone at once, and where more is. Where it stood, if
        it was ended for that and its log is on this machine, is saved in the study's folder."""
        host, log = seen.get("host"), seen.get("log")
        dump = last_dump(Path(log)) if log and host == socket.gethostname() else ""
        if dump:
            place = f"{_STOOD_STILL}/{self.key}.txt"
            with contextlib.suppress(OSError):
                self.study.write(place, dump.encode())
            return "its process stood still and was ended", f"; {place} says where"
        where = f"; its log is {log} on {host}" if log else ""
        return "its process died, or stood still and was ended", where

    def _read(self) -> dict:
        try:
            seen = json.loads(self.folder.read(_NOTE))
        except (OSError, ValueError):
            return {}
        return seen if isinstance(seen, dict) else {}

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # where nothing can be written, checkpoints say so
            self.folder.write(_NOTE, json.dumps(self.noted).encode())


def _log() -> str:
    """The file that this process writes its errors to, as Ray's do; empty when there is none."""
    try:
        place = os.readlink("/proc/self/fd/2")
    except OSError:
        return ""
    return place if os.path.isfile(place) else ""
