"""How often a trial has started from one and the same epoch, noted beside its checkpoints."""

import contextlib
import json
from collections.abc import Callable

from trainables.storage import Folder

MOST_RETRIES = 3  # of one and the same epoch
MOST_RETRIES_WITHOUT_MEMORY = 1  # a neighbour on the GPU may have taken it; more would only wait
_NOTE = "attempt.json"


class KeepsFailing(RuntimeError):
    """A trial failed, time after time, before it had finished one more epoch."""


class Attempts:
    """Gives a trial up that fails again and again without getting further, however long the search.

    folder: of the trial's checkpoints. session: which run of the study this is; a resumed one gives
    every trial as many attempts again. node: that this process runs on."""

    def __init__(self, folder: Folder, session: str, node: str | None):
        self.folder, self.session, self.node = folder, session, node
        self.noted: dict = {}

    def begin(self, epoch: int, is_gone: Callable[[str | None], bool]) -> None:
        """Notes that the trial starts from `epoch`. A start on a node that is gone by now does
        not count. Errors: KeepsFailing."""
        here = {"session": self.session, "epoch": epoch}
        seen = self._read()
        before = seen.get("starts") if here.items() <= seen.items() else None
        starts = [node for node in before if not is_gone(node)] if isinstance(before, list) else []
        most = MOST_RETRIES_WITHOUT_MEMORY if seen.get("lacks_memory") else MOST_RETRIES
        if len(starts) > most:
            error = seen.get("error", "its process died, or stood still and was ended")
            raise KeepsFailing(f"{error} ({len(starts)} times in epoch {epoch + 1})")
        self.noted = {**here, "starts": [*starts, self.node]}
        self._write()

    def failed(self, error: str, lacks_memory: bool = False) -> None:
        """Notes why this one failed, unless it never began."""
        if not self.noted:
            return
        self.noted |= {"error": error, "lacks_memory": lacks_memory}
        self._write()

    def _read(self) -> dict:
        try:
            seen = json.loads(self.folder.read(_NOTE))
        except (OSError, ValueError):
            return {}
        return seen if isinstance(seen, dict) else {}

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # where nothing can be written, checkpoints say so
            self.folder.write(_NOTE, json.dumps(self.noted).encode())
