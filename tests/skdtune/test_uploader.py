"""The uploader: a search never waits for it, and whatever a server does, it has everything in the
end."""

import contextlib
import random
import socket
import sqlite3
import threading
import time

import pytest
from mlflow import MlflowClient

from skdtune import records, uploader
from skdtune.errors import first_line
from skdtune.records import Study
from skdtune.tracking import Mirror
from skdtune.uploader import Uploader
from tests.skdtune.builders import (
    assert_mirrored,
    curve,
    end,
    free_port,
    mixed_study,
    new_study,
    server_content,
    server_runs,
    wait_for,
)
from tests.skdtune.proxy import DELAY, DROP, ERROR, PASS, Proxy, Server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    found = Server(tmp_path_factory.mktemp("server"))
    found.start()
    try:
        yield found
    finally:
        found.kill()


@pytest.fixture
def _quick(monkeypatch):
    monkeypatch.setattr(uploader, "_PUSH_EVERY_S", 0.1)
    monkeypatch.setattr(uploader, "_LONGEST_PAUSE_S", 0.4)


def play(study: Study, whole: Study, pause_s: float, trials: slice = slice(None)) -> float:
    """Fills a study's records in epoch by epoch, as a running search does; the seconds it took."""
    began = time.monotonic()
    for key, target in list(whole.records.items())[trials]:
        record = records.Record(key, target.role, target.params, target.config)
        study.records[key] = record
        record.status, record.attempts, record.host = records.RUNNING, 1, target.host
        record.started = target.started
        for line in target.epochs:
            record.add(line)
            time.sleep(pause_s)
        record.error, record.ended, record.status = target.error, target.ended, target.status
        record.checkpoint = target.checkpoint
    return time.monotonic() - began


def running(folder) -> tuple[Study, Study]:
    """A study without trials yet, and what it comes to."""
    whole = mixed_study(folder)
    return Study(**{**vars(whole), "records": {}}), whole


def ended(found: Uploader) -> None:
    found._thread.join(30)
    assert not found._thread.is_alive()


@pytest.mark.usefixtures("_quick")
def test_a_running_study_is_followed_and_its_end_is_complete(tmp_path, uri):
    study, whole = running(tmp_path)
    warnings = []
    following = Uploader(study, uri, warnings.append)
    play(study, whole, 0.02)
    wait_for(lambda: len(server_runs(uri, study)) == 7, 60, "the server follows")
    assert following.close(20)
    assert following.complete
    assert warnings == []
    assert study.records == whole.records
    assert_mirrored(uri, study)


@pytest.mark.usefixtures("_quick")
def test_a_server_that_is_down_holds_nothing_up_and_is_told_of_once(tmp_path):
    study, warnings = mixed_study(tmp_path), []
    uri = f"http://127.0.0.1:{free_port()}"
    began = time.monotonic()
    following = Uploader(study, uri, warnings.append)
    assert time.monotonic() - began < 0.5
    wait_for(lambda: warnings, 60, "it says so")
    time.sleep(1.0)
    began = time.monotonic()
    assert following.close(1.0) is False
    assert time.monotonic() - began < 5
    ended(following)
    assert len(warnings) == 1
    assert warnings[0].startswith(f"MLflow at {uri} cannot be written")
    assert "\n" not in warnings[0]


