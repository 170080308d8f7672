"""What stops a program from outside. A signal that is ignored, as `nohup` has it, stays so."""

import signal
from collections.abc import Callable

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """The program was told to stop. number: the signal's."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


def listen(handler: Callable[[int, object], None]) -> None:
    """Hands every signal of NUMBERS to `handler`."""
    for number in NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def stop(number: int, frame: object) -> None:
    """A handler that raises `Stopped` wherever the program is."""
    raise Stopped(number)


def exit_code(error: KeyboardInterrupt) -> int:
    """128 and the signal's number, as shells count."""
    return 128 + getattr(error, "number", signal.SIGINT)
