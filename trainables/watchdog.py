"""Ends a process whose training stands still, so that its trial is tried again elsewhere."""

import contextlib
import ctypes
import faulthandler
import functools
import os
import signal
import time
from collections.abc import Callable, Iterator
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
    it runs while a library holds Python's lock. A process that is stopped is killed, on Linux,
    by a clock of the kernel's."""

    def __init__(self, silence_s: float):
        self.silence_s = silence_s
        self._every_s = min(1.0, silence_s / 10)
        self._armed = 0.0
        self._kill_after = _kernel_timer()

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

    @contextlib.contextmanager
    def pausable(self) -> Iterator[None]:
        """In this block a person may stop the process with Ctrl-Z for as long as he likes. For the
        main thread of a program that has a terminal."""

        def pause(number: int, frame: object) -> None:
            was_armed = bool(self._armed)
            self.rest()
            os.kill(os.getpid(), signal.SIGSTOP)
            if was_armed:
                self.beat()

        before = signal.getsignal(signal.SIGTSTP)
        if before is not signal.SIG_IGN:
            signal.signal(signal.SIGTSTP, pause)
        try:
            yield
        finally:
            signal.signal(signal.SIGTSTP, before)


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


os.register_at_fork(after_in_child=_kernel_timer.cache_clear)  # which has no timer of its parent's


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
