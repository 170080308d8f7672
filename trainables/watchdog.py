"""Ends a process whose training stands still, so that its trial is tried again elsewhere."""

import faulthandler
import time
from pathlib import Path

# Of a batch, of what is done once an epoch, or of all before the first batch: after so long a
# process that trains counts as hung.
SILENCE_S = 1800.0
_STDERR = 2
_DUMP = b"Timeout ("  # how faulthandler's begins
_LONGEST_BYTES = 1 << 20


class Watchdog:
    """Once `beat` was called the process has `silence_s` seconds until the next one; then it writes
    where each of its threads stands to its standard error and exits. The clock is a thread of C:
    it runs while a library holds Python's lock."""

    def __init__(self, silence_s: float):
        self.silence_s = silence_s
        self._every_s = min(1.0, silence_s / 10)
        self._armed = 0.0

    def beat(self) -> None:
        """Something was done. Cheap: the clock is set at most once a second."""
        now = time.monotonic()
        if now - self._armed >= self._every_s:
            faulthandler.dump_traceback_later(self.silence_s, exit=True, file=_STDERR)
            self._armed = now

    def rest(self) -> None:
        """Nothing is to be done until the next beat."""
        faulthandler.cancel_dump_traceback_later()
        self._armed = 0.0


def last_dump(log: Path) -> str:
    """What a process whose standard error went to `log` wrote there when it was ended; empty when
    it ended otherwise, or nothing can be read."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - _LONGEST_BYTES))
            _, found, dump = stream.read().rpartition(_DUMP)
    except OSError:
        return ""
    return (found + dump).decode(errors="replace") if found else ""
