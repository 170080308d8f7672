"""Several hosts on this machine: each has an address, a process tree, a /tmp, a /root and an sshd
of its own."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.cluster import host as host_program
from tests.programs import wait_for

ADDRESSES = {
    "laptop": "10.88.0.254",  # first: the others are knocked at from it
    "head": "10.88.0.1",
    "worker1": "10.88.0.2",
    "worker2": "10.88.0.3",
}
SHARED = Path("/srv/shared")  # in every host: the one folder that they share
_TOOLS = ("ip", "nsenter", "setpriv", "unshare", "rsync", "ssh", "ssh-keygen")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SSHD = "/usr/sbin/sshd"


def lacking() -> str:
    """Why there can be no hosts here; empty when there can."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if not os.access(SSHD, os.X_OK):
        missing.append("sshd")
    if missing:
        return f"{', '.join(missing)}: not installed"
    return "" if os.geteuid() == 0 else "needs root"


class Hosts:
    """A laptop, a head and two workers on a switch that leads nowhere else.

    shown: folders that every host sees at their own path, read-only, such as the virtual
    environment; whatever else lies below /tmp or /root is hidden. `shared` is the folder of this
    machine that every host sees as SHARED. Use it as a context manager: all of it is gone at the
    end."""

    def __init__(self, shown: Sequence[Path]):
        self.shown = [str(path.resolve()) for path in (*shown, Path(sys.base_prefix))]
        # not in /tmp: the hosts hide it
        self.folder = Path(tempfile.mkdtemp(prefix="skdtune-hosts-", dir="/var/tmp"))
        self.shared = self.folder / "shared"
        self.key = self.folder / "key"
        self._name = f"sk{os.getpid()}"
        self._processes: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> "Hosts":
        try:
            self._prepare()
            for name in ADDRESSES:
                self.boot(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception) -> None:
        for name in list(self._processes):
            self.off(name)
        for name in (*ADDRESSES, "switch"):
            if Path(f"/run/netns/{self._namespace(name)}").exists():
                _call("ip", "netns", "del", self._namespace(name))
        shutil.rmtree(self.folder)

    def boot(self, name: str) -> None:
        """Turns a host on; what was on its disk is there."""
        log, started = self.folder / f"{name}.log", self.folder / f"{name}.pid"
        started.unlink(missing_ok=True)
        settings = {
            "name": name,
            "folder": str(self.folder),
            "shown": self.shown,
            "shared": str(SHARED),
            "sshd": None if name == "laptop" else SSHD,
            "address": ADDRESSES[name],
            "pid_file": str(started),
        }
        dies_with_us = ["setpriv", "--pdeathsig", "KILL"]
        isolated = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
        with log.open("ab") as out:
            self._processes[name] = subprocess.Popen(
                [*dies_with_us, "ip", "netns", "exec", self._namespace(name), *isolated]
                + [sys.executable, host_program.__file__, json.dumps(settings)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        wait_for(started.exists, 20, f"host {name} to boot: {log.read_text()}")
        if name != "laptop":
            self.wait_for_ssh(name)

    def wait_for_ssh(self, name: str) -> None:
        knock = f"exec 3<>/dev/tcp/{ADDRESSES[name]}/22"
        wait_for(
            lambda: self.run("laptop", "bash", "-c", knock, check=False).returncode == 0,
            20,
            f"sshd of {name}",
        )

    def off(self, name: str) -> None:
        """Pulls a host's plug: every process ends at once."""
        process = self._processes.pop(name)
        pid = self._pid(name)
        if pid:
            subprocess.run(["kill", "-9", str(pid)], check=False)
        process.wait(20)

    def cut(self, name: str) -> None:
        """Pulls a host's network cable."""
        self._link(name, "down")

    def join(self, name: str) -> None:
        """Puts the cable back."""
        self._link(name, "up")

    def run(
        self, name: str, *command: str, check: bool = True, timeout_s: float = 120
    ) -> subprocess.CompletedProcess:
        """Runs a command in a host, with a clean environment, to its end."""
        done = subprocess.run(
            self.command(name, *command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        said = f"{' '.join(command)} on {name}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
        assert not check or done.returncode == 0, said
        return done

    def command(self, name: str, *command: str) -> list[str]:
        """What runs a command in a host."""
        variables = ["HOME=/root", "USER=root", "SHELL=/bin/bash", "TERM=xterm", "LANG=C.UTF-8"]
        python = str(Path(sys.executable).parent)
        variables += [f"PATH={python}:{_PATH}", "RAY_USAGE_STATS_ENABLED=0"]
        enter = ["nsenter", "-t", str(self._pid(name)), "-n", "-m", "-p", "-u", "-i", "--wd=/root"]
        return [*enter, "--", "/usr/bin/env", "-i", *variables, *command]

    def home(self, name: str) -> Path:
        """A host's /root, as this machine sees it."""
        return self.folder / "disk" / name / "root"

    def processes(self, name: str) -> list[str]:
        """Command lines of what runs in a host beside its first process, its sshd and the look
        itself."""
        lines = self.run(name, "ps", "-eo", "pid=,args=").stdout.splitlines()
        found = (line.split(None, 1) for line in lines)
        return [
            text
            for pid, text in found
            if pid != "1" and not text.startswith(("sshd:", SSHD, "ps -eo", "[sshd]"))
        ]

    def _prepare(self) -> None:
        for name in ("shared", "disk", "keep"):
            (self.folder / name).mkdir()
        (self.folder / "hosts").write_text(
            "127.0.0.1 localhost\n"
            + "".join(f"{address} {name}\n" for name, address in ADDRESSES.items())
        )
        for name in ("key", *(f"host_key_{name}" for name in ADDRESSES)):
            _call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name))
        shutil.copy(self.folder / "key.pub", self.folder / "authorized_keys")
        switch = self._namespace("switch")
        _call("ip", "netns", "add", switch)
        _call("ip", "-n", switch, "link", "set", "lo", "up")
        _call("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        _call("ip", "-n", switch, "link", "set", "bridge", "up")
        for name, address in ADDRESSES.items():
            self._wire(name, address, switch)

    def _wire(self, name: str, address: str, switch: str) -> None:
        own = self._namespace(name)
        _call("ip", "netns", "add", own)
        _call("ip", "-n", own, "link", "set", "lo", "up")
        pair = ["type", "veth", "peer", "name", name, "netns", switch]
        _call("ip", "link", "add", "name", "eth0", "netns", own, *pair)
        _call("ip", "-n", switch, "link", "set", name, "master", "bridge", "up")
        _call("ip", "-n", own, "addr", "add", f"{address}/24", "dev", "eth0")
        _call("ip", "-n", own, "link", "set", "eth0", "up")
        if name != "laptop":  # forwards nothing, but from its default route Ray learns its address
            route = ["route", "add", "default", "via", ADDRESSES["laptop"]]
            _call("ip", "-n", own, *route)

    def _link(self, name: str, state: str) -> None:
        _call("ip", "-n", self._namespace("switch"), "link", "set", name, state)

    def _namespace(self, name: str) -> str:
        return f"{self._name}-{name}"

    def _pid(self, name: str) -> int:
        """The host's first process, as this machine numbers it."""
        path = self.folder / f"{name}.pid"
        return int(path.read_text()) if path.exists() else 0


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
