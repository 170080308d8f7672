"""What every test needs: quiet libraries, and a home of its own so that nothing of the user's is
read or written."""

import signal

import pytest

from skdtune import environment, signals
from trainables import checkpoint


def pytest_configure() -> None:
    environment.prepare()  # before a test module imports MLflow or Ray
    # a shell ignores one for what runs in the background, nohup the other; so would the programs
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True)
def _every_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """After every epoch, so that a test can say which there are; the epochs of tests take no
    time."""
    monkeypatch.setattr(checkpoint, "MOST_OF_THE_TIME", 1.0)


@pytest.fixture
def fresh_signals(monkeypatch: pytest.MonkeyPatch):
    """No signal has come; what a test installs is gone behind it."""
    before = {number: signal.getsignal(number) for number in signals.NUMBERS}
    monkeypatch.setattr(signals, "_state", signals._State())
    monkeypatch.setattr(signals, "_BURST_S", 0.0)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
