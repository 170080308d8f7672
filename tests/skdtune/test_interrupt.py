"""The stop of a search: for a signal, whenever it came, or for a reason of its own."""

import signal

import pytest

from skdtune import signals
from skdtune.interrupt import Interrupt


@pytest.fixture
def interrupt(fresh_signals) -> Interrupt:
    found = Interrupt()
    found.stops = []
    found.on_stop = lambda: found.stops.append(found.reason)
    return found


def test_without_a_reason_everything_goes_on(interrupt):
    assert not interrupt.stop_all()
    assert (interrupt.reason, interrupt.signal, interrupt.stops) == ("", None, [])


def test_a_signal_stops_everything_once_whenever_it_came(interrupt):
    signals._state.first = signal.SIGTERM
    assert interrupt.reason == "SIGTERM", "before Tune asks"
    assert [interrupt.stop_all() for _ in range(3)] == [True, True, True]
    assert (interrupt.stops, interrupt.signal) == (["SIGTERM"], signal.SIGTERM)


def test_the_first_reason_stays(interrupt):
    interrupt.fail("the study cannot be written")
    interrupt.request("another")
    signals._state.first = signal.SIGINT
    assert interrupt.stop_all()
    assert interrupt.stops == ["the study cannot be written"]
    assert interrupt.reason == interrupt.failure == "the study cannot be written"
    assert interrupt.signal == signal.SIGINT
