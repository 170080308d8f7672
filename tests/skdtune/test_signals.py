"""Signals: what stops a program, and what must not."""

import signal

import pytest

from skdtune import signals


@pytest.fixture(autouse=True)
def _restored():
    before = {number: signal.getsignal(number) for number in signals.NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", signals.NUMBERS)
def test_each_stops_the_program_with_its_own_code(number):
    signals.listen(signals.stop)
    with pytest.raises(KeyboardInterrupt) as stopped:
        signal.raise_signal(number)
    assert signals.exit_code(stopped.value) == 128 + number


def test_one_that_is_ignored_stays_ignored_as_nohup_wants_it():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals.listen(signals.stop)
    signal.raise_signal(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_plain_keyboard_interrupt_counts_as_ctrl_c():
    assert signals.exit_code(KeyboardInterrupt()) == 130
