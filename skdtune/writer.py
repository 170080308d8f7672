"""Writes the records of a running study."""

import errno
import itertools
import threading
import time
from contextlib import suppress

from skdtune import records
from skdtune.records import TRIALS, Record, Study, encode
from trainables.checkpoint import CHECKPOINTS
from trainables.storage import Folder

_LOCAL_PAUSES_S = (0.2, 1.0)  # before a write is tried again
_STORE_PAUSES_S = (0.2, 1.0, 5.0, 20.0, 60.0)  # a store may be away for a moment
_AWAY = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ENOTCONN)  # so NFS says


class Writer:
    """Writes changed records from a thread of its own, so that storage never holds up the search.

    Each record is written whole, the newest version wins; of a trial that needs its checkpoints no
    more those are deleted behind it, but for the last of one that has finished. What is lost when
    the process is killed is at most what was changed in the last moment, and the trial's checkpoint
    holds those epochs too."""

    def __init__(self, study: Study):
        self._study = study
        self._changed: dict[str, bytes] = {}
        self._discarded: dict[str, str] = {}  # by key the checkpoint to keep
        self._postponed: dict[str, str] = {}  # the same, while the record is not on disk
        # the same of trials that had ended before: what ran the study may have been killed
        self._left = {r.key: r.checkpoint for r in study.records.values() if _has_spare(r)}
        self._failed: dict[str, OSError] = {}  # by key, until it can be written after all
        self._condition = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    @property
    def error(self) -> OSError | None:
        """Why something is not on disk that should be."""
        return next(iter(list(self._failed.values())), None)

    def put(self, record: Record) -> None:
        """Hands over the record as it is now."""
        data = encode(vars(record))
        with self._condition:
            self._changed[record.key] = data
            if _has_spare(record):
                self._discarded[record.key] = record.checkpoint
            self._condition.notify_all()

    def close(self) -> None:
        """Waits until everything is written; a trial that is still running is one to go on with.
        Errors: OSError, when something is not on disk."""
        for record in self._study.records.values():
            if record.status == records.RUNNING:
                record.status = records.INTERRUPTED
                self.put(record)
            elif record.key in self._failed:
                self.put(record)
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._thread.join()
        if self.error:
            raise self.error

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(self._has_work)
                batch, self._changed = self._changed, {}
                discarded, self._discarded = self._discarded, {}
                if not (batch or discarded or (self._left and not self._closing)):
                    return
            for key, data in batch.items():
                self._write(key, data)
            discarded = self._postponed | discarded
            self._postponed = {key: discarded.pop(key) for key in self._failed & discarded.keys()}
            for key, kept in discarded.items():
                self._clear(key, kept)
            if self._left and not batch:
                self._clear(*self._left.popitem())

    def _has_work(self) -> bool:
        return bool(self._changed or self._discarded or self._left or self._closing)

    def _clear(self, key: str, kept: str) -> None:
        with suppress(Exception):  # they only take room, and this thread must go on
            _clear(self._study.folder, f"{CHECKPOINTS}/{key}", kept)

    def _write(self, key: str, data: bytes) -> None:
        """Waits for a storage that is away, but not again for each record that it keeps waiting."""
        for tries in itertools.count():
            try:
                self._study.folder.write(f"{TRIALS}/{key}.json", data)
                self._failed.pop(key, None)
                return
            except Exception as error:  # noqa: BLE001 - a writer that dies in silence loses records
                is_away = self._study.folder.local is None or getattr(error, "errno", 0) in _AWAY
                pauses_s = _STORE_PAUSES_S if is_away else _LOCAL_PAUSES_S
                if (is_away and self.error) or tries >= len(pauses_s):
                    kept = error if isinstance(error, OSError) else OSError(repr(error))
                    self._failed[key] = kept
                    return
                time.sleep(pauses_s[tries])


def _has_spare(record: Record) -> bool:
    """Whether the trial needs checkpoints no more, but for the last of one that has finished."""
    is_kept = record.status == records.FINISHED and record.checkpoint
    return record.status in records.NEVER_AGAIN or bool(is_kept)


def _clear(folder: Folder, place: str, kept: str) -> None:
    """Deletes all that lies in a place but one thing, and the place itself when that is none.
    Errors: those of the storage."""
    if not kept:
        folder.delete(place)
        return
    for name in folder.names(place):
        if f"{place}/{name}" != kept:
            folder.delete(f"{place}/{name}")
