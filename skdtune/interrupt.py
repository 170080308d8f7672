"""A clean stop: by a signal, or by the search itself when going on makes no sense."""

import os
import signal
from collections.abc import Callable

from ray import tune

from skdtune import signals


class Interrupt(tune.Stopper):
    """Tune asks it whether to stop everything. The first signal stops cleanly, the second exits
    at once.

    on_stop: called once, before anything is stopped; who runs trials sets it.
    """

    def __init__(self):
        self.on_stop: Callable[[], None] = lambda: None
        self.reason = self.failure = ""
        self.signal: int | None = None

    def listen(self) -> None:
        """Takes SIGINT, SIGTERM and SIGHUP; call it after `ray.init`, which sets a handler of
        its own."""
        signals.listen(self._on_signal)

    def request(self, reason: str) -> None:
        if not self.reason:
            self.reason = reason
            self.on_stop()

    def fail(self, reason: str) -> None:
        """Something is lost, even when every trial has come to its end."""
        self.failure = self.failure or reason
        self.request(reason)

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False

    def stop_all(self) -> bool:
        return bool(self.reason)

    def __getstate__(self) -> dict:
        return {}  # Tune pickles it into snapshots that nobody reads

    def _on_signal(self, number: int, frame: object) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        self.request(signal.Signals(number).name)
