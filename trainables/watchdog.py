"""Ends a process whose training stands still, so that its trial is tried again elsewhere."""

import ctypes
import faulthandler
import functools
import signal
import time
from collections.abc import Callable
from pathlib import Path

# Of a batch, of what is done once an epoch, or of all before the first batch: after so long a
# process that trains counts as hung.
SILENCE_S = 1800.0
_STDERR = 2
_DUMP = b"Timeout ("  # how faulthandler's begins
_LONGEST_BYTES = 1 << 20


# A process that is stopped writes nothing and cannot exit: so long after that time it is killed.
_GRACE_S = 10.0


class Watchdog:
    """Once `beat` was called the process has `silence_s` seconds until the next one; then it writes
    where each of its threads stands to its standard error and exits. The clock is a thread of C:
    it runs while a library holds Python's lock.

    when_stopped: whether a process that is stopped (SIGSTOP) is ended too. On Linux alone: the
    clock for that is the kernel's."""

    def __init__(self, silence_s: float, when_stopped: bool = True):
        self.silence_s = silence_s
        self._every_s = min(1.0, silence_s / 10)
        self._armed = 0.0
        self._kill_after = _kernel_timer() if when_stopped else lambda seconds: None

    def beat(self) -> None:
        """Something was done. Cheap: the clock is set at most once a second."""
        now = time.monotonic()
        if now - self._armed >= self._every_s:
            faulthandler.dump_traceback_later(self.silence_s, exit=True, file=_STDERR)
            self._kill_after(self.silence_s + _GRACE_S)
            self._armed = now

    def rest(self) -> None:
        """Nothing is to be done until the next beat."""
        faulthandler.cancel_dump_traceback_later()
        self._kill_after(0.0)
        self._armed = 0.0


class _Event(ctypes.Structure):  # sigevent, with SIGEV_SIGNAL as its `notify`
    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_byte * 48),
    )


class _Times(ctypes.Structure):  # itimerspec
    _fields_ = tuple((name, ctypes.c_long) for name in ("every_s", "every_ns", "s", "ns"))


@functools.cache
def _kernel_timer() -> Callable[[float], None]:
    """What sets the one timer of this process, in seconds from now, 0 for never: it sends SIGKILL.
    Sets nothing where there is no such timer."""
    timer = ctypes.c_void_p()
    event = _Event(signal=signal.SIGKILL)
    try:
        libc = ctypes.CDLL(None)
        if not hasattr(libc, "timer_create"):
            libc = ctypes.CDLL("librt.so.1")  # of a glibc before 2.34
        failed = libc.timer_create(time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer))
    except (AttributeError, OSError):
        failed = True

    def kill_after(seconds: float) -> None:
        whole = int(seconds)
        times = _Times(0, 0, whole, int((seconds - whole) * 1e9))
        libc.timer_settime(timer, 0, ctypes.byref(times), None)

    return (lambda seconds: None) if failed else kill_after


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
