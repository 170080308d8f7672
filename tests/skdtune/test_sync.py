"""`python -m skdtune.sync`: one pass that makes a server equal to the disk, as often as wanted."""

import subprocess
import sys
from pathlib import Path

import pytest

from skdtune import lock, sync
from skdtune.errors import NOT_DONE, ConfigError
from tests.skdtune.builders import assert_mirrored, free_port, mixed_study, server_content


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.parametrize("named", ["name", "path", "newest"])
def test_a_study_is_synced_by_name_by_path_or_as_the_newest(tmp_path, uri, named, capsys):
    folder = tmp_path / "studies" / "実験 é"
    study = mixed_study(folder, "実験 é", unfinished=True)
    words = {"name": ["実験 é"], "path": [str(folder)], "newest": []}[named]
    assert sync.main([*words, "--tracking-uri", uri]) == 0
    assert_mirrored(uri, study)
    assert capsys.readouterr().out == f"{uri} has study 実験 é: 8 trials\n"
    before = server_content(uri, study)
    assert sync.main([*words, "--tracking-uri", uri]) == 0
    assert server_content(uri, study) == before


@pytest.mark.parametrize("how", ["study", "environment"])
def test_it_goes_where_the_study_was_mirrored_to(tmp_path, uri, how, monkeypatch):
    study = mixed_study(tmp_path / "study")
    if how == "study":
        study.tracking_uri = uri
        study.save()
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert sync.main([str(tmp_path / "study")]) == 0
    assert_mirrored(uri, study)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:{port}", "sqlite:////proc/none/mlflow.db"])
def test_a_server_that_cannot_be_written_is_one_line_and_a_code(tmp_path, uri, capsys):
    mixed_study(tmp_path / "study")
    uri = uri.format(port=free_port())
    assert sync.main([str(tmp_path / "study"), "--tracking-uri", uri]) == NOT_DONE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"MLflow at {uri} cannot be written: ")


def test_a_study_that_runs_is_left_alone(tmp_path, uri):
    study = mixed_study(tmp_path / "study")
    with (
        lock.held(study.folder, study.name),
        pytest.raises(ConfigError, match="it is being run by"),
    ):
        sync.main([str(tmp_path / "study"), "--tracking-uri", uri])
    assert server_content(uri, study) == {}


@pytest.mark.parametrize("words", [["nowhere"], []])
def test_no_such_study(words):
    with pytest.raises(ConfigError, match="no such study"):
        sync.main(words)


def test_a_damaged_record_is_named_and_nothing_is_written(tmp_path, uri):
    study = mixed_study(tmp_path / "study")
    study.folder.write("trials/0002.json", b'{"key"')
    with pytest.raises(ConfigError, match=r"0002\.json"):
        sync.main([str(tmp_path / "study"), "--tracking-uri", uri])
    assert server_content(uri, study) == {}


@pytest.mark.slow
def test_the_program_run_twice_leaves_what_it_left_once(tmp_path):
    study = mixed_study(tmp_path / "studies" / "it's 実験", "it's 実験")

    def run(*words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "skdtune.sync", *words]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )

    first = run("it's 実験")
    assert (first.returncode, first.stderr) == (0, "")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert_mirrored(uri, study)
    before = server_content(uri, study)
    second = run()
    assert (second.returncode, second.stderr) == (0, "")
    assert first.stdout == second.stdout == "sqlite:///mlflow.db has study it's 実験: 6 trials\n"
    assert server_content(uri, study) == before
    assert {path.name for path in Path(tmp_path).iterdir()} == {
        "studies",
        "mlflow.db",
        "mlartifacts",
    }
    missing = run("nowhere")
    assert missing.returncode == 2
    assert missing.stderr.startswith("nowhere: 1 problem\n")