def test_a_server_that_never_answers_holds_nothing_up(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    study = mixed_study(tmp_path)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        began = time.monotonic()
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
        following = Uploader(study, uri, print)
        assert following.close(0.5) is False
        assert time.monotonic() - began < 10
    ended(following)


@pytest.mark.usefixtures("_quick")
def test_a_push_that_fails_is_tried_again_and_both_are_told(tmp_path, uri):
    study, warnings = new_study(tmp_path), []
    record = study.records["0000"]
    end(record, records.FINISHED, curve(0))
    end(study.records["0001"], records.FINISHED, curve(1))
    name = record.config.pop("method")  # so that the push stumbles over it
    following = Uploader(study, uri, warnings.append)
    wait_for(lambda: len(warnings) == 1, 60, "it fails")
    record.config["method"] = name
    wait_for(lambda: len(warnings) == 2, 60, "it works again")
    assert "cannot be written" in warnings[0]
    assert "can be written again" in warnings[1]
    assert following.close(20)
    assert_mirrored(uri, study)


@pytest.mark.usefixtures("_quick")
def test_at_the_end_it_gives_up_after_a_few_attempts(tmp_path):
    study = mixed_study(tmp_path)
    following = Uploader(study, f"http://127.0.0.1:{free_port()}", lambda line: None)
    assert following.close(30) is False
    assert not following._thread.is_alive()


def test_it_is_a_daemon_that_keeps_no_process_alive(tmp_path, uri):
    following = Uploader(mixed_study(tmp_path), uri, print)
    assert following._thread.daemon
    assert following.close(20)
    assert not [thread for thread in threading.enumerate() if thread.name == "uploader"]


# A real server, killed, and a network that loses, fails and delays


@pytest.mark.slow
@pytest.mark.usefixtures("_quick")
def test_a_server_that_starts_late_and_is_killed_on_the_way_has_everything_in_the_end(tmp_path):
    (tmp_path / "server").mkdir()
    server, (study, whole) = Server(tmp_path / "server"), running(tmp_path / "study")
    warnings: list[str] = []
    places: list[str] = []

    def say(line: str) -> None:
        (places if line.startswith("watch it: ") else warnings).append(line)

    following = Uploader(study, server.uri, say)
    try:
        wait_for(lambda: len(warnings) == 1, 60, "the server is down at the start")
        server.start()
        wait_for(lambda: len(warnings) == 2, 60, "the server is there now")
        took_s = play(study, whole, 0.3, slice(2))
        wait_for(lambda: len(server_runs(server.uri, study)) > 1, 60, "the first trial is there")
        server.kill()
        took_s += play(study, whole, 0.3, slice(2, None))
        wait_for(lambda: len(warnings) == 3, 60, "the server is missed")
        server.start()
        assert following.close(60)
        assert_mirrored(server.uri, study)
    finally:
        server.kill()
        following.close(30)
    assert took_s < 10, "the search does not wait"
    assert len(places) == 1
    assert places[0].startswith(f"watch it: {server.uri}/#/experiments/")
    assert following.run_id in places[0]
    states = ["cannot" if "cannot" in line else "again" for line in warnings]
    assert states == ["cannot", "again"] * (len(states) // 2)


def every_third_answer_lost(count: int) -> str:
    return DROP if count % 3 == 0 else PASS


def half_fail(count: int) -> str:
    return ERROR if random.Random(count).random() < 0.5 else PASS


def all_wait(count: int) -> str:
    return DELAY if count % 2 else PASS


@pytest.mark.slow
@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("fault", [every_third_answer_lost, half_fail, all_wait])
def test_behind_a_bad_network_the_end_state_is_that_of_the_records(
    tmp_path, server, fault, monkeypatch
):
    monkeypatch.setattr(uploader, "_LAST_ATTEMPTS", 5)
    study, whole = running(tmp_path)
    proxy = Proxy(server.port, fault)
    try:
        following = Uploader(study, proxy.uri, lambda line: None)
        assert play(study, whole, 0.15) < 6, "the search does not wait"
        complete = following.close(40)
        ended(following)
        assert proxy.faults > 10
        proxy.fault = lambda count: PASS
        runs = server_runs(proxy.uri, study)
        if complete:
            assert len(runs) == 7
            assert not [run for run in runs if run.info.status == "RUNNING"]
        Mirror(records.load(whole.folder), proxy.uri).push(live=False)  # what skdtune.sync does
        assert_mirrored(proxy.uri, whole)
        before = server_content(proxy.uri, whole)
        Mirror(records.load(whole.folder), proxy.uri).push(live=False)
        assert server_content(proxy.uri, whole) == before
    finally:
        proxy.close()


def test_of_an_error_of_a_database_the_line_that_says_it_is_told():
    when = "(raised as a result of Query-invoked autoflush; consider using a session.no_autoflush)"
    error = OSError(f"{when}\n(sqlite3.OperationalError) database is locked\n[SQL: INSERT]")
    assert first_line(error) == "(sqlite3.OperationalError) database is locked"
    assert first_line(OSError(when)) == when


@pytest.mark.slow
@pytest.mark.usefixtures("_quick")
def test_a_database_that_somebody_keeps_locked_has_everything_in_the_end(tmp_path):
    (tmp_path / "mlflow").mkdir()
    file = tmp_path / "mlflow" / "mlflow.db"
    uri = f"sqlite:///{file}"
    place = (tmp_path / "artifacts").as_uri()
    MlflowClient(tracking_uri=uri).create_experiment("skdtune", place)
    study, whole = running(tmp_path / "study")
    warnings = []
    following = Uploader(study, uri, warnings.append)
    play(study, whole, 0.02, slice(2))
    wait_for(lambda: len(server_runs(uri, study)) >= 2, 60, "the server follows")
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert play(study, whole, 0.02, slice(2, None)) < 5
        wait_for(lambda: warnings, 120, "the uploader to meet the lock")
    assert following.close(60)
    assert "database is locked" in warnings[0]
    assert len(warnings) == 2
    assert_mirrored(uri, study)
