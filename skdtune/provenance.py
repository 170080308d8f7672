"""Where a study came from: versions of what ran it, and the commit of the code."""

import platform
import subprocess
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skdtune.records import Study

_PACKAGES = ("skdtune", "torch", "torchvision", "ray", "optuna", "mlflow")


def versions() -> dict[str, str]:
    """Version of each package that decides a result, and of Python."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # run from a checkout that was not installed
            found[package] = "unknown"
    return found


def git_commit() -> str | None:
    """The commit of the checkout this code runs from, with `-dirty` when files differ; None
    elsewhere."""
    folder = Path(__file__).parent
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None or _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    return commit + (
        "-dirty" if _git(folder, "status", "--porcelain", "--untracked-files=no") else ""
    )


def code() -> dict[str, Any]:
    """`versions` and `commit` of what runs here."""
    return {"versions": versions(), "commit": git_commit()}


def note_changes(study: "Study", say: Callable[[str], Any]) -> None:
    """Notes in a study that goes on with other code than the last time what that is, and says
    it."""
    now = code()
    *_, before = vars(study), *study.resumed
    old, new = ({**found["versions"], "commit": found["commit"]} for found in (before, now))
    changed = [name for name in {**old, **new} if new.get(name) != old.get(name)]
    if changed:
        study.resumed.append({"time": time.time(), **now})
        listed = "; ".join(f"{name} {new.get(name)}, before {old.get(name)}" for name in changed)
        say(f"other versions than those that the study was left with: {listed}")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
