"""What stops a program from outside. A signal that is ignored, as `nohup` has it, stays so.

The first signal ends the program cleanly, the second kills it, whatever it is doing."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_BURST_S = 0.1  # `timeout` and a closing terminal send one twice


class Stopped(KeyboardInterrupt):
    """The program was told to stop. number: the signal's."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass
class _State:
    first: int | None = None  # the signal that came
    is_deferred: bool = False


_state = _State()


def listen(handler: Callable[[int, object], None] | signal.Handlers) -> None:
    """Hands every signal of NUMBERS to `handler`."""
    for number in NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def leave(number: int, frame: object) -> None:
    """A handler for before and after all work: exits at once, since raising in the midst of an
    import or of Python's own end only makes a traceback."""
    os.write(2, b"stopped\n")
    os._exit(128 + number)


def stop(number: int, frame: object) -> None:
    """A handler that raises `Stopped` wherever the program is, unless that is `deferred`."""
    if _state.first is not None:
        return
    _state.first = number
    time.sleep(_BURST_S)
    listen(signal.SIG_DFL)
    if not _state.is_deferred:
        raise Stopped(number)


def received() -> int | None:
    """The signal that has come."""
    return _state.first


def check() -> None:
    """Raises `Stopped` when a signal has come: it was deferred, or Python has dropped what the
    handler raised, as it does in finalizers and beside a fork."""
    if _state.first is not None:
        raise Stopped(_state.first)


@contextmanager
def deferred() -> Iterator[None]:
    """While the block runs a signal raises nothing but at a `check`. For code that cannot bear it
    anywhere: what holds a lock, starts threads or is in the midst of Ray."""
    check()
    with held():
        yield


@contextmanager
def held() -> Iterator[None]:
    """As `deferred`, but entered even when a signal has come: for a closing that must happen in any
    case."""
    before, _state.is_deferred = _state.is_deferred, True
    try:
        yield
    finally:
        _state.is_deferred = before


def exit_code(error: KeyboardInterrupt) -> int:
    """128 and the signal's number, as shells count."""
    return 128 + getattr(error, "number", signal.SIGINT)
