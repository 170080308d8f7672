"""A clean stop: by a signal, or by the search itself when going on makes no sense."""

import signal
from collections.abc import Callable

from ray import tune

from skdtune import signals


class Interrupt(tune.Stopper):
    """Tune asks it whether to stop everything; a signal that has come, however long ago, is a
    reason to.

    on_stop: called once, before anything is stopped; who runs trials sets it. for_good: going on
    later will not help either.
    """

    def __init__(self):
        self.on_stop: Callable[[], None] = lambda: None
        self.failure = self._requested = ""
        self.for_good = False

    @property
    def signal(self) -> int | None:
        return signals.received()

    @property
    def reason(self) -> str:
        """Why everything is to stop; empty when nothing is."""
        return self._requested or (signal.Signals(self.signal).name if self.signal else "")

    def request(self, reason: str) -> None:
        if not self._requested:
            self._requested = reason
            self.on_stop()

    def fail(self, reason: str, for_good: bool = False) -> None:
        """Something is lost, even when every trial has come to its end."""
        self.for_good = self.for_good or for_good
        self.failure = self.failure or reason
        self.request(reason)

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False

    def stop_all(self) -> bool:
        if self.reason:
            self.request(self.reason)
        return bool(self.reason)

    def __getstate__(self) -> dict:
        return {}  # Tune pickles it into snapshots that nobody reads
