"""The scripts of docs/cluster: what they refuse, and what they write. Nothing of Ray is started."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.programs import title, wait_for

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "cluster"
SCRIPTS = sorted(FOLDER.glob("*.sh"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_the_scripts_are_sound(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    assert "\nset -euo pipefail\n" in path.read_text()
    if shutil.which("shellcheck"):
        found = subprocess.run(["shellcheck", path], capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stdout


def _run(script: str, *arguments: str, home: Path, **variables: str) -> subprocess.CompletedProcess:
    """A script with a home of its own, without Ray's variables and this environment's programs."""
    own = {"HOME": str(home), "SKDTUNE_LOCAL": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    return subprocess.run(
        ["bash", FOLDER / script, *arguments],
        env={**own, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", ["head", "worker"])
def test_without_a_token_nothing_starts(tmp_path: Path, command: str) -> None:
    ended = _run("node.sh", command, home=tmp_path, RAY_HEAD_IP="127.0.0.1")
    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert "no token at" in line
    assert ".ray/auth_token" in line
    assert list(tmp_path.iterdir()) == []


def test_an_empty_token_is_none(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch()
    assert _run("node.sh", "head", home=tmp_path, RAY_AUTH_TOKEN_PATH=str(token)).returncode == 2


def test_a_head_without_the_shared_folder_does_not_start(tmp_path: Path) -> None:
    missing = str(tmp_path / "shared")
    ended = _run("node.sh", "head", home=tmp_path, RAY_AUTH_TOKEN="x", SKDTUNE_SHARED=missing)
    assert ended.returncode == 2
    assert missing in ended.stderr


def test_the_python_of_an_installation_is_new_enough(tmp_path: Path) -> None:
    """With nothing but old Pythons there is one line that says so."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "sha256sum"):
        (tools / name).symlink_to(shutil.which(name))
    old = tools / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    ended = _run("node.sh", "install", home=tmp_path, PATH=str(tools))
    assert ended.returncode == 2
    assert ended.stderr == (
        "node.sh: Python 3.11 or newer is needed; name one with SKDTUNE_PYTHON\n"
    )


def test_an_installation_that_is_up_to_date_costs_nothing(tmp_path: Path) -> None:
    """It writes what Ray's launcher reads, once; the token is the user's alone."""
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("a token")
    token.chmod(0o644)
    profile = tmp_path / ".bashrc"
    profile.write_text("alias ll='ls -l'")  # without an end of line
    files = ["requirements.lock", "pyproject.toml"]
    sums = subprocess.run(
        ["sha256sum", *files], cwd=ROOT, capture_output=True, text=True, check=True
    )
    stamp = tmp_path / "skdtune-venv" / ".skdtune-installed"
    stamp.parent.mkdir()
    stamp.write_text(f"{ROOT}\n{sums.stdout}")
    for _ in range(2):
        ended = _run("node.sh", "install", home=tmp_path)
        assert (ended.returncode, ended.stderr) == (0, "")
    assert token.stat().st_mode & 0o777 == 0o600
    assert profile.read_text().splitlines() == [
        "alias ll='ls -l'",
        f'export PATH="{tmp_path}/skdtune-venv/bin:$PATH" # skdtune',
        "export RAY_AUTH_MODE=token # skdtune",
    ]
    assert [path.name for path in stamp.parent.iterdir()] == [".skdtune-installed"]


