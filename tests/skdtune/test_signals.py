"""Signals: what stops a program, where, and what must not."""

import signal
import subprocess
import sys

import pytest

from skdtune import signals

pytestmark = pytest.mark.usefixtures("fresh_signals")


def ending(*lines: str) -> subprocess.CompletedProcess:
    """Of a process of its own that runs the lines."""
    code = "\n".join(["import os, signal, time", "from skdtune import signals", *lines])
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


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


def test_without_a_signal_nothing_is_raised():
    with signals.deferred():
        signals.check()
    assert signals.received() is None


class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_python_drops_in_a_finalizer_is_raised_again_at_the_next_step():
    signals.listen(signals.stop)
    Finalized()
    assert signals.received() == signal.SIGTERM
    with pytest.raises(signals.Stopped, match="SIGTERM"):
        signals.check()
    with pytest.raises(signals.Stopped, match="SIGTERM"), signals.deferred():
        pytest.fail("a long stretch begins")


def test_what_is_deferred_is_raised_at_a_check_alone():
    signals.listen(signals.stop)
    with signals.deferred():
        signal.raise_signal(signal.SIGINT)
        assert signals.received() == signal.SIGINT
        with pytest.raises(signals.Stopped, match="SIGINT"):
            signals.check()


def test_behind_a_deferred_block_a_signal_raises_again():
    signals.listen(signals.stop)
    with signals.deferred():
        pass
    with pytest.raises(signals.Stopped):
        signal.raise_signal(signal.SIGINT)


def test_what_is_held_is_done_though_one_has_come_before():
    signals.listen(signals.stop)
    with pytest.raises(signals.Stopped):
        signal.raise_signal(signal.SIGTERM)
    with signals.held():
        done = True
    assert done


def test_a_held_stretch_in_a_deferred_one_leaves_that_deferred():
    signals.listen(signals.stop)
    with signals.deferred():
        with signals.held():
            pass
        signal.raise_signal(signal.SIGTERM)
        assert signals.received() == signal.SIGTERM


def test_behind_all_that_is_done_one_changes_nothing_any_more():
    """Python has forgotten its handlers by then."""
    done = ending(
        "from skdtune import errors",
        "errors.begin()",
        "class Late:",
        "    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGTERM):",
        "        kill(pid, number)",
        "late = Late()",
        "late.itself = late",  # so that only the very end lets it go
        "import gc",
        "gc.freeze()",
        "errors.run(lambda arguments: print('done') or 0)",
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_the_second_kills_whatever_the_program_is_doing():
    done = ending(
        "signals.listen(signals.stop)",
        "with signals.deferred():",
        "    signal.raise_signal(signal.SIGINT)",
        "    print('still here', flush=True)",
        "    signal.raise_signal(signal.SIGTERM)",
        "    print('never here', flush=True)",
    )
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "still here\n")


def test_one_that_is_sent_twice_in_a_moment_counts_once():
    done = ending(
        "signals.listen(signals.stop)",
        "with signals.deferred():",
        "    if os.fork():",
        "        time.sleep(1)",
        "        print(signals.received())",
        "    else:",
        "        os.kill(os.getppid(), signal.SIGINT)",
        "        time.sleep(0.02)",
        "        os.kill(os.getppid(), signal.SIGINT)",
        "        os._exit(0)",
    )
    assert (done.returncode, done.stdout) == (0, f"{int(signal.SIGINT)}\n")


@pytest.mark.parametrize("number", signals.NUMBERS)
def test_before_the_work_one_leaves_at_once_and_without_a_traceback(number):
    done = ending("signals.listen(signals.leave)", f"signal.raise_signal({int(number)})")
    assert (done.returncode, done.stderr) == (128 + number, "stopped\n")
