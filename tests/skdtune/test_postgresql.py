"""MLflow over PostgreSQL, which refuses what SQLite takes, and several searches at once."""

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from skdtune import records, uploader
from skdtune.records import Record, Study
from skdtune.uploader import Uploader
from tests.skdtune.builders import (
    assert_mirrored,
    free_port,
    mixed_study,
    new_study,
    save,
    server_content,
    wait_for,
)
from tests.skdtune.proxy import Server

TOOLS = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
SEARCHES, TRIALS, EPOCHS = 4, 10, 5

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        TOOLS is None and shutil.which("initdb") is None, reason="PostgreSQL is not installed"
    ),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with _postgresql(folder / "postgresql.log") as database:
        found = Server(folder, database)
        found.start()
        try:
            yield found
        finally:
            found.kill()


def test_searches_at_once_are_all_mirrored_whole(server, tmp_path, monkeypatch):
    monkeypatch.setattr(uploader, "_PUSH_EVERY_S", 0.1)
    studies = [_empty(tmp_path / str(number), f"search-{number}") for number in range(SEARCHES)]
    warnings: list[str] = []
    followers = [Uploader(study, server.uri, warnings.append) for study in studies]
    players = [threading.Thread(target=_play, args=(study,)) for study in studies]
    for player in players:
        player.start()
    for player in players:
        player.join()
    assert all([follower.close(60) for follower in followers])
    assert [line for line in warnings if not line.startswith("watch it")] == []
    for study in studies:
        assert len(study.records) == TRIALS
        assert_mirrored(server.uri, study)


def test_what_postgresql_refuses_is_written_all_the_same(server, tmp_path):
    study = mixed_study(tmp_path, "x" * 250)
    first, second, *_, failed = study.records.values()
    failed.error = "a NUL: \0, half a pair: \udc80, and much: " + "é" * 9000
    first.config["data"]["root"] = "/images/\0/" + "z" * 7000
    second.host = "no\0de"
    second.epochs[-1] |= {"val/loss": 1.7976931348623157e308, "loss/total": 5e-324}
    warnings: list[str] = []
    assert Uploader(study, server.uri, warnings.append).close(60)
    assert [line for line in warnings if not line.startswith("watch it")] == []
    tags = {
        run["tags"]["skdtune.trial"]: run["tags"]
        for run in server_content(server.uri, study).values()
        if "skdtune.trial" in run["tags"]
    }
    assert set(tags) == set(study.records)
    assert tags[failed.key]["skdtune.error"].startswith("a NUL: \N{REPLACEMENT CHARACTER}, half")


def _empty(folder: Path, name: str) -> Study:
    study = new_study(folder, name=name)
    study.records.clear()
    save(study)
    return study


def _play(study: Study) -> None:
    """Trials as a search of two at a time has them, one epoch after the other."""
    model = mixed_study(study.folder.local / "model").records["0002"]
    for number in range(TRIALS):
        record = Record(f"{number:04d}", records.SEARCH, model.params, model.config)
        record.status, record.attempts, record.started = records.RUNNING, 1, model.started
        study.records[record.key] = record
        for line in model.epochs[:EPOCHS]:
            record.add(line)
        record.ended, record.status = model.ended, records.FINISHED


@contextmanager
def _postgresql(log: Path) -> Iterator[str]:
    """The URI of an empty database of a server on a free port."""
    user = {"user": "nobody"} if os.getuid() == 0 else {}  # it does not run as root
    with tempfile.TemporaryDirectory() as data, log.open("wb") as out:
        if user:
            shutil.chown(data, "nobody")
        _run("initdb", "-D", data, "-A", "trust", "-U", "mlflow", **user)
        port = free_port()
        place = ["-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", data]
        command = [_tool("postgres"), "-D", data, *place]
        process = subprocess.Popen(command, stdout=out, stderr=out, **user)
        try:
            asked = ["-h", "127.0.0.1", "-p", port, "-U", "mlflow"]
            wait_for(lambda: _run("pg_isready", *asked, check=False) == 0, 30, "PostgreSQL starts")
            _run("createdb", *asked, "mlflow")
            yield f"postgresql://mlflow@127.0.0.1:{port}/mlflow"
        finally:
            process.send_signal(signal.SIGINT)  # its fast shutdown
            process.wait(30)


def _tool(name: str) -> str:
    return str(TOOLS / name) if TOOLS else name


def _run(name: str, *arguments: object, check: bool = True, **more: object) -> int:
    command = [_tool(name), *map(str, arguments)]
    return subprocess.run(command, check=check, capture_output=True, **more).returncode