@pytest.mark.parametrize("ends_with", [0, 2])
def test_pip_installs_what_uv_cannot(tmp_path: Path, ends_with: int) -> None:
    """uv itself is held by its line of the lock. test_install.py has the real thing."""
    calls, programs = tmp_path / "calls", tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    for name, last in (("python", "[[ $* != */dev/stdin ]] || cat"), ("uv", f"exit {ends_with}")):
        stand_in = programs / name
        stand_in.write_text(f'#!/bin/bash\necho "{name} $*" >>{calls}\n{last}\n')
        stand_in.chmod(0o755)
    ended = _run("install.sh", str(tmp_path / "venv"), home=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("uv==")
    assert ended.stdout.count("==") == 1
    assert ended.stdout.count("--hash=") > 1
    first, by_uv, *others = calls.read_text().splitlines()
    assert first == "python -m pip install --quiet --require-hashes -r /dev/stdin"
    lock = f"--require-hashes -r {ROOT}/requirements.lock"
    assert by_uv.startswith("uv pip install ")
    assert by_uv.endswith(f"--compile-bytecode {lock}")
    own = f"python -m pip install --quiet --no-deps --no-build-isolation -e {ROOT}"
    assert others == ([f"python -m pip install --quiet {lock}"] if ends_with else []) + [own]


def test_a_wrong_command_shows_how_it_is_used(tmp_path: Path) -> None:
    ended = _run("node.sh", "haed", home=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.startswith("usage: node.sh COMMAND")


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A `ray` that writes down how it was called and cannot start, an `mlflow` that writes down its
    process and runs on, an `ssh` that reaches one worker of two, and a `pgrep` that finds nothing
    of what really runs here."""
    folder = tmp_path / "tools"
    folder.mkdir()
    (tmp_path / "shared").mkdir()
    calls = {
        "ray": 'echo "$RAY_AUTH_MODE ${OMP_NUM_THREADS:-none} $*" >>~/ray.calls; [ "$1" != start ]',
        "mlflow": "echo $$ >>~/mlflow.calls; exec sleep 600",
        "ssh": 'echo "ssh $*" >>~/ray.calls; case "$*" in *10.0.0.3*) exit 255 ;; esac',
        "pgrep": 'echo "pgrep $*" >>~/ray.calls; exit 1',
    }
    for name, text in calls.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


def _with_tools(
    tools: Path, command: str, *arguments: str, **variables: str
) -> subprocess.CompletedProcess:
    return _run(
        "node.sh",
        command,
        *arguments,
        home=tools.parent,
        PATH=f"{tools}:{os.defpath}",
        SKDTUNE_SHARED=str(tools.parent / "shared"),
        RAY_AUTH_TOKEN="x",
        RAY_HEAD_IP="10.0.0.1",
        OMP_NUM_THREADS="1",
        **variables,
    )


def test_a_worker_joins_the_head_with_the_token(tools: Path) -> None:
    assert _with_tools(tools, "worker", "--num-gpus=1").returncode == 1
    *stops, start = (tools.parent / "ray.calls").read_text().splitlines()
    assert stops == ["token none stop"]
    assert start.startswith("token none start --address=10.0.0.1:6379 ")
    assert start.endswith(" --num-gpus=1")


def test_trials_of_a_worker_share_a_gpu_through_mps_where_it_works(tools: Path) -> None:
    home, place = tools.parent, tools.parent / f"skdtune-mps-{os.geteuid()}"
    shows = 'echo "${CUDA_MPS_PIPE_DIRECTORY-none} $*" >>~/ray.calls'
    (tools / "ray").write_text(f"#!/bin/sh\n{shows}\n")
    said = 'echo "$(cat) $CUDA_MPS_PIPE_DIRECTORY" >>~/mps.calls'
    (tools / "nvidia-cuda-mps-control").write_text(f"#!/bin/sh\n{said}\n")
    (tools / "nvidia-cuda-mps-control").chmod(0o755)
    for works, seen in ((False, "none"), (True, str(place))):
        (tools / "python").write_text(
            f"#!/bin/sh\necho $* >>~/python.calls\n{str(works).lower()}\n"
        )
        (tools / "python").chmod(0o755)
        worker = _with_tools(tools, "worker")
        assert worker.returncode == 0, worker.stderr
        assert ("take turns here" in worker.stderr) == (not works)
        start = (home / "ray.calls").read_text().splitlines()[-1]
        assert start.startswith(f"{seen} start --address=10.0.0.1:6379 ")
    assert (home / "python.calls").read_text() == f"-m skdtune.mps {place}\n" * 2
    assert place.stat().st_mode & 0o777 == 0o700
    assert _with_tools(tools, "worker", CUDA_MPS_PIPE_DIRECTORY="").returncode == 0
    assert (home / "ray.calls").read_text().splitlines()[-1].startswith(" start --address")
    assert _with_tools(tools, "leave").returncode == 0
    assert (
        home / "mps.calls"
    ).read_text() == f"quit -t 5 {place}\n" * 3  # of before, and at the end


def test_a_rented_worker_ends_itself_when_ray_is_gone(tools: Path) -> None:
    """After fifteen looks in a row that find no raylet, by one watchdog, which outlives the shell
    that started it; a raylet that is back in time is enough."""
    home = tools.parent
    looks = home / "looks"
    look = 'echo "$PPID $*" >>~/looks; [ ! -e ~/lost ] && [ $(($(wc -l <~/looks) % 15)) = 0 ]'
    (tools / "pgrep").write_text(f"#!/bin/sh\n{look}\n")
    end = {"SKDTUNE_WITHOUT_RAY": "echo ended >>~/ended", "SKDTUNE_LOOK_S": "0.01"}

    def looked(times: int) -> None:
        wait_for(
            lambda: looks.exists() and len(looks.read_text().splitlines()) >= times, 30, "looks"
        )

    assert _with_tools(tools, "worker").returncode == 1  # not rented; this ray is none
    assert not list(home.glob("skdtune-watch-*"))
    try:
        for _ in range(2):
            assert _with_tools(tools, "worker", **end).returncode == 1
        looked(50)
        assert not (home / "ended").exists()
        (home / "lost").touch()
        wait_for((home / "ended").exists, 30, "the machine to end itself")
    finally:
        watchdogs = {line.partition(" ")[0] for line in looks.read_text().splitlines()}
        for process in watchdogs:
            os.kill(int(process), signal.SIGKILL)
    assert len(watchdogs) == 1
    assert {line.partition(" ")[2] for line in looks.read_text().splitlines()} == {"-x raylet"}
    (folder,) = home.glob("skdtune-watch-*")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_another_has_put_there_is_refused(tools: Path) -> None:
    """/tmp is everybody's."""
    (tools.parent / f"skdtune-watch-{os.geteuid()}").symlink_to(tools)
    ended = _with_tools(tools, "worker", SKDTUNE_WITHOUT_RAY="true")
    assert ended.returncode == 2
    assert ended.stderr.endswith("is not a folder of yours\n")
    assert not (tools.parent / "ray.calls").exists()


@pytest.mark.slow
def test_one_mlflow_server_survives_the_head_and_a_crash(tools: Path) -> None:
    """It is started once, again when it dies, and ended by `leave` with all its processes."""
    _need_port_5000()
    home = tools.parent
    (home / "ray_bootstrap_config.yaml").write_text("{}")
    try:
        for _ in range(2):
            assert _with_tools(tools, "head", "--num-cpus=2").returncode == 1  # this ray is none
        (first,) = _servers(home, 1)
        start = (home / "ray.calls").read_text().splitlines()[-1]
        assert start.endswith(f"--autoscaling-config={home}/ray_bootstrap_config.yaml --num-cpus=2")
        assert "MLFLOW_TRACKING_URI=http://127.0.0.1:5000" in (home / ".bashrc").read_text()
        os.kill(first, signal.SIGKILL)
        _, second = _servers(home, 2)
        assert title(second)
    finally:
        left = _with_tools(tools, "leave")
    assert left.returncode == 0
    assert (home / "ray.calls").read_text().splitlines()[-1].endswith(" stop --force")
    wait_for(lambda: not title(second), 10, "MLflow to end")  # at most a zombie of its parent's
    assert _with_tools(tools, "leave").returncode == 0


@pytest.mark.slow
def test_two_machines_with_one_home_have_one_mlflow_between_them(tools: Path) -> None:
    """The second says what it waits for, leaves the first alone, and takes its place."""
    _need_port_5000()
    home = tools.parent
    lock = home / "shared" / "mlflow" / "lock"
    here = [{"SKDTUNE_LOCAL": str(home / name)} for name in ("machine1", "machine2")]
    for machine in here:
        Path(machine["SKDTUNE_LOCAL"]).mkdir()
    assert _with_tools(tools, "head", **here[0]).returncode == 1
    try:
        (first,) = _servers(home, 1)
        (tools / "ray").write_text("#!/bin/sh\n")
        second = _with_tools(tools, "head", **here[1])
        assert second.returncode == 0
        assert second.stderr == (
            f"node.sh: MLflow waits: its database is in use on {os.uname().nodename} "
            f"(if nothing uses it any more, delete {lock})\n"
        )
        (local,) = (home / "machine2").iterdir()
        assert local.stat().st_mode & 0o777 == 0o700
        assert (local / "log").read_text() == second.stderr
        assert _with_tools(tools, "leave", **here[1]).returncode == 0
        assert title(first), "another machine's server was ended"
        assert _with_tools(tools, "head", **here[1]).returncode == 0
        assert _with_tools(tools, "leave", **here[0]).returncode == 0
        assert _servers(home, 2)[0] == first
    finally:
        for machine in here:
            _with_tools(tools, "leave", **machine)
    assert not list(home.glob(".skdtune*"))


def _need_port_5000() -> None:
    with socket.socket() as knock:
        if knock.connect_ex(("127.0.0.1", 5000)) == 0:
            pytest.skip("something listens on port 5000 already")


def _servers(home: Path, count: int) -> list[int]:
    """The processes of the MLflow servers that have been started so far, as soon as there are as
    many."""
    started = home / "mlflow.calls"
    wait_for(lambda: started.exists() and len(started.read_text().split()) == count, 15, "MLflow")
    return [int(process) for process in started.read_text().split()]


def test_stop_ends_the_workers_before_the_head(tools: Path) -> None:
    home = tools.parent
    (home / "ray_bootstrap_key.pem").touch()
    config = {"auth": {"ssh_user": "me"}, "provider": {"worker_ips": ["10.0.0.2", "10.0.0.3"]}}
    (home / "ray_bootstrap_config.yaml").write_text(json.dumps(config))
    ended = _with_tools(tools, "stop")
    assert ended.returncode == 0
    assert ended.stderr == "node.sh: 10.0.0.3 could not be reached; Ray may still run there\n"
    monitor, search, *workers, head = (home / "ray.calls").read_text().splitlines()
    assert "monitor" in monitor
    assert "skdtune" in search
    assert head.endswith(" stop --force")
    assert len(workers) == 2
    for call in workers:
        assert re.search(r" me@10\.0\.0\.[23] .*node\.sh' leave$", call)


def test_down_takes_the_machines_away_even_when_the_head_is_lost(tools: Path) -> None:
    home = tools.parent
    (tools / "ray").write_text('#!/bin/sh\necho "$*" >>~/ray.calls; [ "$1" != exec ]\n')
    ended = _run("down.sh", "cluster.yaml", home=home, PATH=f"{tools}:{os.defpath}")
    assert ended.returncode == 1
    assert ended.stderr == "down.sh: not all of it could be ended, see above\n"
    first, second = (home / "ray.calls").read_text().splitlines()
    assert first == "exec cluster.yaml bash ~/skdtune/docs/cluster/node.sh stop"
    assert second == "down -y cluster.yaml"
