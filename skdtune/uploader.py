"""Mirrors a running study into MLflow from a thread of its own; the search never waits for it."""

import threading
import time
from collections.abc import Callable

from skdtune import pages
from skdtune.errors import first_line
from skdtune.records import Study
from skdtune.tracking_uri import knock

_PUSH_EVERY_S = 1.0
_LONGEST_PAUSE_S = 30.0
_LAST_ATTEMPTS = 3  # at the end of the study, a push a second


class Uploader:
    """Pushes what has changed every second; a server that is down is tried again, less and less
    often.

    say: told where a server shows the study, and when it cannot be reached and when it can again,
    each once.
    """

    def __init__(self, study: Study, uri: str, say: Callable[[str], None]):
        self.study, self.uri, self.say = study, uri, say
        self.complete = False
        self.run_id = ""  # of the study, once MLflow has it
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="uploader", daemon=True)
        self._thread.start()

    def close(self, patience_s: float, give_up: Callable[[], bool] = lambda: False) -> bool:
        """Pushes the end of the study; whether the server has all of it when `patience_s` is over
        or the user gives up."""
        self._closing.set()
        end = time.monotonic() + patience_s
        while self._thread.is_alive() and time.monotonic() < end and not give_up():
            self._thread.join(0.1)
        return self.complete

    def _run(self) -> None:
        mirror, pause_s, is_down, attempts_left = None, _PUSH_EVERY_S, False, _LAST_ATTEMPTS
        while True:
            closing = self._closing.is_set()
            try:
                if mirror is None:
                    # MLflow takes a second to import, which is not the search's
                    from skdtune.tracking import Mirror

                    knock(self.uri)
                    mirror = Mirror(self.study, self.uri)
                mirror.push(live=not closing)
            except Exception as error:  # noqa: BLE001 - whatever a server does, the search goes on
                if not is_down:
                    self.say(f"MLflow at {self.uri} cannot be written: {first_line(error)}")
                mirror = None  # to find its runs anew: one may have been deleted by hand
                is_down, pause_s = True, min(pause_s * 2, _LONGEST_PAUSE_S)
                attempts_left -= closing
                if not attempts_left:
                    return
            else:
                if is_down:
                    self.say(f"MLflow at {self.uri} can be written again")
                if self.run_id != mirror.parent:  # another, when the first was deleted by hand
                    self.run_id = mirror.parent
                    self._say_where(mirror.experiment)
                is_down, pause_s = False, _PUSH_EVERY_S
                if closing:
                    self.complete = True
                    return
            if closing:
                time.sleep(_PUSH_EVERY_S)
            else:
                self._closing.wait(pause_s)

    def _say_where(self, experiment: str) -> None:
        if self.uri.startswith(("http://", "https://")):
            place = pages.trials(self.study, experiment, self.run_id)
            self.say(f"watch it: {self.uri.rstrip('/')}/{place}")
