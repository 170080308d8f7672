"""What a search leaves behind holds none of the secrets it was given."""

import base64
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs import FAST, program
from tests.skdtune.proxy import Server

pytestmark = pytest.mark.slow

SECRET = "a-secret-canary"
NAMES = ("MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


@pytest.fixture
def places(tmp_path: Path) -> Iterator[list[Path]]:
    """The user's folder, MLflow's, and Ray's, whose sockets need a short path."""
    with tempfile.TemporaryDirectory(prefix="ray-") as of_ray:
        places = [tmp_path / "home", tmp_path / "mlflow", Path(of_ray)]
        for place in places:
            place.mkdir(exist_ok=True)
        yield places


def holding(places: list[Path], texts: list[bytes]) -> list[Path]:
    files = [file for place in places for file in place.rglob("*") if file.is_file()]
    return [file for file in files if any(text in file.read_bytes() for text in texts)]


def test_no_file_and_no_line_of_a_search_holds_a_secret(places: list[Path], monkeypatch):
    home, of_mlflow, of_ray = places
    monkeypatch.setenv("RAY_TMPDIR", str(of_ray))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "somebody")
    server = Server(of_mlflow)
    server.start()
    try:
        for name in NAMES:
            monkeypatch.setenv(name, SECRET)
        mirror = f"--tracking-uri={server.uri}"
        done = program("search", *FAST, "--trials=2", "--epochs=2", "--name=s", mirror, folder=home)
    finally:
        server.kill()
    assert done.returncode == 0, done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
    sent = base64.b64encode(f"somebody:{SECRET}".encode())
    assert holding(places, [b"val/accuracy"]), "nothing was looked through"
    assert holding([of_ray], [b"runtime_env"]), "nothing of Ray's was looked through"
    assert holding(places, [SECRET.encode(), sent]) == []
