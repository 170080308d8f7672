"""docs/cluster/onprem.yaml on the hosts: what a person changes in it, types on the laptop and on
the head, and finds in the shared folder."""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from skdtune import records
from tests.cluster.hosts import ADDRESSES, SHARED, Hosts
from tests.programs import wait_for
from trainables.storage import Folder

CHECKOUT = Path(__file__).parents[2]
FILE = "/root/onprem.yaml"
IMAGES = os.environ.get("SKDTUNE_CIFAR100_MINI")
VENV = Path(sys.prefix)
SHOWN = [CHECKOUT, VENV, *([Path(IMAGES)] if IMAGES else [])]


def prepare(hosts: Hosts) -> None:
    """What docs/cluster/README.md asks for: the packages, the shared folder's name, a key."""
    for name in ADDRESSES:
        home = hosts.home(name)
        (home / ".bashrc").write_text(f"export SKDTUNE_SHARED={SHARED}\n")
        _pretend_installed(home / "skdtune-venv")
    shutil.copy(hosts.key, hosts.home("laptop") / "key")
    (hosts.home("laptop") / "onprem.yaml").write_text(_changed())


def up(hosts: Hosts) -> None:
    if not (hosts.home("laptop") / ".ray" / "auth_token").exists():
        hosts.run("laptop", "ray", "get-auth-token", "--generate")
    laptop(hosts, f"ray up {FILE} -y", timeout_s=240)
    wait_for(lambda: ray_nodes(hosts) == 3, 120, "three nodes")


def laptop(hosts: Hosts, command: str, check: bool = True, timeout_s: float = 120):
    """What a person types in the checkout on the laptop."""
    shell = ["bash", "-c", f"cd {CHECKOUT} && export RAY_AUTH_MODE=token && {command}"]
    return hosts.run("laptop", *shell, check=check, timeout_s=timeout_s)


def head(hosts: Hosts, command: str):
    """What a person types on the head."""
    return hosts.run("head", "bash", "-ic", command, check=False, timeout_s=240)


def ray_nodes(hosts: Hosts) -> int:
    done = hosts.run("head", "bash", "-ic", "ray status", check=False)
    active = done.stdout.partition("Active:")[2].partition("Pending:")[0]
    return sum(map(int, re.findall(r"^ *(\d+) ", active, re.MULTILINE)))


@contextmanager
def search(hosts: Hosts, name: str, *more: str, epochs: int | None = None):
    """A search that a person starts on the head."""
    arguments = [*more] if "--resume" in more else [space(), "--trials=8", f"--epochs={epochs}"]
    command = ["python -m skdtune.search", *arguments, f"--storage={SHARED}/studies/{name}"]
    with (hosts.folder / "search.out").open("wb") as out:
        process = subprocess.Popen(
            hosts.command("head", "bash", "-ic", " ".join(command)),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait(20)


def space() -> str:
    """Real images, a small network, one CPU a trial."""
    edits = ["trial.model.width=8", "resources.cpu=1"]
    if IMAGES:
        edits += ["trial.data.name=imagefolder", f"trial.data.root={IMAGES}"]
    return " ".join(["quickstart", *(f"--set {edit}" for edit in edits)])


def output(hosts: Hosts) -> str:
    return (hosts.folder / "search.out").read_text(errors="replace")


def read(hosts: Hosts, name: str) -> records.Study:
    return records.load(Folder(hosts.shared / "studies" / name))


def where_ended(hosts: Hosts, name: str) -> set[str]:
    """Hosts on which a trial has ended so far."""
    return {record["host"] for record in ended(hosts, name).values()}


def ended(hosts: Hosts, name: str) -> dict[str, dict]:
    written = _written(hosts, name)
    return {key: found for key, found in written.items() if found["status"] in records.ENDED}


def _written(hosts: Hosts, name: str) -> dict[str, dict]:
    trials = (hosts.shared / "studies" / name / "trials").glob("[!.]*.json")
    return {path.stem: json.loads(path.read_text()) for path in trials}


@contextmanager
def tunnel(hosts: Hosts, port: int):
    """`ssh -L` from the laptop to the head's loopback."""
    forward = ["ssh", "-N", "-i", "/root/key", "-o", "StrictHostKeyChecking=no", "-L"]
    process = subprocess.Popen(
        hosts.command("laptop", *forward, f"{port}:127.0.0.1:{port}", f"root@{ADDRESSES['head']}"),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    knock = f"exec 3<>/dev/tcp/127.0.0.1/{port}"
    try:
        wait_for(
            lambda: hosts.run("laptop", "bash", "-c", knock, check=False).returncode == 0,
            20,
            "the tunnel",
        )
        yield
    finally:
        process.kill()
        process.wait(20)


def _changed() -> str:
    """The shipped file with its marked lines changed, as a person does."""
    text = (CHECKOUT / "docs/cluster/onprem.yaml").read_text()
    values = {
        "head_ip": ADDRESSES["head"],
        "worker_ips": f"[{ADDRESSES['worker1']}, {ADDRESSES['worker2']}]",
        "ssh_user": "root",
        "ssh_private_key": "/root/key",
    }
    for key, value in values.items():
        text, count = re.subn(rf"(?m)^(  {key}:) .*# change:.*$", rf"\1 {value}", text)
        assert count == 1, key
    assert "# change:" not in text
    return text


def _pretend_installed(venv: Path) -> None:
    """This test's own environment in the place of the one that `node.sh install` makes, which
    tests/cluster/test_install.py tries: links, and the stamp that it leaves."""
    venv.mkdir()
    for part in VENV.iterdir():
        (venv / part.name).symlink_to(part)
    sums = subprocess.run(
        ["sha256sum", "requirements.lock", "pyproject.toml"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (venv / ".skdtune-installed").write_text(f"/root/skdtune\n{sums}")
