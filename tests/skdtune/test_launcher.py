"""What `ray up` and its relatives do with a cluster file whose provider is guarded."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config

from skdtune import launcher

ROOT = Path(__file__).parents[2]
FILES = ["cluster.yaml", "docs/cluster/gcp.yaml", "docs/cluster/onprem.yaml"]
NO_TOKEN = (
    "ray up: no token at ~/.ray/auth_token, nothing was started; "
    "make it once: ray get-auth-token --generate"
)


def _ray(*arguments: str, home: Path) -> subprocess.CompletedProcess:
    """A command of Ray's as a person types it, in a home of its own and without a cloud."""
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(home)}
    return subprocess.run(
        [Path(sys.executable).with_name("ray"), *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("file", FILES)
def test_ray_up_without_a_token_stops_with_one_line(tmp_path: Path, file: str) -> None:
    done = _ray("up", "-y", file, home=tmp_path)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert [line for line in said.splitlines() if "token" in line] == [NO_TOKEN]
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_is_taken_down_without_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _token(tmp_path, monkeypatch)
    config = prepare_config(yaml.safe_load((ROOT / "docs/cluster/onprem.yaml").read_text()))
    with click.Context(click.Command("down"), None, "down"):
        prepared = launcher.Local.fillout_available_node_types_resources(config)
    assert prepared["provider"]["type"] == "local"


def test_a_file_that_ray_refuses_is_refused_in_a_line(tmp_path: Path) -> None:
    text = (ROOT / "docs/cluster/onprem.yaml").read_text().replace("head_ip", "haed_ip")
    (tmp_path / "mine.yaml").write_text(text)
    done = _ray("down", "-y", str(tmp_path / "mine.yaml"), home=tmp_path)
    assert done.returncode == 1
    assert "Please supply a `head_ip`" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("text", [None, ""])
def test_an_empty_token_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    token = _token(tmp_path, monkeypatch)
    if text is not None:
        token.write_text(text)
    with (
        pytest.raises(SystemExit, match="no token"),
        click.Context(click.Command("up"), None, "up"),
    ):
        launcher.Local.fillout_available_node_types_resources({})


def test_the_token_becomes_its_owners_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = _token(tmp_path, monkeypatch)
    token.write_text("a token")
    token.chmod(0o644)
    launcher._need_token()
    assert token.stat().st_mode & 0o777 == 0o600


def _token(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(home))
    (home / ".ray").mkdir()
    return home / ".ray" / "auth_token"
