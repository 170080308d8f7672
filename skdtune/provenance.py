"""Where a study came from: versions of what ran it, and the commit of the code."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

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
