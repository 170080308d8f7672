"""A study that goes on: what it takes up again, what it refuses, where it looks for MLflow; one
that is stopped before it begins."""

import signal
from types import SimpleNamespace

import pytest
from rich.console import Console
from sqlalchemy import make_url

from skdtune import provenance, records, session, signals, tracking_uri
from skdtune.errors import ConfigError
from skdtune.plan import Plan
from skdtune.warm_start import EarlierBest
from tests.skdtune.builders import NOWHERE, build_space, mixed_study
from trainables.storage import Folder


def request(folder) -> SimpleNamespace:
    return SimpleNamespace(folder=Folder(folder), name="tiny", space=build_space())


def test_what_failed_is_tried_again_and_what_ended_otherwise_is_not(tmp_path):
    before = mixed_study(tmp_path)
    before.data = {"fingerprint": "same"}
    before.save()
    study = session._resumed(request(tmp_path), {"fingerprint": "same"}, print)
    queued = [record.key for record in Plan(study, build_space()).queue]
    failed = [r.key for r in before.records.values() if r.status == records.FAILED]
    assert failed
    assert queued == failed
    assert study.records[failed[0]].error == ""


def test_other_images_are_refused(tmp_path):
    study = mixed_study(tmp_path)
    study.data = {"fingerprint": "then"}
    study.save()
    with pytest.raises(ConfigError, match="images or labels have changed"):
        session._resumed(request(tmp_path), {"fingerprint": "now"}, print)


def test_a_study_whose_first_trial_has_no_record_is_refused(tmp_path):
    study = mixed_study(tmp_path)
    study.data = {"fingerprint": "same"}
    study.save()
    (tmp_path / "trials" / "0000.json").unlink()
    with pytest.raises(ConfigError, match="the record of its first trial is gone"):
        session._resumed(request(tmp_path), {"fingerprint": "same"}, print)


def test_other_versions_are_noted_and_said_once(tmp_path, monkeypatch):
    study, said = mixed_study(tmp_path), []
    study.data, study.versions = {"fingerprint": "same"}, {"torch": "0.1", "ray": "2"}
    study.commit = "abc"
    study.save()
    monkeypatch.setattr(provenance, "versions", lambda: {"torch": "0.2", "ray": "2"})
    monkeypatch.setattr(provenance, "git_commit", lambda: None)
    for _ in range(2):
        study = session._resumed(request(tmp_path), {"fingerprint": "same"}, said.append)
        study.save()
    (line,) = said
    assert line.endswith(": torch 0.2, before 0.1; commit None, before abc")
    (noted,) = study.resumed
    assert noted["versions"]["torch"] == "0.2"


def test_a_study_made_meanwhile_is_not_overwritten(tmp_path):
    mixed_study(tmp_path)
    with pytest.raises(ConfigError, match="it exists"):
        session._new(request(tmp_path), {})


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:///mlflow.db", "sqlite:///{cwd}/mlflow.db"),
        ("sqlite:////abs/mlflow.db", "sqlite:////abs/mlflow.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("postgresql://host/name", "postgresql://host/name"),
    ],
)
def test_a_database_is_found_from_any_folder(tmp_path, monkeypatch, uri, expected):
    monkeypatch.chdir(tmp_path)
    assert tracking_uri.absolute(uri) == expected.format(cwd=tmp_path)


@pytest.mark.parametrize("folder", ["plain", "c?d", "e%41f#g", "ü 實"])
def test_a_database_is_made_where_the_command_ran(tmp_path, monkeypatch, folder):
    """Whatever the folder is called: SQLAlchemy reads `?` and `%41` in a URI."""
    (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / folder)
    uri = tracking_uri.absolute("sqlite:///mlflow.db")
    assert make_url(uri).database == str(tmp_path / folder / "mlflow.db")
    assert tracking_uri.database(uri) == tmp_path / folder / "mlflow.db"


def test_a_password_in_the_environment_is_refused_unseen(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:S3CRET@host:5000")
    with pytest.raises(ConfigError) as caught:
        tracking_uri.default_uri()
    assert "S3CRET" not in str(caught.value)


@pytest.mark.usefixtures("fresh_signals")
@pytest.mark.parametrize(
    ("module", "name"), [("lock", "FileLock"), ("cluster", "connect"), ("nodes", "prepare")]
)
def test_a_signal_before_anything_is_written_leaves_nothing(tmp_path, monkeypatch, module, name):
    """Whichever step it comes in, the step is done to its end."""
    real = getattr(getattr(session, module), name)

    def step(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return None if name == "connect" else real(*arguments)

    monkeypatch.setattr(session.cluster, "connect", lambda address: None)
    monkeypatch.setattr(getattr(session, module), name, step)
    facts = {"fingerprint": "", "checkpoint_bytes": 0}
    facts |= {"batch_size": 1, "train": 1, "late_terms": []}
    monkeypatch.setattr(session.preflight, "data_facts", lambda *arguments: facts)
    monkeypatch.setattr(session, "_search", lambda *arguments: pytest.fail("it began"))
    place = tmp_path / "studies" / "tiny"
    options = {"address": "local", "concurrency": None}
    more = {"options": options, "old": None, "warm": EarlierBest(), "tracking_uri": NOWHERE}
    asked = SimpleNamespace(**vars(request(place)), **more)
    signals.listen(signals.stop)
    with pytest.raises(signals.Stopped, match="SIGTERM"):
        session.run(asked, Console())
    assert not (tmp_path / "studies").exists()
