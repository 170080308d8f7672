"""What every test needs: quiet libraries, and a home of its own so that nothing of the user's is
read or written."""

import pytest

from skdtune import environment


def pytest_configure() -> None:
    environment.prepare()  # before a test module imports MLflow or Ray


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield
