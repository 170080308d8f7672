"""What the cluster files call on a new machine in a cloud, with stand-ins for root's programs: the
shared folder is mounted, now and after a reboot."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.cluster.test_kubernetes import FOLDER, ROOT

SOURCES = {
    ROOT / "cluster.yaml": "fs-00000000.efs.us-west-2.amazonaws.com:/",
    FOLDER / "gcp.yaml": "10.0.0.2:/skdtune",
}
clouds = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder with the machine's fstab and the programs that it calls; `updates` says how often
    the package lists are in use by another."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tmp_path / "fstab").write_text("LABEL=root / ext4 defaults 0 1\n")
    (tmp_path / "updates").write_text("0")
    sudo = f"""echo "$*" >>{tmp_path}/calls
    case "$*" in
    sh*)
        text=$(echo "$3" | sed "s|/etc/fstab|{tmp_path}/fstab|g")
        shift 3; sh -c "$text" "$@" ;;
    "apt-get update"*)
        left=$(cat {tmp_path}/updates); echo $((left - 1)) >{tmp_path}/updates; [ "$left" -le 0 ] ;;
    esac"""
    for name, text in {
        "sudo": sudo,
        "mountpoint": "exit 1",
        "sleep": ":",
        "cloud-init": ":",
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    return tmp_path


def _set_up(path: Path, machine: Path) -> list[str]:
    """What was called as root."""
    (machine / "calls").unlink(missing_ok=True)
    for command in yaml.safe_load(path.read_text())["initialization_commands"]:
        done = subprocess.run(
            ["bash", "-c", command],
            env={"PATH": f"{machine / 'tools'}:{os.defpath}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), command
    return (machine / "calls").read_text().splitlines()


@clouds
def test_the_shared_folder_is_mounted_after_a_reboot_too(path: Path, machine: Path) -> None:
    """Ray calls these commands only when something has changed."""
    for _ in range(2):
        calls = _set_up(path, machine)
        assert "mount /shared" in calls
        assert calls.index("mkdir -p /shared") < calls.index("mount /shared")
        root, shared = (machine / "fstab").read_text().splitlines()
        assert root == "LABEL=root / ext4 defaults 0 1"
        source, folder, kind, options, *numbers = shared.split()
        assert (source, folder, kind, numbers) == (SOURCES[path], "/shared", "nfs4", ["0", "0"])
        assert {"nfsvers=4.1", "hard", "_netdev", "nofail"} <= set(options.split(","))


@clouds
def test_a_machine_that_updates_itself_at_its_start_is_waited_for(
    path: Path, machine: Path
) -> None:
    (machine / "updates").write_text("4")
    calls = _set_up(path, machine)
    assert calls.count("apt-get update -q") == 5
    (machine / "updates").write_text("1000")
    assert _set_up(path, machine).count("apt-get update -q") == 30
