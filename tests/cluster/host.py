"""The first process of a host: hides this machine's files behind the host's own, starts sshd,
buries the dead."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path


def main(settings: dict) -> None:
    pid = os.readlink("/proc/self")  # of the machine: the host's own /proc is not there yet
    folder = Path(settings["folder"])
    name = settings["name"]
    disk, keep = folder / "disk" / name, folder / "keep" / name
    for path in (disk / "tmp", disk / "root", keep):
        path.mkdir(parents=True, exist_ok=True)
    (disk / "tmp").chmod(0o1777)
    (disk / "root").chmod(0o700)
    _mount("--make-rprivate", "/")
    _mount("-t", "tmpfs", "tmpfs", str(keep))
    for index, path in enumerate(settings["shown"]):  # before what holds them is hidden
        (keep / str(index)).mkdir()
        _mount("--bind", path, str(keep / str(index)))
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/srv")
    Path(settings["shared"]).mkdir()
    _mount("--bind", str(folder / "shared"), settings["shared"])
    _mount("--bind", str(folder / "hosts"), "/etc/hosts")
    _mount("--bind", str(disk / "root"), "/root")
    _mount("--bind", str(disk / "tmp"), "/tmp")
    for index, path in enumerate(settings["shown"]):
        Path(path).mkdir(parents=True, exist_ok=True)
        _mount("--bind", str(keep / str(index)), path)
        _mount("-o", "remount,bind,ro", path)
    _mount("-t", "tmpfs", "-o", "size=3g,mode=1777", "tmpfs", "/dev/shm")
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    Path("/run/sshd").mkdir()
    _mount("-t", "proc", "proc", "/proc")
    socket.sethostname(name)
    os.chdir("/root")
    if settings["sshd"]:
        _listen(settings["sshd"], settings["address"], folder, name)
    ready = Path(settings["pid_file"])
    ready.with_suffix(".new").write_text(pid)
    ready.with_suffix(".new").rename(ready)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(0.2)  # nobody there to wait for


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _listen(sshd: str, address: str, folder: Path, name: str) -> None:
    lines = [
        f"ListenAddress {address}:22",
        f"HostKey {folder}/host_key_{name}",
        "PidFile /run/sshd.pid",
        f"AuthorizedKeysFile {folder}/authorized_keys",
        "StrictModes no",  # the keys lie in a temporary folder
        "UsePAM no",
        "PasswordAuthentication no",
        "PermitRootLogin prohibit-password",
        "UseDNS no",
        "MaxStartups 50:30:100",
        "Subsystem sftp internal-sftp",
    ]
    config = folder / f"sshd_{name}.conf"
    config.write_text("\n".join(lines) + "\n")
    subprocess.Popen(
        [sshd, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, start_new_session=True
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
