"""What several files of tests share: a database for MLflow, and a program that must refuse."""

import sys
import time
from pathlib import Path

import pytest

from skdtune import errors
from tests.skdtune.breakable import Main, Refuse, content


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    """One database for a file of tests: making it takes seconds; a study has its own id in it."""
    # not at the top: pytest reads this file before it calls `environment.prepare`
    from mlflow import MlflowClient

    place = tmp_path_factory.mktemp("mlflow é")
    found = f"sqlite:///{place}/mlflow.db"
    MlflowClient(tracking_uri=found).create_experiment("skdtune", (place / "artifacts").as_uri())
    return found


@pytest.fixture
def refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Refuse:
    """Runs a program in an empty folder of its own and returns what it says on stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(errors.signals, "listen", lambda handler: None)  # pytest keeps its own

    def run(main: Main, *arguments: str) -> str:
        before = content(tmp_path)
        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        began = time.monotonic()
        with pytest.raises(SystemExit) as ending:
            errors.run(main)
        out, said = capsys.readouterr()
        assert ending.value.code == errors.USAGE
        assert not out
        assert "Traceback" not in said
        assert content(tmp_path) == before
        assert time.monotonic() - began < 5
        return said

    return run
