"""`node.sh install` as every cluster file calls it: in a fresh home, from the parts that are
mounted."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def shell(home: Path, command: str) -> subprocess.CompletedProcess:
    """A command as Ray's launcher sends it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SKDTUNE_")}
    return subprocess.run(
        ["bash", "--login", "-c", "-i", f"source ~/.bashrc; {command}"],
        env={**kept, "HOME": str(home), "SKDTUNE_LOCAL": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=840,
        check=False,
    )


def test_the_install_line_makes_a_machine_ready_once(tmp_path: Path) -> None:
    shipped = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    for target, source in shipped["file_mounts"].items():
        place = tmp_path / target.removeprefix("~/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if target == "~/.ray/auth_token":
            place.write_text("secret")
        elif (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, place)
    (tmp_path / ".bashrc").write_text("# the user's own, without an end of line")
    (line,) = shipped["setup_commands"]
    done = shell(tmp_path, line)
    assert done.returncode == 0, done.stdout + done.stderr
    assert stat.S_IMODE((tmp_path / ".ray" / "auth_token").stat().st_mode) == 0o600

    # from the home, where a folder is called skdtune too
    asked = "cd ~ && python -m skdtune.search --check && command -v ray && echo $RAY_AUTH_MODE"
    found = shell(tmp_path, asked)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "small_cnn" in found.stdout
    assert found.stdout.splitlines()[-2:] == [f"{tmp_path}/skdtune-venv/bin/ray", "token"]

    before = (tmp_path / ".bashrc").read_text()
    stamp = tmp_path / "skdtune-venv" / ".skdtune-installed"
    written = stamp.stat().st_mtime_ns
    assert shell(tmp_path, line).returncode == 0
    assert (tmp_path / ".bashrc").read_text() == before
    assert stamp.stat().st_mtime_ns == written
    (site,) = (tmp_path / "skdtune-venv/lib").glob("python3.*/site-packages")
    for library in ("torch", "ray", "mlflow"):  # else every process would compile them
        assert list((site / library / "__pycache__").glob("__init__.*.pyc")), library
    for place in ("skdtune-venv", ".cache"):  # gigabytes, which pytest would keep for a while
        shutil.rmtree(tmp_path / place, ignore_errors=True)
